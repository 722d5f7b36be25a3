"""Tip-Adapter: zero-shot logits plus a vote of the training photos by their likeness to the picture.

Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, ECCV 2022.
https://arxiv.org/abs/2207.09519

    k_i = f_v^clip(photo i),   v_i = onehot(y_i)                        keys and values of the cache, N photos       (a)
    A(f) = exp(−β (1 − f Kᵀ))                                           affinities (N,)                              (b)
    ℓ = s f Wᵀ + α A(f) V                                               W: frozen text features                      (c)

Tip-Adapter-F also trains the keys, with L = CE(ℓ, y). α and β were searched on the test photos in the published code.
Here they are fixed numbers, or chosen by ``choose="leave-one-out"``: each training photo is classified by the others,
and the pair with the lowest cross-entropy is taken, before any training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.methods.base import ClassBlock, Method, Photos, Preset
from anprompt.methods.options import option

ALPHAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
BETAS = (1.0, 2.0, 3.5, 5.5, 8.0, 12.0)
TOGETHER = 1024  # photos that are compared with all others at a time


@dataclass
class TipAdapterOptions:
    """Options of Tip-Adapter."""

    train_keys: bool = option(False, "train the keys (Tip-Adapter-F)")
    alpha: float = option(1.0, "weight α of the photos' vote", low=0)
    beta: float = option(5.5, "sharpness β of the affinities", low=0)
    choose: Literal["fixed", "leave-one-out"] = option(
        "fixed", "α and β as given, or chosen on the training photos, which needs two of each class"
    )
    views: int = option(0, "augmented views averaged into each key; 0: the photo as it is", low=0)


class TipAdapter(Method):
    """A cache of the training photos' features beside the zero-shot classifier."""

    name = "tip-adapter"
    paper = "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification"
    link = "https://arxiv.org/abs/2207.09519"
    year = 2022
    needs = ("training photos",)
    supports_new_classes = False
    only_known = "its cache holds photos of no others"
    rows_per = {"keys": "photo", "key_labels": "photo"}  # noqa: RUF012 - ClassVar in the base
    Options = TipAdapterOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "training-free": Preset("Tip-Adapter: nothing is trained, α and β are fixed"),
        "trained": Preset(
            "Tip-Adapter-F: the keys are trained",
            {"train_keys": True},
            {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01, "epochs": 20, "batch": 256, "warmup_epochs": 0},
        ),
    }

    def __init__(self, backbone: Backbone, options: TipAdapterOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        self.options: TipAdapterOptions
        keys = torch.zeros(0, backbone.config.joint_width)  # (N, d)
        if options.train_keys:
            self.keys = nn.Parameter(keys)
        else:
            self.register_buffer("keys", keys)
        self.key_labels: Tensor
        self.register_buffer("key_labels", torch.zeros(0, dtype=torch.long))  # (N,)
        self.alpha_beta: Tensor
        self.register_buffer("alpha_beta", torch.tensor([options.alpha, options.beta]))

    @torch.no_grad()
    def see(self, photos: Photos) -> None:
        super().see(photos)
        self.keys.copy_(photos.features(self.options.views))  # (a)
        self.key_labels.copy_(photos.labels)
        if self.options.choose == "leave-one-out" and int(torch.bincount(photos.labels).min()) > 1:
            self._choose(photos.features())

    def _choose(self, features: Tensor) -> None:
        """Take the α and β under which the photos, ``features`` ``(N, d)``, are best classified by the others."""
        lowest = torch.inf
        text = self.backbone.logit_scale * features @ self.blocks[0].frozen.T  # (N, C)
        for alpha, beta in product(ALPHAS, BETAS):
            loss = 0.0
            for start in range(0, len(features), TOGETHER):
                rows = slice(start, start + TOGETHER)
                affinity = self._affinity(features[rows], torch.tensor(beta))
                own = torch.arange(len(affinity), device=affinity.device)
                affinity[own, own + start] = 0.0  # a photo does not vote for itself
                logits = text[rows] + alpha * self._vote(affinity, text.shape[1])
                loss += float(F.cross_entropy(logits, self.key_labels[rows], reduction="sum"))
            if loss < lowest:
                lowest = loss
                self.alpha_beta.copy_(torch.tensor([alpha, beta]))

    def keep_classes(self, rows: Sequence[int]) -> None:
        """Keep the photos of these classes."""
        new = torch.full((len(self.class_names),), -1, device=self.key_labels.device)
        new[list(rows)] = torch.arange(len(rows), device=new.device)
        labels = new[self.key_labels]
        self.replace("keys", self.keys.detach()[labels >= 0])
        self.replace("key_labels", labels[labels >= 0])

    def _affinity(self, features: Tensor, beta: Tensor) -> Tensor:
        """``(B, N)`` of unit features ``(B, d)``: (b)."""
        return torch.exp(-beta * (1 - features @ self.keys.T))

    def _vote(self, affinity: Tensor, classes: int) -> Tensor:
        """``A V`` ``(B, C)``: affinities ``(B, N)`` added up by class."""
        return affinity.new_zeros(len(affinity), classes).index_add(1, self.key_labels, affinity)

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.backbone.encode_image(pixels)

    def class_weights(self, block: ClassBlock) -> Tensor:
        """W ``(C, d)``."""
        return block.frozen

    def block_logits(self, features: Tensor, block: ClassBlock) -> Tensor:
        alpha, beta = self.alpha_beta
        text = self.backbone.logit_scale * features @ block.frozen.T  # (B, C)
        logits: Tensor = text + alpha * self._vote(self._affinity(features, beta), text.shape[1])  # (c)
        return logits

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits = self.block_logits(self.image_features(batch["pixels"]), self.blocks[0])
        loss = F.cross_entropy(logits, batch["labels"])
        return {"total": loss, "cross_entropy": loss}

    def decision(self) -> str:
        alpha, beta = self.alpha_beta.tolist()
        unchosen = self.options.choose == "leave-one-out" and bool((torch.bincount(self.key_labels) < 2).any())
        why = "; fixed, because leaving one out takes two photos of each class" if unchosen else ""
        return f"zero-shot logits + {alpha:g}·vote of the training photos (β = {beta:g}{why})"
