"""BIP written down a second time, from its equations: literal, slow, in fp64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from helpers_twins import Twin, mean_of
from literal_anprompt import cross_entropy, mask, unit
from literal_refiner import OpenEncoder


class LiteralBIP(Twin):
    """4 prompts a tower; before the chosen block they become those of the class or of the image."""

    def __init__(self, method: Any, names: Sequence[str]) -> None:
        super().__init__(method, names)
        self.encoder: OpenEncoder = OpenEncoder(method.backbone)

    def net(self, name: str, feature: Tensor, width: int) -> Tensor:
        h = self.linear(feature, f"{name}.down")
        return self.linear(h / (1 + torch.exp(-1.702 * h)), f"{name}.up").view(4, width)

    def frozen_text(self, name: str) -> Tensor:
        return unit(self.encoder.text(self.sentence(name)))

    def text(self, name: str) -> Tensor:
        e, frozen = self.encoder, self.frozen_text(name)
        ids = e.tokenizer([f"X X X X {name}."])[0].tolist()
        x = torch.stack([e.w["text.token.weight"][i] for i in ids])
        x = torch.cat([x[:1], self.leaf["text_prompts"], x[5:]]) + e.w["text.position"]
        for number in range(1, e.config.text.depth + 1):
            if number == self.options.text_block:
                w, new = self.options.text_mix, self.net("text_net", frozen, x.shape[1])
                x = torch.cat([x[:1], w * new + (1 - w) * x[1:5], x[5:]])
            x = e.block(x, "text", number, mask(len(x), True))
        x = e.norm(x, "text.ln_final", e.config.text.eps)
        return unit(unit(e.w["text.projection.weight"] @ x[ids.index(e.config.eot_id)]) + frozen)

    def image(self, pixels: Tensor) -> Tensor:
        e, frozen = self.encoder, self.frozen_image(pixels)
        x = torch.cat([e.patches(pixels), self.leaf["vision_prompts"]])
        x = e.norm(x, "vision.ln_pre", e.config.vision.eps)
        for number in range(1, e.config.vision.depth + 1):
            if number == self.options.vision_block:
                w, new = 0.75, self.net("vision_net", frozen, x.shape[1])
                x = torch.cat([x[:-4], w * new + (1 - w) * x[-4:]])
            x = e.block(x, "vision", number, mask(len(x), False))
        return unit(unit(e.project(x)[0]) + frozen)

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        f_v, f_t = torch.stack([self.image(p) for p in pixels]), torch.stack([self.text(n) for n in self.names])
        frozen = torch.stack([self.frozen_image(p) for p in pixels])
        ce = cross_entropy(100 * f_v @ f_t.T, labels)
        text = 1 - mean_of([f @ self.frozen_text(n) for f, n in zip(f_t, self.names, strict=True)])
        image = 1 - mean_of([f @ g for f, g in zip(f_v, frozen, strict=True)])
        head = torch.stack([unit(row) for row in self.leaf["head"]])
        by_head = cross_entropy(10 * frozen @ head.T, labels) + cross_entropy(10 * f_v @ head.T, labels)
        total = ce + 8 * text + 4 * image + 0.5 * by_head
        return {"total": total, "cross_entropy": ce, "text_distance": text, "image_distance": image, "head": by_head}

    def decide(self, pixels: Tensor, names: Sequence[str], *, trained: bool) -> Tensor:
        f_t = torch.stack([self.text(name) for name in names])
        return torch.stack([100 * f_t @ self.image(one) for one in pixels])
