"""Class features of many templates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.clip import Backbone, Sentences
from anprompt.text import ENSEMBLE, fill

TOGETHER = 1024  # sentences that run at a time


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
