"""RandAugment: a few operations drawn at random, all of one strength.

Cubuk, Zoph, Shlens, Le: RandAugment: practical automated data augmentation with a reduced search space, NeurIPS 2020.
https://arxiv.org/abs/1909.13719
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image, ImageEnhance, ImageOps

STRONGEST = 30  # the magnitude at which an operation reaches the end of its range
GREY = (128, 128, 128)  # what comes in from outside the picture

Operation = Callable[[Image.Image, float, float], Image.Image]  # (picture, strength 0..1, sign -1 or 1)


def _affine(image: Image.Image, a: float, b: float, c: float, d: float, e: float, f: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), fillcolor=GREY)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, strength, sign: kind(image).enhance(1 + 0.9 * sign * strength)


# The fourteen operations of the paper. Ranges: 30 degrees, shear 0.3, a third of the side, factors 0.1 to 1.9,
# 4 to 8 bits a channel, thresholds 256 to 0.
OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, strength, sign: image,
    "auto contrast": lambda image, strength, sign: ImageOps.autocontrast(image),
    "equalise": lambda image, strength, sign: ImageOps.equalize(image),
    "rotate": lambda image, strength, sign: image.rotate(30 * sign * strength, fillcolor=GREY),
    "solarise": lambda image, strength, sign: ImageOps.solarize(image, round(256 * (1 - strength))),
    "posterise": lambda image, strength, sign: ImageOps.posterize(image, 8 - round(4 * strength)),
    "colour": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear x": lambda image, strength, sign: _affine(image, 1, 0.3 * sign * strength, 0, 0, 1, 0),
    "shear y": lambda image, strength, sign: _affine(image, 1, 0, 0, 0.3 * sign * strength, 1, 0),
    "move x": lambda image, strength, sign: _affine(image, 1, 0, image.width / 3 * sign * strength, 0, 1, 0),
    "move y": lambda image, strength, sign: _affine(image, 1, 0, 0, 0, 1, image.height / 3 * sign * strength),
}


def rand_augment(image: Image.Image, generator: torch.Generator, count: int = 2, magnitude: float = 10) -> Image.Image:
    """Apply ``count`` operations, drawn with repetition, to an RGB picture; its size stays.

    magnitude: 0 to 30, the same for all. All randomness comes from ``generator``.
    """
    names = list(OPERATIONS)
    for _ in range(count):
        name = names[int(torch.randint(len(names), (), generator=generator))]
        sign = 1.0 if float(torch.rand((), generator=generator)) < 0.5 else -1.0
        image = OPERATIONS[name](image, magnitude / STRONGEST, sign)
    return image
