"""Terminal output: results to stdout, progress and notes to stderr."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

UNLIMITED = 100_000  # columns of a file or a pipe: one row stays one line
PAGE = 100  # columns of a table in a file or a pipe that a person will read
PLAIN_SECONDS = 10
SHORT = {"total": "loss", "cross_entropy": "ce", "similarity": "sim", "weak_alignment": "wa"}


def say(text: str = "") -> None:
    """Print a line of a result to stdout."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """Print something worth knowing to stderr."""
    sys.stderr.write(f"note: {text}\n")


def print_json(document: Any) -> None:
    """Print one JSON document to stdout, and nothing else."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    say(json.dumps(document, indent=2, ensure_ascii=plain))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Sequence[str] = ()) -> None:
    """Print a table to stdout; columns named in ``numeric`` are aligned right and never broken.

    In a terminal, long cells continue on the next line; in files and pipes every row is one line.
    """
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        is_number = column in numeric
        grid.add_column(
            Text(column), justify="right" if is_number else "left", no_wrap=is_number, overflow="fold"
        )  # "fold": cells are cut nowhere
    for row in rows:
        grid.add_row(*(Text(str(cell)) for cell in row))  # as it is: [cat] is no markup and :cat: no emoji
    console = Console(width=None if narrow else UNLIMITED)
    with console.capture() as printed:
        console.print(grid)
    if title:
        say(f"{title}\n")
    say("\n".join(line.rstrip() for line in printed.get().splitlines()) + "\n")


def width_and_style() -> tuple[int, bool]:
    """The terminal's columns and whether it shows bold; 100 and no for files and pipes."""
    terminal = sys.stdout.isatty()
    sized = terminal or "COLUMNS" in os.environ
    columns = shutil.get_terminal_size((PAGE, 24)).columns if sized else PAGE
    return columns, terminal and not Console().is_dumb_terminal


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print ``name   value`` lines to stdout; lists are joined, ``None`` is shown as a dash."""
    shown = [(name, ", ".join(map(str, value)) if isinstance(value, list) else value) for name, value in pairs]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        say(f"{name:{width}}  {'–' if value in (None, '') else value}")


def _numbers(terms: dict[str, float]) -> str:
    """Where the run is, then loss terms, in short form."""
    left = dict(terms)
    parts = [f"epoch {int(left.pop('epoch'))}"] if "epoch" in left else []
    if "rate" in left:
        parts.append(f"rate {left.pop('rate'):.3g}")
    return "  ".join([*parts, *(f"{SHORT.get(name, name)} {value:.3g}" for name, value in left.items())])


class _Bars(Progress):
    """One bar per stage, and below them the latest numbers in a line of their own."""

    numbers = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.numbers:
            yield Text(self.numbers, no_wrap=True, overflow="ellipsis")


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int, dict[str, float]], None]]:
    """Give a function (stage, done, total, numbers) that shows one bar per stage, with numbers and remaining time.

    Where stderr is not a terminal, it prints a plain line per stage at most every ten seconds.
    """
    err = Console(stderr=True)
    if not err.is_terminal or err.is_dumb_terminal:
        last: dict[str, float] = {}

        def plain(stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
            now = time.monotonic()
            if done == total or now - last.setdefault(stage, now) > PLAIN_SECONDS:
                last[stage] = now
                sys.stderr.write(f"{stage}: {done}/{total}  {_numbers(numbers)}".rstrip() + "\n")
                sys.stderr.flush()

        yield plain
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
        TimeRemainingColumn(), TextColumn("left"),
    )  # fmt: skip
    with _Bars(*columns, console=err) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.numbers = _numbers(numbers)
            bars.update(tasks[stage], completed=done, total=total)

        yield show
