"""What commands may replace: what an earlier run wrote, and never a file of the user's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from anprompt.errors import Problems

# How figures say whose they are, as metadata for Matplotlib, and where that is found in the files.
SIGNED: dict[str, dict[str, Any]] = {"png": {"Software": "anprompt"}, "svg": {"Creator": "anprompt", "Date": None}}
SIGNS = (b"Software\0anprompt", b"<dc:title>anprompt</dc:title>")
HEAD = 4096  # bytes of a file in which its sign stands
LARGEST = 10**8  # bytes of a safetensors header, as the format has it


def is_figure(file: Path) -> bool:
    """Whether ``file`` is a figure that anprompt drew."""
    try:
        with file.open("rb") as opened:
            start = opened.read(HEAD)
    except OSError:
        return False
    return any(sign in start for sign in SIGNS)


def is_marked(file: Path, mark: str) -> bool:
    """Whether ``file`` is a text with ``mark``, by which outputs of its kind are known."""
    try:
        return mark in file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def metadata_of(file: Path) -> dict[str, Any]:
    """The metadata of a safetensors file, also of one whose end is missing; empty for any other file."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(length, LARGEST)))
    except (OSError, ValueError, RecursionError):
        return {}
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else {}


def is_record(file: Path) -> bool:
    """Whether ``file`` is a record of a run."""
    from anprompt.results.record import RECORD_KEY

    return is_marked(file, RECORD_KEY)


def check_outputs(
    folder: Path, figures: Iterable[str], record: str | None = None, inputs: Iterable[Path] = (), option: str = "--out"
) -> None:
    """:func:`check_foreign` for ``figures`` and a ``record``."""
    wanted: dict[str, Callable[[Path], bool]] = dict.fromkeys(figures, is_figure)
    check_foreign(folder, wanted if record is None else {**wanted, record: is_record}, inputs, option)


def check_foreign(
    folder: Path, wanted: Mapping[str, Callable[[Path], bool]], inputs: Iterable[Path] = (), option: str = "--out"
) -> None:
    """:class:`UserError` where files in ``folder`` would be lost that no earlier run has written, or that are read.

    wanted: by the name of each file that will be written, whether a file of that name is an earlier run's. Empty files
        may be anybody's: nothing is lost with them.
    """
    problems = Problems(f"'{folder}' holds files of yours that would be replaced; give another {option}:")
    read = {path.resolve() for path in inputs}
    for name, is_ours in wanted.items():
        file = folder / name
        empty = os.path.isfile(file) and not os.path.getsize(file)
        if os.path.exists(file) and (file.resolve() in read or not (empty or is_ours(file))):
            problems.add(name)
    problems.raise_if_any()
