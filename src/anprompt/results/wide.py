"""Tables of a single measure laid out as the paper prints them: a row per method, a column per data set."""

from __future__ import annotations

import re
from collections.abc import Sequence

from anprompt.results.tables import AVERAGES, SOURCE, Column, Kind, Row, Table

BENEATH: dict[str, tuple[str, Kind]] = {
    "paper_accuracy": ("paper", "paper"),
    "difference_accuracy": ("Δ", "difference"),
}


def wide(table: Table) -> Table | None:
    """The same table with data sets as columns, averages last; the paper's values and the differences are rows.

    None for tables of several measures, which have no such form.
    """
    if table.measures != ("accuracy",):
        return None
    blocks = {_key(row): row for row in table.rows}  # of each, one of its rows
    keys = sorted(blocks, key=lambda key: blocks[key].of in AVERAGES)  # stable
    by_place = {(row.label, _key(row)): row for row in table.rows}
    rows = []
    for label in dict.fromkeys(row.label for row in table.rows):
        own = {key: by_place[label, key] for key in keys if (label, key) in by_place}
        cells = {key: row.cells["accuracy"] for key, row in own.items()}
        best = frozenset(key for key, row in own.items() if row.best)
        rows.append(Row(label, _seeds(list(own.values())), cells, best))
        for measure, (name, kind) in BENEATH.items():
            beneath = {key: row.cells.get(measure) for key, row in own.items()}
            if any(cell is not None for cell in beneath.values()):
                rows.append(Row(label, name, beneath, frozenset(), kind))
    columns = tuple(Column(key, *_heading(blocks[key])) for key in keys)
    return table.with_layout((table.heads[1], ""), columns, tuple(rows))


def _key(row: Row) -> str:
    """Of the column that a row comes into."""
    return " ".join(row.block)


def _heading(row: Row) -> tuple[str, Kind, str]:
    """Heading, kind, and the heading above: averages in two lines, and the source marked."""
    if row.of == "source":
        return row.group.removesuffix(SOURCE), "value", "source"
    above, _, below = row.group.partition(" ") if row.of in AVERAGES else ("", "", row.group)
    return below, "value", above


def _seeds(rows: Sequence[Row]) -> str:
    counts = [int(count) for row in rows for count in re.findall(r"\d+", str(row.cells["seeds"] or ""))]
    if not counts:
        return ""
    return f"n = {min(counts)}" if min(counts) == max(counts) else f"n = {min(counts)}-{max(counts)}"
