"""What a classifier is told of later classes: descriptions that are handed over, and its file of texts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from anprompt import PromptClassifier
from anprompt.clip import Backbone
from anprompt.data import open_data
from anprompt.errors import UserError
from helpers_clip import random_backbone
from helpers_fit import PHOTO_CLASSES, estimator

EXTRA = ["a photo of the dark forest.", "trees in a large forest."]

pytestmark = pytest.mark.usefixtures("no_notes_by_accident")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone(image_size=32)


@pytest.fixture(scope="module")
def saved(backbone: Backbone, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return estimator(backbone).fit(photo_folder).save(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def fitted(saved: Path, backbone: Backbone) -> PromptClassifier:
    return PromptClassifier.load(saved, backbone)


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
