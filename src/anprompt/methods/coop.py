"""CoOp: context words in front of the class name are learned.

Zhou, Yang, Loy, Liu: Learning to prompt for vision-language models, IJCV 2022. https://arxiv.org/abs/2109.01134

    t_c = [v]_1 … [v]_M [class c]                    v: learnable, shared by all classes               (1)
    t_c = [v]_1 … [v]_M/2 [class c] [v]_M/2+1 … [v]_M   ``position="middle"``                          (2)
    p(y = c | f) = softmax_c(sim(f_v, f_t(t_c)) / τ),   L = CE                                         (3)

Shapes: B images, C classes, M context vectors, D width of the text tower, d joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone, Sentences
from anprompt.clip.plan import PromptPlan, PromptWrite
from anprompt.methods.base import ClassBlock, Preset
from anprompt.methods.contexts import STANDARD_WORDS, ContextMethod, start_of_context
from anprompt.methods.options import option


@dataclass
class CoOpOptions:
    """Options of CoOp."""

    length: int = option(16, "number of context vectors M", low=1, high=64)
    start: str = option("", "words that the last context vectors start from; empty: random")
    position: Literal["end", "middle", "front"] = option("end", "where the class name stands, seen from the context")


class CoOp(ContextMethod):
    """Unified context: one for all classes."""

    name = "coop"
    paper = "Learning to prompt for vision-language models"
    link = "https://arxiv.org/abs/2109.01134"
    year = 2022
    Options = CoOpOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset(
            "base-to-new: four vectors that start as 'a photo of a'",
            {"length": 4, "start": STANDARD_WORDS},
            {"optimizer": "sgd", "lr": 0.002, "weight_decay": 5e-4, "epochs": 200, "batch": 32, "crop_scale": 0.08},
        ),
        "few-shot": Preset(
            "sixteen random vectors",
            {"length": 16, "start": ""},
            {"optimizer": "sgd", "lr": 0.002, "weight_decay": 5e-4, "epochs": 200, "batch": 32, "crop_scale": 0.08},
        ),
    }

    def __init__(self, backbone: Backbone, options: CoOpOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        self.context = nn.Parameter(start_of_context(backbone, options.length, options.start))  # (M, D)

    @property
    def before(self) -> int:
        """How many context vectors stand before the class name."""
        m = int(self.options.length)
        return {"end": m, "middle": m // 2, "front": 0}[self.options.position]

    def make_block(self, names: Sequence[str], *, trained: bool) -> ClassBlock:
        block = super().make_block(names, trained=trained)
        m, before = self.options.length, self.before
        if before == m:
            return block
        texts = [" ".join(["X"] * before + [self.bank.name(name)] + ["X"] * (m - before)) + "." for name in names]
        return replace(block, sentences=Sentences(self.backbone, texts))

    def class_weights(self, block: ClassBlock) -> Tensor:
        m, before = self.options.length, self.before
        if before == m:
            return super().class_weights(block)  # (1)
        assert block.sentences is not None
        text, ids = self.backbone.text, block.sentences.ids
        end = block.sentences.eot - 1  # (C,) of the full stop, behind the second half of the context
        first, last = 1 + before, block.sentences.longest - 2
        at = torch.arange(first, last, device=ids.device)  # (L,) from the class name to the longest context's end
        which = at - (end[:, None] - m)  # (C, L) number of the context vector that belongs there; elsewhere words stay
        inside = (which >= before) & (which < m)
        words = text.embed(ids[:, :last])[:, first:]  # (C, L, D)
        vectors = self.context[which.clamp(0, m - 1)] + text.position[first:last]
        tokens = torch.where(inside[..., None], vectors, words)
        writes = [PromptWrite(1, tokens, "overwrite", first)]  # (2)
        if before:
            writes.insert(0, PromptWrite(1, self.context[:before] + text.position[1:first], "overwrite", 1))
        return F.normalize(block.sentences.features(PromptPlan(tuple(writes))), dim=-1)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        f_v, f_t = self.image_features(batch["pixels"]), self.class_weights(self.blocks[0])
        loss = F.cross_entropy(self.backbone.logit_scale * f_v @ f_t.T, batch["labels"])  # (3)
        return {"total": loss, "cross_entropy": loss}
