"""Arrays, tensors and lists of pictures mean the same to fit and to predict; everything else stops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from anprompt import PromptClassifier
from anprompt.batches import list_pictures
from anprompt.clip import Backbone
from anprompt.errors import UserError
from helpers_clip import random_backbone
from helpers_fit import estimator

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 32, 30, 3), dtype=np.uint8)  # (N, H, W, C)
GREY = RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone(image_size=32)


@pytest.fixture(scope="module")
def fitted(backbone: Backbone) -> PromptClassifier:
    return estimator(backbone, method="linear-probe", texts=None).fit(COLOUR, [0, 1] * 3)


def channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).movedim(-1, -3)


@pytest.mark.parametrize(
    ("given", "same_as"),
    [
        (COLOUR, COLOUR),
        (COLOUR[0], COLOUR[:1]),
        (channels_first(COLOUR), COLOUR),
        (channels_first(COLOUR)[0], COLOUR[:1]),
        (channels_first(COLOUR) / 255, COLOUR),
        (list(channels_first(COLOUR)), COLOUR),
        (torch.from_numpy(COLOUR), COLOUR),
        ((picture for picture in COLOUR), COLOUR),
        (GREY, [*GREY]),
        (GREY[..., None], [*GREY]),
        (torch.from_numpy(GREY)[:, None], [*GREY]),
    ],
)
def test_one_picture_or_many(fitted: PromptClassifier, given: Any, same_as: Any) -> None:
    found, expected = fitted.decision_function(given), fitted.decision_function(list(same_as))
    assert found.shape == (len(same_as), 2)
    assert np.allclose(found, expected, atol=1e-3)


def test_fit_takes_what_predict_takes(backbone: Backbone) -> None:
    greys = np.concatenate([GREY, 255 - GREY])
    answers = []
    for given in (greys, greys[..., None], list(greys), torch.from_numpy(greys)[:, None]):
        made = estimator(backbone, method="linear-probe", texts=None).fit(given, [0, 1] * 3)
        answers.append(made.predict_proba(GREY))
        assert np.allclose(answers[-1], answers[0], atol=1e-4)


WRONG: list[tuple[Any, str]] = [
    (RNG.random((10, 784)), r"shape \(10, 784\) holds no pictures.*a table of features"),
    (RNG.random((5, 3, 28, 28)), r"channels come last: array.transpose\(0, 2, 3, 1\)"),
    (torch.rand(10, 784), r"A tensor of shape \(10, 784\) holds no pictures: give \(N, 1, 3 or 4, H, W\)"),
    ({"a.jpg": 1}, "A dict holds no pictures"),
    (7, "A int holds no pictures"),
    (None, "A NoneType holds no pictures"),
    ([["a.jpg", "b.jpg"]] * 3, "entry 0 and 2 more: a list is not a picture"),
    ([np.zeros((3, 28, 28), np.uint8)] * 2, r"entry 0 and 1 more: shape \(3, 28, 28\).*transpose\(1, 2, 0\)"),
    (np.zeros((5, 28, 28), np.int64), "entry 0 and 4 more: dtype int64"),
    (np.arange(4.0), "entry 0 and 3 more: a float64 is not a picture"),
]


@pytest.mark.parametrize(("given", "words"), WRONG)
@pytest.mark.parametrize("bad_images", ["stop", "skip"])
def test_what_is_no_picture_always_stops(
    fitted: PromptClassifier, backbone: Backbone, given: Any, words: str, bad_images: str
) -> None:
    made = estimator(backbone, method="linear-probe", texts=None, bad_images=bad_images)
    with pytest.raises(UserError, match=words):
        made.fit(given, [0, 1] * 5)
    made.method_, made.about_ = fitted.method_, fitted.about_
    with pytest.raises(UserError, match=words):
        made.predict(given)


def test_paths_stay_as_they_are() -> None:
    assert list_pictures("a.jpg") == ["a.jpg"]
    assert list_pictures(np.array(["a.jpg", "b.jpg"])) == ["a.jpg", "b.jpg"]
    assert list_pictures([]) == list_pictures(np.array([])) == list_pictures(COLOUR[:0]) == []
