"""Pictures as small data URIs, and maps laid over them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

THUMB, LARGE = 112, 192  # pixels of the longer side at most
QUALITY = 72  # of WebP: 2 to 4 KiB a thumbnail
MOST_OPAQUE = 0.75  # of a map, where it is highest


def data_uri(image: Image.Image, side: int) -> dict[str, Any]:
    """``src``, ``width`` and ``height`` of an RGB picture that is at most ``side`` pixels long."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, format="WEBP", quality=QUALITY, method=4)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return {"src": f"data:image/webp;base64,{text}", "width": small.width, "height": small.height}


def overlay(picture: npt.NDArray[np.uint8], relevance: npt.NDArray[np.floating]) -> Image.Image:
    """A picture in grey with a map in colour over it.

    picture: ``(H, W, 3)``. relevance: ``(h, w)``, 0 to 1. The scale is viridis: it reads the same for the colour-blind
    and in grey.
    """
    import matplotlib as mpl

    height, width = picture.shape[:2]
    scaled = Image.fromarray((255 * relevance.clip(0, 1)).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    level = np.asarray(scaled, dtype=np.float64)[..., None] / 255  # (H, W, 1)
    colour = mpl.colormaps["viridis"](level[..., 0])[..., :3] * 255  # (H, W, 3)
    grey = np.asarray(Image.fromarray(picture).convert("L"), dtype=np.float64)[..., None]
    opaque = MOST_OPAQUE * level
    mixed = grey * (1 - opaque) + colour * opaque
    return Image.fromarray(mixed.round().astype(np.uint8))
