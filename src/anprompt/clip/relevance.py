"""Which parts of a picture a score rests on: Grad-CAM on the tokens that the last vision block attends to.

Selvaraju et al.: Grad-CAM: Visual explanations from deep networks via gradient-based localization, ICCV 2017.
https://arxiv.org/abs/1610.02391
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from anprompt.clip.backbone import Backbone
from anprompt.clip.plan import PromptPlan
from anprompt.clip.sentences import NO_PROMPTS
from anprompt.clip.watch import Reading, reader


def relevance(
    backbone: Backbone, pixels: Tensor, score: Callable[[Tensor], Tensor], plan: PromptPlan = NO_PROMPTS
) -> tuple[Tensor, Tensor]:
    """Map ``(B, h, w)`` of the patches' relevance and class-token features ``(B, d)`` of normalised pixels.

    pixels: ``(B, 3, H, W)``. score: from the features, not normalised, to one number. With the normed tokens ``a`` that
    come into the last block the map is ``relu(Σ_d α_d a_d)``, α the mean over the patches of the score's gradient; no
    gradient goes through it. The features are those of ``Backbone.images``, from the same pass, with gradients to the
    plan's tokens: what the map costs is a way back through the last block.
    """
    tower, depth = backbone.vision, backbone.vision.depth
    readings: list[Reading] = []
    with torch.enable_grad():
        x = backbone.before_last(pixels, plan)  # (B, L, D)
        watched = replace(plan, adapters=(*plan.adapters, reader(backbone, depth, plan, readings)))
        rows = torch.zeros(len(x), 1, dtype=torch.long, device=x.device)  # the class token alone
        cls = tower.read(tower.run(x, depth, depth, watched, rows)[:, 0])
        (gradient,) = torch.autograd.grad(score(cls), readings[0].change, retain_graph=True)
    side = backbone.config.image_size // backbone.config.patch_size
    return readings[0].relevance(gradient, averaged=True).relu().view(-1, side, side), cls
