"""TextRefiner against its literal second implementation; the towers' local features against plain loops."""

from __future__ import annotations

import pytest
import torch

from anprompt.clip import BlockAdapter, PromptPlan
from anprompt.clip.plan import Place
from anprompt.clip.rollout import attention as attention_of
from anprompt.clip.watch import WatchedBackbone
from helpers_clip import random_backbone
from helpers_methods import batch
from helpers_twins import check_against, make
from literal_anprompt import mask
from literal_refiner import LiteralTextRefiner, OpenEncoder


def test_textrefiner_equals_the_literal_one() -> None:
    method, twin = check_against(LiteralTextRefiner, "textrefiner")
    assert torch.equal(method.cache, twin.memory), "losses write nothing"
    method.after_step()
    untouched = (twin.after == twin.memory).all(dim=1)
    assert 0 < untouched.sum() < 25, "both kinds of slots are wanted"
    torch.testing.assert_close(method.cache, twin.after, rtol=1e-9, atol=1e-9)


def test_a_step_of_textrefiner_sees_the_photos_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = random_backbone(vision_depth=2, text_depth=1)
    method, seen, embed = make("textrefiner", backbone), list[int](), backbone.vision.embed
    monkeypatch.setattr(backbone.vision, "embed", lambda pixels: (seen.append(len(pixels)), embed(pixels))[1])
    method.losses(batch(3))
    assert seen == [3]


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("plan", ["none", "deep", "last block only"])
def test_local_features(plan: str, values: bool) -> None:
    """All tokens, of the last block or of its value path, CLS's attention, and gradients of the prompts."""
    backbone, pixels = random_backbone(vision_depth=3, text_depth=1), batch(2)["pixels"]
    blocks = {"none": (), "deep": (1, 2, 3), "last block only": (3,)}[plan]
    tokens = {n: torch.randn(2, 32, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in blocks}
    found = backbone.local(pixels, PromptPlan.deep(tokens, at=None), values=values, attention=True)
    encoder, expected, attention = OpenEncoder(backbone), [], []
    for one in pixels:
        x = encoder.norm(encoder.patches(one), "vision.ln_pre", 1e-5)
        for number in (1, 2, 3):
            if number in tokens:
                x = torch.cat([x if number == min(tokens) else x[:-2], tokens[number]])
            before = x
            x = encoder.block(x, "vision", number, mask(len(x), False))
        cls = encoder.project(x)[0]
        if values:  # each row attends to itself alone
            x = encoder.block(before, "vision", 3, torch.eye(len(before), dtype=torch.bool))
        expected.append(torch.cat([cls, encoder.project(x).flatten()]))
        attention.append(encoder.attention(before, 3))
    literal = torch.stack(expected)
    ours = torch.cat([found.cls, found.tokens.flatten(1)], dim=1)
    torch.testing.assert_close(ours.double(), literal, rtol=1e-4, atol=1e-4)
    assert found.attention is not None
    torch.testing.assert_close(found.attention.double(), torch.stack(attention), rtol=1e-4, atol=1e-5)
    if tokens:
        weight = torch.randn(literal.shape, generator=torch.Generator().manual_seed(0))
        mine, theirs = (torch.autograd.grad((x * weight).sum(), list(tokens.values())) for x in (ours, literal))
        for a, b in zip(mine, theirs, strict=True):
            assert (a - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize("values", [False, True])
def test_local_features_obey_the_whole_plan_in_the_last_block(values: bool) -> None:
    """What may attend to what, and adapters behind a block."""
    backbone, pixels = random_backbone(vision_depth=3, text_depth=1), batch(2)["pixels"]

    def allowed(length: int) -> torch.Tensor:
        return torch.ones(length, length, dtype=torch.bool).tril()

    plan = PromptPlan(adapters=(BlockAdapter(3, lambda rows: 0.5 * rows),), allowed=allowed)
    found = backbone.local(pixels, plan, values=values)
    torch.testing.assert_close(found.cls, backbone.images(pixels, plan).cls, rtol=1e-5, atol=1e-5)
    assert found.attention is None


@pytest.mark.parametrize("where", ["input", "qkv", "hidden", "output"])
def test_value_path_and_attention_obey_adapters_and_the_mask(where: Place) -> None:
    """Each row alone is what a mask of the diagonal gives; the attention is that of an explanation's reading."""
    backbone, pixels = random_backbone(vision_depth=3, text_depth=1), batch(2)["pixels"]

    def allowed(length: int) -> torch.Tensor:
        return torch.ones(length, length, dtype=torch.bool).tril(2)

    def learned(rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([rows.cos(), rows.sin(), rows.tanh()], dim=-1) if where == "qkv" else rows.cos()

    plan = PromptPlan(adapters=(BlockAdapter(3, learned, where=where),), allowed=allowed)
    found = backbone.local(pixels, plan, values=True, attention=True)

    tower, before = backbone.vision, backbone.before_last(pixels, plan)
    alone = tower.block(3)(before, False, None, plan.inside(3), torch.eye(before.shape[1], dtype=torch.bool))
    torch.testing.assert_close(found.tokens, tower.read(plan.adapt(3, alone)), rtol=1e-5, atol=1e-5)
    watched = WatchedBackbone(backbone, [3])
    watched.images(pixels, plan)
    expected = attention_of(tower, watched.passes[0].readings[0], plan)[:, :, 0].mean(dim=1)
    torch.testing.assert_close(found.attention, expected.detach(), rtol=1e-5, atol=1e-6)


def test_only_the_class_token_passes_the_last_block_beside_the_value_path(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, pixels = random_backbone(vision_depth=3, text_depth=1), batch(2)["pixels"]
    last, rows = backbone.vision.block(3), list[int]()
    forward = last.fed_forward
    monkeypatch.setattr(last, "fed_forward", lambda x, *more: (rows.append(x.shape[1]), forward(x, *more))[1])
    monkeypatch.setattr(last, "first_row_attention", lambda x: pytest.fail("nobody asked for it"))
    backbone.local(pixels, values=True)
    assert rows == [1, 17]
