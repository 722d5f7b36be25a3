"""Frozen class features of several sentences each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.clip import Backbone, Sentences
from anprompt.text import ENSEMBLE, fill

TOGETHER = 1024  # sentences that run at a time


def unit_means(features: Tensor, counts: Sequence[int]) -> Tensor:
    """Unit ``(C, d)``: of each class, the mean of its rows among ``features`` ``(sum of counts, d)``."""
    return F.normalize(torch.stack([own.mean(dim=0) for own in torch.split(features, list(counts))]), dim=-1)


def mean_features(backbone: Backbone, sentences: Sequence[Sequence[str]]) -> Tensor:
    """Unit ``(C, d)``: of each class, the mean of the unit features of its ``sentences``, of which there may be any
    number from one on."""
    features = backbone.encode_text([sentence for own in sentences for sentence in own])
    return unit_means(features, [len(own) for own in sentences])


@torch.no_grad()
def ensemble_features(backbone: Backbone, names: Sequence[str]) -> Tensor:
    """Unit ``(C, d)``: the mean over the 60 templates of the frozen features as they come, of whatever length.

    A target of training, which no prediction reads: not worded through a method's bank.
    """
    size = max(1, TOGETHER // len(names))  # templates at a time
    sums = torch.zeros(len(names), backbone.config.joint_width, device=backbone.device)
    for start in range(0, len(ENSEMBLE), size):
        some = ENSEMBLE[start : start + size]
        features = Sentences(backbone, [text for template in some for text in fill(template, names)]).features()
        sums = sums + features.view(len(some), len(names), -1).sum(dim=0)
    return F.normalize(sums, dim=-1)
