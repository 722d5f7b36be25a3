"""The first version of text noise, word for word: adapters fitted with it are rebuilt through the same draws."""

from __future__ import annotations

import random
import re

from anprompt.text.noise import MASK, SYNONYMS

STRENGTH = 0.3


def first_noise(sentence: str, class_name: str, strategy: str, rng: random.Random) -> str:
    """``add_noise`` as it was when the first adapters were written."""
    pattern = re.compile(re.escape(class_name), re.IGNORECASE)
    names = iter(pattern.findall(sentence))
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
        else:
            order = rng.sample(free, len(free))
            moved = dict(zip(free, (words[i] for i in order), strict=True))
            words = [moved.get(i, word) for i, word in enumerate(words)]
    return re.sub("\0", lambda _: next(names), " ".join(words))
