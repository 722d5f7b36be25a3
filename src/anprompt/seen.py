"""Which photos an adapter was trained on: it keeps a few digits of the hash of each, so that nobody has to guess."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from anprompt.data import DataSource, Item
from anprompt.files import sha256_file

DIGITS = 8  # hexadecimal, a photo: by chance, one of a million photos is taken for one of a thousand


def fingerprints(source: DataSource, items: Iterable[Item]) -> list[str]:
    """The first digits of the hash of each file that can be read; of pictures that are made on the fly, none."""
    found = []
    for item in items if source.root is not None else ():
        try:
            found.append(sha256_file(Path(item.path))[:DIGITS])
        except OSError:  # reported when it is opened
            continue
    return found


def trained_on(source: DataSource, items: Iterable[Item], photos: str) -> int:
    """How many of ``items`` an adapter was trained on that keeps ``photos``, the fingerprints in one text."""
    kept = {photos[at : at + DIGITS] for at in range(0, len(photos), DIGITS)}
    return sum(own in kept for own in fingerprints(source, items))
