"""Linear probe: a linear classifier on the frozen image features, without any text.

Radford et al., Learning transferable visual models from natural language supervision, ICML 2021, section 3.2.
https://arxiv.org/abs/2103.00020

    ℓ_c = s f_v · w_c + b_c,    L = CE(ℓ, y)                                                                        (a)

f_v: frozen unit feature of the (augmented) photo, s: the encoder's factor on cosines, w_c and b_c learned. The probe
of the paper is a logistic regression whose regularisation is chosen on validation photos; here the same classifier is
trained by the ordinary loop, and nothing is chosen. With ``start="text"`` w_c starts as the feature of the class's
template, so that the probe starts as zero-shot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.methods.base import ClassBlock, Method, Preset
from anprompt.methods.options import option
from anprompt.text import DescriptionBank

RECIPE = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01, "epochs": 50, "batch": 32}


@dataclass
class LinearProbeOptions:
    """Options of the linear probe."""

    start: Literal["zero", "text"] = option("zero", "first weights: zeros, or the class's text features")


class LinearProbe(Method):
    """One weight vector and one bias a class."""

    name = "linear-probe"
    paper = "Learning transferable visual models from natural language supervision (linear probe)"
    link = "https://arxiv.org/abs/2103.00020"
    year = 2021
    supports_new_classes = False
    only_known = "a probe has no weights for others"
    rows_per = {"weight": "class", "bias": "class"}  # noqa: RUF012 - ClassVar in the base
    Options = LinearProbeOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "plain": Preset("starts from zeros and sees no text", {}, RECIPE),
        "text-start": Preset("starts as zero-shot", {"start": "text"}, {**RECIPE, "lr": 1e-4, "epochs": 20}),
    }

    def __init__(self, backbone: Backbone, options: LinearProbeOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        self.options: LinearProbeOptions
        self.weight = nn.Parameter(torch.zeros(0, backbone.config.joint_width))  # (C, d)
        self.bias = nn.Parameter(torch.zeros(0))  # (C,)

    @torch.no_grad()
    def start(self, names: Sequence[str], bank: DescriptionBank) -> None:
        super().start(names, bank)
        if self.options.start == "text":
            self.weight.copy_(self.blocks[0].frozen)

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.backbone.encode_image(pixels)

    def class_weights(self, block: ClassBlock) -> Tensor:
        """Weights and bias, ``(C, d + 1)``."""
        return torch.cat([self.weight, self.bias[:, None]], dim=1)

    def block_logits(self, features: Tensor, block: ClassBlock) -> Tensor:
        weights = self.kept_weights(block)
        return self.backbone.logit_scale * features @ weights[:, :-1].T + weights[:, -1]  # (a)

    def wording(self, name: str) -> tuple[str, ...]:
        return ()

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        features = self.image_features(batch["pixels"])  # (B, d)
        logits = self.backbone.logit_scale * features @ self.weight.T + self.bias  # (B, C), (a)
        loss = F.cross_entropy(logits, batch["labels"])
        return {"total": loss, "cross_entropy": loss}

    def decision(self) -> str:
        return "logits of a linear probe on frozen image features"
