"""CoPrompt: MaPLe's prompts and two adapters, held consistent with the frozen encoder on other words and other views.

Roy, Etemad: Consistency-guided prompt learning for vision-language models, ICLR 2024. https://arxiv.org/abs/2306.01195

    text, block i ≤ J: P_i,   vision, block i ≤ J: F_i(P_i), F_i linear              as in MaPLe        (1)
    g_v = a_v A_v(f_v) + (1 − a_v) f_v,   g_t = a_t A_t(f_t) + (1 − a_t) f_t                            (2)
    A_v, A_t: x ↦ ReLU(W_2 ReLU(W_1 x)),   ℓ = sim(g_v, g_t) / τ                                        (3)
    L_cons = (1 − 1/C Σ_c cos(g_t(c), f_t^clip(s_c))) + (1 − 1/B Σ_b cos(g_v(x_b), f_v^clip(x'_b)))     (4)
    L = CE(ℓ, y) + λ L_cons                                                                             (5)

f_v, f_t are features as the towers give them, not normalised. s_c: one description of class c, drawn anew in each step
with one number for all classes; x'_b: another augmentation of the photo x_b.
Shapes: B images, C classes, S descriptions, K prompts, d joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.methods.base import ClassBlock, Preset
from anprompt.methods.contexts import vision_plan
from anprompt.methods.maple import MaPLe, MaPLeOptions
from anprompt.methods.options import option
from anprompt.text import DescriptionBank


@dataclass
class CoPromptOptions(MaPLeOptions):
    """Options of CoPrompt."""

    weight: float = option(1.0, "weight λ of the consistency loss; its makers tuned it for each data set", low=0)
    image_adapter: float = option(0.1, "share a_v of the image adapter", low=0, high=1)
    text_adapter: float = option(0.2, "share a_t of the text adapter", low=0, high=1)
    reduction: int = option(4, "the adapters' hidden layer has the joint width / this units, at least 4", low=1)


class CoPrompt(MaPLe):
    """MaPLe with adapters and consistency."""

    name = "coprompt"
    paper = "Consistency-guided prompt learning for vision-language models"
    link = "https://arxiv.org/abs/2306.01195"
    year = 2024
    needs = ("descriptions in training",)
    views = 1
    chance = True
    Options = CoPromptOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset(
            "base-to-new; depth, length and weight per data set are in its recipe",
            {},
            {"optimizer": "sgd", "lr": 0.0035, "weight_decay": 5e-4, "epochs": 8, "batch": 4, "augment": "randaugment"},
        ),
    }

    def __init__(self, backbone: Backbone, options: CoPromptOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        d = backbone.config.joint_width
        hidden = max(4, d // options.reduction)
        self.image_adapter, self.text_adapter = (
            nn.Sequential(nn.Linear(d, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, d, bias=False), nn.ReLU())
            for _ in range(2)
        )

    def start(self, names: Sequence[str], bank: DescriptionBank) -> None:
        super().start(names, bank)
        described = [self.bank.of(name, self.template).main for name in names]
        features = self.backbone.encode_text([s for own in described for s in own])  # (sum of counts, d)
        counts = torch.tensor([len(own) for own in described], device=features.device)
        self.blocks[0].extra |= {"described": features, "counts": counts, "first": counts.cumsum(0) - counts}  # (C,)

    # ---- features --------------------------------------------------------------------------------------------------

    def _adapted(self, features: Tensor, adapter: nn.Module, share: float) -> Tensor:
        """(2), and to unit length."""
        return F.normalize(share * adapter(features) + (1 - share) * features, dim=-1)

    def image_features(self, pixels: Tensor) -> Tensor:
        features = self.backbone.images(pixels, vision_plan(self.backbone, self.prompts()[1])).cls
        return self._adapted(features, self.image_adapter, self.options.image_adapter)

    def class_weights(self, block: ClassBlock) -> Tensor:
        return self._adapted(self.text_features(block, self.prompts()[0]), self.text_adapter, self.options.text_adapter)

    # ---- training --------------------------------------------------------------------------------------------------

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        block = self.blocks[0]
        g_v, g_t = self.image_features(batch["pixels"]), self.class_weights(block)
        cross_entropy = F.cross_entropy(self.backbone.logit_scale * g_v @ g_t.T, batch["labels"])  # (3)
        counts, described = block.extra["counts"], block.extra["described"]
        drawn = described[block.extra["first"] + (batch["chance"] * counts).long()]  # (C, d)
        other = self.backbone.encode_image(batch["views"][0])  # (B, d)
        consistency = (1 - (g_t * drawn).sum(dim=1).mean()) + (1 - (g_v * other).sum(dim=1).mean())  # (4)
        total = cross_entropy + self.options.weight * consistency  # (5)
        return {"total": total, "cross_entropy": cross_entropy, "consistency": consistency}
