"""HiCroPL: in the lower blocks text prompts inform vision prompts, in the upper blocks it is the other way round.

Zheng, Yang, He, Yang, Huang: Hierarchical cross-modal prompt learning for vision-language models, ICCV 2025.
https://github.com/zzeoZheng/HiCroPL

    P_i, Q_i ∈ R^{K × D}: text and vision prompts of block i ≤ J, learnable
    z_i = LN(z'_i + MHA(LN z'_i, LN P_i, LN P_i))                       knowledge of block i in one proxy      (1)
    q = W_q Q_i + MHA(LN W_q Q_i, LN W_k z, LN W_v z),   z = [z_1 … z_H]                                       (2)
    Q_i ← q + FFN(LN q)                                                 i ≤ H: text → vision                   (3)
    P_i ← the same of Q_{H+1} … Q_J                                     i > H: vision → text                   (4)
    f_v = norm(norm(f_p) + f_v^clip),   f_t = norm(norm(f'_t) + F)      prompted and frozen together           (5)
    L = CE(ℓ, y) + λ [(1 − mean cos(f_t, F)) + (1 − mean cos(f_v, f_v^clip))]                                  (6)

f_p, f'_t: features under the prompts; F: mean feature of the class's descriptions, unit length; ℓ = sim(f_v, f_t) / τ.
The inner widths of MHA and FFN are the usual ones: heads of 64, a hidden layer four times as wide.
Shapes: B images, C classes, K prompts, D a tower's width, d joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.errors import UserError
from anprompt.methods.base import ClassBlock, Preset
from anprompt.methods.contexts import STANDARD_WORDS, DeepPromptMethod, vision_plan
from anprompt.methods.ensemble import mean_features
from anprompt.methods.options import option
from anprompt.text import DescriptionBank

RECIPE = {
    "optimizer": "adam", "lr": 0.0025, "eps": 1e-3, "weight_decay": 5e-4, "epochs": 50, "batch": 32, "crop_scale": 0.08,
}  # fmt: skip


@dataclass
class HiCroPLOptions:
    """Options of HiCroPL."""

    length: int = option(16, "number of prompts K in each tower", low=1, high=64)
    depth: int = option(12, "number of blocks with prompts J, from the first on", low=2)
    cross: int = option(6, "last block H of text → vision; above it is vision → text", low=1)
    start: str = option(STANDARD_WORDS, "words in front of the class name, unless there are more prompts than words")
    weight: float = option(12.0, "weight λ of the distance to the frozen features", low=0)
    train_maps: bool = option(
        True, "gradients reach maps and proxies; false, as in the published code: maps stay random, and what they give "
        "is written into the prompts in each step of training"
    )  # fmt: skip


def _attention(width: int) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(width, max(1, width // 64))


class Pool(nn.Module):
    """Knowledge of one block's prompts in one proxy token: Eq. (1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.attention, self.ln_2 = nn.LayerNorm(width), _attention(width), nn.LayerNorm(width)

    def forward(self, proxy: Tensor, prompts: Tensor) -> Tensor:
        """``(1, D)`` and ``(K, D)`` -> ``(1, D)``."""
        keys = self.ln_1(prompts)
        pooled: Tensor = self.ln_2(proxy + self.attention(self.ln_1(proxy), keys, keys, need_weights=False)[0])
        return pooled


class Mapper(nn.Module):
    """Prompts of one tower that have read the other tower's proxies: Eq. (2) and (3)."""

    def __init__(self, width: int, other: int) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(other, width), nn.Linear(other, width)
        self.ln_1, self.attention, self.ln_2 = nn.LayerNorm(width), _attention(width), nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, prompts: Tensor, proxies: Tensor) -> Tensor:
        """``(n, D)`` and ``(H, D')`` -> ``(n, D)``; the prompts do not see each other."""
        asked = self.query(prompts)
        keys, values = self.ln_1(self.key(proxies)), self.ln_1(self.value(proxies))
        q = asked + self.attention(self.ln_1(asked), keys, values, need_weights=False)[0]  # (2)
        mapped: Tensor = q + self.ffn(self.ln_2(q))  # (3)
        return mapped


class Exchange(nn.Module):
    """From the prompts of some blocks of one tower to those of the same blocks of the other."""

    def __init__(self, blocks: int, source: int, target: int) -> None:
        super().__init__()
        self.proxies = nn.Parameter((0.02 * torch.randn(1, 1, source)).repeat(blocks, 1, 1))  # z' (n, 1, D'), all equal
        self.pools = nn.ModuleList(Pool(source) for _ in range(blocks))
        self.mapper = Mapper(target, source)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """``(n, K, D')`` and ``(n, K, D)`` -> ``(n, K, D)``."""
        pooled = [pool(z, p) for pool, z, p in zip(self.pools, self.proxies, source, strict=True)]
        mapped: Tensor = self.mapper(target.flatten(0, 1), torch.cat(pooled)).view_as(target)
        return mapped


class HiCroPL(DeepPromptMethod):
    """Bidirectional knowledge flow between the towers' prompts."""

    name = "hicropl"
    paper = "Hierarchical cross-modal prompt learning for vision-language models"
    link = "https://github.com/zzeoZheng/HiCroPL"
    year = 2025
    needs = ("descriptions",)
    Options = HiCroPLOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset("base-to-new, with gradients through the maps as the paper intends", {}, RECIPE),
        "code": Preset("base-to-new as the published code trains: random maps", {"train_maps": False}, RECIPE),
        "cross-dataset": Preset(
            "cross-dataset and domain generalisation: few prompts in six blocks",
            {"length": 2, "depth": 6, "cross": 5},
            {**RECIPE, "epochs": 5},
        ),
    }

    def __init__(self, backbone: Backbone, options: HiCroPLOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        o, text, vision = options, backbone.config.text.width, backbone.config.vision.width
        if not 1 <= o.cross < o.depth:
            raise UserError(f"Option 'cross' is {o.cross}, but must be below 'depth', which is {o.depth}.")
        self.text_prompts = nn.Parameter(self.start_of_prompts())  # P (J, K, D_t)
        self.vision_prompts = nn.Parameter((0.02 * torch.randn(1, o.length, vision)).repeat(o.depth, 1, 1))  # Q
        lower, upper = Exchange(o.cross, text, vision), Exchange(o.depth - o.cross, vision, text)
        if o.train_maps:
            self.to_vision, self.to_text = lower, upper
        else:  # neither learnables nor part of the adapter: the seed makes them again
            frozen = [module.requires_grad_(False).to(backbone.device) for module in (lower, upper)]
            object.__setattr__(self, "frozen_maps", frozen)
        self.frozen_maps: list[nn.Module]

    # ---- classes ---------------------------------------------------------------------------------------------------

    def make_block(self, names: Sequence[str], *, trained: bool) -> ClassBlock:
        block = super().make_block(names, trained=trained)
        described = [self.bank.of(name, self.template).main for name in names]
        block.extra["described"] = mean_features(self.backbone, described)  # F (C, d)
        return block

    def used_texts(self, names: Sequence[str]) -> DescriptionBank:
        return self.main_texts(names)

    def wording(self, name: str) -> tuple[str, ...]:
        return (*super().wording(name), *self.bank.of(name, self.template).main)

    # ---- prompts and features --------------------------------------------------------------------------------------

    def exchanged(self, to_vision: nn.Module, to_text: nn.Module) -> tuple[Tensor, Tensor]:
        """Text and vision prompts ``(J, K, D)`` after both exchanges, each of which reads untouched prompts."""
        h, p, q = self.options.cross, self.text_prompts, self.vision_prompts
        vision = torch.cat([to_vision(p[:h], q[:h]), q[h:]])  # (1) to (3)
        return torch.cat([p[:h], to_text(q[h:], p[h:])]), vision  # (4)

    def prompts(self) -> tuple[list[Tensor], list[Tensor]]:
        if not self.options.train_maps:
            return list(self.text_prompts), list(self.vision_prompts)
        text, vision = self.exchanged(self.to_vision, self.to_text)
        return list(text), list(vision)

    def _both(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """``f_v`` of (5) and ``f_v^clip``, ``(B, d)`` each."""
        image = self.backbone.images(pixels, vision_plan(self.backbone, self.prompts()[1]), frozen=True)
        assert image.frozen is not None
        frozen = F.normalize(image.frozen, dim=-1)
        return F.normalize(F.normalize(image.cls, dim=-1) + frozen, dim=-1), frozen

    def image_features(self, pixels: Tensor) -> Tensor:
        return self._both(pixels)[0]

    def class_weights(self, block: ClassBlock) -> Tensor:
        return F.normalize(super().class_weights(block) + block.extra["described"], dim=-1)  # (5)

    # ---- training --------------------------------------------------------------------------------------------------

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self.options.train_maps:
            with torch.no_grad():
                text, vision = self.exchanged(*self.frozen_maps)
                self.text_prompts.copy_(text)
                self.vision_prompts.copy_(vision)
        block = self.blocks[0]
        (f_v, f_v_clip), f_t = self._both(batch["pixels"]), self.class_weights(block)
        cross_entropy = F.cross_entropy(self.backbone.logit_scale * f_v @ f_t.T, batch["labels"])
        text_distance = 1 - (f_t * block.extra["described"]).sum(dim=1).mean()
        consistency = text_distance + 1 - (f_v * f_v_clip).sum(dim=1).mean()
        total = cross_entropy + self.options.weight * consistency  # (6)
        return {"total": total, "cross_entropy": cross_entropy, "consistency": consistency}

    def decision(self) -> str:
        return "logits of prompted and frozen features together"
