"""Grad-CAM at the last vision block against plain automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anprompt.clip import BlockAdapter, PromptPlan
from anprompt.clip.relevance import relevance
from helpers_clip import random_backbone
from helpers_methods import batch
from helpers_twins import make


def plain_cam(pixels: Tensor, score: Callable[[Tensor], Tensor], plan: PromptPlan, rows: slice) -> Tensor:
    """Everything with gradients; the normed tokens are caught as they leave the layer norm."""
    backbone = random_backbone(vision_depth=4)
    tower, caught = backbone.vision, []
    hook = tower.block(4).ln_1.register_forward_hook(lambda module, given, out: caught.append(out.requires_grad_()))
    out = tower.run(tower.embed(pixels).requires_grad_(), 1, 4, plan)
    hook.remove()
    (gradient,) = torch.autograd.grad(score(tower.read(out[:, 0])), caught[-1])
    alpha = gradient[:, rows].mean(dim=1, keepdim=True)
    return (alpha * caught[-1][:, rows]).sum(dim=-1).clamp(min=0).detach().view(-1, 4, 4)


def half(length: int) -> Tensor:
    """CLS sees nothing behind the eighth patch."""
    allowed = torch.ones(length, length, dtype=torch.bool)
    allowed[0, 9:] = False
    return allowed


PLANS = [
    "none", "after the class token", "at the end", "from the last block on", "overwritten in the last block", "mixed",
    "class token sees half", "adapters in the last block",
]  # fmt: skip


@pytest.mark.parametrize("where", PLANS)
def test_relevance_equals_plain_differentiation(where: str) -> None:
    backbone = random_backbone(vision_depth=4)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, 32, 32, generator=generator)
    weight = torch.randn(3, backbone.config.joint_width, generator=generator)
    maps = {size: torch.randn(32, size, generator=generator) / 6 for size in (32, 96)}
    inside_last = (
        BlockAdapter(4, lambda rows: rows @ maps[96], where="qkv"), BlockAdapter(4, lambda rows: rows @ maps[32]),
    )  # fmt: skip
    tokens = {n: torch.randn(2, backbone.vision.width, generator=generator).requires_grad_() for n in (2, 3, 4)}
    plan, rows = {
        "none": (PromptPlan(), slice(1, 17)),
        "after the class token": (PromptPlan.deep(tokens), slice(3, 19)),
        "at the end": (PromptPlan.deep(tokens, at=None), slice(1, 17)),
        "from the last block on": (PromptPlan.deep({4: tokens[4]}), slice(3, 19)),
        "overwritten in the last block": (PromptPlan.deep({3: tokens[3], 4: tokens[4]}), slice(3, 19)),
        "mixed": (PromptPlan.deep(tokens, mix=0.4), slice(3, 19)),
        "class token sees half": (PromptPlan(PromptPlan.deep(tokens, at=None).writes, allowed=half), slice(1, 17)),
        "adapters in the last block": (PromptPlan(PromptPlan.deep(tokens).writes, inside_last), slice(3, 19)),
    }[where]

    def score(cls: Tensor) -> Tensor:
        return (cls * weight).sum()

    ours, cls = relevance(backbone, pixels, score, plan)
    plain = plain_cam(pixels, score, plan, rows)
    assert plain.max() > 0
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5 * float(plain.max()))
    assert not ours.requires_grad
    expected = backbone.images(pixels, plan).cls
    torch.testing.assert_close(cls, expected, rtol=1e-4, atol=1e-5)
    if own := [write.tokens for write in plan.writes]:
        for a, b in zip(*(torch.autograd.grad(score(x).square(), own) for x in (cls, expected)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
    with torch.no_grad():
        assert torch.equal(relevance(backbone, pixels, score, plan)[0], ours)
    assert not any(p.grad is not None or p.requires_grad for p in backbone.parameters())


def test_a_step_of_dapt_sees_the_pictures_once_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """And once each without back- and foreground."""
    method, seen = make("dapt", random_backbone(vision_depth=3, text_depth=3), depth=2), list[int]()
    embed = method.backbone.vision.embed
    monkeypatch.setattr(method.backbone.vision, "embed", lambda pixels: (seen.append(len(pixels)), embed(pixels))[1])
    method.losses(batch(3))
    assert seen == [3, 3, 3]
