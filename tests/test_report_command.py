"""The command ``report``: what it prints, and the command on a page that repeats a benchmark's run."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from anprompt.cli import COMMANDS
from anprompt.commands.arguments import parse
from anprompt.protocols.recipes import FOR_ALL, find_recipe
from anprompt.report.page.given import look_at
from anprompt.report.page.parts import Page
from anprompt.report.page.rerun import _bench, commands
from helpers_cli import Cli, contents
from helpers_records import record


def recipe_of(name: str) -> str | None:
    """What the command of a run under that recipe says after ``--recipe``."""
    line = shlex.split(_bench(record("few-shot", "coop", "eurosat", "all", 1, 91.5, recipe=f"{name}/few-shot"), {}))
    return line[line.index("--recipe") + 1] if "--recipe" in line else None


@pytest.mark.parametrize("name", FOR_ALL)
def test_shipped_recipes_are_named_as_bench_takes_them(name: str) -> None:
    assert recipe_of(name) == name
    find_recipe("coop", "few-shot", name)


def test_other_recipes() -> None:
    assert recipe_of("coop") is None, "the published one"
    assert recipe_of("ours") == "ours.yaml"


def test_json(cli: Cli, small_adapter: Path, photo_folder: Path, tmp_path: Path) -> None:
    before = contents(small_adapter)
    document = cli("report", small_adapter, photo_folder, "-o", tmp_path / "r.html", "--quick", "--json",
                   "--subset", "base").document  # fmt: skip
    expected = cli("evaluate", small_adapter, photo_folder, "--subset", "base", "--json").document
    assert document["numbers"]["accuracy"] == expected["accuracy"]
    assert document["numbers"]["classes"] == 2
    assert document["bytes"] == (tmp_path / "r.html").stat().st_size
    assert contents(small_adapter) == before


def test_o_is_short_for_out() -> None:
    assert parse(COMMANDS["report"], ["a", "-o", "b.html"]) == parse(COMMANDS["report"], ["a", "--out", "b.html"])


def test_commands_keep_what_the_page_was_made_with(small_adapter: Path) -> None:
    given = look_at(small_adapter)
    page = Page(given, None, None, "", "val", "new", "typo", None, True, lambda *_: None)

    def lines(**asked: str) -> list[list[str]]:
        return [shlex.split(command["line"]) for command in commands(page, asked, "own")]

    places = {"data_root": "my data", "backbone": "B", "texts": "t.csv", "bad_images": "skip", "device": "auto"}
    fit, evaluate, own = lines(**places)
    wanted = {"adapter": str(small_adapter), "data": given.data, "split": "val", "subset": "new", **places}
    assert wanted.items() <= parse(COMMANDS["evaluate"], evaluate[2:]).items()
    assert "--device" not in evaluate
    assert fit[-6:] == ["--backbone", "B", "--data-root", "my data", "--out", "again"]
    assert own == ["own"]
    fit, evaluate, _ = lines(data="other", data_root="root")
    assert "--data-root" not in fit, "the photos that it was trained on lie elsewhere"
    assert evaluate[3] == "other"
    assert given.config is not None
    given.config["data_root"] = "kept"
    assert lines()[1][-2:] == ["--data-root", "kept"]
    given.config = None
    fit, _, _ = lines(data="eurosat", **places)
    options = parse(COMMANDS["fit"], fit[2:])
    assert {name: options[name] for name in ("data_root", "backbone", "bad_images")} == {
        "data_root": "my data", "backbone": "B", "bad_images": "skip",
    }  # fmt: skip
