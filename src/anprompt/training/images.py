"""The drawn photos, decoded once and kept in memory as far as they fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import overload

import torch
from torch import Tensor

from anprompt.clip import ImageTransform
from anprompt.clip.preprocess import RATIO, resize_picture
from anprompt.data import BadImage, DataSource, Item, verify_images
from anprompt.errors import UserError
from anprompt.training.capacity import memory_free

MOST = 4 * 2**30  # bytes of photos that are kept, where a quarter of the free memory is more


@dataclass(frozen=True)
class TrainingImages:
    """``images[i]`` is uint8 ``(3, h, w)`` of any size, ``labels`` is ``(n,)`` int64."""

    images: Sequence[Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def plain(self, rows: Sequence[int], transform: ImageTransform) -> Tensor:
        """These photos whole, as at prediction (large ones were shrunk when read): pixels ``(len(rows), 3, H, W)``."""
        return transform([self.images[row].permute(1, 2, 0).numpy() for row in rows])


class DecodedPhotos(Sequence[Tensor]):
    """Photos as uint8 ``(3, h, w)``, decoded once. What exceeds ``limit`` bytes is decoded again whenever it is asked
    for, to the same bits: a thousand classes of photos do not fit everywhere."""

    def __init__(self, decode: Callable[[Item], Tensor], limit: int) -> None:
        self._decode, self._free = decode, limit
        self._kept: dict[str, Tensor] = {}
        self._lock = Lock()
        self.items: list[Item] = []

    def see(self, item: Item) -> None:
        """Decode a photo, and keep it if there is room. Raises :class:`BadImage`."""
        photo = self._decode(item)
        with self._lock:
            if item.path not in self._kept and photo.nbytes <= self._free:
                self._kept[item.path] = photo
                self._free -= photo.nbytes

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, row: int) -> Tensor: ...
    @overload
    def __getitem__(self, row: slice) -> list[Tensor]: ...
    def __getitem__(self, row: int | slice) -> Tensor | list[Tensor]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        item = self.items[row]
        try:
            return self._kept[item.path] if item.path in self._kept else self._decode(item)
        except BadImage as error:
            raise UserError(f"A photo could be read before the training, but no longer: {error}") from None


def kept_side(crop: int, crop_scale: float) -> int:
    """Pixels of a photo's shorter side that random crops can make use of.

    crop: side of the tower's input. crop_scale: the smallest share of the photo's area. The narrowest crop still has a
    pixel for every pixel of the input; twice the input at least, for whole photos.
    """
    return math.ceil(crop * max(2.0, 1 / math.sqrt(crop_scale * RATIO[0])))


def read_images(
    source: DataSource,
    drawn: Sequence[Item],
    crop: int,
    on_bad: str,
    progress: Callable[[int, int], None] | None = None,
    *,
    crop_scale: float = 0.5,
    limit: int | None = None,
) -> tuple[TrainingImages, list[Item], list[BadImage]]:
    """Decode ``drawn`` and return (pictures, items used, items left out).

    crop, crop_scale: larger photos are resized to :func:`kept_side`, with antialiasing.
    on_bad: ``"stop"`` raises :class:`UserError` naming all unreadable photos; ``"skip"`` leaves them out.
    limit: bytes of photos that are kept in memory; ``None``: 4 GiB, but no more than a quarter of what is free.
    """
    side = kept_side(crop, crop_scale)

    def decode(item: Item) -> Tensor:
        image = source.open(item)
        factor = min(1.0, side / min(image.size))
        return resize_picture(image, round(image.width * factor), round(image.height * factor))  # (3, h, w)

    if limit is None:
        free = memory_free(torch.device("cpu"))
        limit = MOST if free is None else min(MOST, free // 4)
    photos = DecodedPhotos(decode, limit)
    verified = verify_images(drawn, photos.see, on_bad, progress)
    photos.items = verified.good
    labels = torch.tensor([item.label for item in verified.good], dtype=torch.int64)
    return TrainingImages(photos, labels), verified.good, verified.bad
