"""Training recipes as data: optimiser, schedule, budget, augmentation, precision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from anprompt.methods.options import build_options, checked_entries, option


@dataclass(frozen=True)
class Recipe:
    """How to train. Defaults are the paper's (section IV-B); where it is silent, what its code base
    did, but for weight decay: the paper names none."""

    optimizer: Literal["adam", "adamw", "sgd"] = option("adam", "optimiser; sgd has momentum 0.9")
    lr: float = option(1e-3, "learning rate after warm-up", low=0)
    weight_decay: float = option(0.0, "weight decay", low=0)
    eps: float = option(1e-8, "Adam's and AdamW's guard against small denominators", low=0)
    epochs: int = option(10, "passes over the drawn photos", low=0)
    batch: int = option(4, "photos per step; an incomplete last batch is left out", low=1)
    schedule: Literal["cosine", "constant"] = option("cosine", "learning rate after warm-up")
    warmup_epochs: int = option(1, "epochs at warmup_lr before the schedule starts", low=0)
    warmup_lr: float = option(1e-5, "learning rate during warm-up", low=0)
    augment: Literal["crop", "randaugment"] = option(
        "crop", "crop: a random crop, perhaps mirrored; randaugment: the whole photo under two random operations"
    )
    crop_scale: float = option(0.5, "smallest share of the area that a random crop keeps", low=0.01, high=1)
    flip: bool = option(True, "mirror half of the photos")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "number format of the frozen towers; auto: bf16 where this machine is clearly faster at it"
    )
    compile: Literal["off", "on", "graphs"] = option(
        "off", "compile the frozen blocks, for long runs on a GPU; graphs: with CUDA graphs"
    )

    def lr_at(self, epoch: int) -> float:
        """Learning rate in ``epoch`` (from 0). Cosine as in the field's code: it runs over ``epochs`` from the end of
        warm-up, so it does not quite reach 0."""
        if epoch < self.warmup_epochs:
            return self.warmup_lr
        if self.schedule == "constant":
            return self.lr
        return 0.5 * self.lr * (1 + math.cos(math.pi * (epoch - self.warmup_epochs) / self.epochs))

    @property
    def only_warms_up(self) -> bool:
        """Whether the run is over before its warm-up is: next to nothing is learnt."""
        return self.warmup_epochs >= self.epochs > 0 and self.warmup_lr < self.lr

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=self.lr, momentum=0.9, weight_decay=self.weight_decay)
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(parameters, lr=self.lr, weight_decay=self.weight_decay, eps=self.eps)


def resolve_recipe(base: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> Recipe:
    """A preset's recipe with the user's changes; :class:`UserError` names the nearest entry for an unknown one."""
    merged = {**base, **{key.replace("-", "_"): value for key, value in checked_entries("recipe", given).items()}}
    if isinstance(merged.get("compile"), bool):  # how YAML reads a plain on and off
        merged["compile"] = "on" if merged["compile"] else "off"
    return build_options(Recipe, merged, "the recipe")
