"""A small reader of WordNet's files: glosses of nouns and synonyms of words.

Miller: WordNet, a lexical database for English, CACM 1995. File formats: wndb(5WN). The files come with Debian's
``wordnet-base`` and with NLTK's corpus ``wordnet``; none are packaged here.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from anprompt.errors import UserError

PARTS = ("noun", "adj", "verb", "adv")
SHORTEST = 4  # letters of a word with synonyms: WordNet takes "a" for a unit and "in" for an inch


def _places() -> list[Path]:
    """Where WordNet is usually installed."""
    found = [Path(place) for variable in ("WNSEARCHDIR",) if (place := os.environ.get(variable))]
    found += [Path(place) / "dict" for variable in ("WNHOME",) if (place := os.environ.get(variable))]
    corpora = [*os.environ.get("NLTK_DATA", "").split(os.pathsep), str(Path.home() / "nltk_data"),
               f"{sys.prefix}/nltk_data", "/usr/share/nltk_data", "/usr/local/share/nltk_data"]  # fmt: skip
    return [*found, Path("/usr/share/wordnet"), *(Path(c) / "corpora" / "wordnet" for c in corpora if c)]


def find_wordnet(folder: str | Path | None = None) -> WordNet | None:
    """The WordNet in ``folder``, or else in one of the usual places, or None. :class:`UserError` if it is not there."""
    if folder is None:
        there = [place for place in _places() if (place / "data.noun").is_file()]
        return WordNet(there[0]) if there else None
    if not (Path(folder) / "data.noun").is_file() or not (Path(folder) / "index.noun").is_file():
        raise UserError(f"'{folder}' holds no WordNet: its files index.noun and data.noun are expected there.")
    return WordNet(Path(folder))


class WordNet:
    """WordNet's files in one folder; those of a part of speech are read when they are first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = cache(self._read_index)
        self._data = cache(self._read_data)

    def _read_index(self, part: str) -> dict[str, tuple[int, list[int]]]:
        """Lemma -> (how often its meanings were met in tagged texts, places of its meanings by frequency)."""
        index: dict[str, tuple[int, list[int]]] = {}
        file = self.folder / f"index.{part}"
        for line in file.read_text("utf-8", errors="replace").splitlines() if file.is_file() else ():
            fields = line.split()
            if not line.startswith(" ") and len(fields) > 5:  # lemma, part, meanings, p, p pointers, meanings, tagged
                count, pointers = int(fields[2]), int(fields[3])
                index[fields[0]] = int(fields[5 + pointers]), [int(place) for place in fields[-count:]]
        return index

    def _read_data(self, part: str) -> bytes:
        file = self.folder / f"data.{part}"
        return file.read_bytes() if file.is_file() else b""

    def _meaning(self, part: str, place: int) -> tuple[list[str], str]:
        """Words and gloss of the meaning at a byte offset of the data file."""
        data = self._data(part)
        line = data[place : data.index(b"\n", place)].decode("utf-8", errors="replace")
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        return [word.partition("(")[0].replace("_", " ") for word in words], gloss.strip()

    def glosses(self, name: str, limit: int = 1) -> list[str]:
        """The first definitions of a noun, most frequent meaning first, without examples; empty if it is unknown."""
        index, lemma = self._index("noun"), "_".join(name.lower().split())
        entry = index.get(lemma) or index.get(lemma.removesuffix("s"))
        meanings = [self._meaning("noun", place)[1] for place in entry[1][:limit]] if entry else []
        return [gloss.partition('; "')[0].strip() for gloss in meanings]

    def synonyms(self, word: str) -> list[str]:
        """Other words for the most frequent meaning of ``word`` that has any, in the part of speech it mostly is."""
        if len(word) < SHORTEST:
            return []
        entries = [(self._index(part)[word], part) for part in PARTS if word in self._index(part)]
        if not entries:
            return []
        (_, places), part = max(entries, key=lambda entry: entry[0][0])
        for place in places[:3]:
            others = [other for other in self._meaning(part, place)[0] if other.lower() != word]
            if others:
                return others
        return []
