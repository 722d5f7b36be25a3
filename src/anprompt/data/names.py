"""Names of classes where two classes may share one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def distinct_names(classes: Sequence[str]) -> list[str]:
    """One name per class, for tables and records: of classes that share a name, later ones get a number behind it."""
    seen: Counter[str] = Counter()
    distinct: list[str] = []
    for name in classes:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return distinct
