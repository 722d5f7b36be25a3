"""Print the base-to-new table of docs/results.md from evaluation records.

    python tools/base_to_new_table.py docs/records

Records are named ``METHOD-DATA-SEED-SUBSET.json`` (SEED ``0`` where nothing is drawn), as ``--record`` wrote them.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from anprompt.results import harmonic_mean


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation (n − 1) where there are several values."""
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def rows(folder: Path) -> list[str]:
    """Markdown rows: data, method, seeds, base, new and HM (the mean over seeds of each seed's HM)."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for path in sorted(folder.glob("*.json")):
        method, data, seed, subset = path.stem.rsplit("-", 3)
        found[data, method][seed][subset] = json.loads(path.read_text(encoding="utf-8"))["accuracy"]
    lines = ["| data | method | seeds | base | new | HM |", "|---|---|---|---|---|---|"]
    for (data, method), seeds in sorted(found.items()):
        whole = [both for both in seeds.values() if both.keys() == {"base", "new"}]
        if whole:
            base, new = ([both[subset] for both in whole] for subset in ("base", "new"))
            hm = [harmonic_mean(b, n) for b, n in zip(base, new, strict=True)]
            lines.append(f"| {data} | {method} | {len(whole)} | {spread(base)} | {spread(new)} | {spread(hm)} |")
    return lines


if __name__ == "__main__":
    sys.stdout.write("\n".join(rows(Path(sys.argv[1]))) + "\n")
