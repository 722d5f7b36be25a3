"""Tables of a single measure laid out as the paper prints them: a row per method, a column per data set."""

from __future__ import annotations

import re
from collections.abc import Sequence

from anprompt.results.tables import SOURCE, Column, Kind, Row, Table

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
    averaged = {row.group: row.of != "single" for row in table.rows}
    groups = sorted(averaged, key=lambda group: averaged[group])  # stable
    by_place = {(row.label, row.group): row for row in table.rows}
    rows = []
    for label in dict.fromkeys(row.label for row in table.rows):
        own = {group: by_place[label, group] for group in groups if (label, group) in by_place}
        cells = {group: row.cells["accuracy"] for group, row in own.items()}
        best = frozenset(group for group, row in own.items() if row.best)
        rows.append(Row(label, _seeds(list(own.values())), cells, best))
        for key, (name, kind) in BENEATH.items():
            beneath = {group: row.cells.get(key) for group, row in own.items()}
            if any(cell is not None for cell in beneath.values()):
                rows.append(Row(label, name, beneath, frozenset(), kind))
    columns = tuple(Column(group, *_heading(group, averaged[group])) for group in groups)
    return table.with_layout((table.heads[1], ""), columns, tuple(rows))


def _heading(group: str, averaged: bool) -> tuple[str, Kind, str]:
    """Heading, kind, and the heading above: averages in two lines, and the source marked."""
    if group.endswith(SOURCE):
        return group.removesuffix(SOURCE), "value", "source"
    above, _, below = group.partition(" ") if averaged else ("", "", group)
    return below, "value", above


def _seeds(rows: Sequence[Row]) -> str:
    counts = [int(count) for row in rows for count in re.findall(r"\d+", str(row.cells["seeds"] or ""))]
    if not counts:
        return ""
    return f"n = {min(counts)}" if min(counts) == max(counts) else f"n = {min(counts)}-{max(counts)}"
