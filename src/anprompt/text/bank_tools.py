"""What is done with whole banks: merge, remove repeated sentences, split, and look for what is wrong."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from anprompt.text.bank import DescriptionBank
from anprompt.text.bank_files import KINDS


def merge_banks(*banks: DescriptionBank) -> DescriptionBank:
    """All sentences of all ``banks``, in their order, repeated ones included."""
    parts: dict[str, dict[str, list[str]]] = {kind: {} for kind in KINDS}
    for bank in banks:
        for kind in KINDS:
            for name, sentences in getattr(bank, kind).items():
                parts[kind].setdefault(name, []).extend(sentences)
    return DescriptionBank(parts["main"], parts["noise"], " + ".join(dict.fromkeys(bank.source for bank in banks)))


def pair_banks(main: DescriptionBank, noise: DescriptionBank) -> DescriptionBank:
    """A bank with the main sentences of one and, as noise, all sentences of the other."""
    pooled = merge_banks(DescriptionBank(noise.noise), DescriptionBank(noise.main)).main
    return DescriptionBank(main.main, pooled, f"{main.source} + {noise.source}")


def deduplicate(bank: DescriptionBank) -> DescriptionBank:
    """Without sentences that their class has already, in either kind; case and spaces make no difference to CLIP."""
    seen: dict[str, set[str]] = {}
    parts: dict[str, dict[str, list[str]]] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        for name, sentences in getattr(bank, kind).items():
            known = seen.setdefault(name, set())
            for sentence in sentences:
                if _plain(sentence) not in known:
                    known.add(_plain(sentence))
                    parts[kind].setdefault(name, []).append(sentence)
    return replace(bank, main=parts["main"], noise=parts["noise"])


def split_bank(bank: DescriptionBank, seed: int, share: float = 0.5) -> DescriptionBank:
    """Main and noise sentences out of one bank: of each class, a ``share`` (0 to 1) drawn from ``seed`` becomes noise.

    Noise sentences that are there already are drawn from too. A class keeps at least one main sentence; the order of
    the sentences stays. The draw of a class depends on nothing but its own sentences, its name and the seed.
    """
    pool = deduplicate(merge_banks(DescriptionBank(bank.main), DescriptionBank(bank.noise))).main
    main: dict[str, list[str]] = {}
    noise: dict[str, list[str]] = {}
    for name, sentences in pool.items():
        count = min(round(share * len(sentences)), len(sentences) - 1)
        drawn = set(random.Random(f"{seed}/{name}").sample(range(len(sentences)), count))
        main[name] = [s for i, s in enumerate(sentences) if i not in drawn]
        if drawn:
            noise[name] = [s for i, s in enumerate(sentences) if i in drawn]
    return DescriptionBank(main, noise, f"{bank.source}, split with seed {seed}")


@dataclass(frozen=True)
class BankReport:
    """What :func:`check_bank` found. Sentences are given as ``{"kind", "class", "sentence"}``.

    too_long: with ``tokens``; no backbone can read them. unnamed: do not name their class. shared: with ``classes``,
    several that have one sentence. repeated: a sentence that its class has twice. without: classes without a main
    sentence. unknown: keys of the bank that are no class, with the ``nearest`` class or None.
    """

    classes: int
    sentences: dict[str, int]
    too_long: list[dict[str, Any]] = field(default_factory=list)
    unnamed: list[dict[str, str]] = field(default_factory=list)
    shared: list[dict[str, Any]] = field(default_factory=list)
    repeated: list[dict[str, str]] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    unknown: list[dict[str, str | None]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_bank(
    bank: DescriptionBank, classes: Sequence[str], tokens: Callable[[str], int] | None = None, context: int = 77
) -> BankReport:
    """Look for what is wrong with the sentences of ``classes``.

    tokens: counts the tokens of a sentence, start and end included; ``context``: the most that the text tower reads.
    """
    parts: Mapping[str, Mapping[str, Sequence[str]]] = {kind: getattr(bank, kind) for kind in KINDS}
    report = BankReport(len(classes), {kind: sum(map(len, part.values())) for kind, part in parts.items()})
    report.without.extend(name for name in dict.fromkeys(classes) if not bank.main.get(name))
    for key in dict.fromkeys([*bank.main, *bank.noise]):
        if key not in classes:
            near = get_close_matches(_plain(key), by_plain := {_plain(name): name for name in classes}, n=1)
            report.unknown.append({"key": key, "nearest": by_plain[near[0]] if near else None})
    owners: dict[str, list[str]] = {}
    for kind, part in parts.items():
        for name, sentences in part.items():
            seen: set[str] = set()
            for sentence in sentences:
                where = {"kind": kind, "class": name, "sentence": sentence}
                plain = _plain(sentence)
                if tokens is not None and (count := tokens(sentence)) > context:
                    report.too_long.append({**where, "tokens": count})
                if not names_class(sentence, name):
                    report.unnamed.append(where)
                if plain in seen:
                    report.repeated.append(where)
                seen.add(plain)
                own = owners.setdefault(plain, [])
                if name not in own:
                    own.append(name)
                    if len(own) == 2:
                        report.shared.append({"sentence": sentence, "classes": own})
    return report


def names_class(sentence: str, name: str) -> bool:
    """Whether ``sentence`` has the words of ``name`` in it, whatever their case, hyphens and endings."""
    return f" {_letters(name)}" in f" {_letters(sentence)}"


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def _letters(text: str) -> str:
    return " ".join(re.split(r"[\W_]+", unicodedata.normalize("NFC", text).lower())).strip()
