"""Warnings about class names, from the words alone and from a backbone's text features."""

from __future__ import annotations

import json
import time
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anprompt import load_backbone
from anprompt.analysis import lint
from anprompt.data import open_data
from anprompt.errors import Finding
from anprompt.text.lint import (
    SIMILAR,
    _alike_letters,
    alike_texts,
    contained_names,
    folded,
    identifiers,
    is_identifier,
    lint_names,
    same_names,
    similar_names,
)


def classes(found: Finding | None) -> list[list[str]]:
    return [] if found is None else [example["classes"] for example in found.examples]


def test_names_that_are_equal_to_a_reader() -> None:
    names = ["cat", "Cats", "ice cream", "dog", "icecreams", "ice-cream", "Berries", "berry", "glass", "boxes", "box"]
    assert classes(same_names(names)) == [
        ["cat", "Cats"], ["ice cream", "icecreams", "ice-cream"], ["Berries", "berry"], ["boxes", "box"],
    ]  # fmt: skip
    assert classes(same_names(["missile", "tank", "missile"])) == [["missile", "missile"]]  # as ImageNet has
    assert same_names(["glass", "gas", "bus", "bu", "iris", "iri", "?", "!"]) is None


def test_names_that_are_spelt_nearly_alike() -> None:
    names = ["labrador retriever", "labrador retreiver", "poodle", "Labradour Retriever"]
    assert classes(similar_names(names)) == [names[:2], [names[0], names[3]], [names[1], names[3]]]
    versions = ["737-200", "737-300", "Acura RL Sedan", "Acura TL Sedan", "Gulfstream IV", "Gulfstream V",
                "Express Van", "Express Cargo Van", "red square", "blue square", "in court", "out court"]  # fmt: skip
    assert similar_names(versions) is None
    assert similar_names(["cat", "cats", "Cat"]) is None  # these are the same: another finding


def test_names_inside_names() -> None:
    names = ["apple", "apple pie", "pineapple", "Apples and pears", "pie", "pie chart of apples"]
    assert classes(contained_names(names)) == [
        ["apple", "apple pie"], ["pie", "apple pie"], ["apple", "Apples and pears"],
        ["pie", "pie chart of apples"], ["apple", "pie chart of apples"],
    ]  # fmt: skip
    assert contained_names(["cat", "caterpillar", "wild-cats eyes"]) is not None
    assert contained_names(["cat", "caterpillar", "concatenation"]) is None


@pytest.mark.parametrize(
    "name",
    ["n01440764", "class 12", "class-12", "IMG 0012", "DSC00012", "abcXyz17", "12", "0", "3f2a9c1b77", "Label 3",
     "AnnualCrop", "HerbaceousVegetation", "New Folder 2", "20240131 174501"],
)  # fmt: skip
def test_identifiers(name: str) -> None:
    assert is_identifier(name)
    assert classes(identifiers(["cat", name])) == [[name]]


@pytest.mark.parametrize(
    "name",
    ["cat", "class", "McLaren", "iPhone 12", "Boeing 737", "A320", "F-16A/B", "2012 BMW M3 Coupe", "MiG-29", "DC-10",
     "mp3 player", "defaced", "decade 1990s", "Type 45 frigate", "Übergröße", "ガラス", "CRJ-200"],
)  # fmt: skip
def test_words_are_no_identifiers(name: str) -> None:
    assert not is_identifier(name)


@given(st.lists(st.text("abc -s", max_size=6), max_size=8))
def test_findings_agree_with_their_definitions(names: list[str]) -> None:
    groups = classes(same_names(names))
    assert all(len({"".join(folded(name)) for name in group}) == 1 for group in groups)
    assert sum(map(len, groups)) == sum(
        sum("".join(folded(a)) == "".join(folded(b)) for b in names) > 1 for a in names if folded(a)
    )
    for short, long in classes(contained_names(names)):
        assert f" {' '.join(folded(short))} " in f" {' '.join(folded(long))} "
    for finding in lint_names(names):
        assert finding.line()
        json.dumps(finding.to_json())


@given(st.lists(st.text("abcd", min_size=1, max_size=8), min_size=2, max_size=8))
def test_the_bound_leaves_no_similar_pair_out(texts: list[str]) -> None:
    kept = set(_alike_letters(texts))
    for j in range(len(texts)):
        for i in range(j):
            if SequenceMatcher(None, texts[i], texts[j], autojunk=False).ratio() >= SIMILAR:
                assert (i, j) in kept


def test_a_thousand_names_take_no_time() -> None:
    words = ["red", "blue", "green", "striped", "dotted", "circle", "square", "arrow", "cross", "heart"]
    names = [f"{a} {b} {c}" for a in words for b in words for c in words]
    start = time.process_time()
    lint_names(names)
    assert time.process_time() - start < 10  # half a minute pair by pair, 0.5 s as it is


def test_the_toy_world_has_good_names() -> None:
    assert lint_names(open_data("toyworld").classes) == []


def test_texts_nearer_than_the_yardstick() -> None:
    cosine = np.array([[1.0, 0.97, 0.99], [0.97, 1.0, 0.5], [0.99, 0.5, 1.0]])
    assert classes(alike_texts(["a", "b", "c"], cosine, 0.96)) == [["a", "c"], ["a", "b"]]  # the nearest first
    assert alike_texts(["a", "b", "c"], cosine, 0.99) is None


def test_what_the_backbone_cannot_tell_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("miniature")
    names = ("red star", "red star!", "blue circle", "Red  Star")
    (found,) = lint.lint_class_texts(backbone, "a photo of a {}.", names)
    assert classes(found)[0] == ["red star", "Red  Star"]  # one and the same to the tokenizer
    assert ["red star", "blue circle"] not in classes(found)
    assert lint.lint_class_texts(backbone, "a photo of a {}.", ("red star", "blue circle")) == []
    monkeypatch.setattr(lint, "LOW", -1.0)
    assert lint.lint_class_texts(backbone, "a photo of a {}.", ("red star", "blue circle")) == []  # the yardstick


@pytest.mark.real
def test_published_names(real: Path) -> None:
    """The numbers that docs/datasets.md gives."""
    texts = real / "texts" / "hpt"
    counted: dict[str, int] = {}
    for file in sorted(texts.glob("*.json")):
        names = [name.replace("_", " ") for name in json.loads(file.read_text(encoding="utf-8"))]
        for finding in lint_names(names):
            counted[finding.kind] = counted.get(finding.kind, 0) + len(finding.examples)
    assert counted == {"similar-name": 5, "contained-name": 89, "identifier": 21}
