"""K-means by cosine on unit vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RESTARTS, STEPS = 10, 100


def cosine_centres(rows: Tensor, k: int, seed: int = 0) -> Tensor:
    """Unit centres ``(k, d)`` of unit rows ``(N, d)``, N at least k: the best of ten runs of k-means++.

    Each row belongs to the centre with the largest cosine; a centre is the direction of its rows' mean.
    """
    generator = torch.Generator().manual_seed(seed)
    x = rows.detach().cpu().double()
    best, found = -torch.inf, x[:k]
    for _ in range(RESTARTS):
        centres = x[torch.randint(len(x), (1,), generator=generator)]
        while len(centres) < k:
            far = (1 - x @ centres.T).amin(dim=1).clamp_min(0) + 1e-12  # (N,) distance to the nearest centre
            centres = torch.cat([centres, x[torch.multinomial(far, 1, generator=generator)]])
        nearest = torch.full((len(x),), -1)
        for _ in range(STEPS):
            before, nearest = nearest, (x @ centres.T).argmax(dim=1)  # (N,)
            if torch.equal(nearest, before):
                break
            sums = torch.zeros_like(centres).index_add(0, nearest, x)  # (k, d)
            filled = torch.bincount(nearest, minlength=k)[:, None] > 0  # (k, 1); an empty one stays where it is
            centres = torch.where(filled, F.normalize(sums, dim=1), centres)
        value = float((x @ centres.T).amax(dim=1).sum())
        if value > best:
            best, found = value, centres
    return found.to(rows)
