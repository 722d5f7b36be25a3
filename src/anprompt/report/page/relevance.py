"""Which parts of a photo speak for one class against another: the one place that decides how these maps are made."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.clip.relevance import relevance
from anprompt.methods import Method
from anprompt.report.page.given import Missing

SAME = 1e-4  # features that differ by less are taken to be the frozen ones


def maps_for(method: Method, pixels: Tensor, labels: Tensor, against: Tensor) -> Tensor:
    """Maps ``(B, h, w)`` in [0, 1] of what speaks for class ``labels`` and not for ``against``, both ``(B,)``.

    pixels: normalised, ``(B, 3, H, W)``. Raises :class:`Missing` for methods with image prompts of their own.
    """
    pixels = pixels.to(method.backbone.device)
    with torch.no_grad():
        own, frozen = method.image_features(pixels), method.backbone.encode_image(pixels)
    if own.shape != frozen.shape or not torch.allclose(own, frozen, atol=SAME):
        raise Missing(f"maps of method '{method.name}', which changes how photos are read, are not made yet.")

    def score(cls: Tensor) -> Tensor:
        features = F.normalize(cls, dim=-1)
        logits = torch.cat([method.block_logits(features, block) for block in method.blocks], dim=1)  # (B, C)
        return (logits.gather(1, labels[:, None]) - logits.gather(1, against[:, None])).sum()

    found = relevance(method.backbone, pixels, score).float().cpu()  # (B, h, w)
    return found / found.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
