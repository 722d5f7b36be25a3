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


class Seen:
    """The photos that an adapter was trained on.

    photos: their fingerprints in one text, as the adapter keeps them. Every file is read once.
    """

    def __init__(self, photos: str) -> None:
        self._kept = {photos[at : at + DIGITS] for at in range(0, len(photos), DIGITS)}
        self._known: dict[str, bool] = {}  # path -> trained on

    def count(self, source: DataSource, items: Iterable[Item]) -> int:
        """How many of ``items`` were trained on."""
        items = list(items)
        for item in items:
            if item.path not in self._known:
                self._known[item.path] = not self._kept.isdisjoint(fingerprints(source, [item]))
        return sum(self._known[item.path] for item in items)
