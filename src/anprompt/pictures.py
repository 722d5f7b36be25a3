"""Decoding: whatever a picture is stored as becomes 8-bit RGB, or one sentence about why it cannot."""

from __future__ import annotations

import contextlib
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from anprompt.errors import UserError

Source = str | Path | bytes | Image.Image | npt.NDArray[Any]

# HEIC is listed although Pillow cannot read it: phone photos must be reported, not overlooked.
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
NETPBM_SUFFIXES = (".ppm", ".pgm", ".pbm", ".pnm")
OTHER_SUFFIXES = (".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".avif", ".heic", ".heif")
IMAGE_SUFFIXES = frozenset(JPEG_SUFFIXES + NETPBM_SUFFIXES + OTHER_SUFFIXES)
WIDE_GREY_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
_READING = [threading.Lock() for _ in range(64)]  # one at a time reads the file behind a PIL picture, by its id

SKIP = 'bad_images="skip"'  # in errors; the command line says it in its own way


class BadImage(UserError):
    """A picture that cannot be decoded; ``path`` says which (or what it came from), ``reason`` why."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        self.short = f"{path}: {reason}"  # without the full stop, for lists
        super().__init__(f"{self.short}.")


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for a picture: an image suffix in any case, and not hidden."""
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def decode(source: Source) -> Image.Image:
    """Decode a picture to mode RGB, 8 bits per channel, upright.

    - EXIF orientation is applied; of an animation the first frame is taken.
    - Grey, palette, CMYK and other modes are converted. Transparent pixels are shown on **white**, as viewers do
      (a bare ``convert("RGB")`` would show whatever colour is hidden behind them).
    - 16-bit grey (also in 32-bit integers) is scaled from 0..65535 to 0..255, floats from 0..1.
    - A PIL picture that is upright RGB already is returned itself, not copied.

    Args:
        source: a path, the bytes of a file, a PIL picture, or an array of shape (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4): uint8 in 0..255, uint16 in 0..65535, bool, or float in 0..1.

    Raises:
        BadImage: missing, empty, truncated or non-image file, a decompression bomb, or an array of another kind.
    """
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source), "array")
    if isinstance(source, Image.Image):
        return _guarded(source, getattr(source, "filename", "") or "picture")
    if isinstance(source, bytes):
        return _guarded(io.BytesIO(source), f"picture of {len(source)} bytes")
    if isinstance(source, (str, Path)):
        return _guarded(Path(source), str(source))
    raise BadImage(type(source).__name__, "not a picture; give a path, bytes, a PIL picture or a numpy array")


def _guarded(source: Path | io.BytesIO | Image.Image, label: str) -> Image.Image:
    """Open, decode and convert; every failure becomes a BadImage that names ``label``."""
    try:
        if isinstance(source, Image.Image):
            with _READING[id(source) // 16 % len(_READING)]:
                return _upright_rgb(source, label)
        if (source.stat().st_size if isinstance(source, Path) else len(source.getvalue())) == 0:
            raise BadImage(label, "the file is empty (0 bytes)")
        with Image.open(source) as image:
            return _upright_rgb(image, label)
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage(label, "no such file") from None
    except IsADirectoryError:
        raise BadImage(label, "a folder, not a picture") from None
    except PermissionError:
        raise BadImage(label, "no permission to read it") from None
    except UnidentifiedImageError:
        raise BadImage(label, _unknown_format(label)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(label, f"a decompression bomb? {str(error).split(',')[0]}; make it smaller") from None
    except Exception as error:
        # Damaged files make Pillow's many decoders raise nearly anything: OSError, SyntaxError, struct.error, …
        raise BadImage(label, f"cannot be decoded ({error or type(error).__name__})") from error


def _unknown_format(label: str) -> str:
    if Path(label).suffix.lower() in {".heic", ".heif"}:
        return "HEIC cannot be read by Pillow; convert it to JPEG or PNG"
    return "not a picture in a format that Pillow can read"


def _upright_rgb(image: Image.Image, label: str) -> Image.Image:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:  # Pillow only warns up to twice the limit
        size = f"{image.width} x {image.height} pixels, more than {limit} allowed"
        raise BadImage(label, f"a decompression bomb? {size}; make it smaller")
    image.load()
    with contextlib.suppress(Exception):  # broken EXIF data says nothing about the pixels: they stay as they are stored
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else Pillow would copy the picture
            image = ImageOps.exif_transpose(image)
    return _to_rgb(image, label)


def _to_rgb(image: Image.Image, label: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in WIDE_GREY_MODES:
        return _wide_grey(image, label).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _wide_grey(image: Image.Image, label: str) -> Image.Image:
    """Scale a picture of more than 8 bits per pixel, one channel, to 8 bits."""
    values = np.asarray(image)  # (H, W)
    if image.mode == "I":  # 16 bits in a 32-bit container
        if values.min() < 0 or values.max() > 65535:
            raise BadImage(label, "32-bit values outside 0..65535; convert it to 8 or 16 bits")
        values = values.astype(np.uint16)
    try:
        return _from_array(values)
    except BadImage as error:
        raise BadImage(label, error.reason) from None


def array_fault(array: npt.NDArray[Any]) -> str | None:
    """Why an array is no picture, whatever its values; ``None`` if it may be one."""
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if array.size == 0 or not (grey or (array.ndim == 3 and array.shape[2] in (3, 4))):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; channels come last, so transpose it with array.transpose(1, 2, 0)" if first and array.size else ""
        return f"shape {array.shape} is not (H, W), (H, W, 1), (H, W, 3) or (H, W, 4){hint}"
    kind = array.dtype.kind
    if array.dtype == np.uint8 or kind in "bf" or (kind == "u" and array.dtype.itemsize == 2):  # either byte order
        return None
    return f"dtype {array.dtype}; allowed are uint8, uint16, bool and float in 0..1"


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) -> PIL picture of mode L, RGB or RGBA."""
    if fault := array_fault(array):
        raise BadImage("array", fault)
    if array.dtype == np.uint8:
        pixels = array
    elif array.dtype == np.bool_:
        pixels = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind == "u":
        pixels = np.rint(array / 257.0).astype(np.uint8)  # 65535 = 255 * 257
    else:
        low, high = float(array.min()), float(array.max())
        if not (low >= 0.0 and high <= 1.0):  # also true for NaN
            raise BadImage("array", f"float values must lie in 0..1, not in {low:g}..{high:g}")
        pixels = np.rint(array * 255.0).astype(np.uint8)
    return Image.fromarray(
        np.ascontiguousarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    )
