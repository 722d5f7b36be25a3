"""A sentence as words, with the class name set apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NAME = "\0"  # stands for the class name


def amount(strength: float, count: int) -> int:
    """How many of ``count`` things a strategy touches: none at strength 0, at least one above, all at 1."""
    return min(count, max(1, round(strength * count))) if strength > 0 else 0


class Words:
    """The words of a sentence. ``free`` are the indices of those that a strategy may touch: not the class name's.

    protect: whether the class name is set apart at all.
    """

    def __init__(self, sentence: str, class_name: str, *, protect: bool = True) -> None:
        self.sentence, self.class_name, self.protect = sentence, class_name, protect
        plain = sentence.replace(_NAME, " ")
        pattern = re.compile(re.escape(class_name), re.IGNORECASE)
        hidden = protect and bool(class_name)
        self._names = pattern.findall(plain) if hidden else []
        self.words = (pattern.sub(_NAME, plain) if hidden else plain).split()
        self.free = [i for i, word in enumerate(self.words) if _NAME not in word]

    def text(self) -> str:
        """The sentence with all changes."""
        names = iter(self._names)  # no strategy changes their number
        return re.sub(_NAME, lambda _: next(names), " ".join(self.words))

    def core(self, index: int) -> str:
        """A word without the punctuation around it, in lower case."""
        return self.words[index].strip(".,;:").lower()

    def replace(self, index: int, other: str) -> None:
        """Put another word in the place of word ``index`` and keep the punctuation around it."""
        core = re.escape(self.core(index))
        self.words[index] = re.sub(core, lambda _: other, self.words[index], count=1, flags=re.IGNORECASE)

    def move(self, to: Sequence[int], frm: Sequence[int]) -> None:
        """Put the words at ``frm`` to the places ``to``."""
        moved = [self.words[i] for i in frm]
        for i, word in zip(to, moved, strict=True):
            self.words[i] = word
