"""Zero-shot CLIP: no training.

Radford et al., Learning transferable visual models from natural language supervision, ICML 2021.
https://arxiv.org/abs/2103.00020

    p(y = c | f) = softmax_c(sim(f, w_c) / τ)                                                   (1)

w_c is the text feature of class c: of one template, the mean over several templates, or the mean over descriptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from anprompt.methods.base import ClassBlock, Method, Preset
from anprompt.methods.ensemble import mean_features
from anprompt.methods.options import option
from anprompt.text import DescriptionBank


@dataclass
class ZeroShotOptions:
    """Options of zero-shot."""

    text: Literal["template", "ensemble", "descriptions"] = option(
        "template", "class feature from the template, from the mean over templates, or over the class's descriptions"
    )


class ZeroShot(Method):
    """The frozen encoder as it is."""

    name = "zero-shot"
    paper = "Learning transferable visual models from natural language supervision"
    link = "https://arxiv.org/abs/2103.00020"
    year = 2021
    Options = ZeroShotOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset("one template per data set", {"text": "template"}),
        "ensemble": Preset("mean over several templates", {"text": "ensemble"}),
        "descriptions": Preset("mean over the descriptions of each class", {"text": "descriptions"}),
    }

    def used_texts(self, names: Sequence[str]) -> DescriptionBank:
        return self.main_texts(names) if self.options.text == "descriptions" else DescriptionBank()

    def wording(self, name: str) -> tuple[str, ...]:
        if self.options.text == "template":
            return (self.bank.fill(self.template, name),)
        if self.options.text == "ensemble":
            return (self.bank.fill(self.template, name), *self.bank.paraphrases(name))
        return self.bank.of(name, self.template).main

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.backbone.encode_image(pixels)

    def class_weights(self, block: ClassBlock) -> Tensor:
        """``w_c`` of Eq. (1), ``(C, d)``, unit length."""
        if self.options.text == "template":
            return block.frozen
        return mean_features(self.backbone, [self.wording(name) for name in block.names])

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        loss = F.cross_entropy(self.logits(batch["pixels"]), batch["labels"])
        return {"total": loss, "cross_entropy": loss}

    def decision(self) -> str:
        return f"zero-shot logits, text: {self.options.text}"
