"""What files hold, as hashes; those of many files are kept, so that only files that changed are read again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from anprompt.data.listing import SETTLED_NS, cache_folder
from anprompt.errors import UserError
from anprompt.files import write_text

KEEP_FROM = 64 * 2**20  # bytes of all files; fewer are read faster than it pays to keep what they hold
FORMAT = 1

Stamp = tuple[int, int, int, int]  # of a file: size, time of its last change by two clocks, number in the file system


class Digest(NamedTuple):
    """What a file holds."""

    size: int
    sha256: str


def digest(path: str) -> Digest:
    """Read a file.

    Raises:
        UserError: it cannot be read.
    """
    return _read(path)[1]


def kept_digests(root: Path, paths: Sequence[str]) -> Iterator[Digest]:
    """:func:`digest` of each of ``paths``, kept in the user's cache folder from ``KEEP_FROM`` bytes on.

    A file whose size, times or number in the file system changed is read again. root: whose data the files are.
    """
    place = cache_folder() / "digests" / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.json"
    known = _load(place, root)
    total, found = 0, dict[str, tuple[Stamp, str]]()
    now = time.time_ns()
    for path in paths:
        at = os.path.abspath(path)
        stamp, sha256 = known.get(at, (None, ""))
        if stamp is None or stamp != _stamp_of(path):
            stamp, (_, sha256) = _read(path)
        total += stamp[0]
        if now - max(stamp[1:3]) > SETTLED_NS:  # a file changed a moment ago might change again with the same stamp
            found[at] = stamp, sha256
        yield Digest(stamp[0], sha256)
    if total >= KEEP_FROM and not found.items() <= known.items():
        others = {at: entry for at, entry in known.items() if at not in found and os.path.exists(at)}
        with contextlib.suppress(UserError):  # no place to keep them: the next run reads again
            write_text(place, json.dumps({"format": FORMAT, "root": str(root.resolve()), "files": {**others, **found}}))


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _stamp_of(path: str) -> Stamp | None:
    try:
        return _stamp(os.stat(path))
    except OSError:  # reported when it is read
        return None


def _read(path: str) -> tuple[Stamp, Digest]:
    try:
        with open(path, "rb") as file:
            stamp = _stamp(os.fstat(file.fileno()))  # before the reading: a change meanwhile is noticed the next time
            return stamp, Digest(stamp[0], hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error


def _load(place: Path, root: Path) -> dict[str, tuple[Stamp, str]]:
    """What is kept; nothing if there is none, or none that can be used."""
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
        if (document["format"], document["root"]) != (FORMAT, str(root.resolve())):
            return {}
        return {
            at: ((stamp[0], stamp[1], stamp[2], stamp[3]), str(sha256))
            for at, (stamp, sha256) in document["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return {}
