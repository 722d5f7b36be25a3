"""KgCoOp: CoOp whose class features stay close to those of the hand-written template.

Yao, Zhang, Xu: Visual-language prompt tuning with knowledge-guided context optimization, CVPR 2023.
https://arxiv.org/abs/2303.13283

    t_c = [v]_1 … [v]_M [class c],   ℓ = sim(f_v, f_t(t_c)) / τ                                        (1)
    L_kg = 1 − 1/C Σ_c cos(f_t(c), f_t^clip(c))          f_t^clip: frozen, of the template             (2)
    L = CE(ℓ, y) + ω L_kg                                                                              (3)

Shapes: B images, C classes, M context vectors, d joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.methods.base import ClassBlock, Preset
from anprompt.methods.contexts import STANDARD_WORDS, ContextMethod, start_of_context
from anprompt.methods.options import option
from anprompt.text import check_template, fill


@dataclass
class KgCoOpOptions:
    """Options of KgCoOp."""

    length: int = option(4, "number of context vectors M", low=1, high=64)
    start: str = option(STANDARD_WORDS, "words that the last context vectors start from; empty: random")
    weight: float = option(8.0, "weight ω of the distance to the template's features", low=0)
    target: str = option("", "template of the frozen features; empty: the run's own")


class KgCoOp(ContextMethod):
    """CoOp with a pull towards the frozen class features."""

    name = "kgcoop"
    paper = "Visual-language prompt tuning with knowledge-guided context optimization"
    link = "https://arxiv.org/abs/2303.13283"
    year = 2023
    Options = KgCoOpOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset(
            "base-to-new",
            {},
            {"optimizer": "sgd", "lr": 0.002, "weight_decay": 5e-4, "epochs": 100, "batch": 128, "crop_scale": 0.08},
        ),
    }

    def __init__(self, backbone: Backbone, options: KgCoOpOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        if options.target:
            check_template(options.target)
        self.context = nn.Parameter(start_of_context(backbone, options.length, options.start))  # (M, D)

    def make_block(self, names: Sequence[str], *, trained: bool) -> ClassBlock:
        block = super().make_block(names, trained=trained)
        if self.options.target:  # only of training: no noise of words reaches it, since no prediction does
            block.extra["target"] = self.backbone.encode_text(fill(self.options.target, names))  # (C, d)
        return block

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        block = self.blocks[0]
        f_v, f_t = self.image_features(batch["pixels"]), self.class_weights(block)
        cross_entropy = F.cross_entropy(self.backbone.logit_scale * f_v @ f_t.T, batch["labels"])  # (1)
        target = block.extra["target"] if self.options.target else block.frozen
        knowledge = 1 - (f_t * target).sum(dim=1).mean()  # (2)
        total = cross_entropy + self.options.weight * knowledge  # (3)
        return {"total": total, "cross_entropy": cross_entropy, "knowledge": knowledge}
