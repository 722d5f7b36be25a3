"""The estimator over classes that it was not trained on, its texts, notes, evaluation, and saving."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anprompt import PromptClassifier
from anprompt.adapter import read_document
from anprompt.clip import Backbone
from anprompt.data import open_data
from anprompt.errors import UserError
from anprompt.results import evaluate_predictions
from anprompt.settings import Note, bank_for
from helpers_clip import random_backbone
from helpers_fit import PHOTO_CLASSES, PHOTO_TEXTS, estimator

EXTRA = ["a photo of the dark forest.", "trees in a large forest."]


pytestmark = pytest.mark.usefixtures("no_notes_by_accident")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone()


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[Path]:
    return sorted((photo_folder / "test").rglob("*.*"))


# ---- other classes ---------------------------------------------------------------------------------------------------


def test_with_classes_is_a_view(fitted: PromptClassifier, photos: list[Path]) -> None:
    before = fitted.decision_function(photos)
    view = fitted.with_classes(["red square", "forest"], {"forest": EXTRA})
    logits = view.decision_function(photos)
    assert view.classes_.tolist() == ["red square", "forest"]
    assert logits.shape == (16, 2)
    assert np.allclose(logits[:, 0], before[:, 2], atol=1e-4)
    assert fitted.classes_.tolist() == PHOTO_CLASSES
    assert np.array_equal(fitted.decision_function(photos), before)
    assert view.method_.prompts is fitted.method_.prompts  # the same tuned prompts, not copies
    view.add_class("tree", ["a tree."])
    view.bake()
    assert np.array_equal(fitted.decision_function(photos), before)


def test_descriptions_are_used(fitted: PromptClassifier, photos: list[Path]) -> None:
    other = {"forest": ["a bright field with a river and a road."]}
    one = fitted.with_classes(["red square", "forest"], {"forest": EXTRA}).decision_function(photos)
    two = fitted.with_classes(["red square", "forest"], other).decision_function(photos)
    assert np.allclose(one[:, 0], two[:, 0], atol=1e-4)
    assert not np.allclose(one[:, 1], two[:, 1], atol=1e-3)


@pytest.mark.parametrize("descriptions", [EXTRA, None])
def test_add_class_leaves_the_old_logits_exactly(
    fitted: PromptClassifier, photos: list[Path], descriptions: list[str] | None, backbone: Backbone, tmp_path: Path
) -> None:
    before = fitted.decision_function(photos)
    if descriptions is None:
        with pytest.warns(Note, match="The class 'forest' has no descriptions and uses the template 'a photo of a {}"):
            assert fitted.add_class("forest") is fitted
    else:
        assert fitted.add_class("forest", descriptions) is fitted
    after = fitted.decision_function(photos)
    assert fitted.classes_.tolist() == [*PHOTO_CLASSES, "forest"]
    assert after.shape == (16, 5)
    assert np.array_equal(after[:, :4], before)
    loaded = PromptClassifier.load(fitted.save(tmp_path / "grown"), backbone)
    assert loaded.classes_.tolist() == [*PHOTO_CLASSES, "forest"]
    assert np.array_equal(loaded.decision_function(photos), after)


def test_adding_two_classes_after_each_other(fitted: PromptClassifier, photos: list[Path]) -> None:
    fitted.add_class("forest", EXTRA)
    first = fitted.decision_function(photos)
    fitted.add_class("river", ["a river."])
    assert np.array_equal(fitted.decision_function(photos)[:, :5], first)


def test_names_that_cannot_be_used(fitted: PromptClassifier) -> None:
    with pytest.raises(UserError) as error:
        fitted.with_classes(["a", "b", "a", " ", "b"])
    assert "'a' is there twice" in str(error.value)
    assert "'b' is there twice" in str(error.value)
    assert "an empty name" in str(error.value)
    with pytest.raises(UserError, match="'white cat' is there twice"):
        fitted.add_class("white cat", ["a cat."])
    with pytest.raises(UserError, match="an empty name"):
        fitted.add_class("", ["a cat."])
    with pytest.raises(UserError, match="the list is empty"):
        fitted.with_classes([])
    with pytest.raises(UserError, match="'White  Cat' is there twice"):
        fitted.with_classes(["white cat", "White  Cat"])
    assert fitted.classes_.tolist() == PHOTO_CLASSES


def test_a_failed_addition_changes_nothing(fitted: PromptClassifier, photos: list[Path]) -> None:
    before = fitted.decision_function(photos)
    with pytest.raises(UserError, match="77"):
        fitted.add_class("forest", [" ".join(["forest"] * 200)])
    assert fitted.classes_.tolist() == PHOTO_CLASSES
    assert np.array_equal(fitted.decision_function(photos), before)
    assert fitted.add_class("forest", EXTRA).classes_.tolist() == [*PHOTO_CLASSES, "forest"]


def test_a_method_that_only_knows_its_classes(fitted: PromptClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(fitted.method_), "supports_new_classes", False)
    with pytest.raises(UserError, match="only knows the classes that it was trained on"):
        fitted.add_class("forest", EXTRA)
    assert fitted.with_classes(["white cat", "red square"]).classes_.tolist() == ["white cat", "red square"]


# ---- texts and notes -------------------------------------------------------------------------------------------------


def test_classes_without_descriptions_are_noted(backbone: Backbone, photo_folder: Path) -> None:
    with pytest.warns(Note, match="4 of 4 classes have no descriptions and use the template instead: blue star, green"):
        fitted = estimator(backbone, texts=None).fit(photo_folder)
    with pytest.warns(Note, match="2 of 3 classes have no descriptions and use the template: forest, river"):
        fitted.with_classes(["forest", "blue star", "river"])


def test_fewer_photos_than_shots_are_all_used_and_noted(backbone: Backbone, photo_folder: Path) -> None:
    made = estimator(backbone, method="linear-probe", shots=9, recipe={"epochs": 1})
    with pytest.warns(Note, match=r"4 of 4 classes have fewer than 9 photos and give all: blue star \(8\), green"):
        made.fit(photo_folder)
    assert made.about_["data"]["images"] == 32


def test_a_folder_of_texts(backbone: Backbone, photo_folder: Path, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    (tmp_path / "texts.json").write_text(json.dumps(PHOTO_TEXTS.to_json()["main"]), encoding="utf-8")
    (tmp_path / "noise" / "texts.json").write_text(json.dumps(PHOTO_TEXTS.to_json()["noise"]), encoding="utf-8")
    made = estimator(backbone, texts=tmp_path).fit(photo_folder)
    with_bank = estimator(backbone).fit(photo_folder)
    assert np.array_equal(made.decision_function(photos), with_bank.decision_function(photos))
    assert made.record_["config"]["texts"] == "texts.json"
    assert made.record_["config"]["texts_sha256"] == with_bank.record_["config"]["texts_sha256"]


def test_another_published_data_set_is_worded_by_its_own_texts(
    backbone: Backbone, photo_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    """A class name that both share means what the texts of the one at hand say, as the record's hash says too."""
    home = replace(open_data(photo_folder), benchmark="home")
    own = {"red square": ["a road in the dark forest."], "white cat": ["a large field."]}
    away = replace(home, benchmark="away", template="a large {} on a road.")
    brings = replace(away, descriptions={"main": own, "noise": {}})
    fitted = estimator(backbone, method="zero-shot", preset="descriptions").fit(home)

    def wording(view: PromptClassifier) -> dict[str, tuple[str, ...]]:
        return {name: view.method_.wording(name) for name in view.classes_}

    trained = wording(fitted)
    elsewhere = {"blue star": ("a large blue star on a road.",), **{name: tuple(own[name]) for name in own}}
    (tmp_path / "away.json").write_text(json.dumps(own), encoding="utf-8")
    with_file = PromptClassifier.load(fitted.save(tmp_path / "adapter"), backbone, texts=tmp_path / "away.json")
    without = PromptClassifier.load(tmp_path / "adapter", backbone)
    names = list(elsewhere)
    for made, source in ((with_file, away), (without, brings)):
        assert wording(made.with_classes(names, source=source)) == elsewhere
        assert wording(made.with_classes(names, source=replace(source, benchmark="home"))) == {
            name: trained[name] for name in names
        }
        view = made.facing(source)  # of the same classes, but other words
        assert wording(view) == {**elsewhere, "green circle": ("a large green circle on a road.",)}
        logits: list[np.ndarray] = []
        made.evaluate(source, each=lambda _, rows, logits=logits: logits.append(rows.numpy()))
        assert np.array_equal(np.concatenate(logits), view.decision_function(photos))
        assert made.facing(replace(source, benchmark=None)) is made
        assert bank_for(made.texts, source).main == {name: own[name] for name in own}  # what target_texts hashes
    assert wording(without.with_classes(names, source=away)) == {name: trained[name] for name in names}
    assert without.facing(replace(away, template=home.template)) is without  # nothing would change


def test_baked_classes_are_reworded_when_descriptions_are_given(
    saved: Path, backbone: Backbone, photo_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "more.json").write_text(json.dumps({"blue star": ["a field."], "forest": EXTRA}), encoding="utf-8")
    PromptClassifier.load(saved, backbone).bake().save(tmp_path / "baked")
    baked = PromptClassifier.load(tmp_path / "baked", backbone, texts=tmp_path / "more.json")
    whole, before = PromptClassifier.load(saved, backbone), baked.decision_function(photos)
    given = {"red square": ["a bright river."]}
    expected = whole.with_classes(PHOTO_CLASSES, given).decision_function(photos)
    found = baked.with_classes(PHOTO_CLASSES, given).decision_function(photos)
    assert np.array_equal(found[:, [0, 1, 3]], before[:, [0, 1, 3]]), "the file of texts only serves for other classes"
    assert abs(before - expected)[:, 2].max() > 0.1
    assert np.allclose(found, expected, atol=0.05)
    home = open_data(photo_folder)
    assert baked.facing(replace(home, benchmark="away", template=home.template)) is not baked, "it has texts of its own"
    lone = PromptClassifier.load(tmp_path / "baked", backbone)
    assert lone.facing(replace(home, benchmark="away", template=home.template)) is lone
    with pytest.warns(Note, match="4 of 4 classes have no descriptions and use the template"):
        lone.facing(replace(home, benchmark="away", template="a large {}."))


def test_an_own_template(backbone: Backbone, photo_folder: Path, photos: list[Path]) -> None:
    plain, other = (
        estimator(backbone, method="zero-shot", template=template).fit(photo_folder)
        for template in (None, "a dark sketch of a {}.")
    )
    assert plain.method_.template == "a photo of a {}."
    assert not np.allclose(plain.decision_function(photos), other.decision_function(photos), atol=1e-3)
    with pytest.raises(UserError, match=r"must contain '\{\}' exactly once"):
        estimator(backbone, template="a photo").fit(photo_folder)


# ---- evaluation ------------------------------------------------------------------------------------------------------


def test_base_and_new_classes(backbone: Backbone, photo_folder: Path) -> None:
    made = estimator(backbone, subset="base").fit(photo_folder)
    assert made.classes_.tolist() == ["blue star", "green circle"]
    base, new = (made.evaluate(photo_folder, subset=subset) for subset in ("base", "new"))
    assert base["classes"] == ["blue star", "green circle"]
    assert new["classes"] == ["red square", "white cat"]
    for part in (base, new):
        assert {row["label"] for row in part["predictions"]} == set(part["classes"])
    assert made.classes_.tolist() == ["blue star", "green circle"]
    with pytest.raises(UserError, match="Did you mean 'base'"):
        made.evaluate(photo_folder, subset="bas")


def test_what_an_evaluation_holds(fitted: PromptClassifier, photo_folder: Path, photos: list[Path]) -> None:
    seen: list[tuple[str, int, int]] = []
    result = fitted.evaluate(photo_folder, progress=lambda stage, done, total, _: seen.append((stage, done, total)))
    probabilities = fitted.predict_proba(photos)
    rows = result["predictions"]
    assert [row["path"] for row in rows] == [str(path.relative_to(photo_folder)) for path in photos]
    assert [row["prediction"] for row in rows] == fitted.predict(photos).tolist()
    assert np.allclose([row["probability"] for row in rows], probabilities.max(axis=1), atol=1e-6)
    ids = [[PHOTO_CLASSES.index(row[key]) for row in rows] for key in ("label", "prediction")]
    expected = evaluate_predictions(*ids, PHOTO_CLASSES)
    assert {key: result[key] for key in expected} == expected
    source = open_data(photo_folder)
    assert result["data"] == {
        "name": "photos", "benchmark": None, "subset": "all", "split": "test", "own_split": False, "unreadable": 0,
        "differs": [], "sha256": source.content_hash(source.splits["test"]),
    }  # fmt: skip
    assert result["decision"] == "0.7·ℓ_A + 0.3·ℓ_R"
    assert result["seconds"] > 0
    assert seen[-1] == ("evaluating", 16, 16)
    assert fitted.score(photo_folder) == result["accuracy"] / 100
    assert fitted.evaluate(photo_folder, split="train")["images"] == 32
    with pytest.raises(UserError, match="split of 'photos'"):
        fitted.evaluate(photo_folder, split="val")


def test_labels_that_the_classifier_does_not_have_are_refused(fitted: PromptClassifier, photos: list[Path]) -> None:
    with pytest.raises(UserError, match=r"'white_cat' is none of the 4 classes\. Did you mean 'white cat'"):
        fitted.score(photos[:2], ["white_cat", "blue star"])
    view = fitted.with_classes(["forest", "blue star"], {"forest": EXTRA})
    assert view.evaluate(photos[:2], ["forest", "blue star"])["classes"] == ["forest", "blue star"]


# ---- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"preset": "snapshot"}, {"method": "zero-shot"}, {"storage": "fp32"},
                                    {"recipe": {"epochs": 1, "precision": "bf16"}}])  # fmt: skip
def test_loading_gives_the_same_classifier(
    params: dict[str, Any], photo_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    made = estimator(random_backbone(), **params).fit(photo_folder)
    before = made.decision_function(photos)
    loaded = PromptClassifier.load(made.save(tmp_path / "a"), random_backbone())
    assert np.array_equal(loaded.decision_function(photos), before)
    assert (loaded.method, loaded.storage, loaded.random_state) == (made.method, made.storage, 1)
    assert loaded.shots == 2
    again = PromptClassifier.load(loaded.save(tmp_path / "b"), random_backbone())
    assert np.array_equal(again.decision_function(photos), before)
    first, second = (read_document(tmp_path / name) for name in "ab")
    assert first == second


def test_a_backbone_is_found_where_it_was_or_where_it_is_now(
    small_clip: Path, photo_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    made = estimator(str(small_clip)).fit(photo_folder)
    folder = made.save(tmp_path / "adapter")
    assert read_document(folder)["backbone"]["source"] == str(small_clip)
    expected = made.decision_function(photos)
    assert np.array_equal(PromptClassifier.load(folder).decision_function(photos), expected)
    (tmp_path / "moved").symlink_to(small_clip)
    assert np.array_equal(PromptClassifier.load(folder, tmp_path / "moved").decision_function(photos), expected)
    with pytest.raises(UserError, match="belongs to the backbone"):
        PromptClassifier.load(folder, random_backbone())
    with pytest.raises(UserError, match="Unknown device 'gpu'"):
        PromptClassifier.load(folder, device="gpu")


def test_fit_in_two_parts_through_a_folder(backbone: Backbone, photo_folder: Path, tmp_path: Path) -> None:
    whole = estimator(backbone, recipe={"epochs": 2}).fit(photo_folder)
    stages: list[str] = []

    def interrupted(stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
        stages.append(stage)
        if (stage, done) == ("training", 3):
            raise RuntimeError("pulled the plug")

    made = estimator(backbone, recipe={"epochs": 2})
    with pytest.raises(RuntimeError):
        made.fit(photo_folder, folder=tmp_path, progress=interrupted)
    assert set(stages) == {"reading photos", "training"}
    made.fit(photo_folder, folder=tmp_path, resume=True)
    assert made.record_["steps"] == 4, "of the whole run"
    assert all(a.equal(b) for a, b in zip(made.method_.parameters(), whole.method_.parameters(), strict=True))
    with pytest.raises(UserError, match=r"options\.alpha: 0\.001 → 0\.01"):
        estimator(backbone, recipe={"epochs": 2}, options={"alpha": 0.01}).fit(
            photo_folder, folder=tmp_path, resume=True
        )
    changed = PHOTO_TEXTS.with_class("blue star", ["other words."])
    with pytest.raises(UserError, match="texts_sha256"):
        estimator(backbone, recipe={"epochs": 2}, texts=changed).fit(photo_folder, folder=tmp_path, resume=True)
