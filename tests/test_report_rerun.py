"""The command on a page that repeats a benchmark's run."""

from __future__ import annotations

import shlex

import pytest

from anprompt.protocols.recipes import FOR_ALL, find_recipe
from anprompt.report.page.rerun import _bench
from helpers_records import record


def recipe_of(name: str) -> str | None:
    """What the command of a run under that recipe says after ``--recipe``."""
    line = shlex.split(_bench(record("few-shot", "coop", "eurosat", "all", 1, 91.5, recipe=f"{name}/few-shot")))
    return line[line.index("--recipe") + 1] if "--recipe" in line else None


@pytest.mark.parametrize("name", FOR_ALL)
def test_shipped_recipes_are_named_as_bench_takes_them(name: str) -> None:
    assert recipe_of(name) == name
    find_recipe("coop", "few-shot", name)


def test_other_recipes() -> None:
    assert recipe_of("coop") is None, "the published one"
    assert recipe_of("ours") == "ours.yaml"
