"""The few-shot figure: what is drawn, in which files."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from anprompt.errors import UserError
from anprompt.report.few_shot_figure import STYLES, figure_files, place, save_few_shot_figure
from anprompt.results.tables import Table
from helpers_records import read_back, record, table_of

SHOTS = (1, 2, 4, 8, 16)


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Table:
    records = [
        record("few-shot", method, data, "all", seed, 50 + 5 * i + 3 * k + seed, shots=shots)
        for k, method in enumerate(("coop", "anprompt"))
        for data in ("dtd", "eurosat", "food101")
        for i, shots in enumerate(SHOTS)
        for seed in (1, 2)
    ]
    records += [record("few-shot", "zero-shot", data, "all", None, 45) for data in ("dtd", "eurosat", "food101")]
    return table_of("6", read_back(tmp_path_factory.mktemp("results"), records))


@pytest.fixture(scope="module")
def files(curves: Table, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_few_shot_figure(curves, tmp_path_factory.mktemp("figure") / "six.png")


@pytest.mark.parametrize("name", ["six", "six.png", "six.svg"])
def test_both_files_whatever_the_suffix(name: str, tmp_path: Path) -> None:
    assert figure_files(tmp_path / name) == (tmp_path / "six.png", tmp_path / "six.svg")


def test_other_suffixes_are_refused() -> None:
    with pytest.raises(UserError, match=r"'six\.pdf' should end in \.png, \.svg or neither"):
        figure_files(Path("six.pdf"))


def test_the_png_is_a_picture(files: tuple[Path, Path]) -> None:
    with Image.open(files[0]) as picture:
        assert picture.size[0] > 1500
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or ()}
    for wanted in (STYLES[0][0], STYLES[1][0], "#777777"):  # anprompt, coop, zero-shot
        assert tuple(int(wanted[i : i + 2], 16) for i in (1, 3, 5)) in colours


def test_the_svg_has_a_panel_per_data_set_and_text_that_can_be_searched(files: tuple[Path, Path]) -> None:
    root = ElementTree.parse(files[1]).getroot()
    texts = ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for title in ("average of 3", "DTD", "EuroSAT", "Food101"):
        assert texts.count(title) == 1
    assert "without EuroSAT" not in texts
    assert [text for text in texts if text in ("anprompt", "coop", "zero-shot")] == ["anprompt", "coop", "zero-shot"]
    assert texts.count("accuracy (%)") == 1, "four panels in one row"
    assert texts.count("16") == 4


def paths(svg: Path, label: str) -> list[list[tuple[float, float]]]:
    """The points of the lines called ``label``, one list per panel."""
    namespace = "{http://www.w3.org/2000/svg}"
    found = [
        element for element in ElementTree.parse(svg).getroot().iter(f"{namespace}g") if element.get("id") == label
    ]
    drawn = [next(iter(element.iter(f"{namespace}path"))).get("d") or "" for element in found]
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)] for path in drawn]


def test_lines_go_through_the_means(curves: Table, files: tuple[Path, Path]) -> None:
    panels = paths(files[1], "anprompt")
    assert len(panels) == 4
    for points in panels:
        xs, ys = np.array(points).T
        assert np.diff(xs) == pytest.approx(np.full(4, xs[1] - xs[0]), rel=1e-3), "doubling is one step"
        assert np.diff(ys) == pytest.approx(np.full(4, ys[1] - ys[0]), rel=1e-3), "5 points more at each step"
        assert ys[1] < ys[0], "up"
    (zero, *_), (line, *_) = paths(files[1], "zero-shot"), panels
    assert len(zero) == 1
    assert zero[0][0] < line[0][0], "0 shots stand left of 1"
    step = (line[0][1] - line[1][1]) / 5  # of one point
    assert zero[0][1] - line[0][1] == pytest.approx(step * (54.5 - 45), rel=1e-3)


def test_places() -> None:
    assert [place(str(shots)) for shots in (0, *SHOTS)] == [-1.5, 0, 1, 2, 3, 4]


def test_the_same_table_gives_the_same_files(curves: Table, files: tuple[Path, Path], tmp_path: Path) -> None:
    again = save_few_shot_figure(curves, tmp_path / "six")
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]
    assert sorted(tmp_path.iterdir()) == sorted(again)


@pytest.mark.parametrize("names", [["without helmet"], ["without helmet", "average of 2"], ["average", "dtd"]])
def test_own_data_called_like_an_average_have_their_panel(names: list[str], tmp_path: Path) -> None:
    records = [
        record("few-shot", "coop", name, "all", 1, 50 + shots, shots=shots) for name in names for shots in (1, 4)
    ]
    table = table_of("6", read_back(tmp_path, records))
    svg = save_few_shot_figure(table, tmp_path / "six")[1]
    assert len(paths(svg, "coop")) == len(names) + (len(names) > 1)
    bold = [element for element in ElementTree.parse(svg).getroot().iter() if "700" in element.get("style", "")]
    assert ["".join(element.itertext()).strip() for element in bold] == ["average of 2"] * (len(names) > 1)


def test_a_single_method_and_data_set(tmp_path: Path) -> None:
    records = [record("few-shot", "coop", "dtd", "all", 1, 50 + shots, shots=shots) for shots in (1, 4)]
    for file in save_few_shot_figure(table_of("6", read_back(tmp_path, records)), tmp_path / "one"):
        assert file.stat().st_size > 1000
