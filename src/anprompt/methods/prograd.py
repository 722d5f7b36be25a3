"""ProGrad: CoOp that only takes steps which do not contradict the zero-shot predictions.

Zhu, Niu, Han, Wu, Zhang: Prompt-aligned gradient for prompt tuning, ICCV 2023. https://arxiv.org/abs/2205.14865

    t_c = [v]_1 … [v]_M [class c],   ℓ = sim(f_v, f_t(t_c)) / τ                                        (1)
    L_ce = CE(ℓ, y)                                                                                    (2)
    L_kl = −1/B Σ_b Σ_c softmax(ℓ^clip / T) log softmax(ℓ / T) T²                                      (3)
    g = ∇L_ce − λ (∇L_ce · ĝ) ĝ  if ∇L_ce · ∇L_kl < 0,  else ∇L_ce;   ĝ = ∇L_kl / |∇L_kl|              (4)

ℓ^clip are the zero-shot logits of the same augmented images. (4) acts on each parameter tensor; ∇L_kl is never added.
Shapes: B images, C classes, M context vectors, d joint width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.methods.base import Preset
from anprompt.methods.contexts import STANDARD_WORDS, ContextMethod, start_of_context
from anprompt.methods.options import option


@dataclass
class ProGradOptions:
    """Options of ProGrad."""

    length: int = option(16, "number of context vectors M", low=1, high=64)
    start: str = option(
        STANDARD_WORDS, "words that the last context vectors start from, zeros before them; empty: all random"
    )
    projection: float = option(1.0, "share λ of the contradicting part that is taken out of the gradient", low=0)
    temperature: float = option(1.0, "temperature T of the zero-shot predictions", low=1e-3)


class ProGrad(ContextMethod):
    """CoOp with projected gradients."""

    name = "prograd"
    paper = "Prompt-aligned gradient for prompt tuning"
    link = "https://arxiv.org/abs/2205.14865"
    year = 2023
    Options = ProGradOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset(
            "base-to-new, published with 4 photos a class and a ResNet-50",
            {},
            {"optimizer": "sgd", "lr": 0.002, "weight_decay": 5e-4, "epochs": 100, "batch": 32, "crop_scale": 0.08},
        ),
    }

    def __init__(self, backbone: Backbone, options: ProGradOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        rest = "zero" if options.start else "random"
        self.context = nn.Parameter(start_of_context(backbone, options.length, options.start, rest=rest))  # (M, D)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``total`` is the cross entropy; the gradient is :meth:`backward`'s."""
        block, t, scale = self.blocks[0], self.options.temperature, self.backbone.logit_scale
        f_v, f_t = self.image_features(batch["pixels"]), self.class_weights(block)
        logits, teacher = scale * f_v @ f_t.T, scale * f_v @ block.frozen.T  # (1), (B, C) each
        cross_entropy = F.cross_entropy(logits, batch["labels"])  # (2)
        log_p = (logits / t).log_softmax(dim=1)
        alignment = -((teacher / t).softmax(dim=1) * log_p).sum(dim=1).mean() * t**2  # (3)
        return {"total": cross_entropy, "cross_entropy": cross_entropy, "zero_shot_alignment": alignment}

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """(4): a gradient of its own for each parameter, so two backward passes."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        general = torch.autograd.grad(losses["zero_shot_alignment"], parameters, retain_graph=True)
        special = torch.autograd.grad(losses["cross_entropy"], parameters)
        for parameter, g_a, g_b in zip(parameters, special, general, strict=True):
            g_unit = g_b / g_b.norm().clamp(min=torch.finfo(g_b.dtype).tiny)
            against = (g_a * g_unit).sum().clamp(max=0)  # 0 unless the two contradict each other
            parameter.grad = g_a - self.options.projection * against * g_unit  # (4)
