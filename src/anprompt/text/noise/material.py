"""What strategies replace words with: synonyms and paraphrases, and where these are from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anprompt.text.bank_files import load_bank
from anprompt.text.wordnet import WordNet, find_wordnet

SYNONYMS = {
    "photo": "photograph", "picture": "image", "image": "picture", "small": "little", "large": "big", "big": "large",
    "often": "frequently", "usually": "typically", "typically": "usually", "has": "features", "shows": "displays",
    "bright": "vivid", "dark": "dim", "round": "circular", "long": "elongated", "area": "region", "region": "area",
    "many": "numerous", "various": "several", "several": "various", "thin": "slender", "wide": "broad",
    "seen": "visible", "contains": "includes", "includes": "contains", "made": "built", "covered": "coated",
    "green": "verdant", "smooth": "even", "near": "close to", "usual": "common", "common": "usual", "tall": "high",
}  # fmt: skip
# Nouns of descriptions, whose number "plural" changes. Their plurals are regular.
NOUNS = (
    "animal", "area", "background", "building", "close-up", "color", "colour", "detail", "edge", "example", "field",
    "flower", "house", "image", "item", "line", "object", "part", "pattern", "petal", "photo", "photograph", "picture",
    "place", "road", "scene", "shape", "sketch", "snapshot", "stripe", "structure", "surface", "texture", "thing",
    "tree", "view", "wing",
)  # fmt: skip


@dataclass(frozen=True)
class Synonyms:
    """``of(word)`` gives the synonyms of a word in lower case; ``source`` says where they are from, for reports."""

    of: Callable[[str], Sequence[str]]
    source: str


def _packaged(word: str) -> Sequence[str]:
    return (SYNONYMS[word],) if word in SYNONYMS else ()


@dataclass(frozen=True)
class Material:
    """synonyms: for ``synonym``. paraphrases: a user's own sentences by class name, for ``paraphrase``."""

    synonyms: Synonyms = field(default=Synonyms(_packaged, f"the packaged list of {len(SYNONYMS)} words"))
    paraphrases: Mapping[str, Sequence[str]] = field(default_factory=dict)


PACKAGED = Material()


def find_synonyms(path: str | Path | None = None) -> Synonyms:
    """The synonyms to use: those of ``path``, else WordNet's if it is installed, else the packaged list.

    path: WordNet's folder (with ``index.noun`` and ``data.noun``), or a file ``{word: [synonym, …]}`` in one of the
    formats of description banks. Raises :class:`UserError` for anything else.
    """
    if path is None or os.path.isdir(path):
        wordnet = find_wordnet(path)
        if wordnet is not None:
            return from_wordnet(wordnet)
        return PACKAGED.synonyms
    table = {word.lower(): tuple(others) for word, others in load_bank(path).main.items()}
    return Synonyms(lambda word: table.get(word, ()), f"the file {Path(path).name} with {len(table)} words")


def from_wordnet(wordnet: WordNet) -> Synonyms:
    """The words that WordNet lists for the most frequent meaning of a word."""
    return Synonyms(wordnet.synonyms, "WordNet")
