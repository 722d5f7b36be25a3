"""PromptSRC: prompts in both towers that are held to the frozen encoder, to many wordings and to their own past.

Khattak, Wasim, Naseer, Khan, Yang, Khan: Self-regulating prompts: foundational model adaptation without forgetting,
ICCV 2023. https://arxiv.org/abs/2307.06948

    text and vision, block i ≤ J: learnable P_i (text, at positions 1 … K) and Q_i (vision, behind the patches)   (1)
    L_text = mean |f_t − f_t^clip|,   L_image = mean |f_v − f_v^clip|             over all entries of unit vectors  (2)
    L_logits = 1/(B C) Σ_b,c p^clip (log p^clip − log p)                          p = softmax ℓ                     (3)
    L = CE(ℓ, y) + λ_1 L_text + λ_2 L_image + L_logits                                                              (4)
    P = Σ_e w_e P^(e),   w_e ∝ N(e; μ, σ²),   Σ_e w_e = 1                         prompts after epochs e = 1 … T    (5)

f_t^clip is the mean of the frozen features over 60 templates, made unit length afterwards; p^clip is made from it and
the frozen feature of the same augmented image. Shapes: B images, C classes, K prompts, d joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.methods.base import Preset
from anprompt.methods.contexts import STANDARD_WORDS, DeepPromptMethod, vision_plan
from anprompt.methods.ensemble import ensemble_features
from anprompt.methods.options import option
from anprompt.text import DescriptionBank


@dataclass
class PromptSRCOptions:
    """Options of PromptSRC."""

    length: int = option(4, "number of prompts K in each tower", low=1, high=64)
    depth: int = option(9, "number of blocks with prompts J, from the first on", low=1)
    start: str = option(STANDARD_WORDS, "words in front of the class name; the first K become the first prompts")
    text_weight: float = option(25.0, "weight λ_1 of the distance to the frozen class features", low=0)
    image_weight: float = option(10.0, "weight λ_2 of the distance to the frozen image features", low=0)
    wordings: Literal["ensemble", "template"] = option(
        "ensemble", "frozen class features: mean over 60 templates, or the run's template alone"
    )
    average: bool = option(True, "average the prompts over the epochs (Eq. 5)")
    mean: float = option(0.75, "epoch μ that weighs most in the average, as a share of all: 15 of 20")
    deviation: float = option(0.05, "width σ of the average, as a share of all epochs: 1 of 20", low=1e-4)


class PromptSRC(DeepPromptMethod):
    """Independent prompts, regularised in three ways."""

    name = "promptsrc"
    paper = "Self-regulating prompts: foundational model adaptation without forgetting"
    link = "https://arxiv.org/abs/2307.06948"
    year = 2023
    Options = PromptSRCOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset(
            "base-to-new",
            {},
            {"optimizer": "sgd", "lr": 0.0025, "weight_decay": 5e-4, "epochs": 20, "batch": 4, "crop_scale": 0.08},
        ),
        "cross-dataset": Preset(
            "cross-dataset and domain generalisation: prompts in three blocks",
            {"depth": 3, "mean": 0.3, "deviation": 0.5},
            {"optimizer": "sgd", "lr": 0.0025, "weight_decay": 5e-4, "epochs": 20, "batch": 4, "crop_scale": 0.08},
        ),
        "few-shot": Preset(
            "all classes, longer training",
            {"mean": 0.6, "deviation": 0.6},
            {"optimizer": "sgd", "lr": 0.0025, "weight_decay": 5e-4, "epochs": 50, "batch": 4, "crop_scale": 0.08},
        ),
    }

    def __init__(self, backbone: Backbone, options: PromptSRCOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        width = backbone.config.vision.width
        self.text_prompts = nn.Parameter(self.start_of_prompts())  # P (J, K, D_t)
        self.vision_prompts = nn.Parameter(0.02 * torch.randn(options.depth, options.length, width))  # Q (J, K, D_v)
        for name, prompts in list(self.named_parameters()):  # what (5) has gathered so far, no part of the adapter
            self.register_buffer(f"mean_{name}", torch.zeros_like(prompts), persistent=False)
        self.register_buffer("log_weight", torch.tensor(-torch.inf), persistent=False)  # of the epochs so far
        self.log_weight: Tensor

    # ---- training --------------------------------------------------------------------------------------------------

    def start(self, names: Sequence[str], bank: DescriptionBank) -> None:
        super().start(names, bank)
        if self.options.wordings == "ensemble":
            self.blocks[0].extra["target"] = ensemble_features(self.backbone, names)

    def prompts(self) -> tuple[list[Tensor], list[Tensor]]:
        return list(self.text_prompts), list(self.vision_prompts)  # (1)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        o, block, scale = self.options, self.blocks[0], self.backbone.logit_scale
        text, vision = self.prompts()
        image = self.backbone.images(batch["pixels"], vision_plan(self.backbone, vision), frozen=True)
        assert image.frozen is not None
        f_v, f_v_clip = F.normalize(image.cls, dim=-1), F.normalize(image.frozen, dim=-1)  # (B, d)
        f_t = F.normalize(self.text_features(block, text), dim=-1)  # (C, d)
        target = block.extra.get("target")
        f_t_clip = block.frozen if target is None else target
        logits = scale * f_v @ f_t.T  # (B, C)
        cross_entropy = F.cross_entropy(logits, batch["labels"])
        text_distance, image_distance = (f_t - f_t_clip).abs().mean(), (f_v - f_v_clip).abs().mean()  # (2)
        log_p, log_clip = logits.log_softmax(dim=1), (scale * f_v_clip @ f_t_clip.T).log_softmax(dim=1)
        agreement = (log_clip.exp() * (log_clip - log_p)).mean()  # (3)
        total = cross_entropy + o.text_weight * text_distance + o.image_weight * image_distance + agreement  # (4)
        return {"total": total, "cross_entropy": cross_entropy, "text_distance": text_distance,
                "image_distance": image_distance, "zero_shot_agreement": agreement}  # fmt: skip

    @torch.no_grad()
    def end_epoch(self, epoch: int, epochs: int) -> None:
        """(5) as a running mean: each epoch's share is its weight over that of all epochs so far."""
        if not self.options.average:
            return
        mean, deviation = self.options.mean * epochs, self.options.deviation * epochs
        log_w = torch.full_like(self.log_weight, -0.5 * ((epoch + 1 - mean) / deviation) ** 2)
        self.log_weight.copy_(torch.logaddexp(self.log_weight, log_w))
        share = (log_w - self.log_weight).exp()
        for name, prompts in self.named_parameters():
            gathered = self.get_buffer(f"mean_{name}")
            gathered += share * (prompts - gathered)
            if epoch + 1 == epochs:
                prompts.copy_(gathered)

    def training_state(self) -> dict[str, Tensor]:
        return dict(self.named_buffers()) if self.options.average else {}
