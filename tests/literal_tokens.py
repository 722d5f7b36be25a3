"""MMRL and MMRL++ written down a second time, from their equations: literal, slow, in fp64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from helpers_twins import Twin, mean_of
from literal_anprompt import cross_entropy, unit


class LiteralMMRL(Twin):
    """Tokens of layer l: W_l R + b_l, in the last 7 blocks of each tower; P_r is a matrix of its own."""

    beta = 1.0

    def token_map(self, tower: str, i: int) -> Tensor:
        return self.linear(self.leaf["shared"], f"to_{tower}.maps.{i}")

    def projection(self) -> Tensor:
        return self.leaf["projection"]

    def tokens(self, tower: str) -> dict[int, Tensor]:
        depth = getattr(self.encoder.config, tower).depth
        return {depth - 6 + i: self.token_map(tower, i) for i in range(7)}

    def image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """f_c, f_r, ``(d,)`` each."""
        cls, outputs = self.encoder.image(pixels, self.tokens("vision"), self.beta)
        return unit(cls), unit(self.projection() @ mean_of(list(outputs)))

    def text(self, name: str) -> Tensor:
        return unit(self.encoder.text(self.sentence(name), self.tokens("text"), self.beta))

    def logits(self, pixels: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """ℓ and ℓ_r ``(B, C)``, f_c ``(B, d)``, f_t ``(C, d)``."""
        images = [self.image(one) for one in pixels]
        f_t = [self.text(name) for name in names]
        both = [torch.stack([torch.stack([100 * f[i] @ t for t in f_t]) for f in images]) for i in (0, 1)]
        return both[0], both[1], torch.stack([f[0] for f in images]), torch.stack(f_t)

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        alpha, weight = 0.7, self.options.sim_weight
        logits, logits_r, f_c, f_t = self.logits(pixels, self.names)
        ce = alpha * cross_entropy(logits, labels) + (1 - alpha) * cross_entropy(logits_r, labels)
        v = 1 - mean_of([f @ self.frozen_image(one) for f, one in zip(f_c, pixels, strict=True)])
        t = 1 - mean_of([f @ unit(self.encoder.text(self.sentence(n))) for f, n in zip(f_t, self.names, strict=True)])
        return {"total": ce + weight * v + weight * t, "cross_entropy": ce, "similarity": v + t}

    def decide(self, pixels: Tensor, names: Sequence[str], *, trained: bool) -> Tensor:
        logits, logits_r, _, _ = self.logits(pixels, names)
        return 0.7 * logits + 0.3 * logits_r if trained else logits


class LiteralMMRLPlusPlus(LiteralMMRL):
    """One matrix for each tower with rank-4 updates, β-mixing in both towers, P_r = CLIP's projection + rank 64."""

    beta = 0.6

    def token_map(self, tower: str, i: int) -> Tensor:
        leaf, own = self.leaf, f"to_{tower}"
        assert leaf[f"{own}.down"].shape[1] == 4
        matrix = leaf[f"{own}.shared.weight"] + leaf[f"{own}.up"][i] @ leaf[f"{own}.down"][i]
        return self.leaf["shared"] @ matrix.T + leaf[f"{own}.bias"][i]

    def projection(self) -> Tensor:
        assert len(self.leaf["projection_down"]) == 64
        return self.encoder.w["vision.projection.weight"] + self.leaf["projection_up"] @ self.leaf["projection_down"]
