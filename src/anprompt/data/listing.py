"""Which files lie below a folder; the listing of a large data set is kept, so that a million files are read once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from anprompt.errors import UserError
from anprompt.files import write_text

KEEP_FROM = 20_000  # files; smaller trees are listed faster than it pays to keep them
SETTLED_NS = 2_000_000_000  # a folder changed more recently might change again without a new time stamp
FORMAT = 1

Stamp = tuple[int, int, int]  # of a folder: time of its last change by two clocks, and its number in the file system


class Folder(NamedTuple):
    """One folder of a tree; ``stamp`` is None if it had changed too recently to be trusted later."""

    stamp: Stamp | None
    folders: list[str]
    files: list[str]


def list_files(root: Path) -> list[str]:
    """Return the paths of all files below ``root``, relative to it with forward slashes, sorted.

    Hidden files and folders are left out; links to folders are followed, but no folder is entered twice.

    Raises:
        UserError: a folder cannot be read.
    """
    return _paths(_walk(root, {}))


def list_kept(root: Path) -> list[str]:
    """:func:`list_files`, kept in the user's cache folder from ``KEEP_FROM`` files on.

    Adding, removing or renaming a file or a folder changes the time stamp of the folder that holds it; every stamp is
    compared, and folders that changed are listed again. What a file holds plays no part.
    """
    place = cache_folder() / "listings" / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.json"
    known = _read(place, root)
    tree = dict(_walk(root, known))
    paths = _paths(tree.items())
    if len(paths) >= KEEP_FROM and tree != known:
        with contextlib.suppress(UserError):  # no place to keep it: the next run lists again
            _write(place, root, tree)
    return paths


def cache_folder() -> Path:
    """Where anprompt keeps what it can make again: ``$XDG_CACHE_HOME/anprompt`` or ``~/.cache/anprompt``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "anprompt"


def is_visible(name: str) -> bool:
    """Whether a file or folder counts: not hidden, and not the folder that macOS adds to archives."""
    return not name.startswith(".") and name != "__MACOSX"


def _paths(tree: Any) -> list[str]:
    return sorted(f"{at}/{name}" if at else name for at, folder in tree for name in folder.files)


def _walk(root: Path, known: Mapping[str, Folder]) -> Iterator[tuple[str, Folder]]:
    """Give every folder below ``root`` with its path relative to it (``""``: itself); read only what is not known."""
    now = time.time_ns()
    waiting, entered = [""], set()
    while waiting:
        at = waiting.pop()
        place = root / at
        try:
            status = os.stat(place)
            if (same := (status.st_dev, status.st_ino)) in entered:
                continue
            entered.add(same)
            stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            folder = known.get(at)
            if folder is None or folder.stamp != stamp:
                settled = now - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_NS
                folder = _list(place, stamp if settled else None)
        except OSError as error:
            raise UserError(f"Cannot read the folder {error.filename}: {error.strerror}.") from error
        yield at, folder
        waiting += (f"{at}/{name}" if at else name for name in reversed(folder.folders))


def _list(place: Path, stamp: Stamp | None) -> Folder:
    folder = Folder(stamp, [], [])
    with os.scandir(place) as entries:
        for entry in entries:
            if is_visible(entry.name):
                (folder.folders if entry.is_dir() else folder.files).append(entry.name)
    folder.folders.sort()
    return folder


def _read(place: Path, root: Path) -> dict[str, Folder]:
    """The kept tree; empty if there is none, or none that can be used."""
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
        if (document["format"], document["root"]) != (FORMAT, str(root.resolve())):
            return {}
        return {
            at: Folder(None if stamp is None else (stamp[0], stamp[1], stamp[2]), folders, files)
            for at, (stamp, folders, files) in document["tree"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return {}


def _write(place: Path, root: Path, tree: Mapping[str, Folder]) -> None:
    write_text(place, json.dumps({"format": FORMAT, "root": str(root.resolve()), "tree": tree}))
