"""LwEIB: depth-wise convolutions over neighbouring tokens in every block of both towers, and sentences as texts.

Yang et al.: Learning with Enriched Inductive Biases for Vision-Language Models, IJCV 133(6), 2025.
https://github.com/ZjjConan/VLM-LwEIB

    A(y) = y + σ conv(y)                       1-D, 3 tokens, over a text; 2-D, 3 × 3, over the patches, past CLS   (a)
    x ← x + Attn(A_1(ln_1 x)),   x ← x + W_2 g(A_2(W_1 ln_2 x))              in each block; g: the activation       (b)
    σ = s, or with probability 0.2 in training s·f: one draw a block, tower and step ("slow" and "fast")            (c)
    t_c = "a photo of a {class}, {one of its sentences}"                     drawn anew in each step                (d)
    L = CE(s f_v f_tᵀ, y)          over the classes in the batch and 7 random others for each of them               (e)
    f_t at prediction: unit mean of the unit features over all sentences of the class                               (f)

The weights of a convolution learn as if σ were 1: their gradient is divided by it; that of what lies below is not. The
1-D convolution also looks to the right, so a text's end token sees up to two tokens behind it for each block: texts
are computed that much further, and nothing of them is shared.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone, BlockAdapter, Sentences
from anprompt.clip.plan import Place, PromptPlan
from anprompt.clip.transfer import sent
from anprompt.methods.base import ClassBlock, Method, Preset
from anprompt.methods.ensemble import unit_means
from anprompt.methods.options import option
from anprompt.text import DescriptionBank

PLACES: tuple[Place, ...] = ("input", "hidden")
TOGETHER = 256  # sentences that run at a time at prediction


@dataclass
class LwEIBOptions:
    """Options of LwEIB."""

    scale: float = option(0.025, "scale s of the convolutions", low=1e-6)
    fast: float = option(2.5, "factor f of the scale in fast steps", low=0.01)
    slow_share: float = option(0.8, "probability of the plain scale in training", low=0, high=1)
    negatives: int = option(7, "random other classes for each class of a batch; 0: the loss is over all classes", low=0)


@dataclass(frozen=True)
class Draw:
    """What one step draws: classes in the loss, a sentence for each, and the scale by tower and block."""

    classes: list[int]
    sentences: list[str]
    scales: dict[str, list[float]]


class LwEIB(Method):
    """No prompts: small convolutions inside the blocks."""

    name = "lweib"
    paper = "Learning with Enriched Inductive Biases for Vision-Language Models"
    link = "https://github.com/ZjjConan/VLM-LwEIB"
    year = 2025
    needs = ("descriptions",)
    chance: ClassVar[bool] = True  # batches in training have a random number
    Options = LwEIBOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset(
            "as published", {},
            {"optimizer": "sgd", "lr": 0.28, "weight_decay": 5e-4, "epochs": 25, "batch": 16, "warmup_epochs": 0,
             "crop_scale": 0.08},
        ),
    }  # fmt: skip

    def __init__(self, backbone: Backbone, options: LwEIBOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        self.options: LwEIBOptions
        self.filters = nn.ParameterDict()
        for tower, size in (("text", (3,)), ("vision", (3, 3))):
            config, taps = getattr(backbone.config, tower), 3 ** len(size)
            for place, channels in (("input", config.width), ("hidden", config.mlp)):
                start = (2 * torch.rand(config.depth, channels, 1, *size) - 1) * taps**-0.5
                self.filters[f"{tower}_{place}"] = nn.Parameter(start)  # (depth, D, 1, 3[, 3])

    # ---- convolutions ----------------------------------------------------------------------------------------------

    def _convolve(self, tower: str, place: Place, i: int, scale: float, rows: Tensor) -> Tensor:
        """σ conv(rows) of (a) for rows ``(B, L, D)`` in the i-th block; zero for CLS."""
        own = self.filters[f"{tower}_{place}"][i]  # (D, 1, 3[, 3])
        weight = own.detach() + (own - own.detach()) / scale  # the same numbers, with a gradient divided by σ
        # both run in 2-D on the rows as they lie in memory, channels last: without copies, up to 5 times faster
        if tower == "text":
            line = rows.transpose(1, 2).unsqueeze(2)  # (B, D, 1, L)
            out = scale * F.conv2d(line, weight.unsqueeze(2), padding=(0, 1), groups=line.shape[1])
            return out.squeeze(2).transpose(1, 2)
        b, length, d = rows.shape
        side = round(self.backbone.config.patches**0.5)
        grid = rows[:, 1:].reshape(b, side, side, d).permute(0, 3, 1, 2)  # (B, D, side, side)
        out = scale * F.conv2d(grid, weight, padding=1, groups=d)
        return F.pad(out.permute(0, 2, 3, 1).reshape(b, length - 1, d), (0, 0, 1, 0))  # (B, 1 + M, D)

    def _plan(self, tower: str, scales: Sequence[float] | None = None) -> PromptPlan:
        """The convolutions of one tower, (b). scales: σ by block; ``None``: s."""
        depth = getattr(self.backbone.config, tower).depth
        scales = scales or [self.options.scale] * depth
        return PromptPlan((), tuple(
            BlockAdapter(i + 1, partial(self._convolve, tower, place, i, scales[i]), reach=1, where=place)
            for i in range(depth) for place in PLACES
        ))  # fmt: skip

    # ---- texts -----------------------------------------------------------------------------------------------------

    def _sentences(self, name: str) -> list[str]:
        """All texts of a class, (d); without sentences its name alone."""
        start = self.bank.fill("a photo of a {}", name)
        described = [f"{start}, {s}" for s in self.bank.main.get(name, ())]
        return described or [self.bank.fill("a photo of a {}.", name)]

    def wording(self, name: str) -> tuple[str, ...]:
        return tuple(self._sentences(name))

    def used_texts(self, names: Sequence[str]) -> DescriptionBank:
        return self.main_texts(names)

    def _encode(self, sentences: Sequence[str], plan: PromptPlan) -> Tensor:
        """Unit features ``(N, d)``; sentences that are too long are cut."""
        return F.normalize(Sentences(self.backbone, sentences, truncate=True).features(plan), dim=-1)

    def class_weights(self, block: ClassBlock) -> Tensor:
        """(f), ``(C, d)``."""
        texts, plan = [self._sentences(name) for name in block.names], self._plan("text")
        flat = [s for own in texts for s in own]
        parts = [self._encode(flat[i : i + TOGETHER], plan) for i in range(0, len(flat), TOGETHER)]
        return unit_means(torch.cat(parts), [len(t) for t in texts])

    # ---- training and prediction -----------------------------------------------------------------------------------

    def draw(self, labels: Sequence[int], chance: float) -> Draw:
        """What a step with these labels draws, by a number of chance in [0, 1)."""
        o, names, rng = self.options, self.blocks[0].names, random.Random(f"{self.seed}/{chance}")
        classes = list(range(len(names)))
        if o.negatives and len(names) > len(labels):
            positives = sorted(set(labels))
            others = [c for c in classes if c not in set(positives)]
            classes = positives + rng.sample(others, min(len(others), o.negatives * len(positives)))
        sentences = [rng.choice(self._sentences(names[c])) for c in classes]
        scales = {
            tower: [o.scale if rng.random() < o.slow_share else o.scale * o.fast
                    for _ in range(getattr(self.backbone.config, tower).depth)]
            for tower in ("vision", "text")
        }  # fmt: skip
        return Draw(classes, sentences, scales)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        labels = batch["labels"]
        known: list[int] = batch.get("host_labels", labels).tolist()
        drawn = self.draw(known, float(batch["chance"]) if "chance" in batch else 0.0)
        column = {c: i for i, c in enumerate(drawn.classes)}
        f_v = self._image_features(batch["pixels"], self._plan("vision", drawn.scales["vision"]))
        f_t = self._encode(drawn.sentences, self._plan("text", drawn.scales["text"]))
        columns = sent(torch.tensor([column[c] for c in known]), labels.device)
        loss = F.cross_entropy(self.backbone.logit_scale * f_v @ f_t.T, columns)  # (e)
        return {"total": loss, "cross_entropy": loss}

    def _image_features(self, pixels: Tensor, plan: PromptPlan) -> Tensor:
        return F.normalize(self.backbone.images(pixels, plan).cls, dim=-1)

    def image_features(self, pixels: Tensor) -> Tensor:
        return self._image_features(pixels, self._plan("vision"))
