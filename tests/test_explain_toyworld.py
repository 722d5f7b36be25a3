"""Explanations on the toy world, whose objects stand where it says, and deletion scores with a known answer."""

from __future__ import annotations

import copy
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anprompt import methods
from anprompt.analysis.explain import deletion, maps_for, word_attribution
from anprompt.clip import load_backbone
from anprompt.data import toyworld
from anprompt.data.toyworld_draw import RGB
from anprompt.errors import UserError
from anprompt.methods import Method
from helpers_clip import randomise


@cache
def toy(count: int = 48) -> tuple[Method, Tensor, Tensor, Tensor]:
    """Zero-shot of the miniature, one picture of each of the toy world's classes, labels, and where objects stand."""
    backbone, names = load_backbone("miniature"), list(toyworld.class_names("shapes"))
    method = methods.create("zero-shot", backbone, names)
    some = range(0, len(names), len(names) // count)
    pixels = backbone.preprocess([toyworld.render(names[i], split="test") for i in some])
    masks = torch.stack([torch.from_numpy(toyworld.mask(names[i], split="test")) for i in some])
    return method, pixels, torch.tensor(list(some)), masks


def hits(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the middle of the patch of each map's maximum is on the object, ``(B,)``."""
    size = masks.shape[1] // maps.shape[1]
    at = maps.flatten(1).argmax(dim=1)
    rows, columns = (size * index + size // 2 for index in (at // maps.shape[2], at % maps.shape[2]))
    return masks[torch.arange(len(maps)), rows, columns]


def test_the_maximum_is_on_the_object() -> None:
    method, pixels, labels, masks = toy()
    found = hits(maps_for(method, pixels, labels), masks)
    middle = masks[:, 24, 24]
    assert found.double().mean() >= 0.7
    assert found[~middle].double().mean() >= 0.7, "pictures whose middle is not on the object"
    assert masks.double().mean() < 0.25, "the object is small, so chance is far below"


def test_random_weights_give_other_maps() -> None:
    method, pixels, labels, masks = toy()
    maps = maps_for(method, pixels, labels)
    blank = copy.deepcopy(method.backbone)
    randomise(blank, seed=1)
    other = maps_for(methods.create("zero-shot", blank, method.class_names), pixels, labels)
    pairs = torch.stack([maps.flatten(1), other.flatten(1)], dim=1).double()
    likeness = torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs]).nan_to_num()
    assert abs(likeness.mean()) < 0.3
    assert hits(other, masks).double().mean() < 0.5


def test_removing_what_a_map_marks_is_worse_than_random() -> None:
    method, pixels, labels, _ = toy()
    pixels, labels = pixels[::12], labels[::12]
    scores = deletion(method, pixels, labels, maps_for(method, pixels, labels), orders=5)
    assert sum(score.area for score in scores) < 0.8 * sum(score.random_area for score in scores)
    assert sum(score.beaten for score in scores) / len(scores) > 0.7


def test_the_mask_is_where_the_object_is_drawn() -> None:
    for name in toyworld.class_names("shapes")[:12]:
        picture = np.asarray(toyworld.render(name, index=3), dtype=float)
        mask, kind = toyworld.mask(name, index=3), toyworld.parse_name(name)
        assert mask.shape == picture.shape[:2]
        hue = picture / np.linalg.norm(picture, axis=2, keepdims=True)
        away = np.linalg.norm(hue - np.array(RGB[kind.colour]) / np.linalg.norm(RGB[kind.colour]), axis=2)
        if kind.pattern != "hollow":
            assert np.median(away[mask]) < np.median(away[~mask]), name
    with pytest.raises(UserError, match="domain"):
        toyworld.mask("striped red star", domain="fog")


# ---- deletion ------------------------------------------------------------------------------------------------------


def one_patch_matters(patch: int) -> Any:
    """Stands in for a method: the class is certain while a patch is bright, else impossible."""
    config = SimpleNamespace(image_size=32, patch_size=8, patches=16)

    def logits(pixels: Tensor) -> Tensor:
        row, column = divmod(patch, 4)
        bright = pixels[:, 0, 8 * row, 8 * column] > 0.5
        return torch.stack([bright.float() * 80 - 40, torch.zeros(len(pixels))], dim=1)

    return SimpleNamespace(backbone=SimpleNamespace(config=config, device="cpu"), logits=logits)


def test_deletion_areas() -> None:
    method, pixels = one_patch_matters(6), torch.zeros(1, 3, 32, 32)
    pixels[:, :, 8:16, 16:24] = 1
    first, last = torch.rand(2, 1, 4, 4)
    first[0, 1, 2], last[0, 1, 2] = 2, -1
    best, worst = (deletion(method, pixels, [0], maps, orders=20)[0] for maps in (first, last))
    assert best.area == pytest.approx(0.5 / 16)
    assert best.curve == pytest.approx([1] + [0] * 16)
    assert worst.area == pytest.approx(1 - 0.5 / 16)
    assert worst.beaten == 0
    assert best.beaten >= 0.8
    assert best.random_area == worst.random_area == pytest.approx(sum(best.random_areas) / 20)
    assert 0.3 < best.random_area < 0.7
    assert "means something" in best.words()
    assert "no better than chance" in worst.words()
    flat = deletion(method, pixels, [0], torch.zeros(1, 4, 4), orders=20)[0]
    assert 0.5 / 16 < flat.area < 1, "equal patches go in random order, not from the top left"
    assert deletion(method, pixels, [0], first, orders=20)[0] == best


def test_words_of_a_template() -> None:
    method, pixels, labels, _ = toy()
    name = method.class_names[int(labels[5])]
    ((sentence, words),) = word_attribution(method, pixels[5:6], int(labels[5])).items()
    assert sentence == f"a photo of a {name}."
    assert [word.word for word in words] == ["a", "photo", "of", "a", *name.split()]
    features = method.backbone.encode_image(pixels[5:6])
    for left, word in ((f"a photo of a {' '.join(name.split()[1:])}.", words[4]), (f"photo of a {name}.", words[0])):
        both = method.backbone.encode_text([sentence, left])
        change = 100 * (features @ (both[0] - both[1]))
        assert word.logit == pytest.approx(float(change), abs=1e-2)
    assert max(words, key=lambda word: word.logit).word in name.split()
