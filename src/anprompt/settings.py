"""From what a user set to what a run uses: conventions of published data sets, texts, backbone, device."""

from __future__ import annotations

import contextlib
import json
import math
import numbers
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anprompt.clip import Backbone, load_backbone
from anprompt.clip.cache import GIB, LIMIT, ActivationCache
from anprompt.data import DataSource
from anprompt.errors import Problems, UserError, did_you_mean, unknown_name
from anprompt.text import DescriptionBank, bank_of, of_classes, read_bank

if TYPE_CHECKING:
    from anprompt.methods import Method

BENCHMARK_OPTIONS = Path(__file__).parent / "assets" / "benchmark_options.json"
DEVICES = ("auto", "cpu", "cuda", "mps")
STORAGE = ("fp16", "fp32")
LARGEST_SEED = 2**32 - 1  # what every generator takes
Progress = Callable[[str, int, int, dict[str, float]], None]  # (stage, done, total, numbers to show)


class Note(UserWarning):
    """Something the user should know about a result that is not an error."""


def note(message: str) -> None:
    """Tell the caller of a public method something, at the line of theirs; the command line prints it to stderr."""
    frame, level = sys._getframe(), 1  # Python 3.12's skip_file_prefixes would do it
    inside = (str(Path(__file__).parent), contextlib.__file__)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, Note, stacklevel=level)


def listed(names: list[str], limit: int = 5) -> str:
    """The first few ``names`` in one line, and how many more there are."""
    shown = names if len(names) == limit + 1 else names[:limit]  # "and 1 more" is no shorter than a name
    more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    return ", ".join(shown) + more


def benchmark_options(method: str, preset: str, benchmark: str | None) -> dict[str, Any]:
    """Options that a published data set has by convention; empty for anybody's own data."""
    table = json.loads(BENCHMARK_OPTIONS.read_text(encoding="utf-8"))
    return dict(table.get(method, {}).get(preset, {}).get(benchmark, {}))


Texts = str | Path | Mapping[str, Any] | DescriptionBank


def bank_for(texts: Texts | None, source: DataSource) -> DescriptionBank:
    """The description bank of a run: the user's, else the data's own, else empty (then templates serve)."""
    if texts is not None:
        return texts if isinstance(texts, DescriptionBank) else given_bank(texts, source.classes)
    if source.descriptions is not None:
        return DescriptionBank(source.descriptions["main"], source.descriptions["noise"], source.name)
    return DescriptionBank()


def given_bank(texts: Texts, names: Sequence[str], *, needed: bool = True) -> DescriptionBank:
    """The sentences of classes ``names`` in a file or folder, in a dictionary of a file's form, or in a bank.

    needed: whether a file, folder or dictionary must know one of the classes. Raises :class:`UserError` as
    :func:`anprompt.text.read_bank` does, and for texts of another type.
    """
    if isinstance(texts, DescriptionBank):
        return of_classes(texts, names)
    if isinstance(texts, Mapping):
        return bank_of(texts, names, needed=needed)
    if not isinstance(texts, str | Path):
        raise UserError(f"'texts' must be a file, a folder, a dictionary or a bank (got a {type(texts).__name__}).")
    return read_bank(texts, list(names), needed=needed)


def known_bank(
    method: Method, texts: Texts | None, names: Sequence[str], source: DataSource | None = None, *, needed: bool = True
) -> DescriptionBank:
    """What ``method`` says of its classes, which stays, and of other ``names`` what the data and then ``texts`` say.

    needed: as for :func:`given_bank`, which raises; not where the method has all of ``names``.
    """
    known, settled = method.bank, method.class_names if method.baked is None else method.baked.names
    if source is not None and source.descriptions is not None:
        own = DescriptionBank(source.descriptions["main"], source.descriptions["noise"])
        known = known.completed(own, settled)
    if texts is not None:
        needed = needed and not set(names).issubset(method.class_names)
        known = known.completed(given_bank(texts, names, needed=needed), settled)
    return known


def check_settings(shots: Any, seed: Any, storage: Any) -> None:
    """Raise one :class:`UserError` for all of the estimator's plain settings that are out of range."""
    problems = Problems("These settings cannot be used:")
    ranges = (("'shots'", shots, 1, math.inf), ("'random_state', the seed,", seed, 0, LARGEST_SEED))
    for name, value, low, high in ranges:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low:
            problems.add(f"{name} must be a whole number of at least {low} (got {value!r})")
        elif int(value) > high:
            problems.add(f"{name} must be at most {high} (got {value!r})")
    if storage not in STORAGE:
        hint = did_you_mean(str(storage), STORAGE)
        problems.add(f"unknown storage format '{storage}': allowed are {', '.join(STORAGE)}.{hint}")
    problems.raise_if_any()


def loaded(backbone: Any) -> Backbone:
    """``backbone`` itself, or the one that it names."""
    return backbone if isinstance(backbone, Backbone) else load_backbone(backbone)


def cache_for(cache: ActivationCache | str | Path | None, limit_gib: float | None = None) -> ActivationCache | None:
    """The cache of frozen activations that lies in a folder; one that is open already is used as it is.

    limit_gib: its largest size; ``None``: 10 GiB. :class:`UserError` for a limit without a folder, and for folders that
    are no cache.
    """
    if cache is None:
        if limit_gib is not None:
            raise UserError("A size limit of the activation cache has no use without a folder: give --cache too.")
        return None
    if isinstance(cache, ActivationCache):
        return cache
    if limit_gib is not None and not 0 < limit_gib < math.inf:
        raise UserError(f"The size limit of the activation cache must be a number of GiB above 0 (got {limit_gib:g}).")
    return ActivationCache(cache, LIMIT if limit_gib is None else math.ceil(limit_gib * GIB))


@contextlib.contextmanager
def caching(cache: ActivationCache | None, backbone: Backbone) -> Iterator[None]:
    """Use ``cache``, if there is one, for ``backbone`` inside the block; then tell the user what it did."""
    if cache is None:
        yield
        return
    with cache.attached(backbone):
        yield
    note(cache.summary())


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name, such as ``"cuda:1"``; ``"auto"`` is a CUDA device if there is one.

    Raises :class:`UserError` for other names, and if it is not there.
    """
    kind, _, number = str(name).partition(":")
    if kind not in DEVICES or (number and not number.isdecimal()):
        raise unknown_name("device", str(name), (*DEVICES, "cuda:N"))
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        kind = "cuda" if there["cuda"] else "cpu"
    if not there[kind]:
        raise UserError(f"Device '{kind}' is not available on this machine; use 'cpu' or 'auto'.")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if number and int(number) >= count:
        raise UserError(f"There is no device '{name}': the last one here is '{kind}:{count - 1}'.")
    return torch.device(f"{kind}:{number}" if number else kind)
