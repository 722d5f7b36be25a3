"""The drawn photos, decoded once and kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from anprompt.clip import ImageTransform
from anprompt.clip.preprocess import resize_picture
from anprompt.data import BadImage, DataSource, Item, verify_images


@dataclass(frozen=True)
class TrainingImages:
    """``images[i]`` is uint8 ``(3, h, w)`` of any size, ``labels`` is ``(n,)`` int64."""

    images: list[Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def plain(self, rows: Sequence[int], transform: ImageTransform) -> Tensor:
        """These photos as at prediction: normalised pixels ``(len(rows), 3, H, W)``."""
        return transform([self.images[row].permute(1, 2, 0).numpy() for row in rows])


def read_images(
    source: DataSource,
    drawn: Sequence[Item],
    crop: int,
    on_bad: str,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[TrainingImages, list[Item], list[BadImage]]:
    """Decode ``drawn`` and return (pictures, items used, items left out).

    crop: side of the tower's input. Photos whose shorter side is over twice of it are kept at twice of it, resized with
    antialiasing: a random crop of half the side still has a pixel for every pixel of the input.
    on_bad: ``"stop"`` raises :class:`UserError` naming all unreadable photos; ``"skip"`` leaves them out.
    """
    kept: dict[str, Tensor] = {}

    def open_item(item: Item) -> Image.Image:
        image = source.open(item)
        factor = min(1.0, 2 * crop / min(image.size))
        kept[item.path] = resize_picture(image, round(image.width * factor), round(image.height * factor))  # (3, h, w)
        return image

    verified = verify_images(drawn, open_item, on_bad, progress, threads=2)
    labels = torch.tensor([item.label for item in verified.good])
    return TrainingImages([kept[item.path] for item in verified.good], labels), verified.good, verified.bad
