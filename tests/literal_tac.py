"""TAC written down a second time, from its equations: literal, slow, in fp64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from helpers_methods import NEW_NAMES, bank
from helpers_twins import Twin, mean_of
from literal_anprompt import cross_entropy, mask, unit
from literal_refiner import OpenEncoder


class LiteralTAC(Twin):
    """5 cluster tokens and n prompts; the patch rows of the mask have no cluster columns."""

    def __init__(self, method: Any, names: Sequence[str]) -> None:
        super().__init__(method, names)
        self.encoder: OpenEncoder = OpenEncoder(method.backbone)
        self.sentences = bank([*names, *NEW_NAMES]).main
        self.centres = self.held["centres"].double()

    def mean(self, name: str) -> Tensor:
        """F_c."""
        return unit(mean_of([self.encoder.text(s) for s in self.sentences[name]]))

    def start(self, length: int) -> Tensor:
        """First values ``(n, D)`` of the text prompts of block 1."""
        e = self.encoder
        a, photo, of = (e.tokenizer([word])[0].tolist()[1] for word in ("a", "photo", "of"))
        ids = [a, photo, of, a, e.config.eot_id, 0, 0, 0, 0, 0]  # 0 pads
        return torch.stack([e.w["text.token.weight"][i] for i in ids[:length]])

    def tokens(self, tower: str) -> list[Tensor]:
        own = self.linear(self.centres, f"to_{tower}")
        return [torch.cat([own, prompts]) for prompts in self.leaf[f"{tower}_prompts"]]

    def text(self, name: str) -> Tensor:
        tokens, e = self.tokens("text"), self.encoder
        words = e.tokenizer([f"a photo of a {name}."])[0].tolist()
        k, context = len(tokens[0]), len(words)
        embedded = torch.stack([e.w["text.token.weight"][i] for i in words])
        x = torch.cat([embedded[:1], tokens[0], embedded[1 : context - k]]) + e.w["text.position"]  # pads drop out
        for number in range(1, e.config.text.depth + 1):
            if 1 < number <= len(tokens):
                x = torch.cat([x[:1], tokens[number - 1], x[1 + k :]])
            x = e.block(x, "text", number, mask(len(x), True))
        x = e.norm(x, "text.ln_final", e.config.text.eps)
        return unit(e.w["text.projection.weight"] @ x[words.index(e.config.eot_id) + k])

    def image(self, pixels: Tensor) -> Tensor:
        tokens, e = self.tokens("vision"), self.encoder
        plain = e.patches(pixels)
        patches, k = len(plain) - 1, len(tokens[0])
        x = e.norm(torch.cat([plain, tokens[0]]), "vision.ln_pre", e.config.vision.eps)
        allowed = torch.tensor(
            [[not (1 <= i <= patches and patches < j <= patches + 5) for j in range(len(x))] for i in range(len(x))]
        )
        for number in range(1, e.config.vision.depth + 1):
            if 1 < number <= len(tokens):
                x = torch.cat([x[: len(x) - k], tokens[number - 1]])
            x = e.block(x, "vision", number, allowed)
        return unit(e.project(x)[0])

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        f_v, f_t = torch.stack([self.image(p) for p in pixels]), torch.stack([self.text(n) for n in self.names])
        ce = cross_entropy(100 * f_v @ f_t.T, labels)
        text = mean_of([(f - self.mean(n)).abs().mean() for f, n in zip(f_t, self.names, strict=True)])
        image = mean_of([(f - self.frozen_image(p)).abs().mean() for f, p in zip(f_v, pixels, strict=True)])
        total = ce + 20 * text + 25 * image
        return {"total": total, "cross_entropy": ce, "text_distance": text, "image_distance": image}

    def decide(self, pixels: Tensor, names: Sequence[str], *, trained: bool) -> Tensor:
        text = torch.stack([self.text(name) for name in names])
        return torch.stack([100 * text @ self.image(one) for one in pixels])
