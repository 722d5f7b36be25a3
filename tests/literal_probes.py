"""The linear probe, Tip-Adapter and LoRA written down a second time: literal, slow, in fp64."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anprompt.clip import Backbone
from helpers_methods import FewPhotos
from helpers_twins import Twin
from literal_anprompt import Encoder, cross_entropy, softmax, unit


class LiteralProbe(Twin):
    """ℓ_c = 100 f_v · w_c + b_c."""

    def logits(self, pixels: Tensor) -> Tensor:
        rows = []
        for one in pixels:
            f_v = self.frozen_image(one)
            rows.append(
                torch.stack([100 * f_v @ w + b for w, b in zip(self.leaf["weight"], self.leaf["bias"], strict=True)])
            )
        return torch.stack(rows)

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = cross_entropy(self.logits(pixels), labels)
        return {"total": loss, "cross_entropy": loss}

    def decide(self, pixels: Tensor, names: Sequence[str], *, trained: bool) -> Tensor:
        return self.logits(pixels)


class LiteralTip(LiteralProbe):
    """Zero-shot logits and the photos' vote, one photo at a time."""

    def __init__(self, method: Any, names: Sequence[str]) -> None:
        super().__init__(method, names)
        photos = FewPhotos(method.backbone, len(names))
        self.photo_labels = photos.labels.tolist()
        self.photo_features = torch.stack([self.frozen_image(one) for one in photos.pixels])
        self.text = torch.stack([unit(self.encoder.text(self.sentence(name))) for name in names])
        self.alpha, self.beta = method.options.alpha, method.options.beta

    def keys(self) -> Tensor:
        return self.leaf.get("keys", self.photo_features)

    def one(self, f_v: Tensor, alpha: float, beta: float, left_out: int = -1) -> Tensor:
        """Logits ``(C,)`` of one unit feature."""
        votes = [torch.zeros((), dtype=torch.float64) for _ in self.names]
        for i, (key, label) in enumerate(zip(self.keys(), self.photo_labels, strict=True)):
            if i != left_out:
                votes[label] = votes[label] + torch.exp(-beta * (1 - f_v @ key))
        return torch.stack([100 * f_v @ w + alpha * vote for w, vote in zip(self.text, votes, strict=True)])

    def logits(self, pixels: Tensor) -> Tensor:
        return torch.stack([self.one(self.frozen_image(p), self.alpha, self.beta) for p in pixels])

    def best(self, alphas: Sequence[float], betas: Sequence[float]) -> tuple[float, float]:
        """The pair with the lowest cross-entropy of each photo under the other photos."""
        losses: dict[tuple[float, float], float] = {}
        for alpha in alphas:
            for beta in betas:
                total = 0.0
                for i, (f_v, label) in enumerate(zip(self.photo_features, self.photo_labels, strict=True)):
                    p = softmax(self.one(f_v, alpha, beta, left_out=i))
                    total -= math.log(float(p[label]))
                losses[alpha, beta] = total
        return min(losses, key=losses.__getitem__)


class LowRankEncoder(Encoder):
    """The towers with their fused map of queries, keys and values updated: three matrices below one another."""

    def __init__(self, backbone: Backbone, leaf: Mapping[str, Tensor], targets: str, factor: float) -> None:
        super().__init__(backbone)
        self.leaf, self.targets, self.factor = leaf, targets, factor

    def linear(self, x: Tensor, name: str) -> Tensor:
        tower, _, number, what = [*name.split("."), ""][:4]
        y = super().linear(x, name)
        if what != "qkv" or f"updates.{tower}.up" not in self.leaf:
            return y
        down, up = (self.leaf[f"updates.{tower}.{side}"][int(number)] for side in ("down", "up"))
        zero = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        matrices = {target: up[j] @ down[j] for j, target in enumerate(self.targets)}
        return y + self.factor * x @ torch.cat([matrices.get(t, zero) for t in ("q", "k", "v")]).T


class LiteralLoRA(Twin):
    """CLIP with (W + a/r B A) for W; the rank and the factor are those of the test."""

    def __init__(self, method: Any, names: Sequence[str]) -> None:
        super().__init__(method, names)
        self.encoder = LowRankEncoder(method.backbone, self.leaf, method.options.targets, 1.5 / 3)

    def decide(self, pixels: Tensor, names: Sequence[str], *, trained: bool) -> Tensor:
        text = [unit(self.encoder.text(self.sentence(name))) for name in names]
        return torch.stack([torch.stack([100 * self.frozen_image(p) @ t for t in text]) for p in pixels])

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = cross_entropy(self.decide(pixels, self.names, trained=True), labels)
        return {"total": loss, "cross_entropy": loss}
