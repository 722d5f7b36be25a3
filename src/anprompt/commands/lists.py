"""Values that several commands take: lists with commas, and how many runs share the machine."""

from __future__ import annotations

import os

from anprompt.errors import Problems, UserError


def names_in(text: str | None) -> list[str]:
    """``a, b`` as a list."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def numbers_in(option: str, text: str | None) -> list[int]:
    """``1,2,3`` as whole numbers; :class:`UserError` naming what is none."""
    problems = Problems(f"--{option} takes whole numbers, separated by commas:")
    numbers = []
    for part in names_in(text):
        try:
            numbers.append(int(part))
        except ValueError:
            problems.add(f"'{part}' is none")
    problems.raise_if_any()
    return numbers


def counted(number: int, what: str) -> str:
    """``1 photo``, ``1,200 photos``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def cores_each(jobs: int, threads: int | None) -> int | None:
    """Cores of each of several runs, from ``--jobs`` and ``--threads``; ``None``: all, for a single one."""
    if jobs < 1 or (threads is not None and threads < 1):
        raise UserError(f"--jobs and --threads must be at least 1 (got {jobs} and {threads}).")
    return threads or (None if jobs == 1 else max(1, _cores() // jobs))


def _cores() -> int:
    """How many cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
