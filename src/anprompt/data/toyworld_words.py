"""Words of the toy world: concepts with synonyms, the classes, and a small grammar of sentences."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from anprompt.errors import UserError, unknown_name

# Concept -> its words. The first word names the concept; the others are true synonyms within this world.
PATTERNS: dict[str, tuple[str, ...]] = {
    "plain": ("plain", "solid", "uniform"),
    "striped": ("striped", "banded", "lined"),
    "dotted": ("dotted", "spotted", "speckled"),
    "checkered": ("checkered", "checked", "tiled"),
    "ringed": ("ringed", "concentric", "circled"),
    "hollow": ("hollow", "outlined", "empty"),
}
COLOURS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine", "amber"),
    "yellow": ("yellow", "golden", "lemon"),
    "green": ("green", "emerald", "jade"),
    "blue": ("blue", "sapphire", "cobalt"),
    "purple": ("purple", "violet", "lilac"),
    "pink": ("pink", "rose", "salmon"),
    "white": ("white", "ivory", "snowy"),
}
MAIN_SHAPES: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "star": ("star", "starlet"),
    "heart": ("heart", "valentine"),
    "cross": ("cross", "plus"),
    "crescent": ("crescent", "moon"),
    "arrow": ("arrow", "pointer"),
}
SIGN_SHAPES: dict[str, tuple[str, ...]] = {
    "hexagon": ("hexagon", "hex"),
    "diamond": ("diamond", "rhombus"),
    "drop": ("drop", "teardrop"),
    "bolt": ("bolt", "lightning"),
    "house": ("house", "hut"),
    "flower": ("flower", "blossom"),
}
SHAPES: dict[str, tuple[str, ...]] = {**MAIN_SHAPES, **SIGN_SHAPES}
VOCABULARIES = ("shapes", "signs")

PATTERN_PHRASES = {
    "plain": "no pattern",
    "striped": "stripes",
    "dotted": "dots",
    "checkered": "checks",
    "ringed": "rings",
    "hollow": "an empty middle",
}


class Kind(NamedTuple):
    """What one class looks like, by concept names: keys of ``PATTERNS``, ``COLOURS`` and ``SHAPES``."""

    pattern: str
    colour: str
    shape: str


def _lattice(shapes: Iterable[str], offsets: Iterable[tuple[int, int]]) -> tuple[Kind, ...]:
    """One class per pair of ``offsets`` (of pattern, of colour) and shape: each shape and colour equally often."""
    patterns, colours = list(PATTERNS), list(COLOURS)
    return tuple(
        Kind(patterns[(i + p) % len(patterns)], colours[(i + c) % len(colours)], shape)
        for p, c in offsets
        for i, shape in enumerate(shapes)
    )


# Offsets are such that base (first half) and new (second half) both contain every pattern, colour and shape, and that
# most classes differ in one attribute only from another class of their half (hard negatives).
_CLASSES: dict[str, tuple[Kind, ...]] = {
    "shapes": _lattice(MAIN_SHAPES, ((0, 0), (0, 3), (3, 0), (2, 4), (2, 7), (5, 4))),
    "signs": _lattice(SIGN_SHAPES, ((0, 0), (3, 3), (1, 2), (4, 5))),
}


def check_vocabulary(vocabulary: str) -> None:
    """Raise :class:`UserError` for a name that is not one of ``VOCABULARIES``."""
    if vocabulary not in VOCABULARIES:
        raise unknown_name("toy world vocabulary", vocabulary, VOCABULARIES)


def kinds(vocabulary: str) -> tuple[Kind, ...]:
    """The classes of ``"shapes"`` (48) or ``"signs"`` (24) in label order. None of them is seen in pretraining."""
    check_vocabulary(vocabulary)
    return _CLASSES[vocabulary]


def pretraining_kinds() -> tuple[Kind, ...]:
    """All compositions that the miniature CLIP may see: every combination except the classes of both vocabularies."""
    held_out = {kind for vocabulary in VOCABULARIES for kind in kinds(vocabulary)}
    every = (Kind(p, c, s) for s in SHAPES for c in COLOURS for p in PATTERNS)
    return tuple(kind for kind in every if kind not in held_out)


def class_names(vocabulary: str) -> tuple[str, ...]:
    """Names in label order, e.g. ``"striped red star"``; ``"signs"`` words patterns and colours by synonyms."""
    word = 0 if vocabulary == "shapes" else 1
    return tuple(f"{PATTERNS[k.pattern][word]} {COLOURS[k.colour][word]} {k.shape}" for k in kinds(vocabulary))


def parse_name(name: str) -> Kind:
    """Turn a name such as ``"banded crimson star"`` into its concepts. Raises :class:`UserError` for other names."""
    found = []
    words = name.replace("_", " ").lower().split()
    if len(words) != 3:
        raise UserError(f"'{name}' is no toy-world class: expected pattern, colour, shape, as in 'striped red star'.")
    for part, word, concepts in zip(("pattern", "colour", "shape"), words, (PATTERNS, COLOURS, SHAPES), strict=True):
        concept = next((c for c, synonyms in concepts.items() if word in synonyms), None)
        if concept is None:
            raise unknown_name(f"toy world {part}", word, [w for synonyms in concepts.values() for w in synonyms])
        found.append(concept)
    return Kind(*found)


def with_article(phrase: str) -> str:
    """Put ``a`` or ``an`` before the phrase."""
    return f"an {phrase}" if phrase[0] in "aeiou" and not phrase.startswith("uniform") else f"a {phrase}"


# {n}: class name; {an}: with article. These name the class itself.
_MAIN = (
    "a photo of {an}.",
    "a picture of {an} among other things.",
    "{an} in the middle of clutter.",
    "there is {an} in this picture.",
    "this is {an}.",
    "a close view of {an}.",
    "one {n} on a busy background.",
    "you can see {an} here.",
    "the {n} is the main object.",
    "{an} is the largest thing in the picture.",
    "an image that shows {an}.",
    "small things lie around {an}.",
)
# {p} {c} {s}: words for pattern, colour and shape; {as}, {ac}, {ap}: with article; {w}: noun phrase of the pattern.
_REPHRASED = (
    "{as} that is {c} and has {w}.",
    "{as} that is {p} and {c}.",
    "{ac} {s} with {w}.",
    "something {c} and {p} in the form of {as}.",
    "the {s} is {c}, its surface is {p}.",
    "{ap} thing, shaped like {as}, in {c}.",
    "{ac} object with {w}, namely {as}.",
    "{ap} {s}, coloured {c}.",
    "it is {c}, it is {p}, and it is {as}.",
)
# Sentences that leave attributes out, with the attributes that they do mention.
_PARTIAL = (
    ("{ac} thing.", "c"),
    ("{ac} {s}.", "cs"),
    ("{as}.", "s"),
    ("a photo of {as}.", "s"),
    ("{ap} {s}.", "ps"),
    ("{ap} thing.", "p"),
    ("{ap} {c} thing.", "pc"),
    ("something with {w}.", "p"),
    ("something {c} with {w}.", "pc"),
)


def _rephrase(template: str, kind: Kind, pattern: str, colour: str, shape: str) -> str:
    articles = {"as": with_article(shape), "ac": with_article(colour), "ap": with_article(pattern)}
    return template.format(p=pattern, c=colour, s=shape, w=PATTERN_PHRASES[kind.pattern], **articles)


def descriptions(names: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Sentences for classes of either vocabulary: ``{"main": {name: [12]}, "noise": {name: [9]}}``.

    Main sentences contain the class name; noise sentences say the same in other words and another order. All sentences
    are distinct. Deterministic. Raises :class:`UserError` for a name that is no toy-world class.
    """
    main: dict[str, list[str]] = {}
    noise: dict[str, list[str]] = {}
    for name in names:
        kind = parse_name(name)
        plain = name.replace("_", " ")
        used = plain.lower().split()
        main[name] = [t.format(n=plain, an=with_article(plain)) for t in _MAIN]
        other = [
            [word for word in words if word not in used] or list(words)
            for words in (PATTERNS[kind.pattern], COLOURS[kind.colour], SHAPES[kind.shape])
        ]
        noise[name] = [
            _rephrase(t, kind, *(words[i % len(words)] for words in other)) for i, t in enumerate(_REPHRASED)
        ]
    return {"main": main, "noise": noise}


def random_caption(kind: Kind, rng: random.Random) -> tuple[str, str]:
    """Draw a caption for pretraining and the attributes that it mentions, letters out of ``"pcs"``.

    Half of the words are plain names; 15 % of the captions leave out one or two attributes.
    """

    def word(concepts: Mapping[str, tuple[str, ...]], concept: str) -> str:
        words = concepts[concept]
        return words[0] if rng.random() < 0.5 else rng.choice(words)

    words = word(PATTERNS, kind.pattern), word(COLOURS, kind.colour), word(SHAPES, kind.shape)
    draw = rng.random()
    if draw < 0.15:
        template, mentioned = rng.choice(_PARTIAL)
        return _rephrase(template, kind, *words), mentioned
    name = " ".join(words)
    if draw < 0.25:
        return name, "pcs"
    if draw < 0.45:
        return f"a photo of a {name}.", "pcs"
    if draw < 0.75:
        return rng.choice(_MAIN).format(n=name, an=with_article(name)), "pcs"
    return _rephrase(rng.choice(_REPHRASED), kind, *words), "pcs"


def all_words() -> list[str]:
    """Every word and template text of the grammar, as material for a tokenizer."""
    synonyms = [w for table in (PATTERNS, COLOURS, SHAPES) for words in table.values() for w in words]
    fill: Callable[[str], str] = lambda t: t.replace("{", " ").replace("}", " ")  # noqa: E731
    return (
        synonyms + list(PATTERN_PHRASES.values()) + [fill(t) for t in (*_MAIN, *_REPHRASED, *(t for t, _ in _PARTIAL))]
    )
