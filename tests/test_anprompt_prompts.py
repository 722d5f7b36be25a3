"""ANPrompt's options about prompts: how many, in which blocks, by which maps, and the projection of their outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from anprompt import methods
from anprompt.errors import UserError
from helpers_clip import random_backbone
from helpers_methods import NAMES, anprompt, bank, batch, small_backbone

DATA = batch(3)
PIXELS = DATA["pixels"]
BANK = bank()


@pytest.mark.parametrize("length", [1, 8])
def test_prompt_length(length: int) -> None:
    method = anprompt(prompt_length=length)
    vision, text = method.tokens()
    assert {t.shape for t in vision.values()} == {(length, 32)}
    assert {t.shape for t in text.values()} == {(length, 24)}
    assert method.noise_prompts.shape == method.prompts.shape == (length, 16)
    assert method.losses(DATA)["total"].isfinite()


@pytest.mark.parametrize(
    ("layers", "vision_blocks", "text_blocks"),
    [("3-5", [3, 4, 5], [3, 4, 5]), ("last-2", [8, 9], [5, 6]), ("4", [4], [4]), ("last-1", [9], [6])],
)
def test_layers_of_towers_of_different_depth(layers: str, vision_blocks: list[int], text_blocks: list[int]) -> None:
    backbone = random_backbone(vision_depth=9, text_depth=6)
    method: Any = methods.create("anprompt", backbone, NAMES, texts=BANK, layers=layers)
    vision, text = method.tokens()
    assert (list(vision), list(text)) == (vision_blocks, text_blocks)
    assert len(method.to_text.maps) == len(vision_blocks)
    assert method.losses(DATA)["total"].isfinite()


def test_layers_change_the_features() -> None:
    results = [anprompt(layers=layers).image_features(PIXELS) for layers in ("6-12", "last-7", "6-9", "10-12", "9")]
    assert torch.equal(results[0], results[1])
    for i, j in ((0, 2), (0, 3), (2, 3), (3, 4)):
        assert not torch.allclose(results[i], results[j])


@pytest.mark.parametrize("layers", ["6-13", "0-3", "last-13", "9-6", "last-0"])
def test_layers_outside_the_tower(layers: str) -> None:
    with pytest.raises(UserError, match=rf"'{layers}', outside the tower: allowed are blocks 1 to 12, e.g. 'last-7'"):
        anprompt(layers=layers)


@pytest.mark.parametrize("layers", ["", "six", "1-2-3", "3-", "last-", "last-x", "1.5"])
def test_layers_of_another_form(layers: str) -> None:
    with pytest.raises(UserError, match="'layers' must look like '6-12' or 'last-7'"):
        anprompt(layers=layers)


def test_maps() -> None:
    def distinct(tokens: dict[int, Tensor]) -> int:
        return len({tuple(t.flatten().tolist()) for t in tokens.values()})

    fresh: dict[str, Any] = {m: methods.create("anprompt", small_backbone(), NAMES, texts=BANK, maps=m)
                             for m in ("per-layer", "shared", "low-rank")}  # fmt: skip
    assert all(distinct(side) == 1 for method in fresh.values() for side in method.tokens())  # all maps start equal
    moved = {name: anprompt(maps=name).tokens() for name in fresh}
    assert {name: tuple(map(distinct, both)) for name, both in moved.items()} == {
        "per-layer": (7, 7), "shared": (1, 1), "low-rank": (7, 7),
    }  # fmt: skip
    assert fresh["low-rank"].to_vision.up.shape == (7, 32, 4)


def test_free_prompts_only_reach_the_vision_tower() -> None:
    plain, light, heavy = (anprompt(free_prompts=weight) for weight in (0.0, 0.2, 0.4))
    assert not hasattr(plain, "free")
    heavy.load_state_dict(light.state_dict())
    for block in plain.tokens()[0]:
        base = light.to_vision(light.prompts + 0.01 * light.noise_prompts, block - 6)
        torch.testing.assert_close(
            heavy.tokens()[0][block] - base, 2 * (light.tokens()[0][block] - base), rtol=1e-4, atol=1e-6
        )
        assert torch.equal(heavy.tokens()[1][block], light.tokens()[1][block])
        assert not torch.allclose(light.tokens()[0][block], base)


def test_mix_weighs_new_tokens_against_old() -> None:
    features = {}
    for mix in (1.0, 0.5, 0.0):
        method = anprompt(mix=mix)
        features[mix] = method.image_features(PIXELS).detach()
        with torch.no_grad():
            method.to_vision.maps[3].weight.mul_(-1)
        assert torch.equal(method.image_features(PIXELS).detach(), features[mix]) is (mix == 0)
    assert not torch.allclose(features[1.0], features[0.5])


def test_projection_starts() -> None:
    clip = small_backbone().vision.projection.weight
    made: dict[str, Any] = {p: methods.create("anprompt", small_backbone(), NAMES, texts=BANK, projection=p)
                            for p in ("clip", "random", "low-rank")}  # fmt: skip
    assert torch.equal(made["clip"].projection, clip)
    assert made["random"].projection.shape == clip.shape
    assert not torch.allclose(made["random"].projection, clip)
    assert not hasattr(made["low-rank"], "projection")
    found = {name: method.losses(DATA)["weak_alignment"] for name, method in made.items()}
    torch.testing.assert_close(found["low-rank"], found["clip"], rtol=2e-5, atol=1e-6)
    assert abs(found["random"] - found["clip"]) > 1e-3
