"""The four forms of a table, read back by what they mean."""

from __future__ import annotations

import csv
import io
import random
import re
from pathlib import Path

import pytest

from anprompt.results.grid import Value
from anprompt.results.paper import paper_cells
from anprompt.results.render import FORMATS, number, render
from anprompt.results.tables import Column, Row, Table
from helpers_records import halves, read_back, record, table_of


@pytest.fixture(scope="module")
def table_one(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Table I of three methods on the paper's eleven data sets and one own, around the paper's values."""
    draw = random.Random(1)
    records = []
    for method in ("zero-shot", "textrefiner", "anprompt"):
        cells = {**paper_cells("base-to-new", method), "my_own_data|50%": {"base": 70.0, "new": 60.0, "hm": 64.6}}
        for name in (name for name in cells if name != "average"):
            for seed in (None,) if method == "zero-shot" else (1, 2, 3):
                pair = [cells[name][half] + (0 if seed is None else draw.gauss(0, 0.5)) for half in ("base", "new")]
                records += halves(method, name, seed, *(min(100.0, number) for number in pair))
    return table_of("I", read_back(tmp_path_factory.mktemp("results"), records))


def shown_cells(row: Row, columns: list[Column], plus_minus: str) -> list[str]:
    return [number(row, column, plus_minus) for column in columns]


def narrow(table: Table) -> list[Column]:
    return [column for column in table.columns if not column.extra]


def test_the_terminal_form_fits_100_columns_and_reads_back(table_one: Table) -> None:
    text = render(table_one, "terminal")
    assert max(map(len, text.splitlines())) <= 100
    lines = [line for line in text.splitlines() if re.search(r"\b(zero-shot|textrefiner|anprompt)  ", line)]
    assert len(lines) == len(table_one.rows) == 3 * (12 + 2)
    group = ""
    for line, row in zip(lines, table_one.rows, strict=True):
        cells = re.split(r"\s{2,}", line.strip())
        if len(cells) == 2 + len(narrow(table_one)):
            group = cells.pop(0)
        assert (group, cells[0]) == (row.group, row.label), "a group's name stands in its first row only"
        stars = {column.key for column, cell in zip(narrow(table_one), cells[1:], strict=True) if cell.endswith("*")}
        assert stars == row.best
        assert [cell.rstrip("* ") for cell in cells[1:]] == shown_cells(row, narrow(table_one), "±")
    assert text.count("* marks the best.") == 1


def test_bold_in_a_terminal_marks_the_same_numbers(table_one: Table) -> None:
    text = render(table_one, "terminal", 100, styled=True)
    bold = [cell.strip() for cell in re.findall(r"\x1b\[1m(.*?)\x1b\[0m", text) if re.search(r"\d\.\d", cell)]
    wanted = [number(row, c) for row in table_one.rows for c in narrow(table_one) if c.key in row.best]
    assert bold == wanted
    assert "*" not in text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= 100


def test_csv_reads_back_as_numbers(table_one: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(render(table_one, "csv"))))
    assert len(rows) == len(table_one.rows)
    for read, row in zip(rows, table_one.rows, strict=True):
        assert (read["data_set"], read["method"]) == (row.group, row.label)
        for column in table_one.columns:
            cell = row.cells.get(column.key)
            if isinstance(cell, Value):
                assert float(read[column.key]) == pytest.approx(cell.mean, abs=1e-4)
                assert (read[f"{column.key}_sd"] == "") == (cell.sd is None)
                if cell.sd is not None:
                    assert float(read[f"{column.key}_sd"]) == pytest.approx(cell.sd, abs=1e-4)
            elif column.kind == "count":
                assert read[column.key] == (cell or "")
            else:
                assert (
                    read[column.key] == "" if cell is None else float(read[column.key]) == pytest.approx(cell, abs=1e-4)
                )


def test_markdown_reads_back(table_one: Table) -> None:
    lines = render(table_one, "markdown").splitlines()
    grid = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    assert {len(cells) for cells in grid} == {2 + len(table_one.columns)}
    assert [cell.strip() for cell in grid[0]][2:6] == ["n", "base", "new", "HM"]
    for cells, row in zip(grid[2:], table_one.rows, strict=True):
        stripped = [cell.strip() for cell in cells]
        assert stripped[1] == row.label
        assert stripped[0] in ("", row.group.replace("|", "\\|"))
        texts = shown_cells(row, list(table_one.columns), " ± ")
        marked = [
            f"**{text}**" if c.key in row.best else text for c, text in zip(table_one.columns, texts, strict=True)
        ]
        assert stripped[2:] == marked
    assert [line for line in lines if line.startswith("- ")] == [f"- {note}" for note in table_one.notes]


def test_latex_reads_back(table_one: Table) -> None:
    text = render(table_one, "latex")
    assert text.isascii(), "compiles with every engine"
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1
    rules = [line for line in text.splitlines() if line in ("\\toprule", "\\midrule", "\\bottomrule")]
    assert rules == ["\\toprule", "\\midrule", "\\bottomrule"]
    assert re.search(r"\\multicolumn\{3\}\{c\}\{paper\}", text)
    assert r"\cmidrule(lr){7-9} \cmidrule(lr){10-10}" in text
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0]
    rows = [line.removesuffix(" \\\\") for line in body.splitlines() if line != "\\addlinespace"]
    for line, row in zip(rows, table_one.rows, strict=True):
        cells = re.split(r" (?<!\\)& ", f" {line}" if line.startswith("&") else line)
        assert cells[1].replace("\\", "") == row.label
        for column, cell in zip(narrow(table_one), cells[2:], strict=True):
            assert cell.startswith("\\textbf{") == (column.key in row.best)
            inner = (
                re.sub(r"^\\textbf\{(.*)\}$", r"\1", cell).replace("$\\pm$", "±").replace("$", "").replace("--", "–")
            )
            assert inner == number(row, column)
    assert r"my\_own\_data|50\%" in text


@pytest.mark.parametrize(("narrower", "lost"), [(0, 0), (1, 2), (18, 4), (36, 4)])
def test_narrow_terminals_lose_the_papers_columns_and_are_told(table_one: Table, narrower: int, lost: int) -> None:
    whole = [line for line in render(table_one, "terminal", 500).splitlines() if set(line) == {"─"}]
    needed = len(whole[0])
    text = render(table_one, "terminal", needed - narrower)
    assert max(map(len, text.splitlines())) <= needed - narrower
    told = re.search(r"(\d) columns are left out here: they need a terminal of (\d+) columns", " ".join(text.split()))
    assert (told is not None) == (lost > 0)
    if told is not None:
        assert told.groups() == (str(lost), str(needed))
    assert text.partition("─")[0].count("paper") == {0: 3, 2: 1, 4: 0}[lost]
    words = set(text.replace("*", "").split())
    for row in table_one.rows:
        assert {number(row, column) for column in table_one.columns if column.kind == "value"} <= words, "none is cut"


@pytest.fixture(scope="module")
def transfer(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Domain generalisation of two methods, one of which the paper has."""
    printed = paper_cells("domain-generalisation", "coop")
    records = [
        record("domain-generalisation", method, name, "all", seed, cell["accuracy"] + gain + seed, source="imagenet")
        for name, cell in printed.items()
        if name != "average"
        for method, gain in (("coop", 0.0), ("mine", 0.5))
        for seed in (1, 2)
    ]
    return table_of("III", read_back(tmp_path_factory.mktemp("transfer"), records))


def test_transfers_have_data_sets_as_columns_with_averages_last(transfer: Table) -> None:
    lines = [line for line in render(transfer, "markdown").splitlines() if line.startswith("|")]
    grid = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert grid[0] == [
        "method", "", "source ImageNet", "ImageNetV2", "ImageNet-Sketch", "ImageNet-A", "ImageNet-R", "average of 4"
    ]  # fmt: skip
    assert grid[2] == ["coop", "n = 2", *(f"{v:.2f} ± 0.71" for v in (73.01, 65.7, 49.49, 51.21, 76.71, 60.78))]
    assert grid[3] == ["", "paper", "71.51", "64.20", "47.99", "49.71", "75.21", "59.28"]
    assert grid[4] == ["", "Δ", *["+1.50"] * 6]
    assert grid[5] == ["mine", "n = 2", *(f"**{v:.2f} ± 0.71**" for v in (73.51, 66.2, 49.99, 51.71, 77.21, 61.28))]
    assert len(grid) == 6, "the paper has no row of that method"


def test_transfers_in_the_terminal_and_in_latex(transfer: Table) -> None:
    lines = render(transfer, "terminal").splitlines()
    assert any(line.split()[:5] == ["coop", "n", "=", "2", "73.01±0.71"] for line in lines)
    narrow_lines = render(transfer, "terminal", 80).splitlines()
    assert any(line.split()[:5] == ["ImageNet", "(source)", "coop", "2", "73.01±0.71"] for line in narrow_lines)
    text = render(transfer, "latex")
    assert r" & paper & 71.51 & 64.20 & 47.99 & 49.71 & 75.21 & 59.28 \\" in text
    assert r" & $\Delta$ & $+1.50$ & $+1.50$ & $+1.50$ & $+1.50$ & $+1.50$ & $+1.50$ \\" in text
    rows = list(csv.DictReader(io.StringIO(render(transfer, "csv"))))
    assert [row["data_set"] for row in rows][:3] == ["average of 4", "average of 4", "ImageNet (source)"], "always long"


def test_own_data_called_like_an_average_or_a_source_stay_where_they_are(tmp_path: Path) -> None:
    targets = ("without helmet", "average of 2", "helmets (source)")
    records = [
        record("cross-dataset", "coop", name, "all", 1, 50 + i, source="imagenet") for i, name in enumerate(targets)
    ]
    records += [record("cross-dataset", "coop", "imagenet", "all", 1, 70, source="imagenet")]
    lines = render(table_of("II", read_back(tmp_path, records)), "markdown").splitlines()
    grid = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert grid[0][2:] == ["source ImageNet", *sorted(targets), "average of 3"]
    assert grid[2][2:] == ["70.00", "51.00", "52.00", "50.00", "51.00"]


@pytest.mark.parametrize("shape", FORMATS)
def test_no_negative_zero(shape: str, tmp_path: Path) -> None:
    printed = paper_cells("base-to-new", "anprompt")["dtd"]
    records = halves("anprompt", "dtd", 1, printed["base"] - 1e-9, printed["new"] - 1e-9)
    text = render(table_of("I", read_back(tmp_path, records)), shape)
    assert not re.search(r"-0\.0+(?!\d)", text)
