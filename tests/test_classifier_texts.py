"""What a classifier is told of later classes: descriptions that are handed over, and its file of texts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from anprompt import PromptClassifier
from anprompt.clip import Backbone
from anprompt.data import open_data
from anprompt.errors import UserError
from anprompt.settings import Note
from anprompt.text import DescriptionBank
from helpers_clip import random_backbone
from helpers_fit import PHOTO_CLASSES, estimator

EXTRA = ["a photo of the dark forest.", "trees in a large forest."]

pytestmark = pytest.mark.usefixtures("no_notes_by_accident")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone(image_size=32)


def sentences(made: PromptClassifier, name: str) -> list[str]:
    return list(made.method_.bank.main.get(name, ()))


def test_a_text_alone_is_one_sentence(fitted: PromptClassifier) -> None:
    view = fitted.with_classes(["blue star", "forest", "river"], {"forest": EXTRA[0], "river": ("a river.",)})
    assert (sentences(view, "forest"), sentences(view, "river")) == (EXTRA[:1], ["a river."])
    known = fitted.with_classes(["blue star", "red square"], {"blue star": []})  # no sentence is no description
    assert sentences(known, "blue star") == sentences(fitted, "blue star") != []
    assert sentences(fitted.add_class("forest", EXTRA[0]), "forest") == EXTRA[:1]


@pytest.mark.parametrize("wrong", ["", " ", ["a river.", ""], 3, b"a river.", {"main": ["a river."]}, [["a river."]]])
def test_descriptions_that_are_no_sentences_are_refused(fitted: PromptClassifier, wrong: Any) -> None:
    with pytest.raises(UserError) as caught:
        fitted.with_classes(["forest", "river", "blue star"], {"forest": wrong, "river": wrong, "blue star": EXTRA})
    assert re.findall(r"class '(.+)' needs a list of non-empty sentences", str(caught.value)) == ["forest", "river"]
    with pytest.raises(UserError, match="class 'river' needs a list of non-empty sentences"):
        fitted.add_class("river", wrong)
    assert fitted.classes_.tolist() == PHOTO_CLASSES


def test_descriptions_belong_to_classes(fitted: PromptClassifier, photo_folder: Path) -> None:
    with pytest.raises(UserError, match=r"Descriptions must be a dictionary \{class: \[sentences\]\} \(got a list\)"):
        fitted.with_classes(["blue star", "forest"], EXTRA)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="'dark_forest' and 'dark forest' are one class: join their sentences"):
        fitted.with_classes(["blue star", "dark forest"], {"dark_forest": ["one."], "dark forest": ["two."]})
    with pytest.raises(UserError) as caught:
        fitted.with_classes(["blue star", "dark forest"], {"Dark_Forrest": EXTRA, "blue star": "a star.", 7: EXTRA})
    assert "'Dark_Forrest' is none of the 2 classes. Did you mean 'dark forest'?" in str(caught.value)
    assert "7 is none of the 2 classes." in str(caught.value)
    source = open_data(photo_folder)
    with pytest.raises(UserError, match=r"'blue sta' is none of the 4 classes\. Did you mean 'blue star'"):
        fitted.with_classes(source.classes, {"blue sta": EXTRA}, source=source)


@pytest.mark.parametrize("kind", ["file", "dictionary", "bank"])
def test_an_added_class_has_the_sentences_of_the_texts(
    saved: Path, backbone: Backbone, kind: str, tmp_path: Path
) -> None:
    content = {"dark_forest": EXTRA, "blue star": ["other words."], "river": ["a river."]}
    (tmp_path / "texts.json").write_text(json.dumps(content), encoding="utf-8")
    bank = DescriptionBank({name.replace("_", " "): own for name, own in content.items()})
    texts = {"file": tmp_path / "texts.json", "dictionary": content, "bank": bank}[kind]
    made = PromptClassifier.load(saved, backbone, texts=texts)
    before = sentences(made, "blue star")
    made.add_class("dark forest").add_class("river", ["a wide river."])
    assert sentences(made, "dark forest") == EXTRA
    assert sentences(made, "river") == ["a wide river."], "what is given comes first"
    assert sentences(made, "blue star") == before, "what the adapter knows stays"
    assert sentences(made.with_classes(["dark forest", "blue star"]), "dark forest") == EXTRA
    with pytest.warns(Note, match="The class 'lake' has no descriptions and uses the template"):
        made.add_class("lake")  # the texts know none of the classes that are added: that is no mistake
    assert made.classes_.tolist() == [*PHOTO_CLASSES, "dark forest", "river", "lake"]


def test_texts_never_reword_a_class_that_was_trained_without(
    backbone: Backbone, photo_folder: Path, tmp_path: Path
) -> None:
    """Whichever classes it is asked to choose among: the prompts were tuned to the words that it had."""
    with pytest.warns(Note, match="have no descriptions"):
        saved = estimator(backbone, texts=None).fit(photo_folder).save(tmp_path / "adapter")
    content = dict.fromkeys([*PHOTO_CLASSES, "forest"], EXTRA)
    made = PromptClassifier.load(saved, backbone, texts=content)
    some = PHOTO_CLASSES[:2]
    for view in (made.with_classes(some), made.with_classes([*some, "forest"]), made.with_classes(PHOTO_CLASSES)):
        assert [sentences(view, name) for name in some] == [[], []]
    assert sentences(made.with_classes([*some, "forest"]), "forest") == EXTRA
    assert sentences(made.with_classes(some, {some[0]: EXTRA}), some[0]) == EXTRA, "what is handed over counts"


def test_faults_of_the_texts_are_told_where_a_class_is_added(fitted: PromptClassifier, tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text('{"forest": [""]}', encoding="utf-8")
    for texts, words in (("texts.json", "class 'forest' needs"), ("text.json", "No such file or folder with texts")):
        with pytest.raises(UserError, match=words):
            fitted.set_params(texts=tmp_path / texts).add_class("lake")
    assert fitted.classes_.tolist() == PHOTO_CLASSES


def test_texts_are_read_when_an_adapter_is_loaded(saved: Path, backbone: Backbone, tmp_path: Path) -> None:
    """Not only when a class needs them, so that no mistake goes unnoticed."""
    (tmp_path / "faulty.json").write_text('{"blue star": [""]}', encoding="utf-8")
    for texts, words in (("faulty.json", "class 'blue star' needs"), ("absent", "No such file or folder with texts")):
        with pytest.raises(UserError, match=words):
            PromptClassifier.load(saved, backbone, texts=tmp_path / texts)
    with pytest.raises(UserError, match=r"'texts' must be a file, .* \(got a int\)"):
        PromptClassifier.load(saved, backbone, texts=3)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.json").write_text("no texts at all", encoding="utf-8")
    made = PromptClassifier.load(saved, backbone, texts=tmp_path / "folder")  # no class needs that file
    assert made.with_classes(["white cat", "blue star"]).classes_.tolist() == ["white cat", "blue star"]
    with pytest.raises(UserError, match="not readable as JSON"):
        made.with_classes(["forest", "blue star"])
