"""What the frozen encoder makes of the training photos, for methods that look at them before training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.clip import Backbone
from anprompt.training.batches import generator_for
from anprompt.training.images import TrainingImages

TOGETHER = 32  # photos that go through the encoder at a time


class FrozenPhotos:
    """Features of the drawn photos, computed when a method asks for them. ``labels``: ``(N,)``."""

    def __init__(self, data: TrainingImages, backbone: Backbone, seed: int) -> None:
        self._data, self._backbone, self._seed = data, backbone, seed
        self.labels = data.labels.to(backbone.device)

    def features(self, views: int = 0) -> Tensor:
        """Unit features ``(N, d)``: of each photo as at prediction, or with ``views`` the mean over so many views.

        A view is a random crop of at least half the area, mirrored or not, drawn by the run's seed.
        """
        if not views:
            return self._encode(None)
        return F.normalize(torch.stack([self._encode(view) for view in range(views)]).mean(dim=0), dim=-1)

    def _encode(self, view: int | None) -> Tensor:
        transform, parts = self._backbone.transform, []
        for start in range(0, len(self._data), TOGETHER):
            rows = range(start, min(start + TOGETHER, len(self._data)))
            if view is None:
                pixels = self._data.plain(rows, transform)
            else:
                images = self._data.images[start : start + TOGETHER]
                pixels = transform.random_resized_crop(images, generator_for(self._seed, "photos", view, start))
            parts.append(self._backbone.encode_image(pixels.to(self._backbone.device)))
        return torch.cat(parts)
