"""Mild noise of pictures (paper, Figure 3): what a camera, a web page or a passer-by does to a photo.

Every kind is deterministic from a seed, changes nothing at strength 0, and keeps size and mode RGB.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageFilter, ImageStat

from anprompt.errors import unknown_name

GRID = 8  # cells per side that occlusion covers; the middle 4 × 4 of them are taken for the object
BLUR = 0.04  # of the shorter side: the radius of the strongest blur


@dataclass(frozen=True)
class ImageNoise:
    """A kind of noise. about: what it does. strength: what its strength means."""

    name: str
    about: str
    strength: str
    apply: Callable[[Image.Image, float, random.Random], Image.Image]


def _brightness(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1 + rng.choice((-0.5, 0.5)) * strength)


def _blur(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(BLUR * strength * min(image.size)))


def _jpeg(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=round(95 - 85 * strength))
    return Image.open(file).convert("RGB")


def _occlusion(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    low, high = GRID // 4, GRID - GRID // 4
    frame = [(x, y) for y in range(GRID) for x in range(GRID) if not (low <= x < high and low <= y < high)]
    mean = tuple(round(value) for value in ImageStat.Stat(image).mean)
    covered = image.copy()
    across, down = ([round(i * side / GRID) for i in range(GRID + 1)] for side in image.size)
    for x, y in rng.sample(frame, max(1, round(strength * len(frame)))):
        covered.paste(mean, (across[x], down[y], across[x + 1], down[y + 1]))
    return covered


IMAGE_NOISES = {
    noise.name: noise
    for noise in (
        ImageNoise("brightness", "Makes the photo brighter or darker.", "half the change in brightness", _brightness),
        ImageNoise("blur", "Blurs the photo.", "radius, 1 is a twenty-fifth of the shorter side", _blur),
        ImageNoise("jpeg", "Saves the photo as JPEG.", "loss of quality, from 95 at 0 to 10 at 1", _jpeg),
        ImageNoise("occlusion", "Covers parts of the background, which is all but the middle quarter of the photo.",
                   "share of the background that is covered by its mean colour", _occlusion),
    )
}  # fmt: skip


def noisy_image(image: Image.Image, noise: str, *, strength: float, seed: int | str = 1) -> Image.Image:
    """``image`` (RGB) with noise of one kind; the same for the same arguments.

    strength: 0 (the picture itself) to 1. Raises :class:`UserError` for an unknown kind, ``ValueError`` for a strength
    out of range.
    """
    if noise not in IMAGE_NOISES:
        raise unknown_name("noise of pictures", noise, IMAGE_NOISES)
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be between 0 and 1 (got {strength})")
    if strength == 0:
        return image
    return IMAGE_NOISES[noise].apply(image, strength, random.Random(f"{seed}/{noise}"))
