"""The estimator: scikit-learn's conventions, what it accepts, classes that come later, and what it says."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import cross_val_score

from anprompt import PromptClassifier, inputs
from anprompt.clip import Backbone
from anprompt.data import decode, open_data
from anprompt.errors import UserError
from anprompt.files import locked, sha256_file
from anprompt.settings import Note
from helpers_clip import random_backbone
from helpers_fit import PHOTO_CLASSES, estimator, noisy_array, solid

pytestmark = pytest.mark.usefixtures("no_notes_by_accident")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone(image_size=32)


@pytest.fixture(scope="module")
def fitted(backbone: Backbone, photo_folder: Path) -> PromptClassifier:
    """Shared: not to be changed by tests."""
    return estimator(backbone).fit(photo_folder)


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[Path]:
    return sorted((photo_folder / "test").rglob("*.*"))


# ---- scikit-learn's conventions --------------------------------------------------------------------------------------


def test_the_constructor_only_stores() -> None:
    strange = object()
    params = dict.fromkeys(PromptClassifier().get_params(), strange)
    made = PromptClassifier(**params)
    assert all(value is strange for value in made.get_params(deep=False).values())
    assert set(vars(made)) == set(params), "nothing is computed or checked before fit"


def test_get_set_clone(fitted: PromptClassifier) -> None:
    made = PromptClassifier("somewhere", shots=3, options={"alpha": 0.1})
    copied = clone(made)
    assert copied is not made
    assert copied.get_params() == made.get_params()
    assert made.set_params(shots=8, recipe={"epochs": 2}) is made
    assert (made.shots, made.recipe, copied.shots) == (8, {"epochs": 2}, 3)
    with pytest.raises(ValueError, match="Invalid parameter 'shot'"):
        made.set_params(shot=1)
    assert not hasattr(clone(fitted), "classes_"), "a clone is not fitted"
    assert "PromptClassifier(" in repr(made)


@pytest.mark.parametrize("call", ["predict", "predict_proba", "decision_function", "score", "evaluate", "with_classes",
                                  "add_class", "save", "bake"])  # fmt: skip
def test_before_fit_every_method_says_so(call: str) -> None:
    made = PromptClassifier()
    arguments = [] if call == "bake" else [["x"]]
    with pytest.raises(NotFittedError, match="PromptClassifier instance is not fitted yet"):
        getattr(made, call)(*arguments)
    assert not hasattr(made, "classes_")


def test_fit_returns_itself_and_sets_only_names_that_end_with_an_underscore(
    backbone: Backbone, photo_folder: Path
) -> None:
    made = estimator(backbone, method="zero-shot")
    before = made.get_params(deep=False)
    assert made.fit(photo_folder) is made
    assert made.get_params(deep=False) == before
    assert {name for name in vars(made) if not name.endswith("_")} == set(before)


def test_predictions_fit_together(fitted: PromptClassifier, photos: list[Path]) -> None:
    logits = fitted.decision_function(photos)
    probabilities = fitted.predict_proba(photos)
    names = fitted.predict(photos)
    assert fitted.classes_.tolist() == PHOTO_CLASSES
    assert logits.shape == probabilities.shape == (16, 4)
    assert logits.dtype == probabilities.dtype == np.float32
    assert names.shape == (16,)
    assert np.array_equal(names, fitted.classes_[logits.argmax(axis=1)])
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.allclose(probabilities, exponentials / exponentials.sum(axis=1, keepdims=True), atol=1e-6)
    truth = [path.parent.name.replace("_", " ") for path in photos]
    assert fitted.score(photos, truth) == accuracy_score(truth, names)
    assert len(set(names)) > 1, "otherwise this test would show little"


def test_score_on_few_classes_is_still_over_all_of_the_classifiers(
    fitted: PromptClassifier, photos: list[Path]
) -> None:
    names = fitted.predict(photos)
    truth = [path.parent.name.replace("_", " ") for path in photos]
    for chosen in ({"blue star"}, {"red square", "white cat"}):
        rows = [i for i, name in enumerate(truth) if name in chosen]
        expected = accuracy_score([truth[i] for i in rows], names[rows])
        assert fitted.score([photos[i] for i in rows], [truth[i] for i in rows]) == expected


def test_score_weighs_pictures(fitted: PromptClassifier, photos: list[Path]) -> None:
    names = fitted.predict(photos)
    truth = [path.parent.name.replace("_", " ") for path in photos]
    weights = np.arange(1, len(photos) + 1)
    assert fitted.score(photos, truth, sample_weight=weights) == accuracy_score(truth, names, sample_weight=weights)
    with pytest.raises(UserError, match="sample_weight belongs to pictures"):
        fitted.score("photos", sample_weight=weights)
    with pytest.raises(UserError, match=r"'white_cat' is none of the 4 classes\. Did you mean 'white cat'"):
        fitted.score(photos[:2], ["white_cat", "blue star"], sample_weight=[1, 2])  # as without weights


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1], r"must have 2 numbers, one for each picture \(got shape \(1,\)\)"),
        (3, r"must have 2 numbers, one for each picture \(got shape \(\)\)"),
        (["a", "b"], "must be a list of numbers, one for each picture"),
        ([-1, float("nan")], r"entry 0 is -1, and must be a number of at least 0\n.*entry 1 is nan"),
        ([0, 0], "the weights of all pictures that can be read are 0"),
    ],
)
def test_weights_that_cannot_be_used(fitted: PromptClassifier, photos: list[Path], weights: Any, words: str) -> None:
    with pytest.raises(UserError, match=rf"(?s)sample_weight.*{words}"):
        fitted.score(photos[:2], PHOTO_CLASSES[:2], sample_weight=weights)


def test_skipped_pictures_weigh_nothing(
    fitted: PromptClassifier, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted, "bad_images", "skip")
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    truth = [path.parent.name.replace("_", " ") for path in photos]
    weights = np.arange(1, len(photos) + 1)
    expected = fitted.score(photos, truth, sample_weight=weights)
    with pytest.warns(Note, match="1 of 17 pictures are left out"):
        found = fitted.score([tmp_path / "broken.jpg", *photos], [truth[0], *truth], sample_weight=[99, *weights])
    assert found == expected


def test_cross_validation(backbone: Backbone, photo_folder: Path) -> None:
    data = sorted((photo_folder / "train").rglob("*.*"))
    labels = [path.parent.name.replace("_", " ") for path in data]
    scores = cross_val_score(estimator(backbone, method="zero-shot"), data, labels, cv=2)
    assert scores.shape == (2,)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_the_seed_decides(backbone: Backbone, photo_folder: Path, photos: list[Path], fitted: PromptClassifier) -> None:
    again = estimator(backbone).fit(photo_folder)
    assert np.array_equal(again.decision_function(photos), fitted.decision_function(photos))
    other = estimator(backbone, random_state=np.int64(2), shots=np.int64(2)).fit(photo_folder)
    assert not np.array_equal(other.decision_function(photos), fitted.decision_function(photos))
    assert again.record_["config_sha256"] == fitted.record_["config_sha256"] != other.record_["config_sha256"]
    json.dumps(other.record_)


# ---- what fit and predict accept -------------------------------------------------------------------------------------


def test_fit_takes_lists_of_anything_that_is_a_picture(
    fitted: PromptClassifier, backbone: Backbone, photo_folder: Path, photos: list[Path]
) -> None:
    drawn = [photo_folder / path for path in fitted.record_["drawn"]]
    labels = [path.parent.name.replace("_", " ") for path in drawn]
    opened = [Image.open(path).convert("RGB") for path in drawn]
    expected = None
    for pictures in (drawn, [str(p) for p in drawn], opened, [np.asarray(p) for p in opened], np.array(drawn, str)):
        made = estimator(backbone, method="linear-probe").fit(pictures, np.array(labels))
        assert made.classes_.tolist() == PHOTO_CLASSES
        assert made.about_["data"]["images"] == 8
        logits = made.decision_function(photos)
        expected = logits if expected is None else expected
        assert np.array_equal(logits, expected)


def test_fit_takes_a_source_a_path_and_its_text(backbone: Backbone, photo_folder: Path) -> None:
    for data in (open_data(photo_folder), photo_folder, str(photo_folder)):
        made = estimator(backbone, method="zero-shot").fit(data)
        assert made.classes_.tolist() == PHOTO_CLASSES
        assert made.about_["data"]["name"] == "photos"


def test_labels_may_be_numbers(backbone: Backbone) -> None:
    pictures = [noisy_array(i) for i in range(8)]
    made = estimator(backbone, method="zero-shot", texts=None).fit(pictures, [0, 1, 2, 10] * 2)
    assert made.classes_.tolist() == [0, 1, 2, 10]
    assert 0 <= made.score(pictures, [0, 1, 2, 10] * 2) <= 1


def test_predict_takes_files_folders_patterns_pictures_and_arrays(
    fitted: PromptClassifier, photo_folder: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fitted.decision_function(photos)
    stars = photo_folder / "test" / "blue_star"
    assert np.array_equal(fitted.decision_function(photo_folder / "test"), expected)

    def gives(inputs: Any, rows: list[int]) -> bool:
        logits = fitted.decision_function(inputs)  # other batches round a little differently
        return logits.shape == (len(rows), 4) and np.allclose(logits, expected[rows], atol=1e-4)

    assert gives(str(photos[0]), [0])
    assert gives([str(stars / "*.png"), photos[5], stars], [0, 3, 5, 0, 1, 2, 3])
    monkeypatch.chdir(stars)
    for pattern in ("*", "./*", "../blue_star/*", "../../test/blue_star/test-?.*", "../**/blue_star/*"):
        assert gives(pattern, [0, 1, 2, 3])

    picture = Image.open(photos[0]).convert("RGB")
    array = np.asarray(picture)  # (H, W, 3)
    for one in (picture, array, [picture], array[None], array / 255.0):
        assert gives(one, [0])
    assert gives((photos[0], picture, array), [0, 0, 0])
    assert fitted.decision_function(np.stack([noisy_array(i) for i in range(3)])).shape == (3, 4)
    assert fitted.predict([]).shape == (0,)
    assert fitted.predict_proba([]).shape == (0, 4)


def test_what_is_not_there_is_named(fitted: PromptClassifier, tmp_path: Path) -> None:
    (tmp_path / "empty" / ".thumbnails").mkdir(parents=True)
    solid((1, 2, 3)).save(tmp_path / "empty" / ".thumbnails" / "hidden.png")
    with pytest.raises(UserError) as error:
        fitted.predict([tmp_path / "empty", tmp_path / "no.jpg", str(tmp_path / "*.png")])
    assert str(error.value).count(str(tmp_path)) == 3
    with pytest.raises(UserError, match="not a picture"):
        fitted.predict([{"a": 1}])


@pytest.mark.parametrize(
    ("data", "labels", "words"),
    [
        (["a.jpg"], None, "need labels"),
        (["a.jpg"], ["a", "b"], "1 pictures but 2 labels"),
        (["a.jpg", "b.jpg"], ["a", "a"], "at least 2 classes; the labels have 1"),
        (["a.jpg", "b.jpg"], ["a", " "], "empty class name"),
        (["a.jpg", "b.jpg"], ["Cat", "cat"], "are one class name to CLIP"),
        ("toyworld", ["a"], "Labels go with a list of pictures"),
        (["a.jpg", "b.jpg"], ["a", "b"], "2 of 2 pictures cannot be used"),
    ],
)
def test_mistakes_in_the_data(backbone: Backbone, data: Any, labels: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        estimator(backbone, method="linear-probe", shots=1).fit(data, labels)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"method": "anpromt"}, "Did you mean 'anprompt'"),
        ({"preset": "papr"}, "Did you mean 'paper'"),
        ({"options": {"thta": 0.5}}, "Did you mean 'theta'"),
        ({"recipe": {"epoch": 1}}, "Did you mean 'epochs'"),
        ({"shots": 0}, "'shots' must be a whole number of at least 1"),
        ({"shots": True}, "'shots' must be a whole number"),
        ({"random_state": None}, "'random_state', the seed, must be a whole number"),
        ({"storage": "fp8"}, "allowed are fp16, fp32"),
        ({"device": "gpu"}, "Unknown device 'gpu'"),
        ({"subset": "old"}, "Unknown subset 'old'"),
        ({"bad_images": "ignore"}, "stop, skip"),
        ({"options": {"layers": "9-13"}}, "blocks 1 to 12"),
    ],
)
def test_mistakes_in_the_settings(backbone: Backbone, photo_folder: Path, params: dict[str, Any], words: str) -> None:
    made = estimator(backbone, **params)
    with pytest.raises(UserError, match=words):
        made.fit(photo_folder)
    assert not hasattr(made, "classes_")


def test_bad_pictures_stop_or_are_skipped_and_named(backbone: Backbone, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    bad = [tmp_path / "broken.jpg", tmp_path / "empty.png"]
    labels = [path.parent.name.replace("_", " ") for path in photos]
    data = [bad[0], *photos[1:-1], bad[1]]
    made = estimator(backbone, method="linear-probe", shots=4)
    with pytest.raises(UserError) as error:
        made.fit(data, labels)
    assert "2 of 16 pictures" in str(error.value)
    assert all(str(path) in str(error.value) for path in bad)
    made.set_params(bad_images="skip")
    with pytest.warns(Note, match="2 unreadable photos are left out") as notes:
        made.fit(data, labels)
    assert all(str(path) in str(notes[0].message) for path in bad)
    assert made.about_["data"]["images"] == 14
    with pytest.warns(Note, match="2 of 16 pictures cannot be read and get no answer"):
        answers = made.predict(data)
    assert answers[[0, 15]].tolist() == [None, None]
    assert answers[1:15].tolist() == made.predict(photos[1:-1]).tolist()
    with pytest.warns(Note, match="get no answer"):
        probabilities = made.predict_proba(bad[:1] * 3)
    assert probabilities.shape == (3, 4)
    assert np.isnan(probabilities).all()
    with pytest.warns(Note, match="2 of 16 pictures are left out"):
        assert made.evaluate(data, labels)["data"]["unreadable"] == 2
    with pytest.raises(UserError, match="2 of 2 pictures cannot be used"):  # an accuracy of none would be no number
        made.evaluate(bad, labels[:2])
    made.set_params(bad_images="stop")
    with pytest.raises(UserError, match="2 of 16 pictures"):
        made.predict(data)
    with pytest.raises(UserError, match="2 of 16 pictures"):
        made.score(data, labels)


def test_of_a_list_only_what_is_drawn_is_opened(
    backbone: Backbone, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(inputs, "decode", lambda picture: (opened.append(str(picture)), decode(picture))[1])
    monkeypatch.setattr(inputs, "sha256_file", lambda path: (opened.append(str(path)), sha256_file(path))[1])
    labels = [path.parent.name for path in photos]
    made = estimator(backbone, method="linear-probe", shots=1, texts=None).fit(photos, labels)
    drawn = [str(photos[int(index)]) for index in made.record_["drawn"]]
    assert len(drawn) == 4
    assert set(opened) == set(drawn)


def test_a_picture_that_breaks_off_is_reported_however_it_is_handed_over(backbone: Backbone, tmp_path: Path) -> None:
    Image.fromarray(noisy_array(0, 64)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    opened = Image.open(tmp_path / "a.png")  # lazily: nothing is decoded yet
    for pictures in ([tmp_path / "a.png", noisy_array(1)], [opened, noisy_array(1)]):
        with pytest.raises(UserError, match=r"1 of 2 pictures cannot be used.*a\.png: cannot be decoded"):
            estimator(backbone, method="linear-probe", shots=1).fit(pictures, ["a", "b"])


def test_two_fits_in_one_folder_do_not_mix(backbone: Backbone, photo_folder: Path, tmp_path: Path) -> None:
    made = estimator(backbone, method="coop", shots=1, recipe={"epochs": 1})
    held = locked(tmp_path / ".lock", "'another'", lambda _: None)
    with held, pytest.raises(UserError, match="Another process is at the same run"):
        made.fit(photo_folder, folder=tmp_path)
    made.fit(photo_folder, folder=tmp_path)


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 1), (1, 2), (2, 1), (1, 0)])
def test_a_run_that_only_warms_up_is_told_before_training(
    epochs: int, warmup: int, backbone: Backbone, photo_folder: Path
) -> None:
    recipe = {"epochs": epochs, "warmup_epochs": warmup}
    made = estimator(backbone, method="linear-probe", shots=1, recipe=recipe)
    stages: list[str] = []
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        made.fit(photo_folder, progress=lambda stage, *_: stages.append(stage if len(raised) else "nothing said yet"))
    said = [str(warning.message) for warning in raised if warning.category is Note]
    if warmup < epochs:
        assert said == []
        return
    assert said == [
        "every step learns at the warm-up rate 1e-05, none at 0.01: set --recipe.warmup_epochs "
        f"(now {warmup}) below --recipe.epochs (now {epochs})"
    ]
    assert "training" in stages


def test_what_learns_nothing_from_photos_reads_none(backbone: Backbone, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_bytes(b"not a picture")
    made = estimator(backbone, method="zero-shot").fit([tmp_path / "a.jpg", tmp_path / "b.jpg"], ["cat", "dog"])
    assert made.predict([noisy_array(1)]).tolist()[0] in ("cat", "dog")
    assert made.about_["data"]["images"] == 0
