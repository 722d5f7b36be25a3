"""Figure 1: Table X, and beside it DAPT's base-to-new results."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from anprompt.report.noise_figure import save_noise_figure
from anprompt.results.grid import Value
from anprompt.results.tables import Table
from helpers_cli import Cli, Refused
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


def test_bars_of_one_seed_and_without_dapt(tmp_path: Path) -> None:
    one = [entry for entry in records() if entry["config"]["seed"] == 1 and entry["config"]["method"] == "anprompt"]
    files = save_noise_figure(table_of("X", read_back(tmp_path, one)), tmp_path / "x")
    assert all(file.stat().st_size > 1000 for file in files)


def test_nothing_is_drawn_of_halves_alone(tmp_path: Path, refused: Refused) -> None:
    write_records(tmp_path, [records()[0]])
    message = refused("table", "X", "--results", tmp_path, "--figure", tmp_path / "x.png")
    assert "cannot be drawn yet: no row has all that it needs; without --figure the table says which" in message
    assert not list(tmp_path.glob("x.*"))
