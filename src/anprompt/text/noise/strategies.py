"""The noise strategies, one function each: it changes a sentence, and its docstring says how."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from anprompt.text.noise.material import NOUNS, Material
from anprompt.text.noise.words import Words, amount
from anprompt.text.templates import DEFAULT_TEMPLATE, PARAPHRASES

MASK = "something"
PAPER = "ANPrompt, Figure 4 and Table X"
OURS = "this project"
Apply = Callable[[Words, float, random.Random, Material], str]


@dataclass(frozen=True)
class Strategy:
    """A kind of noise. about: what it does. strength: what its strength means. source: where it is from.

    usual: the strength at which reports measure it. words: whether it changes words, rather than whole sentences.
    """

    name: str
    about: str
    strength: str
    source: str
    level: Literal["text", "feature"]
    usual: float
    words: bool
    apply: Apply


STRATEGIES: dict[str, Strategy] = {}


def _register(
    name: str,
    strength: str,
    source: str,
    *,
    level: Literal["text", "feature"] = "text",
    usual: float = 0.3,
    words: bool = True,
) -> Callable[[Apply], Apply]:
    def enter(apply: Apply) -> Apply:
        about = " ".join((apply.__doc__ or "").split())
        STRATEGIES[name] = Strategy(name, about, strength, source, level, usual, words, apply)
        return apply

    return enter


@_register("identity", "has no effect", OURS, usual=1)
def _identity(words: Words, strength: float, rng: random.Random, material: Material) -> str:
    """Changes nothing: the control."""
    return words.sentence


@_register("weak", "the weight α in f_m + α f_n", "ANPrompt, Eq. 2", level="feature", usual=0.01)
def _weak(words: Words, strength: float, rng: random.Random, material: Material) -> str:
    """Mixes a little of the feature of a noise sentence into the feature of the class."""
    raise ValueError("'weak' changes features, not sentences")


@_register("drop", "share of the words that are left out", PAPER)
def _drop(words: Words, strength: float, rng: random.Random, material: Material) -> str:
    """Leaves words out, but not the last one."""
    chosen = rng.sample(words.free, amount(strength, len(words.free)))
    if len(chosen) == len(words.words):
        chosen = chosen[:-1]
    words.words = [word for i, word in enumerate(words.words) if i not in chosen]
    return words.text()


@_register("mask", "share of the words that are hidden", PAPER)
def _mask(words: Words, strength: float, rng: random.Random, material: Material) -> str:
    """Puts a filler word in the place of words."""
    for i in rng.sample(words.free, amount(strength, len(words.free))):
        words.words[i] = MASK
    return words.text()


@_register("shuffle", "share of the words that change places", PAPER, usual=1)
def _shuffle(words: Words, strength: float, rng: random.Random, material: Material) -> str:
    """Moves words to each other's places, each of them to another one."""
    if len(words.free) > 1:
        chosen = rng.sample(words.free, max(2, amount(strength, len(words.free))))
        words.move(chosen, [*chosen[1:], chosen[0]])
    return words.text()


@_register("synonym", "share of the words with a known synonym that are replaced", PAPER, usual=1)
def _synonym(words: Words, strength: float, rng: random.Random, material: Material) -> str:
    """Replaces words by synonyms."""
    known = {i: found for i in words.free if (found := material.synonyms.of(words.core(i)))}
    for i in _some(list(known), strength, rng):
        words.replace(i, known[i][0] if len(known[i]) == 1 else rng.choice(known[i]))
    return words.text()


KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
SLIPS = ("swap", "omit", "double", "neighbour")


@_register("typo", "share of the words of three letters or more that are misspelt",
           "Belinkov & Bisk, Synthetic and natural noise both break neural machine translation, ICLR 2018")  # fmt: skip
def _typo(words: Words, strength: float, rng: random.Random, material: Material) -> str:
    """Misspells words by one slip each: two letters swapped, one left out, doubled, or the key beside it."""
    long = [i for i in words.free if re.fullmatch(r"[a-z]{3,}", words.core(i))]
    for i in _some(long, strength, rng):
        words.replace(i, _misspelt(words.core(i), rng))
    return words.text()


def _misspelt(word: str, rng: random.Random) -> str:
    while True:
        at, slip = rng.randrange(1, len(word)), rng.choice(SLIPS)
        if slip == "swap":
            other = word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
        elif slip == "neighbour":
            row = next(row for row in KEYS if word[at] in row)
            place = row.index(word[at])
            other = word[:at] + rng.choice(row[max(0, place - 1) : place] + row[place + 1 : place + 2]) + word[at + 1 :]
        else:
            other = word[:at] + (2 * word[at] if slip == "double" else "") + word[at + 1 :]
        if other != word:  # equal letters were swapped
            return other


@_register("case", "share of the words that are written in capitals", OURS, usual=1)
def _case(words: Words, strength: float, rng: random.Random, material: Material) -> str:
    """Writes words in capitals: a control, since CLIP's tokenizer lower-cases everything."""
    for i in _some([i for i in words.free if words.words[i].upper() != words.words[i]], strength, rng):
        words.words[i] = words.words[i].upper()
    return words.text()


@_register("plural", "share of the known nouns whose number changes", OURS)
def _plural(words: Words, strength: float, rng: random.Random, material: Material) -> str:
    """Turns nouns of descriptions into the plural or back ("a photo" into "some photos")."""
    last = [] if words.protect else words.class_name.lower().split()[-1:]
    singular = {*NOUNS, *last}
    nouns = {i: words.core(i) for i in words.free if {words.core(i), words.core(i).removesuffix("s")} & singular}
    for i in _some(list(nouns), strength, rng):
        many = nouns[i] in singular
        words.replace(i, f"{nouns[i]}s" if many else nouns[i].removesuffix("s"))
        if i and words.words[i - 1].lower() in (("a", "an", "one") if many else ("some",)):
            words.words[i - 1] = "some" if many else "a"
    return words.text()


FRAMES = (DEFAULT_TEMPLATE, *PARAPHRASES)
LEADS = ("in this picture, ", "seen here: ", "a photo that shows this: ", "what you see is this: ")


@_register("template", "share of the sentences that are framed anew", OURS, usual=1, words=False)
def _template(words: Words, strength: float, rng: random.Random, material: Material) -> str:
    """Puts the class name into another neutral frame; in front of a longer description it puts a few words."""
    if rng.random() >= strength:
        return words.sentence
    name = re.escape(words.class_name)
    short = re.fullmatch(rf"(?:[\w']+ ){{0,5}}({name})(?: [\w']+){{0,3}}[.!]?", words.sentence, re.IGNORECASE)
    if short is None:
        return rng.choice(LEADS) + words.sentence
    framed = [other for frame in FRAMES if (other := frame.replace("{}", short[1])) != words.sentence]
    return rng.choice(framed)


@_register("reorder", "share of the parts between commas and 'and' that change places", OURS)
def _reorder(words: Words, strength: float, rng: random.Random, material: Material) -> str:
    """Names attributes in another order: parts between commas or "and" change places; a single part stays."""
    text = " ".join(words.words)
    body = text.rstrip(".!;:, ")
    pieces = re.split(r"(\s*[,;]\s+(?:and\s+)?|\s+and\s+)", body)  # parts at 0, 2, 4, …; what joins them between
    places = range(0, len(pieces), 2)
    if len(places) > 1:
        chosen = rng.sample(places, max(2, amount(strength, len(places))))
        moved = [pieces[i] for i in [*chosen[1:], chosen[0]]]
        for i, piece in zip(chosen, moved, strict=True):
            pieces[i] = piece
        words.words = ("".join(pieces) + text[len(body) :]).split(" ")
    return words.text()


@_register("paraphrase", "share of the sentences that are replaced", OURS, usual=1, words=False)
def _paraphrase(words: Words, strength: float, rng: random.Random, material: Material) -> str:
    """Replaces the sentence by one of the user's own for the class (the noise sentences of a description bank)."""
    others = [own for own in material.paraphrases.get(words.class_name, ()) if own != words.sentence]
    return rng.choice(others) if rng.random() < strength and others else words.sentence


def _some(candidates: list[int], strength: float, rng: random.Random) -> list[int]:
    """The part of ``candidates`` that is touched; no draw where that is all of them."""
    count = amount(strength, len(candidates))
    return candidates if count == len(candidates) else rng.sample(candidates, count)
