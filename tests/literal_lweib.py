"""LwEIB written down a second time, from its equations: literal, slow, in fp64.

The draws of a step are taken as given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anprompt.clip import Backbone
from helpers_methods import NEW_NAMES, bank
from helpers_twins import Twin, mean_of
from literal_anprompt import Encoder, cross_entropy, unit


class ConvolvedEncoder(Encoder):
    """The towers with A(y) = y + σ conv(y) behind the first norm and before the activation of each block."""

    def __init__(self, backbone: Backbone, leaf: Mapping[str, Tensor], scales: Mapping[str, Sequence[float]]) -> None:
        super().__init__(backbone)
        self.leaf, self.scales = leaf, scales

    def adapted(self, y: Tensor, tower: str, number: str, place: str) -> Tensor:
        w = self.leaf[f"filters.{tower}_{place}"][int(number), :, 0]  # (D, 3[, 3])
        out = []
        if tower == "text":
            for i in range(len(y)):
                near = [w[:, j] * y[i + j - 1] for j in range(3) if 0 <= i + j - 1 < len(y)]
                out.append(y[i] + self.scales[tower][int(number)] * sum(near))
            return torch.stack(out)
        side = round((len(y) - 1) ** 0.5)
        for row in range(side):
            for column in range(side):
                here = torch.zeros_like(y[0])
                for i in range(3):
                    for j in range(3):
                        r, c = row + i - 1, column + j - 1
                        if 0 <= r < side and 0 <= c < side:
                            here = here + w[:, i, j] * y[1 + r * side + c]
                out.append(y[1 + row * side + column] + self.scales[tower][int(number)] * here)
        return torch.stack([y[0], *out])

    def linear(self, x: Tensor, name: str) -> Tensor:
        tower, _, number, what = [*name.split("."), ""][:4]
        if what == "qkv":
            return super().linear(self.adapted(x, tower, number, "input"), name)
        if what == "fc":
            return self.adapted(super().linear(x, name), tower, number, "hidden")
        return super().linear(x, name)


class LiteralLwEIB(Twin):
    def __init__(self, method: Any, names: Sequence[str]) -> None:
        super().__init__(method, names)
        self.method, self.sentences = method, bank([*names, *NEW_NAMES]).main
        depth = {tower: getattr(self.encoder.config, tower).depth for tower in ("vision", "text")}
        self.slow = {tower: [method.options.scale] * depth[tower] for tower in depth}

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        drawn = self.method.draw(labels.tolist(), 0.0)
        for name, leaf in self.leaf.items():  # weights learn as if σ were 1
            scales = torch.tensor(drawn.scales[name.partition(".")[2].partition("_")[0]], dtype=torch.float64)
            leaf.register_hook(lambda g, s=scales: g / s.view(-1, *[1] * (g.dim() - 1)))
        encoder = ConvolvedEncoder(self.method.backbone, self.leaf, drawn.scales)
        f_v = torch.stack([unit(encoder.image(one)[0]) for one in pixels])
        f_t = torch.stack([unit(encoder.text(sentence)) for sentence in drawn.sentences])
        columns = torch.tensor([drawn.classes.index(int(label)) for label in labels])
        loss = cross_entropy(100 * f_v @ f_t.T, columns)
        return {"total": loss, "cross_entropy": loss}

    def decide(self, pixels: Tensor, names: Sequence[str], *, trained: bool) -> Tensor:
        encoder = ConvolvedEncoder(self.method.backbone, self.leaf, self.slow)
        f_t = []
        for name in names:
            texts = [f"a photo of a {name}, {s}" for s in self.sentences[name]]
            f_t.append(unit(mean_of([unit(encoder.text(text)) for text in texts])))
        return torch.stack([100 * torch.stack(f_t) @ unit(encoder.image(one)[0]) for one in pixels])
