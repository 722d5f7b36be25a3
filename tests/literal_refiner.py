"""TextRefiner written down a second time: literal, slow, in fp64; and towers that show what is inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from helpers_twins import Twin, mean_of
from literal_anprompt import Encoder, cross_entropy, mask, softmax, unit


class OpenEncoder(Encoder):
    """The towers with vectors in place of words, all outputs of an image, and CLS's attention in the last block."""

    def context_text(self, words: str, context: Tensor) -> Tensor:
        """``(d,)`` of a sentence whose tokens 1..M are vectors ``(M, D)`` from the input on."""
        ids = self.tokenizer([" ".join(["X"] * len(context)) + " " + words])[0].tolist()
        x = [self.w["text.token.weight"][i] for i in ids]
        x[1 : 1 + len(context)] = list(context)
        x = torch.stack(x) + self.w["text.position"]
        for number in range(1, self.config.text.depth + 1):
            x = self.block(x, "text", number, mask(len(x), True))
        x = self.norm(x, "text.ln_final", self.config.text.eps)
        return self.w["text.projection.weight"] @ x[ids.index(self.config.eot_id)]

    def patches(self, pixels: Tensor) -> Tensor:
        """CLS and patches with their positions ``(1 + M, D)``, before the first norm."""
        p, kernel = self.config.patch_size, self.w["vision.patch.weight"].flatten(1)
        rows = [self.w["vision.cls"]]
        for top in range(0, pixels.shape[1], p):
            for left in range(0, pixels.shape[2], p):
                rows.append(kernel @ pixels[:, top : top + p, left : left + p].double().flatten())
        return torch.stack(rows) + self.w["vision.position"]

    def project(self, x: Tensor) -> Tensor:
        """``(L, D)`` to ``(L, d)``."""
        return self.norm(x, "vision.ln_post", self.config.vision.eps) @ self.w["vision.projection.weight"].T

    def all_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Projected outputs ``(1 + M, d)`` and the last block's attention of CLS ``(1 + M,)``, without prompts."""
        x = self.norm(self.patches(pixels), "vision.ln_pre", self.config.vision.eps)
        depth = self.config.vision.depth
        for number in range(1, depth):
            x = self.block(x, "vision", number, mask(len(x), False))
        return self.project(self.block(x, "vision", depth, mask(len(x), False))), self.attention(x, depth)

    def attention(self, x: Tensor, number: int) -> Tensor:
        """Of the first row in block ``number``, whose input is ``x`` ``(L, D)``: mean over heads."""
        name, heads, d = f"vision.blocks.{number - 1}", self.config.vision.heads, x.shape[1]
        qkv = self.linear(self.norm(x, f"{name}.ln_1", self.config.vision.eps), f"{name}.qkv")
        size = d // heads
        rows = []
        for head in range(heads):
            q = qkv[0, head * size : (head + 1) * size]
            k = qkv[:, d + head * size : d + (head + 1) * size]
            rows.append(softmax(k @ q / math.sqrt(size)))
        return mean_of(rows)


class LiteralTextRefiner(Twin):
    """One token at a time."""

    def __init__(self, method: Any, names: Sequence[str]) -> None:
        super().__init__(method, names)
        self.encoder: OpenEncoder = OpenEncoder(method.backbone)
        self.memory = self.held["cache"].double()

    def text(self, name: str) -> Tensor:
        return unit(self.encoder.context_text(f"{name}.", self.leaf["context"]))

    def refined(self, f_t: Tensor) -> Tensor:
        weights = softmax(torch.stack([f_t @ slot for slot in self.memory]))
        fine = sum(w * slot for w, slot in zip(weights, self.memory, strict=True))
        return f_t + 0.2 * self.leaf["extract.weight"] @ torch.cat([f_t, fine])

    def align(self, tokens: Tensor) -> Tensor:
        """T_v on all rows of the batch ``(N, d)``."""
        h = self.linear(tokens, "align.0")
        mean = h.mean(dim=0)
        variance = ((h - mean) ** 2).mean(dim=0)
        h = (h - mean) / torch.sqrt(variance + 1e-5) * self.leaf["align.1.weight"] + self.leaf["align.1.bias"]
        return self.linear(h * (h > 0), "align.3")

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        f_t = torch.stack([self.text(name) for name in self.names])
        refined = torch.stack([self.refined(f) for f in f_t])
        f_v = torch.stack([self.frozen_image(one) for one in pixels])
        ce = cross_entropy(100 * f_v @ refined.T, labels)

        seen = [self.encoder.all_tokens(one) for one in pixels]
        length = len(seen[0][0])
        z = self.align(torch.cat([tokens for tokens, _ in seen])).view(len(pixels), length, -1)
        parts = []
        for own, (_, attention), label in zip(z, seen, labels, strict=True):
            order = sorted(range(1, length), key=lambda i: -float(attention[i]))[:5]
            for feature in [own[0], *(own[i] for i in order), mean_of(list(own))]:
                parts.append(cross_entropy(100 * feature[None] @ f_t.T, label[None]))
        local = mean_of(parts)
        near = mean_of([(unit(r) - f).abs().mean() for r, f in zip(refined, f_t, strict=True)])
        self.write(z.detach().flatten(0, 1))
        return {"total": ce + local / 50 + 20 * near, "cross_entropy": ce, "local": local, "near": near}

    def write(self, tokens: Tensor) -> None:
        """What the cache is after the step, in ``after``; ``memory`` stays."""
        rows = [unit(token) for token in tokens]
        scores = [[float(row @ slot) for slot in self.memory] for row in rows]
        self.after = self.memory.clone()
        for i in range(len(self.memory)):
            mine = [j for j, own in enumerate(scores) if max(range(len(own)), key=own.__getitem__) == i]
            if mine:
                largest = max(own[i] for own in scores)
                added = sum(math.exp(scores[j][i] - largest) * rows[j] for j in mine)
                self.after[i] = unit(0.8 * self.memory[i] + 0.2 * added)

    def decide(self, pixels: Tensor, names: Sequence[str], *, trained: bool) -> Tensor:
        refined = torch.stack([self.refined(self.text(name)) for name in names])
        return torch.stack([100 * refined @ self.frozen_image(one) for one in pixels])
