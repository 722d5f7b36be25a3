"""MaPLe: prompts in the first blocks of both towers, those of the vision tower mapped from those of the text tower.

Khattak, Rasheed, Maaz, Khan, Khan: MaPLe: Multi-modal prompt learning, CVPR 2023. https://arxiv.org/abs/2210.03117

    text, block i ≤ J:     P_i ∈ R^{K × D_t} stands at positions 1 … K, learnable                       (1)
    vision, block i ≤ J:   P̃_i = F_i(P_i) stands behind the patches,  F_i linear                       (2)
    p(y = c | x) = softmax_c(sim(f_v, f_t) / τ),   L = CE                                              (3)

Behind block J the states of the prompts just go on. P_1 starts as the first words of "a photo of a", the rest of these
words stays in the sentence: "[v]_1 [v]_2 of a name.". Shapes: B images, C classes, K prompts, D_t, D_v tower widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.methods.base import Preset
from anprompt.methods.contexts import STANDARD_WORDS, DeepPromptMethod
from anprompt.methods.maps import LinearMaps
from anprompt.methods.options import option


@dataclass
class MaPLeOptions:
    """Options of MaPLe."""

    length: int = option(2, "number of prompts K", low=1, high=64)
    depth: int = option(9, "number of blocks with prompts J, from the first on", low=1)
    start: str = option(STANDARD_WORDS, "words in front of the class name; the first K become the first prompts")


class MaPLe(DeepPromptMethod):
    """Coupled prompts."""

    name = "maple"
    paper = "MaPLe: Multi-modal prompt learning"
    link = "https://arxiv.org/abs/2210.03117"
    year = 2023
    Options = MaPLeOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset(
            "base-to-new",
            {},
            {"optimizer": "sgd", "lr": 0.0035, "weight_decay": 5e-4, "epochs": 5, "batch": 4, "crop_scale": 0.08},
        ),
        "cross-dataset": Preset(
            "cross-dataset and domain generalisation: prompts in three blocks",
            {"depth": 3},
            {"optimizer": "sgd", "lr": 0.0026, "weight_decay": 5e-4, "epochs": 2, "batch": 4, "crop_scale": 0.08},
        ),
    }

    def __init__(self, backbone: Backbone, options: MaPLeOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        self.text_prompts = nn.Parameter(self.start_of_prompts())  # P (J, K, D_t)
        self.to_vision = LinearMaps(options.depth, backbone.config.text.width, backbone.config.vision.width)  # F
        self.to_vision.maps[0].reset_parameters()  # type: ignore[operator]  # only those of deeper blocks start equal

    def prompts(self) -> tuple[list[Tensor], list[Tensor]]:
        text = list(self.text_prompts)  # (1)
        return text, [self.to_vision(p, i) for i, p in enumerate(text)]  # (2)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        f_v, f_t = self.image_features(batch["pixels"]), self.class_weights(self.blocks[0])
        loss = F.cross_entropy(self.backbone.logit_scale * f_v @ f_t.T, batch["labels"])  # (3)
        return {"total": loss, "cross_entropy": loss}
