"""Figure 1: Table X, and beside it DAPT's base-to-new results."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from anprompt.report.noise_figure import save_noise_figure
from anprompt.results.grid import Value
from anprompt.results.tables import Table
from helpers_cli import Cli
from helpers_records import Record, halves, read_back, rows_of, table_of, write_records

KINDS = ("synonym", "mask", "shuffle", "drop", "bank")


def records() -> list[Record]:
    made = [
        entry
        for i, kind in enumerate(KINDS)
        for seed in (1, 2)
        for entry in halves("anprompt", "dtd", seed, 70 + i + seed, 60, protocol="ablation", ablation="X",
                            variant={"noise_source": kind})
    ]  # fmt: skip
    return [
        *made,
        *halves("dapt", "dtd", 1, 65, 55),
        *halves("dapt", "food101", 1, 1, 1),
        *halves("coop", "dtd", 1, 9, 9),
    ]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return table_of("1", read_back(tmp_path, records()))


def test_dapt_stands_beside_the_kinds_of_noise_on_their_data_set_only(table: Table) -> None:
    labels = {label for group, label in rows_of(table)}
    assert labels == {*(f"anprompt: {kind}" for kind in KINDS), "dapt"}
    assert {row.group for row in table.rows} == {"DTD"}
    dapt = rows_of(table)["DTD", "dapt"].cells
    assert dapt["base"] == Value(65.0)
    assert dapt["paper_hm"] == 79.35  # the caption of the paper's Figure 1


def test_table_x_itself_has_no_dapt(tmp_path: Path) -> None:
    assert "dapt" not in str(rows_of(table_of("X", read_back(tmp_path, records()))).keys())


def test_bars_from_the_command_line(tmp_path: Path, cli: Cli) -> None:
    write_records(tmp_path, records())
    done = cli("table", "1", "--results", str(tmp_path), "--figure", str(tmp_path / "one.png"))
    assert done.code == 0, done.err
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size[0] > 1000
    svg = (tmp_path / "one.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(svg)
    for text in ("weak semantic noise", "mask", "dapt", "(paper 81.70)", "does not start at 0"):
        assert text in svg


@pytest.mark.parametrize("figure", [True, False])
def test_incomplete_results_are_named_instead_of_drawn(figure: bool, tmp_path: Path, cli: Cli) -> None:
    """One half of each seed is there; the table says so under its heading, the figure in one sentence."""
    half = [
        entry
        for entry in records()[:4]
        if (entry["config"]["seed"] == 1) == (entry["config"]["target_subset"] == "new")
    ]
    write_records(tmp_path, half)
    done = cli("table", "X", "--results", tmp_path, *(["--figure", tmp_path / "x.png"] if figure else []))
    missing = "DTD synonym base seed 1; DTD synonym new seed 2."
    assert missing in " ".join((done.err if figure else done.out).split())
    if figure:
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
        assert "No bar can be drawn before a seed has both base and new; these runs are missing: " in done.err
        assert not (tmp_path / "x.png").exists()


def test_bars_of_one_seed_and_without_dapt(tmp_path: Path) -> None:
    one = [entry for entry in records() if entry["config"]["seed"] == 1 and entry["config"]["method"] == "anprompt"]
    files = save_noise_figure(table_of("X", read_back(tmp_path, one)), tmp_path / "x")
    assert all(file.stat().st_size > 1000 for file in files)
