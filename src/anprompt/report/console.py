"""Terminal output: results to stdout, progress and notes to stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(document: Any) -> None:
    """Print one JSON document to stdout, and nothing else."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], numeric: Sequence[str] = ()) -> None:
    """Print a table to stdout; columns named in ``numeric`` are aligned right."""
    grid = Table(title=title or None, title_justify="left", title_style="bold")
    for column in columns:
        grid.add_column(column, justify="right" if column in numeric else "left")
    for row in rows:
        grid.add_row(*(str(cell) for cell in row))
    out.print(grid)


def _numbers(terms: dict[str, float]) -> str:
    """Loss terms in a fixed order and short form."""
    short = {"total": "loss", "cross_entropy": "ce", "similarity": "sim", "weak_alignment": "wa", "rate": "lr"}
    shown = {short.get(name, name): value for name, value in terms.items()}
    epoch = f"epoch {int(shown.pop('epoch'))}  " if "epoch" in shown else ""
    return epoch + "  ".join(f"{name} {value:.3g}" for name, value in shown.items())


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int, dict[str, float]], None]]:
    """Give a function (stage, done, total, numbers) that shows one bar per stage, with numbers and remaining time.

    Where stderr is not a terminal, it prints a plain line per stage at most every ten seconds.
    """
    if not err.is_terminal:
        last: dict[str, float] = {}

        def plain(stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
            now = time.monotonic()
            if done == total or now - last.setdefault(stage, now) > 10:
                last[stage] = now
                err.print(f"{stage}: {done}/{total}  {_numbers(numbers)}", soft_wrap=True)

        yield plain
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"),
    )  # fmt: skip
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, numbers="")
            bars.update(tasks[stage], completed=done, total=total, numbers=_numbers(numbers))

        yield show
