"""What users hand over as pictures: what counts as one picture, what as many, and what as neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from anprompt.errors import Problems, UserError
from anprompt.pictures import array_fault

CHANNELS = (1, 3, 4)
SHAPES = "(N, H, W, 1, 3 or 4), one picture (H, W, 1, 3 or 4), or N grey pictures (N, H, W)"
TENSOR_SHAPES = "(N, 1, 3 or 4, H, W) or one picture (1, 3 or 4, H, W)"


def list_pictures(given: Any) -> list[Any]:
    """Turn what a user hands over into a list of pictures, tensors into arrays.

    given: one picture (path, bytes, PIL picture), a list, tuple, one-dimensional array or iterator of pictures, or an
        array of many: ``(N, H, W, C)``, C = 1, 3 or 4; ``(H, W, C)`` is one picture; any other ``(N, H, W)`` is N grey
        ones. In tensors channels come first, as in torchvision: ``(N, C, H, W)``, ``(C, H, W)``. In a list each entry
        is one picture, which may also be ``(H, W)``.
    Raises :class:`UserError` for everything else, whatever ``bad_images`` says: it is no damaged file.
    """
    if isinstance(given, str | Path | bytes | Image.Image):
        return [given]
    if isinstance(given, list | tuple | Iterator):
        entries = list(given)
    elif isinstance(given, torch.Tensor):
        entries = _of_tensor(given)
    elif hasattr(given, "__array__") and not hasattr(given, "columns"):  # a data frame is an array to numpy
        entries = _of_array(np.asarray(given))
    else:
        raise UserError(
            f"A {type(given).__name__} holds no pictures: give a list of paths, PIL pictures or arrays, or one array."
        )
    faults: dict[str, list[int]] = {}
    for at, entry in enumerate(entries):
        if isinstance(entry, torch.Tensor):
            entry = entries[at] = _as_array(entry)
        if fault := _fault(entry):
            faults.setdefault(fault, []).append(at)
    problems = Problems("These pictures cannot be used:")
    for fault, places in faults.items():
        problems.add(f"entry {places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''}: {fault}")
    problems.raise_if_any()
    return entries


def _of_array(array: np.ndarray[Any, Any]) -> list[Any]:
    if array.ndim == 1 or (array.ndim == 4 and array.shape[3] in CHANNELS):
        return list(array)
    if array.ndim == 3:
        return [array] if array.shape[2] in CHANNELS else list(array)
    why = ""
    if array.ndim == 2:
        why = "; a table of features is not enough, and a single grey picture goes into a list"
    elif array.ndim == 4 and array.shape[1] in CHANNELS:
        why = "; channels come last: array.transpose(0, 2, 3, 1)"
    raise UserError(f"An array of shape {array.shape} holds no pictures: give {SHAPES}{why}.")


def _of_tensor(tensor: torch.Tensor) -> list[Any]:
    shape = tuple(tensor.shape)
    if (tensor.ndim in (3, 4) and shape[-3] in CHANNELS) or (tensor.ndim in (3, 4) and shape[-1] in CHANNELS):
        return list(tensor) if tensor.ndim == 4 else [tensor]
    raise UserError(f"A tensor of shape {shape} holds no pictures: give {TENSOR_SHAPES}.")


def _as_array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """``(C, H, W)`` -> ``(H, W, C)``; other shapes stay."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # which numpy does not have
        tensor = tensor.float()
    if tensor.ndim == 3 and tensor.shape[0] in CHANNELS:
        tensor = tensor.permute(1, 2, 0)
    return np.asarray(tensor.numpy())


def _fault(entry: Any) -> str | None:
    if isinstance(entry, str | Path | bytes | Image.Image):
        return None
    if isinstance(entry, np.ndarray):
        return array_fault(entry)
    return f"a {type(entry).__name__} is not a picture; give a path, bytes, a PIL picture, an array or a tensor"
