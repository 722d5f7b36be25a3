"""What class names may suffer from before anything is learned: cheap checks of the words alone.

A text tower only sees words. Two classes that are worded alike get each other's answers, and a name that is no word
says nothing. Nothing here stops a run; every check gives a :class:`~anprompt.errors.Finding`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

import numpy as np

from anprompt.errors import Finding

# Of the 2,189 names of eleven published data sets, 5 pairs are as similar (rifle / trifle).
# A swap of two letters in a word of nine makes 0.89.
SIMILAR = 0.88
SHORT = 3  # letters: words up to this long, and those with digits, are versions of a thing rather than slips of a key

IDENTIFIERS = (
    r"n\d{8}",  # WordNet
    r"[\W\d_]+",  # no letter at all
    r"(a |the )?(class|label|category|cat|object|item|id|group|folder|dir|new folder|untitled)[ _.#-]*\d+",
    r"(img|image|dsc|dscn|dscf|pict?|photo|screenshot|mvi|vid)[ _.#-]*\d[\d ._-]*",
    r"(?=.*\d)(?=.*[a-f])[0-9a-f]{8,}",  # hexadecimal
)
_IDENTIFIER = re.compile("|".join(IDENTIFIERS), re.IGNORECASE)
# A word of letters in both cases and digits, and words that ran together; "McLaren" and "iPhone" are names.
_CODE = re.compile(r"\b(?=\w*[a-z][A-Z])(?=\w*\d)\w{6,}\b")
_RUN_TOGETHER = re.compile(r"[A-Za-z][a-z]{2,}[A-Z][a-z]{2,}")


def lint_names(names: Sequence[str]) -> list[Finding]:
    """Everything that the words of ``names`` may suffer from; each kind at most once."""
    found = (same_names(names), similar_names(names), contained_names(names), identifiers(names))
    return [finding for finding in found if finding is not None]


def same_names(names: Sequence[str]) -> Finding | None:
    """Names that are equal but for case, plural, punctuation and spaces."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("".join(folded(name)), []).append(name)
    same = [group for key, group in groups.items() if key and len(group) > 1]
    return _finding(
        "same-name",
        ("group of classes differs", "groups of classes differ", "only in case, plural, punctuation or spaces"),
        same,
        "Their texts are all but one, so an answer between them is chance",
        "make one class of them, or name what tells them apart",
    )


def similar_names(names: Sequence[str]) -> Finding | None:
    """Names whose differing words are spelt nearly alike, as slips of a key are."""
    words = [folded(name) for name in dict.fromkeys(names)]
    shown = list(dict.fromkeys(names))
    similar = [
        [shown[i], shown[j]] for i, j in _alike_letters(["".join(own) for own in words]) if _slip(words[i], words[j])
    ]
    return _finding(
        "similar-name",
        ("pair of classes is", "pairs of classes are", "spelt nearly alike"),
        similar,
        "If this is one class, its photos are divided, and each half counts as wrong for the other",
        "mend the spelling; if they are two things, nothing needs doing",
    )


def contained_names(names: Sequence[str]) -> Finding | None:
    """Names that another name has in it as whole words."""
    words = {name: tuple(folded(name)) for name in dict.fromkeys(names)}
    by_words: dict[tuple[str, ...], str] = {own: name for name, own in words.items() if own}
    inside = [
        [by_words[part], name]
        for name, own in words.items()
        for size in range(1, len(own))
        for part in dict.fromkeys(own[i : i + size] for i in range(len(own) - size + 1))
        if part in by_words
    ]
    return _finding(
        "contained-name",
        ("name stands", "names stand", "with all words in another name"),
        inside,
        "The longer name's sentences also name the shorter class, so its photos may get the shorter name",
        "say more about the shorter one ('apple fruit' beside 'apple pie'), or give both descriptions with --texts",
    )


def identifiers(names: Sequence[str]) -> Finding | None:
    """Names that are numbers, codes or words run together rather than words."""
    coded = [[name] for name in dict.fromkeys(names) if is_identifier(name)]
    return _finding(
        "identifier",
        ("name is", "names are", "a code rather than words"),
        coded,
        "The text tower learned from words and knows nothing of codes, so zero-shot and all text prompts suffer",
        "rename the folders, or the labels in the table, to what a person would call them ('red fox', 'annual crop')",
    )


def is_identifier(name: str) -> bool:
    """Whether ``name`` is a number, a code or words run together: ``n01440764``, ``class 12``, ``AnnualCrop``."""
    plain = name.strip()
    return bool(_IDENTIFIER.fullmatch(plain) or _CODE.search(plain) or _RUN_TOGETHER.fullmatch(plain))


def alike_texts(names: Sequence[str], cosine: np.ndarray, yardstick: float) -> Finding | None:
    """Classes whose texts are nearer to each other than ``yardstick``.

    cosine: ``(C, C)``, between the text features of ``names``.
    """
    rows, columns = np.nonzero(np.triu(cosine > yardstick, k=1))
    nearest_first = np.argsort(-cosine[rows, columns], kind="stable")
    return _finding(
        "similar-text",
        (
            "pair of classes has",
            "pairs of classes have",
            f"nearly the same text features (cosine above {yardstick:.3f})",
        ),
        [[names[rows[k]], names[columns[k]]] for k in nearest_first],
        "This backbone tells them no more apart than two wordings of one class",
        "word them by what can be seen, give descriptions with --texts, or take a larger backbone",
    )


def folded(name: str) -> list[str]:
    """The words of ``name`` in small letters and the singular, without punctuation."""
    return [_singular(word) for word in re.split(r"[\W_]+", name.casefold()) if word]


def _singular(word: str) -> str:
    """A guess by the rules of English; words that are no plural may lose an ending, which does no harm here."""
    if len(word) > 3:
        if word.endswith("ies"):
            return f"{word[:-3]}y"
        if re.search(r"(s|x|z|ch|sh)es$", word):
            return word[:-2]
        if word.endswith("s") and not word.endswith(("ss", "us", "is")):
            return word[:-1]
    return word


def _alike_letters(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of ``texts`` that could be similar: they share enough letters, in whatever order.

    An upper bound of difflib's ratio, for all pairs at once: comparing 1,000 names one by one takes half a minute.
    """
    alphabet = {letter: i for i, letter in enumerate(sorted(set("".join(texts))))}
    counts = np.zeros((len(texts), len(alphabet)), dtype=np.int16)
    for row, text in zip(counts, texts, strict=True):
        for letter in text:
            row[alphabet[letter]] += 1
    lengths = counts.sum(axis=1, dtype=np.int64)
    for i in range(len(texts) - 1):
        shared = np.minimum(counts[i], counts[i + 1 :]).sum(axis=1, dtype=np.int64)
        for offset in np.flatnonzero(2 * shared >= SIMILAR * (lengths[i] + lengths[i + 1 :])):
            yield i, i + 1 + int(offset)


def _slip(a: list[str], b: list[str]) -> bool:
    """Whether the words that one of two names has alone look like one spelling of the other's."""
    only_a, only_b = [w for w in a if w not in b], [w for w in b if w not in a]
    ours, theirs = " ".join(only_a), " ".join(only_b)
    if not ours or not theirs or ours.replace(" ", "") == theirs.replace(" ", ""):
        return False  # one says more than the other; or they are the same, which is another finding
    if any(len(word) <= SHORT or any(letter.isdigit() for letter in word) for word in (*only_a, *only_b)):
        return False
    return SequenceMatcher(None, ours, theirs, autojunk=False).ratio() >= SIMILAR


def _finding(kind: str, what: tuple[str, str, str], groups: list[list[str]], why: str, do: str) -> Finding | None:
    """The finding about ``groups`` of names. what: subject and verb of one, of several, and how the sentence ends."""
    if not groups:
        return None
    shown = [" / ".join(f"'{name}'" for name in group) for group in groups]
    sentence = f"{len(groups)} {what[len(groups) > 1]} {what[2]}"
    return Finding(kind, sentence, why, do, shown, [{"classes": group} for group in groups])
