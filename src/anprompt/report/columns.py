"""How a table is fitted into a terminal: text is wrapped, spreads go below their numbers, then columns are left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

GAP = 2  # characters between columns
WORD = 24  # a longer word may be continued on the next line of a terminal
SCRAP = 8  # characters that a text column keeps where nothing else helps
SPREAD = re.compile(r" (?=\[|± )")  # what follows says how sure the number before it is


@dataclass(frozen=True)
class Grid:
    """Heads and cells as text; ``numeric`` columns are aligned right and never broken.

    spare: columns that may be left out, the least important first; all others always stay.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()
    spare: tuple[str, ...] = ()

    def columns(self) -> list[tuple[str, ...]]:
        """The cells of each column."""
        return list(zip(*self.rows, strict=True)) if self.rows else [() for _ in self.heads]

    def least(self, longest: int | None = None) -> list[int]:
        """Characters that each column needs; words of texts may be broken where they are longer than ``longest``."""
        needed = []
        for head, cells in zip(self.heads, self.columns(), strict=True):
            is_number = head in self.numeric
            parts = [part for cell in cells for part in (cell.split("\n") if is_number else cell.split())]
            characters = max([1, *map(cell_len, [*head.split(), *parts])])
            needed.append(characters if longest is None or is_number else min(characters, longest))
        return needed

    def most(self) -> list[int]:
        """Characters of each column where every cell is in one line."""
        return [
            max([1, *(cell_len(line) for cell in (head, *cells) for line in cell.split("\n"))])
            for head, cells in zip(self.heads, self.columns(), strict=True)
        ]

    def beneath(self) -> Grid:
        """With the spread of each number on a line of its own."""
        return self._with_numbers(lambda cell: SPREAD.sub("\n", cell, count=1))

    def bare(self) -> Grid:
        """Without the spreads."""
        return self._with_numbers(lambda cell: SPREAD.split(cell, maxsplit=1)[0])

    def without(self, names: Sequence[str]) -> Grid:
        """Without the columns that are called so."""
        kept = [i for i, head in enumerate(self.heads) if head not in names]
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return replace(self, heads=tuple(self.heads[i] for i in kept), rows=rows)

    def _with_numbers(self, change: Callable[[str], str]) -> Grid:
        numbers = [head in self.numeric for head in self.heads]
        rows = [[change(cell) if of else cell for cell, of in zip(row, numbers, strict=True)] for row in self.rows]
        return replace(self, rows=tuple(map(tuple, rows)))


def fitted(grid: Grid, width: int) -> tuple[Table, str]:
    """The table in ``width`` characters, and a sentence about what is left out, empty if nothing is.

    What is tried, in this order: to wrap texts between words; to put spreads below their numbers; to leave out spare
    columns; to leave out spreads instead; to leave out both; to break words.
    """
    below, bare = grid.beneath(), grid.bare()
    some = [grid.spare[: count + 1] for count in range(len(grid.spare))]
    forms = [grid, below, *map(below.without, some), bare, *map(bare.without, some)]
    chosen = next((form for form in forms if total(form.least(WORD)) <= width), forms[-1])
    left_out = [f"'{head}'" for head in grid.heads if head not in chosen.heads]
    if chosen in forms[len(some) + 2 :] and bare != grid:
        left_out.append("the intervals" if any("[" in cell for row in grid.rows for cell in row) else "what follows ±")
    least = chosen.least(WORD)
    if total(least) > width:
        smallest = [n if head in grid.numeric else min(n, SCRAP) for n, head in zip(least, chosen.heads, strict=True)]
        least = grown(smallest, least, width)
    note = ""
    if left_out:
        listed = " and ".join([", ".join(left_out[:-1]), left_out[-1]] if left_out[1:] else left_out)
        note = (
            f"Left out here: {listed}; a terminal of {total(below.least(WORD))} columns shows all, and so does --json."
        )
    return drawn(chosen, grown(least, chosen.most(), width)), note


def unbroken(grid: Grid, width: int) -> Table:
    """The table in ``width`` characters, or more if words and numbers need it: nothing is broken or left out.

    Only long texts go over several lines, so that a class name stays beside its number for whoever reads line by line.
    """
    short = [max([1, *(n for cell in cells if (n := cell_len(cell)) <= WORD)]) for cells in grid.columns()]
    least = [max(pair) for pair in zip(grid.least(), short, strict=True)]
    return drawn(grid, grown(least, grid.most(), width))


def total(widths: Sequence[int]) -> int:
    """Characters of a line."""
    return sum(widths) + GAP * (len(widths) - 1)


def grown(least: Sequence[int], most: Sequence[int], width: int) -> list[int]:
    """Widths of the columns: from ``least`` on, the narrowest first, until ``most`` or until the line is full."""
    widths = list(least)
    for _ in range(width - total(widths)):
        short = [i for i, own in enumerate(widths) if own < most[i]]
        if not short:
            break
        widths[min(short, key=widths.__getitem__)] += 1
    return widths


def drawn(grid: Grid, widths: Sequence[int]) -> Table:
    """The table with columns of these widths."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for head, characters in zip(grid.heads, widths, strict=True):
        justify: Literal["right", "left"] = "right" if head in grid.numeric else "left"
        table.add_column(Text(head), justify=justify, width=characters, overflow="fold")
    for row in grid.rows:
        table.add_row(*map(Text, row))  # as it is: [cat] is no markup and :cat: no emoji
    return table
