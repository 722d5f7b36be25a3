"""Labels that are numbers or hold underscores: predictions keep them, sentences word them, malformed ones stop."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline

from anprompt import PromptClassifier
from anprompt.clip import Backbone
from anprompt.errors import UserError
from anprompt.labels import Labels, name_of, read_labels
from helpers_clip import random_backbone
from helpers_fit import estimator


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone(image_size=32)


@pytest.fixture(scope="module")
def files(photo_folder: Path) -> list[str]:
    """16 photos, four of each class in turn."""
    return [str(path) for path in sorted((photo_folder / "test").rglob("*.*"))]


def quick(backbone: Backbone, **params: Any) -> PromptClassifier:
    return estimator(backbone, method="linear-probe", texts=None, **params)


NUMBERS = np.arange(16) // 4


@pytest.mark.parametrize(
    ("labels", "classes", "names"),
    [
        (NUMBERS, [0, 1, 2, 3], ["0", "1", "2", "3"]),
        (NUMBERS.astype(np.uint8) * 5, [0, 5, 10, 15], ["0", "5", "10", "15"]),
        (NUMBERS > 1, [False, True], ["False", "True"]),
        (NUMBERS.astype(float), [0.0, 1.0, 2.0, 3.0], ["0", "1", "2", "3"]),
        (NUMBERS.tolist(), [0, 1, 2, 3], ["0", "1", "2", "3"]),
        (torch.tensor(NUMBERS), [0, 1, 2, 3], ["0", "1", "2", "3"]),
        (np.array(["a_b", "c d"])[NUMBERS % 2], ["a_b", "c d"], ["a b", "c d"]),
        (np.array(["a", "b"], dtype=object)[NUMBERS % 2], ["a", "b"], ["a", "b"]),
    ],
)
def test_predictions_are_of_the_labels_kind(
    backbone: Backbone, files: list[str], labels: Any, classes: list[Any], names: list[str], tmp_path: Path
) -> None:
    made = quick(backbone, shots=4).fit(files, labels)
    answers = made.predict(files)
    assert made.classes_.tolist() == classes
    assert made.method_.class_names == names
    assert set(answers.tolist()) <= set(classes)
    given = np.asarray(labels)
    if given.dtype.kind in "biuf":
        assert answers.dtype == made.classes_.dtype == given.dtype
    right = float((answers == given).mean())
    assert accuracy_score(labels, answers) == made.score(files, labels) == right > 0.3
    loaded = PromptClassifier.load(made.save(tmp_path), backbone)
    for again in (loaded, pickle.loads(pickle.dumps(made))):
        assert again.classes_.dtype == made.classes_.dtype
        assert again.predict(files).tolist() == answers.tolist()
    assert not hasattr(clone(made), "classes_")


def test_scikit_learn_searches_and_scores(backbone: Backbone, files: list[str]) -> None:
    for scoring in (None, "accuracy", "f1_macro"):
        scores = cross_val_score(quick(backbone, shots=2), files, NUMBERS, cv=2, scoring=scoring)
        assert scores.mean() > 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 2 of the photos are too few for 3 shots
        grid = {"shots": [1, 3], "method": ["linear-probe", "zero-shot"]}
        search = GridSearchCV(quick(backbone), grid, cv=2, scoring="accuracy", error_score="raise").fit(files, NUMBERS)
    assert search.best_params_["method"] == "linear-probe"
    assert search.predict(files).dtype == NUMBERS.dtype
    pipeline = Pipeline([("classes", quick(backbone))]).fit(files, NUMBERS)
    assert pipeline.score(files, NUMBERS) == balanced_accuracy_score(NUMBERS, pipeline.predict(files))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.eye(4)[NUMBERS], r"one-dimensional.*got shape \(16, 4\)\); of one-hot rows give labels.argmax"),
        ([[0], [1, 2]], r"entry 0 is \[0\], of type list"),
        (["a", None, "b", float("nan")], r"- entry 1 is missing \(None\)\n.*- entry 3 is missing \(NaN\)"),
        (np.array([0, 1, np.nan]), r"entry 2 is missing \(NaN\)"),
        ([0.5, 1.0], r"entry 0 is 0.5: classes are text or whole numbers"),
        ([0, "a"], "numbers and text are mixed"),
        ([True, 2], "numbers and truth values are mixed"),
        ([{"a": 1}], "of type dict"),
        ("cat", r"must be a list \(got 'cat', of type str\)"),
        (3, "must be a list"),
    ],
)
def test_what_is_no_label_stops(backbone: Backbone, files: list[str], labels: Any, words: str) -> None:
    with pytest.raises(UserError, match=rf"(?s)The labels .*{words}"):
        quick(backbone).fit(files, labels)


def test_a_column_is_taken_as_scikit_learn_does(backbone: Backbone, files: list[str]) -> None:
    with pytest.warns(DataConversionWarning):
        made = quick(backbone).fit(files, NUMBERS[:, None])
    assert made.classes_.tolist() == [0, 1, 2, 3]


def test_wrong_labels_are_named_as_they_were_given(backbone: Backbone, files: list[str]) -> None:
    made = quick(backbone).fit(files, NUMBERS)
    with pytest.raises(UserError, match="7 is none of the 4 classes"):
        made.score(files[:1], [7])
    with pytest.raises(UserError, match=r"'0' is none of the 4 classes\.$"):
        made.score(files[:1], ["0"])


def test_classes_after_numbers(backbone: Backbone, files: list[str], tmp_path: Path) -> None:
    made = estimator(backbone, method="zero-shot", texts=None).fit(files, NUMBERS)
    view = made.with_classes([3, "0", "red_star"], {"red_star": ["a star."]})
    assert view.classes_.tolist() == [3, 0, "red_star"]
    assert view.method_.class_names == ["3", "0", "red star"]
    assert view.method_.bank.main["red star"] == ["a star."]
    assert made.with_classes(["cat", "dog"]).classes_.dtype.kind == "U"
    assert made.add_class(4).classes_.tolist() == [0, 1, 2, 3, 4]
    assert made.classes_.dtype == NUMBERS.dtype
    made.add_class("red_star")
    assert made.classes_.tolist() == [0, 1, 2, 3, 4, "red_star"]
    loaded = PromptClassifier.load(made.save(tmp_path), backbone)
    assert loaded.classes_.tolist() == made.classes_.tolist()
    assert loaded.predict(files).shape == (16,)
    with pytest.raises(UserError, match="'3' is there twice"):
        made.add_class(3)
    with pytest.raises(UserError, match=r"The class names must be a list \(got 'red star'"):
        made.with_classes("red star")


@pytest.mark.parametrize(
    ("labels", "later", "classes", "dtype"),
    [
        (NUMBERS.astype(np.uint8), 300, [0, 1, 2, 3, 300], "uint16"),
        (NUMBERS.astype(np.uint8), -1, [0, 1, 2, 3, -1], "int16"),
        (NUMBERS.astype(np.int8), 100, [0, 1, 2, 3, 100], "int8"),
        (NUMBERS.astype(np.float16), 2049, [0, 1, 2, 3, 2049], "float32"),
        (NUMBERS, 2**70, [0, 1, 2, 3, 2**70], "object"),
        (NUMBERS > 1, "maybe", [False, True, "maybe"], "object"),
    ],
)
def test_labels_that_come_later_keep_their_value(
    backbone: Backbone, files: list[str], labels: Any, later: Any, classes: list[Any], dtype: str, tmp_path: Path
) -> None:
    made = estimator(backbone, method="zero-shot", texts=None).fit(files, labels)
    made.add_class(later)
    for each in (made, PromptClassifier.load(made.save(tmp_path), backbone)):
        assert each.classes_.tolist() == classes
        assert each.classes_.dtype == dtype
        assert set(each.predict(files).tolist()) <= set(classes)


@pytest.mark.parametrize(
    ("labels", "later", "words"),
    [
        (NUMBERS > 1, 2, "2: the labels of this classifier are truth values"),
        (NUMBERS, True, "True: the labels of this classifier are numbers"),
    ],
)
def test_numbers_and_truth_values_are_not_mixed_later_either(
    backbone: Backbone, files: list[str], labels: Any, later: Any, words: str
) -> None:
    """They would be taken for each other: 1 is True to Python."""
    made = estimator(backbone, method="zero-shot", texts=None).fit(files, labels)
    before = made.classes_.tolist()
    with pytest.raises(UserError, match=words):
        made.add_class(later)
    with pytest.raises(UserError, match="numbers and truth values are mixed"):
        made.with_classes([before[1], "cat", later])
    with pytest.raises(UserError, match=words):
        made.with_classes(["cat", later])
    assert made.classes_.tolist() == before


def test_words_of_labels() -> None:
    assert [name_of(label) for label in (" a_b ", 3, 3.0, True)] == ["a b", "3", "3", "True"]
    assert read_labels(np.array([1, 2], dtype=np.int16)) == ([1, 2], "int16")
    assert read_labels(label for label in "ab") == (["a", "b"], "")
    assert Labels.from_json(None).array(["a", "b"]).tolist() == ["a", "b"]
    assert Labels.from_json({"of": {"1": 1}, "dtype": "object of another library"}).array(["1"]).tolist() == [1]
