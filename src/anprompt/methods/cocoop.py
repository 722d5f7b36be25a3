"""CoCoOp: context that a small net shifts for each image.

Zhou, Yang, Loy, Liu: Conditional prompt learning for vision-language models, CVPR 2022.
https://arxiv.org/abs/2203.05557

    π = W_2 ReLU(W_1 f_v)                          one shift for each image, from its unit feature     (1)
    t_c(f_v) = [v_1 + π] … [v_M + π] [class c]                                                         (2)
    p(y = c | f_v) = softmax_c(sim(f_v, f_t(t_c(f_v))) / τ),   L = CE                                  (3)

The text tower runs for every pair of image and class: what the classes have in common, SOS and the context, runs once
for each image, and several images run together (``Sentences.variants``). There are no class weights to keep.
Shapes: B images, C classes, M context vectors, D width of the text tower, d joint width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.methods.base import ClassBlock, Preset
from anprompt.methods.contexts import STANDARD_WORDS, ContextMethod, start_of_context, text_plan
from anprompt.methods.options import option


@dataclass
class CoCoOpOptions:
    """Options of CoCoOp."""

    length: int = option(4, "number of context vectors M", low=1, high=64)
    start: str = option(STANDARD_WORDS, "words that the last context vectors start from; empty: random")
    reduction: int = option(16, "the meta-net's hidden layer has the joint width / this units, at least 4", low=1)


class CoCoOp(ContextMethod):
    """Image-conditional context."""

    name = "cocoop"
    paper = "Conditional prompt learning for vision-language models"
    link = "https://arxiv.org/abs/2203.05557"
    year = 2022
    Options = CoCoOpOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset(
            "base-to-new, cross-dataset and domain generalisation",
            {},
            {"optimizer": "sgd", "lr": 0.002, "weight_decay": 5e-4, "epochs": 10, "batch": 1, "crop_scale": 0.08},
        ),
    }

    def __init__(self, backbone: Backbone, options: CoCoOpOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        d, width = backbone.config.joint_width, backbone.config.text.width
        hidden = max(4, d // options.reduction)
        self.context = nn.Parameter(start_of_context(backbone, options.length, options.start))  # (M, D)
        self.meta_net = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def class_weights(self, block: ClassBlock) -> Tensor:
        """The context vectors ``(M, D)``: features of classes exist for an image only, see :meth:`block_logits`."""
        return self.context

    def text_rows(self, block: ClassBlock) -> Tensor:
        """Features ``(C, d)`` under the context as no image shifts it."""
        return super().class_weights(block)

    def block_logits(self, features: Tensor, block: ClassBlock) -> Tensor:
        assert block.sentences is not None
        shift = self.meta_net(features)  # (1), (B, D)
        context = self.context + shift[:, None]  # (2), (B, M, D)
        texts = block.sentences.variants(text_plan(self.backbone, [context]))  # (B, C, d)
        return self.backbone.logit_scale * (F.normalize(texts, dim=-1) @ features[..., None])[..., 0]  # (B, C)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits = self.block_logits(self.image_features(batch["pixels"]), self.blocks[0])
        loss = F.cross_entropy(logits, batch["labels"])  # (3)
        return {"total": loss, "cross_entropy": loss}

    def decision(self) -> str:
        return "logits with each image's own text"
