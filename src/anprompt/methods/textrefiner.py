"""TextRefiner: class features refined by a cache of what image patches look like.

Xie et al.: TextRefiner: Internal Visual Feature as Efficient Refiner for Vision-Language Models Prompt Tuning, 2025.
https://arxiv.org/abs/2412.08176

    g = softmax(f_t Mᵀ) M,   f'_t = f_t + α W [f_t; g]     M: cache of 25 unit slots, α = 0.2                       (a)
    ℓ = s f_v f'_tᵀ                                        f'_t is not normalised again                             (b)
    z = T_v(P_v ln(e))         of all tokens e of the image, in training; T_v: Linear, batch norm, ReLU, Linear     (c)
    L_2 = CE(s z f_tᵀ, y)      for CLS, the 5 patches that CLS attends to most, and the mean over all tokens        (d)
    L_3 = mean |f'_t / ‖f'_t‖ − f_t|                                                                                (e)
    L = CE(ℓ, y) + L_2 / 50 + 20 L_3                                                                                (f)
    M_i ← unit(0.8 M_i + 0.2 Σ_j exp(u_j·M_i − max_k u_k·M_i) u_j)    u = z / ‖z‖; over the tokens j nearest to i   (g)

f_v is frozen, f_t comes from a learnable context of 4 tokens in the text tower's input; both have unit length. (a)
reads the cache before (g) writes to it; slots that no token is nearest to stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.methods.base import ClassBlock, Preset
from anprompt.methods.contexts import STANDARD_WORDS, ContextMethod, start_of_context
from anprompt.methods.options import option


@dataclass
class TextRefinerOptions:
    """Options of TextRefiner."""

    length: int = option(4, "number of context tokens", low=1, high=64)
    start: str = option(STANDARD_WORDS, "words whose embeddings the context starts as; empty: at random")
    slots: int = option(25, "slots of the cache", low=1)
    momentum: float = option(0.8, "what a slot keeps when it is written to", low=0, high=1)
    alpha: float = option(0.2, "weight α of the refinement", low=0)
    local_weight: float = option(0.02, "weight of the local loss L_2", low=0)
    near_weight: float = option(20.0, "weight of the loss L_3 that keeps refined features near", low=0)
    patches: int = option(5, "patches in the local loss", low=1)


class TextRefiner(ContextMethod):
    """Context in the text input, and features of the classes that look into a cache of local image features."""

    name = "textrefiner"
    paper = "TextRefiner: Internal Visual Feature as Efficient Refiner for Vision-Language Models Prompt Tuning"
    link = "https://arxiv.org/abs/2412.08176"
    year = 2025
    Options = TextRefinerOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset(
            "as published, but with the model of the last epoch", {},
            {"optimizer": "sgd", "lr": 0.002, "weight_decay": 5e-4, "epochs": 10, "batch": 32, "crop_scale": 0.08},
        ),
    }  # fmt: skip

    def __init__(self, backbone: Backbone, options: TextRefinerOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        self.options: TextRefinerOptions
        d = backbone.config.joint_width
        self.context = nn.Parameter(start_of_context(backbone, options.length, options.start))  # (M, D)
        norm = nn.BatchNorm1d(d, track_running_stats=False)  # always the batch's own mean and variance
        self.align = nn.Sequential(nn.Linear(d, d), norm, nn.ReLU(), nn.Linear(d, d))  # T_v
        self.extract = nn.Linear(2 * d, d, bias=False)  # W of (a)
        self.cache: Tensor
        self.register_buffer("cache", F.normalize(torch.rand(options.slots, d), dim=-1))  # M (slots, d)
        self._tokens: Tensor | None = None  # z (N, d) of the last batch, until they are written into the cache

    def _refined(self, f_t: Tensor) -> Tensor:
        """f'_t of unit features f_t, ``(C, d)`` each: (a)."""
        fine = (f_t @ self.cache.T).softmax(dim=1) @ self.cache
        refined: Tensor = f_t + self.options.alpha * self.extract(torch.cat([f_t, fine], dim=1))
        return refined

    @torch.no_grad()
    def after_step(self) -> None:
        """(g), of the tokens that the step's losses were made of."""
        if self._tokens is None:
            return
        unit, self._tokens = F.normalize(self._tokens, dim=-1), None
        likeness = unit @ self.cache.T  # (N, slots)
        weight = torch.exp(likeness - likeness.amax(dim=0))
        nearest = F.one_hot(likeness.argmax(dim=1), len(self.cache)).to(unit.dtype)  # (N, slots)
        keep = self.options.momentum
        written = keep * self.cache + (1 - keep) * (nearest * weight).T @ unit
        taken = nearest.amax(dim=0)[:, None] > 0
        self.cache.copy_(torch.where(taken, F.normalize(written, dim=-1), self.cache))

    def _local(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f_v ``(B, d)``, all tokens z ``(B, L, d)`` of (c), and those of the local loss ``(B, 2 + patches, d)``."""
        with torch.no_grad():
            local = self.backbone.local(pixels, attention=True)
        assert local.attention is not None
        b, length, d = local.tokens.shape
        z: Tensor = self.align(local.tokens.flatten(0, 1)).view(b, length, d)
        count = min(self.options.patches, length - 1)
        top = 1 + local.attention[:, 1:].topk(count, dim=1).indices  # (B, patches)
        patches = z.gather(1, top[..., None].expand(-1, -1, d))
        chosen = torch.cat([z[:, :1], patches, z.mean(dim=1, keepdim=True)], dim=1)
        return F.normalize(local.cls, dim=-1), z, chosen

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(f) and its terms, unweighted."""
        o, labels, scale = self.options, batch["labels"], self.backbone.logit_scale
        f_v, z, chosen = self._local(batch["pixels"])
        f_t = super().class_weights(self.blocks[0])  # (C, d)
        refined = self._refined(f_t)
        cross_entropy = F.cross_entropy(scale * f_v @ refined.T, labels)  # (b)
        local_logits = (scale * chosen @ f_t.T).flatten(0, 1)  # (B·(2 + patches), C)
        local = F.cross_entropy(local_logits, labels.repeat_interleave(chosen.shape[1]))  # (d)
        near = (F.normalize(refined, dim=-1) - f_t).abs().mean()  # (e)
        self._tokens = z.detach().flatten(0, 1)
        total = cross_entropy + o.local_weight * local + o.near_weight * near  # (f)
        return {"total": total, "cross_entropy": cross_entropy, "local": local, "near": near}

    def class_weights(self, block: ClassBlock) -> Tensor:
        """f'_t ``(C, d)``, not of unit length."""
        return self._refined(super().class_weights(block))

    def decision(self) -> str:
        return "logits of refined class features, whose length is not normalised"
