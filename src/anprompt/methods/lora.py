"""LoRA on both towers: low-rank updates of the maps that make queries, keys and values.

Zanella, Ben Ayed: Low-Rank Few-Shot Adaptation of Vision-Language Models (CLIP-LoRA), CVPR workshops 2024.
https://arxiv.org/abs/2405.18541
Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022. https://arxiv.org/abs/2106.09685

    q = (W_q + (a / r) B A) h + b_q,  the same for v (and k)     in each block; A: r × D at random, B = 0 at first   (a)
    ℓ = s f_v f_tᵀ,    L = CE(ℓ, y)                                                                                 (b)

CLIP-LoRA adapts queries, keys and values, with dropout on what A gets; here there is no dropout, because a run must be
repeatable from any step, and the first preset leaves the keys alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone, BlockAdapter
from anprompt.clip.plan import PromptPlan
from anprompt.methods.base import ClassBlock, Method, Preset
from anprompt.methods.maps import parse_layers
from anprompt.methods.options import option

RECIPE = {"optimizer": "adamw", "lr": 2e-4, "weight_decay": 0.01, "epochs": 20, "batch": 32}


@dataclass
class LoRAOptions:
    """Options of LoRA."""

    rank: int = option(2, "rank r of each update", low=1, high=64)
    strength: float = option(1.0, "numerator a of the factor a / r", low=0)
    targets: Literal["qv", "qkv", "q", "k", "v"] = option("qv", "maps with an update: queries, keys, values")
    towers: Literal["both", "vision", "text"] = option("both", "towers with updates")
    layers: str = option("all", "blocks with updates, 1-based: 'all', 'A-B' or 'last-N' of each tower")


class Updates(nn.Module):
    """The updates of one tower, for several blocks."""

    def __init__(self, blocks: range, width: int, options: LoRAOptions) -> None:
        super().__init__()
        self.blocks, self.targets, self.factor = blocks, options.targets, options.strength / options.rank
        n, m, r = len(blocks), len(options.targets), options.rank
        self.down = nn.Parameter(torch.randn(n, m, r, width) * width**-0.5)  # A
        self.up = nn.Parameter(torch.zeros(n, m, width, r))  # B

    def update(self, i: int, h: Tensor) -> Tensor:
        """What is added to queries, keys and values ``(..., 3D)`` of rows ``h`` ``(..., D)`` in the i-th block."""
        parts = {
            target: self.factor * F.linear(F.linear(h, self.down[i, j]), self.up[i, j])
            for j, target in enumerate(self.targets)
        }
        nothing = torch.zeros_like(h)
        return torch.cat([parts.get(target, nothing) for target in "qkv"], dim=-1)  # (a)

    def plan(self) -> PromptPlan:
        return PromptPlan(
            (), tuple(BlockAdapter(b, partial(self.update, i), where="qkv") for i, b in enumerate(self.blocks))
        )


class LoRA(Method):
    """Low-rank updates in the attention of both towers."""

    name = "lora"
    paper = "Low-Rank Few-Shot Adaptation of Vision-Language Models"
    link = "https://arxiv.org/abs/2405.18541"
    year = 2024
    Options = LoRAOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "qv": Preset("queries and values of all blocks of both towers", {}, RECIPE),
        "qkv": Preset("keys too, as CLIP-LoRA, but without its dropout", {"targets": "qkv"}, RECIPE),
    }

    def __init__(self, backbone: Backbone, options: LoRAOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        self.updates = nn.ModuleDict()
        for tower in ("vision", "text") if options.towers == "both" else (options.towers,):
            config = getattr(backbone.config, tower)
            blocks = parse_layers(f"1-{config.depth}" if options.layers == "all" else options.layers, config.depth)
            self.updates[tower] = Updates(blocks, config.width, options)

    def _plan(self, tower: str) -> PromptPlan:
        if tower not in self.updates:
            return PromptPlan()
        updates = self.updates[tower]
        assert isinstance(updates, Updates)
        return updates.plan()

    def image_features(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.backbone.images(pixels, self._plan("vision")).cls, dim=-1)

    def class_weights(self, block: ClassBlock) -> Tensor:
        assert block.sentences is not None
        return F.normalize(block.sentences.features(self._plan("text")), dim=-1)  # (C, d)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        f_v, f_t = self.image_features(batch["pixels"]), self.class_weights(self.blocks[0])
        loss = F.cross_entropy(self.backbone.logit_scale * f_v @ f_t.T, batch["labels"])  # (b)
        return {"total": loss, "cross_entropy": loss}
