"""Strong text noise, the alternatives that the paper compares with (Figures 1 and 4, Table X).

Each strategy changes words of a sentence but never the class name, and is deterministic from its generator.
"""

from __future__ import annotations

import random
import re

MASK = "something"
STRENGTH = 0.3  # share of the words that a strategy touches; at least one

SYNONYMS = {
    "photo": "photograph", "picture": "image", "image": "picture", "small": "little", "large": "big", "big": "large",
    "often": "frequently", "usually": "typically", "typically": "usually", "has": "features", "shows": "displays",
    "bright": "vivid", "dark": "dim", "round": "circular", "long": "elongated", "area": "region", "region": "area",
    "many": "numerous", "various": "several", "several": "various", "thin": "slender", "wide": "broad",
    "seen": "visible", "contains": "includes", "includes": "contains", "made": "built", "covered": "coated",
    "green": "verdant", "smooth": "even", "near": "close to", "usual": "common", "common": "usual", "tall": "high",
}  # fmt: skip


def add_noise(sentence: str, class_name: str, strategy: str, rng: random.Random) -> str:
    """Return ``sentence`` with noise of one kind; the words of ``class_name`` stay as they are.

    strategy: ``"drop"`` leaves words out, ``"mask"`` puts a filler word in their place, ``"shuffle"`` reorders them,
    ``"synonym"`` replaces the words that the packaged list knows.
    """
    pattern = re.compile(re.escape(class_name), re.IGNORECASE)
    names = iter(pattern.findall(sentence))  # no strategy changes their order
    words = pattern.sub("\0", sentence).split()
    free = [i for i, word in enumerate(words) if "\0" not in word]
    if strategy == "synonym":
        for i in free:
            core = words[i].strip(".,;:").lower()
            if core in SYNONYMS:
                words[i] = re.sub(re.escape(core), SYNONYMS[core], words[i], count=1, flags=re.IGNORECASE)
    elif free:
        chosen = rng.sample(free, max(1, round(STRENGTH * len(free))))
        if strategy == "drop":
            words = [word for i, word in enumerate(words) if i not in chosen] or words
        elif strategy == "mask":
            words = [MASK if i in chosen else word for i, word in enumerate(words)]
        elif strategy == "shuffle":
            order = rng.sample(free, len(free))
            moved = dict(zip(free, (words[i] for i in order), strict=True))
            words = [moved.get(i, word) for i, word in enumerate(words)]
        else:
            raise ValueError(f"unknown noise strategy {strategy!r}")
    return re.sub("\0", lambda _: next(names), " ".join(words))
