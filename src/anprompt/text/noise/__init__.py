"""Text noise: ways in which people word one thing differently, mildly or badly (paper, Figures 1 and 4, Table X).

Every strategy is deterministic from a seed, changes nothing at strength 0, and keeps the class name as it is unless
told. Strategies of level ``"text"`` change sentences; ``weak`` changes features (Eq. 2).
"""

from __future__ import annotations

import random

from anprompt.errors import unknown_name
from anprompt.text.bank import Rewrite
from anprompt.text.noise.material import PACKAGED, SYNONYMS, Material, Synonyms, find_synonyms
from anprompt.text.noise.strategies import MASK, STRATEGIES, Strategy
from anprompt.text.noise.words import Words, amount

__all__ = [
    "MASK",
    "PACKAGED",
    "STRATEGIES",
    "STRENGTH",
    "SYNONYMS",
    "Material",
    "Strategy",
    "Synonyms",
    "add_noise",
    "find_strategy",
    "find_synonyms",
    "noisy",
    "rewriter",
]

STRENGTH = 0.3


def find_strategy(name: str) -> Strategy:
    """The strategy of that name; :class:`UserError` with the nearest name otherwise."""
    if name not in STRATEGIES:
        raise unknown_name("noise", name, STRATEGIES)
    return STRATEGIES[name]


def noisy(
    sentence: str,
    class_name: str,
    strategy: str,
    *,
    strength: float = STRENGTH,
    seed: int = 1,
    material: Material = PACKAGED,
    change_name: bool = False,
) -> str:
    """``sentence`` with noise of one kind; the same for the same arguments, on every machine.

    strength: 0 (nothing changes) to 1; what it means is said by ``STRATEGIES[strategy].strength``. change_name: also
    change the words of ``class_name``. Raises :class:`UserError` for an unknown strategy, ``ValueError`` for a strength
    out of range and for ``weak``, which has no sentence.
    """
    chosen = find_strategy(strategy)
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be between 0 and 1 (got {strength})")
    if chosen.level != "text":
        raise ValueError(f"'{strategy}' changes features, not sentences")
    if strength == 0:
        return sentence
    rng = random.Random(f"{seed}/{strategy}/{class_name}/{sentence}")
    return chosen.apply(Words(sentence, class_name, protect=not change_name), strength, rng, material)


def rewriter(
    strategy: str,
    *,
    strength: float = STRENGTH,
    seed: int = 1,
    material: Material = PACKAGED,
    change_name: bool = False,
) -> Rewrite:
    """:func:`noisy` as a function (class name, sentence) -> sentence, for ``DescriptionBank.reworded``."""

    def rewrite(name: str, sentence: str) -> str:
        return noisy(sentence, name, strategy, strength=strength, seed=seed, material=material, change_name=change_name)

    return rewrite


def add_noise(sentence: str, class_name: str, strategy: str, rng: random.Random) -> str:
    """Noise as ANPrompt's option ``noise_source`` draws it: drop, mask and shuffle at strength 0.3, all synonyms.

    Adapters are rebuilt from their sentences through this, so every draw of ``rng`` must stay as it is.
    """
    words = Words(sentence, class_name)
    if strategy == "synonym":
        return STRATEGIES[strategy].apply(words, 1.0, rng, PACKAGED)
    if strategy not in ("drop", "mask", "shuffle"):
        raise ValueError(f"unknown noise strategy {strategy!r}")
    if strategy != "shuffle":
        return STRATEGIES[strategy].apply(words, STRENGTH, rng, PACKAGED)
    if words.free:
        rng.sample(words.free, amount(STRENGTH, len(words.free)))  # unused, but a draw
        words.move(words.free, rng.sample(words.free, len(words.free)))  # all of them, unlike "shuffle" at 0.3
    return words.text()
