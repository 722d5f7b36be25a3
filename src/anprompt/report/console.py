"""Terminal output: results to stdout, progress and notes to stderr."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

PAGE = 100  # columns of a table in a file or a pipe
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


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:  # fmt: skip
    """Print a table to stdout; columns named in ``numeric`` are aligned right and never broken.

    spare: columns that a narrow terminal may leave out, the least important first; a line below says which. In files
    and pipes nothing is left out, and words stay whole.
    """
    from anprompt.report.columns import Grid, fitted, total, unbroken

    cells = tuple(tuple(map(str, row)) for row in rows)
    grid = Grid(tuple(columns), cells, frozenset(numeric), tuple(spare))
    width = width_and_style()[0]
    shown, left_out = fitted(grid, width) if is_narrow() else (unbroken(grid, width), "")
    console = Console(width=max(width, total([column.width or 0 for column in shown.columns])))
    with console.capture() as printed:
        console.print(shown)
    if title:
        say(f"{prose(title)}\n")
    say("\n".join(line.rstrip() for line in printed.get().splitlines()) + "\n")
    if left_out:
        say(f"{prose(left_out)}\n")


def is_narrow() -> bool:
    """Whether lines must fit into so many columns: in a terminal, or because somebody says so."""
    return sys.stdout.isatty() or "COLUMNS" in os.environ


def prose(text: str, indent: int = 0) -> str:
    """``text`` with line breaks between words where a terminal needs them; as it is for files and pipes.

    indent: spaces before the lines that follow the first.
    """
    width = width_and_style()[0]
    if not is_narrow() or len(text) <= width:
        return text
    following = " " * min(indent, width // 2)
    return textwrap.fill(text, width, subsequent_indent=following, break_long_words=False, break_on_hyphens=False)


def width_and_style() -> tuple[int, bool]:
    """The terminal's columns and whether it shows bold; 100 and no for files and pipes."""
    columns = shutil.get_terminal_size((PAGE, 24)).columns if is_narrow() else PAGE
    return columns, sys.stdout.isatty() and not Console().is_dumb_terminal


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print ``name   value`` lines to stdout; lists are joined, ``None`` is shown as a dash, paths are not broken."""
    shown = [(name, ", ".join(map(str, value)) if isinstance(value, list) else value) for name, value in pairs]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        line = f"{name:{width}}  {'–' if value in (None, '') else value}"
        say(line if isinstance(value, PurePath) else prose(line, width + 2))  # a path is to be copied


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
