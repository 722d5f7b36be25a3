"""The paper's tables from results: as data first, rendered elsewhere.

I     base-to-new            base, new and harmonic mean of each data set, and averages
II    cross-dataset          accuracy on the source and on each target, and the average over targets
III   domain-generalisation  the same
6     few-shot               accuracy over shots of each data set, and the average (the paper's Figure 6)
IV–XI ablations of ANPrompt; any other ablation by its own name
1     X, and beside it DAPT, which filters noise (the paper's Figure 1)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from anprompt.results.collect import Result
from anprompt.results.grid import (
    Grid,
    Line,
    Scope,
    Value,
    ablation_options,
    average,
    build_grid,
    summary,
    title_of,
)
from anprompt.results.notes import notes_under
from anprompt.results.paper import (
    AVERAGE,
    LARGEST_EFFECT,
    PAPERS_SOURCE,
    Cells,
    ablation_cells,
    beside_cells,
    eleven,
    paper_average,
    paper_cells,
    paper_tables,
)

HEADS = {"accuracy": "accuracy", "base": "base", "new": "new", "hm": "HM"}
SOURCE = " (source)"  # ends the name of the data set that transferred methods were trained on
Kind = Literal["count", "value", "paper", "difference"]
Of = Literal["average", "without", "source", "single"]  # what a block of rows is of
AVERAGES = ("average", "without")  # over all data sets, and over those without the one that gains most
Cell = Value | float | str | None


@dataclass(frozen=True)
class Column:
    """``key`` is unique; ``over`` is a heading above ``head``; ``extra`` columns are left out where space is short."""

    key: str
    head: str
    kind: Kind
    over: str = ""
    extra: bool = False


@dataclass(frozen=True)
class Row:
    """One line of one group; ``best`` are the keys of the columns in which no other line of the group is better.

    ``kind`` is that of all cells where it is not the columns'. ``of``: what the group is.
    """

    group: str
    label: str
    cells: Mapping[str, Cell]
    best: frozenset[str]
    kind: Kind | None = None
    of: Of = "single"

    @property
    def block(self) -> tuple[Of, str]:
        """What tells its group apart from all others: data of one's own may be called like an average."""
        return self.of, self.group


@dataclass(frozen=True)
class Table:
    """A table as data. Per cents everywhere; ``heads`` name the groups and the lines of a group."""

    name: str
    title: str
    heads: tuple[str, str]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    scope: Scope
    grid: Grid
    measures: tuple[str, ...]

    def with_notes(self, *notes: str) -> Table:
        """The same table with further notes, the first ones."""
        return replace(self, notes=(*notes, *self.notes))

    def with_layout(self, heads: tuple[str, str], columns: tuple[Column, ...], rows: tuple[Row, ...]) -> Table:
        """The same content in other columns and rows."""
        return replace(self, heads=heads, columns=columns, rows=rows)

    def to_json(self) -> dict[str, Any]:
        """A JSON document with all digits."""

        def plain(cell: Cell) -> Any:
            return {"mean": cell.mean, "sd": cell.sd} if isinstance(cell, Value) else cell

        rows = [
            {self.heads[0]: row.group, self.heads[1]: row.label, "best": sorted(row.best)}
            | {key: plain(cell) for key, cell in row.cells.items()}
            for row in self.rows
        ]
        return {"name": self.name, "title": self.title, "rows": rows, "notes": list(self.notes)}


@dataclass(frozen=True)
class Block:
    """The rows of one data set, or of an average over several."""

    title: str
    data_sets: tuple[str, ...]
    of: Of


def build_table(name: str, scope: Scope, results: Sequence[Result], left_out: Sequence[str] = ()) -> Table:
    """Build the table of one protocol.

    name: as the user calls it. results: at least one, all of this scope and of one backbone. left_out: notes about
    results that do not count.

    Raises:
        UserError: two results belong into one cell.
    """
    if scope.protocol == "few-shot":
        grid = build_grid(results, _shots)
        measures = sorted(grid.measures, key=int)
    else:
        grid = build_grid(results, _measure, scope.ablation)
        measures = ["accuracy"] if grid.measures == ["accuracy"] else ["base", "new", "hm"]
    paper = {line.label: _paper_cells(scope, line) for line in grid.lines}
    common = grid.common(measures, scope.source)
    rows = [row for block in _blocks(grid, common, scope) for row in _rows(grid, block, measures, paper, scope)]
    columns = [column for column in _columns(measures, scope) if _is_used(column, rows)]
    beside = any(column.kind == "paper" for column in columns)
    options = ablation_options(results, scope.ablation) if scope.ablation is not None else []
    return Table(
        name=name,
        title=_title(scope),
        heads=("data set", " / ".join(options) or "method"),
        columns=tuple(columns),
        rows=tuple(rows),
        notes=(*notes_under(scope, results, grid, common, beside), *left_out),
        scope=scope,
        grid=grid,
        measures=tuple(measures),
    )


def _measure(result: Result) -> str:
    return "accuracy" if result.target_subset == "all" else result.target_subset


def _shots(result: Result) -> str:
    return "0" if result.seed is None else str(result.shots)


def _title(scope: Scope) -> str:
    ablation, source = scope.ablation, title_of(scope.source or "")
    known = paper_tables()["ablations"].get(ablation)
    whole = {
        "ablation": f"Table {ablation}: {known['title']}" if known else f"Ablation {ablation}",
        "beside": "Figure 1 as a table: kinds of noise, and a method that filters it",
        "base-to-new": "Table I: base-to-new generalisation, trained on the base classes",
        "cross-dataset": f"Table II: cross-dataset transfer from {source}",
        "domain-generalisation": f"Table III: domain generalisation from {source}",
        "few-shot": "Figure 6 as a table: accuracy over shots",
    }
    return f"{whole['beside' if scope.beside else scope.protocol]} (accuracy in %)"


def _paper_cells(scope: Scope, line: Line) -> Cells:
    """The paper's values for a line; those of the few-shot figure stand in a note instead.

    Transfers compare only if they are from the paper's own source.
    """
    if scope.ablation is not None:
        own = line.method == "anprompt"
        return ablation_cells(scope.ablation, line.variant) if own else beside_cells(scope.ablation, line.method)
    if scope.protocol == "few-shot" or scope.source not in (None, PAPERS_SOURCE):
        return {}
    return paper_cells(scope.protocol, line.method)


def _blocks(grid: Grid, common: tuple[str, ...], scope: Scope) -> list[Block]:
    """Averages first, as in the paper, then the source, then each data set."""
    blocks = [Block(f"average of {len(common)}", common, "average")] if len(common) > 1 else []
    rest = tuple(data_set for data_set in common if data_set != LARGEST_EFFECT)
    if len(common) > len(rest) > 1:
        blocks.append(Block(f"without {title_of(LARGEST_EFFECT)}", rest, "without"))
    for data_set in sorted(grid.data_sets, key=lambda data_set: data_set != scope.source):  # stable: the source first
        if data_set == scope.source:
            blocks.append(Block(title_of(data_set) + SOURCE, (data_set,), "source"))
        else:
            blocks.append(Block(title_of(data_set), (data_set,), "single"))
    return blocks


def _columns(measures: Sequence[str], scope: Scope) -> list[Column]:
    if scope.protocol == "few-shot":
        return [Column(shots, f"{shots} shot{'s' * (shots != '1')}", "value") for shots in measures]
    last = measures[-1]
    return [
        Column("seeds", "n", "count"),
        *(Column(name, HEADS[name], "value") for name in measures),
        *(Column(f"paper_{name}", HEADS[name], "paper", "paper") for name in measures),
        *(Column(f"difference_{name}", HEADS[name], "difference", "Δ", extra=name != last) for name in measures),
    ]


def _is_used(column: Column, rows: Sequence[Row]) -> bool:
    """Whether a column holds anything; the paper's components, for one, only have HM."""
    return column.kind in ("count", "value") or any(row.cells.get(column.key) is not None for row in rows)


def _rows(grid: Grid, block: Block, measures: Sequence[str], paper: Mapping[str, Cells], scope: Scope) -> list[Row]:
    """The rows of one block, without lines that have nothing there."""
    values: dict[str, dict[str, Value]] = {}
    for line in grid.lines:
        found = {measure: _value(grid, block, line, measure) for measure in measures}
        if any(found.values()):
            values[line.label] = {measure: value for measure, value in found.items() if value is not None}
    best = _best(values, measures)
    rows = []
    for line in (line for line in grid.lines if line.label in values):
        printed, compares = _printed(grid, block, paper[line.label], scope)
        cells: dict[str, Cell] = {"seeds": _count(grid, block, line, measures), **values[line.label]}
        for measure, ours in values[line.label].items():
            theirs = cells[f"paper_{measure}"] = printed.get(measure)
            if theirs is not None and compares:
                cells[f"difference_{measure}"] = ours.mean - theirs
        rows.append(Row(block.title, line.label, cells, best[line.label], of=block.of))
    return rows


def _value(grid: Grid, block: Block, line: Line, measure: str) -> Value | None:
    if block.of not in AVERAGES:
        return summary(grid.by_seed(block.data_sets[0], line, measure))
    return average(grid, block.data_sets, line, measure)


def _best(values: Mapping[str, Mapping[str, Value]], measures: Sequence[str]) -> dict[str, frozenset[str]]:
    """By line, the measures in which it is the best of several; equal as printed is equally good."""
    best: dict[str, set[str]] = {label: set() for label in values}
    for measure in measures:
        printed = {label: round(row[measure].mean, 2) for label, row in values.items() if measure in row}
        if len(printed) > 1:
            highest = max(printed.values())
            for label, number in printed.items():
                if number == highest:
                    best[label].add(measure)
    return {label: frozenset(names) for label, names in best.items()}


def _printed(grid: Grid, block: Block, cells: Cells, scope: Scope) -> tuple[Mapping[str, float], bool]:
    """The paper's values for a block, and whether they are of the same data sets as ours."""
    if scope.ablation is not None:  # only averages over the paper's eleven are printed
        whole = block.of == "average" or len(grid.data_sets) == 1
        return cells.get(AVERAGE, {}) if whole else {}, set(block.data_sets) == eleven()
    if block.of not in AVERAGES:
        return cells.get(block.data_sets[0], {}), True
    return paper_average(cells, block.data_sets, scope.source), True


def _count(grid: Grid, block: Block, line: Line, measures: Sequence[str]) -> str | None:
    """The number of seeds behind a row, as 2-3 where it differs within; None where nothing is drawn."""
    cells = [grid.by_seed(data_set, line, measure) for data_set in block.data_sets for measure in measures]
    found = [by_seed for by_seed in cells if by_seed]
    if any(None in by_seed for by_seed in found):
        return None
    low, high = (pick(map(len, found)) for pick in (min, max))
    return str(low) if low == high else f"{low}-{high}"
