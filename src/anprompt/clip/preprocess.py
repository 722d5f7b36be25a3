"""From decoded pictures to the pixels that a vision tower expects.

Resizing runs on uint8 tensors with antialiasing, channels last: about twice as fast as Pillow, and equal to CLIP's own
Pillow pipeline within 2/255.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from anprompt.clip.augment import rand_augment
from anprompt.errors import UserError
from anprompt.pictures import Source, decode

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3  # Pillow's number, as in preprocessor_config.json
RATIO = (3 / 4, 4 / 3)  # width by height of random crops
EXTREME = 16  # sides' ratio beyond which resizing a whole picture before the crop would waste memory


LARGE = 2**22  # pixels beyond which a picture is resized in strips: one that fits the caches is faster as a whole
STRIP = 2**19  # pixels of a strip


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bicubic resize with antialiasing of uint8 ``(3, h, w)`` to ``(3, height, width)``, laid out channels last."""
    if image.shape[1:] == (height, width):
        return image
    rows = image.permute(1, 2, 0).contiguous()  # (h, w, 3)
    h, w, _ = rows.shape
    # The fast path for uint8; with any other stride of the batch, torch gives the result in another layout, slowly.
    batch = rows.as_strided((1, 3, h, w), (3 * h * w, 1, 3 * w, 3))
    return F.interpolate(batch, size=(height, width), mode="bicubic", antialias=True)[0]


def resize_picture(image: Image.Image, width: int, height: int) -> Tensor:
    """Bicubic resize with antialiasing of an RGB picture: uint8 ``(3, height, width)``, laid out channels last.

    Large pictures are read and shrunk sideways strip by strip, then as a whole from top to bottom: the same two passes
    that torch makes anyway, bit for bit, but without a second copy of the picture in memory.
    """
    if image.width * image.height <= LARGE or image.width == width:
        return _resize(_tensor(image), height, width)
    narrow = torch.empty(image.height, width, 3, dtype=torch.uint8).permute(2, 0, 1)
    step = max(1, STRIP // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        strip = _tensor(image.crop((0, top, image.width, bottom)))
        narrow[:, top:bottom] = _resize(strip, bottom - top, width)
    return _resize(narrow, height, width)


@dataclass(frozen=True)
class ImageTransform:
    """CLIP's preprocessing: resize, centre crop, normalise.

    size: pixels of the shorter side after resizing; both sides with ``squash``. crop: side of the centre crop, the
    tower's input. mean, std: per channel, of pixels in 0..1.
    """

    size: int
    crop: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    squash: bool = False

    @staticmethod
    def from_folder(folder: Path, image_size: int) -> ImageTransform:
        """Read ``preprocessor_config.json``; without one, CLIP's own values at the tower's ``image_size``.

        ``size`` may be a number or ``{"shortest_edge": n}``, or ``{"height": n, "width": n}``, which ignores the aspect
        ratio. Raises :class:`UserError` for a file that is not JSON or does not fit the tower.
        """
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            return ImageTransform(image_size, image_size)
        try:
            raw: dict[str, Any] = json.loads(path.read_text("utf-8"))
            size, squash = _side(raw.get("size", image_size))
            crop, _ = _side(raw.get("crop_size", image_size))
            mean = tuple(map(float, raw.get("image_mean", CLIP_MEAN)))
            std = tuple(map(float, raw.get("image_std", CLIP_STD)))
            resample = int(raw.get("resample", BICUBIC))
            if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
                raise ValueError("image_mean and image_std must be three numbers each, the latter above 0")
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{path}: not a readable image preprocessing file ({error}).") from error
        if crop != image_size or size < crop or (squash and size != crop):
            raise UserError(f"{path}: resizes to {size} and crops to {crop} pixels, but the tower takes {image_size}.")
        if resample != BICUBIC:
            raise UserError(f"{path}: asks for resampling filter {resample}; only bicubic ({BICUBIC}) is supported.")
        return ImageTransform(size, crop, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), squash)

    def __call__(self, images: Sequence[Source]) -> Tensor:
        """Pictures (PIL, arrays, paths) to normalised pixels ``(B, 3, crop, crop)``, fp32."""
        if not len(images):
            return torch.empty(0, 3, self.crop, self.crop)
        return self.normalise(torch.stack([self.pixels_uint8(image) for image in images]))

    def pixels_uint8(self, image: Source) -> Tensor:
        """Decode, resize and centre-crop one picture: uint8 ``(3, crop, crop)``, not normalised, channels last."""
        rgb = decode(image)
        width, height = rgb.size
        short, long = min(width, height), max(width, height)
        if self.squash:
            return _tensor(rgb.resize((self.crop, self.crop), Image.Resampling.BICUBIC))
        scaled = int(self.size * long / short)  # CLIP cuts the fraction off
        new_width, new_height = (self.size, scaled) if width <= height else (scaled, self.size)
        left, top = round((new_width - self.crop) / 2.0), round((new_height - self.crop) / 2.0)
        if height > new_height and height - new_height > 2 * (width - new_width):
            # Pillow shrinks tall pictures vertically first (and rounds and clips in between), torch never does.
            resized = _tensor(rgb.resize((new_width, new_height), Image.Resampling.BICUBIC))
        elif long > EXTREME * short:
            return _tensor(_crop_of_resized(rgb, new_width, new_height, left, top, self.crop))
        else:
            resized = resize_picture(rgb, new_width, new_height)  # (3, new_height, new_width)
        return resized[:, top : top + self.crop, left : left + self.crop]

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 in 0..255, or floats in 0..1, ``(..., 3, H, W)``, to fp32 with CLIP's mean and deviation removed."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        if pixels.dtype != torch.uint8:
            return (pixels.float() - mean) / std
        return pixels.float().div_(255).sub_(mean).div_(std)  # in place: memory traffic is all that this costs

    def random_resized_crop(
        self,
        images: Sequence[Tensor],
        generator: torch.Generator,
        scale: tuple[float, float] = (0.5, 1.0),
        ratio: tuple[float, float] = RATIO,
        flip: bool = True,
    ) -> Tensor:
        """Training augmentation of uint8 images ``(3, h, w)`` each: normalised pixels ``(B, 3, crop, crop)``.

        A box of random area (``scale``, a share of the picture's) and aspect (``ratio``, width by height, log-uniform)
        is resized to the crop, and mirrored with probability 0.5 if ``flip``. All randomness comes from ``generator``.
        """
        if not len(images):
            return torch.empty(0, 3, self.crop, self.crop)
        out = []
        for image in images:
            top, left, height, width = _random_box(image.shape[1], image.shape[2], generator, scale, ratio)
            cut = _resize(image[:, top : top + height, left : left + width], self.crop, self.crop)
            out.append(cut.flip(-1) if flip and _uniform(generator) < 0.5 else cut)
        return self.normalise(torch.stack(out))

    def rand_augmented(self, images: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        """Training augmentation of uint8 images ``(3, h, w)`` each: normalised pixels ``(B, 3, crop, crop)``.

        Resized whatever the aspect ratio, then two operations of RandAugment; neither cropped nor mirrored.
        """
        if not len(images):
            return torch.empty(0, 3, self.crop, self.crop)
        out = []
        for image in images:
            picture = Image.fromarray(_resize(image, self.crop, self.crop).permute(1, 2, 0).numpy())
            out.append(_tensor(rand_augment(picture, generator)))
        return self.normalise(torch.stack(out))


def _crop_of_resized(image: Image.Image, width: int, height: int, left: int, top: int, crop: int) -> Image.Image:
    """A square of the picture as resized to ``width`` by ``height``, of which only the square is made."""
    sx, sy = image.width / width, image.height / height
    columns = (left * sx, 0, min((left + crop) * sx, image.width), image.height)
    rows = (0, top * sy, crop, min((top + crop) * sy, image.height))
    for size, box in (((crop, image.height), columns), ((crop, crop), rows)):  # horizontally first, as always
        image = image.resize(size, Image.Resampling.BICUBIC, box=box)
    return image


def _tensor(image: Image.Image) -> Tensor:
    """RGB picture to uint8 ``(3, h, w)``, laid out channels last."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _side(value: Any) -> tuple[int, bool]:
    """The side that a size entry asks for, and whether it is for both sides whatever the aspect ratio."""
    if isinstance(value, dict) and "shortest_edge" not in value:
        if value["height"] != value["width"]:
            raise ValueError(f"height {value['height']} and width {value['width']} differ")
        return int(value["height"]), True
    return int(value["shortest_edge"] if isinstance(value, dict) else value), False


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _random_box(
    height: int, width: int, generator: torch.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random box; after ten misses the largest centred one of allowed aspect."""
    for _ in range(10):
        area = height * width * _uniform(generator, *scale)
        aspect = math.exp(_uniform(generator, math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(height - h + 1, (), generator=generator))
            left = int(torch.randint(width - w + 1, (), generator=generator))
            return top, left, h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, max(1, round(width / aspect))), min(width, max(1, round(height * aspect)))
    return (height - h) // 2, (width - w) // 2, h, w
