"""SurPL written down a second time, from its equations: literal, slow, in fp64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anprompt.text import ENSEMBLE
from helpers_twins import Twin, mean_of
from literal_anprompt import cross_entropy, layer_norm, mask, softmax, unit
from literal_refiner import OpenEncoder


class LiteralSurPL(Twin):
    """With the whole attention of SFG, heads and soft-max over one token included."""

    def __init__(self, method: Any, names: Sequence[str]) -> None:
        super().__init__(method, names)
        self.encoder: OpenEncoder = OpenEncoder(method.backbone)

    def sfg(self, x: Tensor, y: Tensor) -> Tensor:
        """One class feature x ``(d,)`` and one token y ``(d,)``; not normalised."""
        leaf, d = self.leaf, len(x)

        def norm(v: Tensor, which: int) -> Tensor:
            return layer_norm(v, leaf[f"surrogate.ln_{which}.weight"], leaf[f"surrogate.ln_{which}.bias"], 1e-5)

        w, b = leaf["surrogate.attention.in_proj_weight"], leaf["surrogate.attention.in_proj_bias"]
        q = w[:d] @ norm(x, 1) + b[:d]
        k = w[d : 2 * d] @ norm(y, 1) + b[d : 2 * d]
        v = w[2 * d :] @ norm(y, 1) + b[2 * d :]
        size, heads = d // 8, []
        for head in range(8):
            own = slice(head * size, (head + 1) * size)
            weight = softmax((q[own] @ k[own] / size**0.5)[None])  # over the one token there is
            heads.append(weight[0] * v[own])
        out = leaf["surrogate.attention.out_proj.weight"] @ torch.cat(heads)
        x = x + out + leaf["surrogate.attention.out_proj.bias"]
        h = self.linear(norm(x, 2), "surrogate.down")
        return x + self.linear(h / (1 + torch.exp(-1.702 * h)), "surrogate.up")

    def text(self, name: str) -> Tensor:
        e, prompts = self.encoder, self.leaf["text_prompts"]
        ids = e.tokenizer([f"a photo of a {name}."])[0].tolist()
        x = torch.stack([e.w["text.token.weight"][i] for i in ids])
        x = torch.cat([x[:1], prompts[0], x[5:]]) + e.w["text.position"]
        for number in range(1, e.config.text.depth + 1):
            if 1 < number <= len(prompts):
                x = torch.cat([x[:1], prompts[number - 1], x[5:]])
            x = e.block(x, "text", number, mask(len(x), True))
        x = e.norm(x, "text.ln_final", e.config.text.eps)
        return unit(e.w["text.projection.weight"] @ x[ids.index(e.config.eot_id)])

    def image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """f_v ``(d,)``, and unit local features of patches and prompts ``(M + 4, d)``."""
        e, prompts = self.encoder, self.leaf["vision_prompts"]
        x = e.norm(torch.cat([e.patches(pixels), prompts[0]]), "vision.ln_pre", e.config.vision.eps)
        depth, eps = e.config.vision.depth, e.config.vision.eps
        for number in range(1, depth + 1):
            if 1 < number <= len(prompts):
                x = torch.cat([x[:-4], prompts[number - 1]])
            before, x = x, e.block(x, "vision", number, mask(len(x), False))
        name, d = f"vision.blocks.{depth - 1}", x.shape[1]
        values = e.linear(e.norm(before, f"{name}.ln_1", eps), f"{name}.qkv")[:, 2 * d :]
        v = before + e.linear(values, f"{name}.out")
        h = e.linear(e.norm(v, f"{name}.ln_2", eps), f"{name}.fc")
        v = v + e.linear(h / (1 + torch.exp(-1.702 * h)), f"{name}.proj")
        local = e.project(v)[1:] @ self.leaf["local_projection"].T
        return unit(e.project(x)[0]), torch.stack([unit(row) for row in local])

    def logits(self, f_v: Tensor, local: Tensor, f_t: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """ℓ_1, ℓ_2 and the ℓ_3^k of one image, ``(C,)`` each."""
        first = torch.stack([100 * f_v @ t for t in f_t])
        second = torch.stack([100 * f_v @ unit(self.sfg(t, f_v)) for t in f_t])
        third = []
        for k, signal in enumerate(self.leaf["signals"], start=1):
            row = []
            for t in f_t:
                made = unit(self.sfg(t, signal))
                likeness = sorted([u @ made for u in local], key=lambda value: value.item(), reverse=True)
                row.append(100 * mean_of(likeness[: self.options.top * k]))
            third.append(torch.stack(row))
        return first, second, third

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        images, f_t = [self.image(p) for p in pixels], torch.stack([self.text(n) for n in self.names])
        rows = [self.logits(*image, f_t) for image in images]
        ce, by_image = (cross_entropy(torch.stack([row[i] for row in rows]), labels) for i in (0, 1))
        count = len(self.leaf["signals"])
        by_signal = mean_of([cross_entropy(torch.stack([r[2][k] for r in rows]), labels) for k in range(count)])
        image = mean_of([(f - self.frozen_image(p)).abs().mean() for (f, _), p in zip(images, pixels, strict=True)])
        targets = [unit(mean_of([self.encoder.text(t.replace("{}", n)) for t in ENSEMBLE])) for n in self.names]
        text = mean_of([(f - t).abs().mean() for f, t in zip(f_t, targets, strict=True)])
        total = ce + by_image + by_signal + 10 * image + 25 * text
        return {"total": total, "cross_entropy": ce, "by_image": by_image, "by_signal": by_signal,
                "image_distance": image, "text_distance": text}  # fmt: skip

    def decide(self, pixels: Tensor, names: Sequence[str], *, trained: bool) -> Tensor:
        f_t, rows = torch.stack([self.text(name) for name in names]), []
        for one in pixels:
            first, second, third = self.logits(*self.image(one), f_t)
            rows.append((first + second + mean_of(third)) / 3)
        return torch.stack(rows)
