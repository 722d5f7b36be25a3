"""Grad-CAM at the last vision block against plain automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anprompt.clip import PromptPlan
from anprompt.clip.relevance import relevance
from helpers_clip import random_backbone


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


@pytest.mark.parametrize("where", ["none", "after the class token", "at the end", "from the last block on"])
def test_relevance_equals_plain_differentiation(where: str) -> None:
    backbone = random_backbone(vision_depth=4)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, 32, 32, generator=generator)
    weight = torch.randn(3, backbone.config.joint_width, generator=generator)
    tokens = {block: torch.randn(2, backbone.vision.width, generator=generator) for block in (2, 3, 4)}
    plan, rows = {
        "none": (PromptPlan(), slice(1, 17)),
        "after the class token": (PromptPlan.deep(tokens), slice(3, 19)),
        "at the end": (PromptPlan.deep(tokens, at=None), slice(1, 17)),
        "from the last block on": (PromptPlan.deep({4: tokens[4]}), slice(3, 19)),
    }[where]
    seen = []

    def score(cls: Tensor) -> Tensor:
        seen.append(cls.detach())
        return (cls * weight).sum()

    with torch.no_grad():
        ours = relevance(backbone, pixels, score, plan)
    plain = plain_cam(pixels, score, plan, rows)
    assert plain.max() > 0
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5 * float(plain.max()))
    torch.testing.assert_close(seen[0], backbone.images(pixels, plan).cls, rtol=1e-4, atol=1e-5)
    assert not any(p.grad is not None or p.requires_grad for p in backbone.parameters())
