"""What people look at: tables, progress and contact sheets."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from anprompt.errors import UserError
from anprompt.report import console
from anprompt.report.contact_sheet import (
    CAPTION,
    COLUMNS,
    GAP,
    PAPER,
    RIGHT,
    TILE,
    WRONG,
    Tile,
    _fit,
    save_contact_sheet,
)

# Tables


def printed_table(width: int | None, rows: list[tuple[object, ...]], numeric: tuple[str, ...] = ("count", "%")) -> str:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.delenv("COLUMNS", raising=False)
        if width is not None:
            patch.setenv("COLUMNS", str(width))
        console.table("a title", ("name", "count", "path", "%"), rows, numeric)
    return out.getvalue()


TEXT = st.text(st.sampled_from("abc xyz[]:/-_.éß"), max_size=150)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(TEXT, st.integers(0, 10**9), TEXT, st.floats(0, 100)), min_size=1, max_size=4))
def test_in_80_columns_nothing_is_cut_and_numbers_stay_whole(rows: list[tuple[str, int, str, float]]) -> None:
    shown = printed_table(80, [(name, f"{count:,}", path, f"{share:.1f}") for name, count, path, share in rows])
    assert max(map(len, shown.splitlines())) <= 80
    words = shown.split()
    for name, count, path, share in rows:
        assert f"{count:,}" in words
        assert f"{share:.1f}" in words
        for letter in set(name + path) - {" "}:
            assert letter in shown
    title_and_heading = sum(map(len, ["a", "title", "name", "count", "path", "%"]))
    numbers = sum(len(f"{count:,}") + len(f"{share:.1f}") for _, count, _, share in rows)
    letters = sum(len("".join((name + path).split())) for name, _, path, _ in rows)
    assert len(re.sub(r"[\s─…]", "", shown)) == title_and_heading + numbers + letters


@pytest.mark.parametrize("width", [40, 80, 120])
def test_long_words_are_continued_on_the_next_line(width: int) -> None:
    name, path = "q" * 150, "x" * 150
    shown = printed_table(width, [(name, "123,456,789", path, "99.9")])
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    assert {"123,456,789", "99.9"} <= set(shown.split())
    assert (shown.count("q"), shown.count("x")) == (150, 150)


def test_in_a_file_no_word_is_broken() -> None:
    rows = [("n" * 300, 1, "p" * 300, 2.5), ("short", 10, "x", 99.0)]
    title, empty, heading, rule, first, second, end = printed_table(None, rows).split("\n")[:7]
    assert (title, empty, end) == ("a title", "", "")
    assert heading.split() == ["name", "count", "path", "%"]
    assert set(rule) == {"─"}
    assert first.split() == ["n" * 300, "1", "p" * 300, "2.5"]
    assert second.split() == ["short", "10", "x", "99.0"]
    assert first.index("1") == second.index("0")  # aligned right


def test_in_a_file_long_texts_are_wrapped() -> None:
    shown = printed_table(None, [("name", 1, "word " * 60, 2.5)])
    assert max(map(len, shown.splitlines())) <= 100
    assert shown.count("word") == 60


BAKE_OFF = ("method", "all %", "base %", "HM", "training", "memory MiB", "learnable")
SCORES = ("81.0 ± 1.2", "71.5 ± 0.4", "76.3 ± 0.8", "1,212 s", "1,234", "4,992,256")


@pytest.mark.parametrize(
    ("width", "lost"),
    [(62, []), (60, ["memory"]), (50, ["memory", "learnable"]), (40, ["memory", "learnable", "training"])],
)
def test_a_narrow_terminal_keeps_names_and_numbers_and_says_what_it_leaves_out(
    width: int, lost: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [("zero-shot", *SCORES), ("linear-probe", *SCORES)]
    console.table("", BAKE_OFF, rows, BAKE_OFF[1:], spare=("memory MiB", "learnable", "training"))
    table, _, note = capsys.readouterr().out.partition("\n\n")
    assert max(map(len, table.splitlines())) <= width
    for word in ("zero-shot", "linear-probe", "81.0", "71.5", "76.3", "1.2"):
        assert word in table.split()
    assert [name for name in ("memory", "learnable", "training") if name not in table] == lost
    assert all(name in note for name in lost)
    assert ("--json" in note) == bool(lost)


@pytest.mark.parametrize("width", [60, 80, 100, 143])
def test_intervals_go_below_their_numbers_before_they_are_left_out(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ("method", "noise", "right %", "right % with noise", "TS", "LPR", "AS, points")
    row = ("zero-shot", "paraphrase 0.5", "83.3", "79.2 [79.1, 85.4]", "0.00065 [0.00051, 0.0008]",
           "0.896 [0.812, 0.969]", "-2.08 [-6.25, 0.00]")  # fmt: skip
    console.table("", columns, [row], columns[2:])
    table, _, note = capsys.readouterr().out.partition("\n\n")
    assert max(map(len, table.splitlines())) <= width
    assert {"zero-shot", "paraphrase", "83.3", "79.2", "0.00065", "0.896", "-2.08"} <= set(table.split())
    assert ("[-6.25, 0.00]" in table) == (width >= 100) == ("the intervals" not in note)


def test_cells_are_shown_as_they_are() -> None:
    shown = printed_table(80, [("[bold]cat[/bold]", 1, ":dog: [x]", 2)])
    assert shown.split()[-4:] == ["1", ":dog:", "[x]", "2"]
    assert "[bold]cat[/bold]" in shown


def test_facts(capsys: pytest.CaptureFixture[str]) -> None:
    console.facts([("a", 1), ("longer name", None), ("list", ["x", "y"]), ("empty", "")])
    assert capsys.readouterr().out.splitlines() == [
        "a            1",
        "longer name  –",
        "list         x, y",
        "empty        –",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_json_reads_back_on_any_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace"))
    document = {"ℓ": ["é", "α", "plain", "\udcff"], "n": 0.1}
    console.print_json(document)
    sys.stdout.flush()
    assert json.loads(raw.getvalue().decode(encoding)) == document
    assert (b"\\u" in raw.getvalue().replace(b"\\udcff", b"")) == (encoding != "utf-8")


# Progress


def test_progress_in_a_file_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress_bars() as progress:
        for step in range(1, 41):  # a second each
            terms = {"total": 1 / step, "cross_entropy": 2.0, "epoch": 1.0, "rate": 1e-3}
            progress("training", step, 40, terms)
            progress("quick", step, 40, {})
            now[0] += 1
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("training: ")] == ["12/40", "23/40", "34/40", "40/40"]
    assert lines[-2:] == ["training: 40/40  epoch 1  rate 0.001  loss 0.025  ce 2", "quick: 40/40"]
    assert "\x1b" not in err


def in_a_terminal(code: str, width: int, term: str = "xterm") -> str:
    """What ``code`` prints to stderr in a terminal of ``width`` columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=slave,
        stdout=subprocess.DEVNULL,
        stderr=slave,
        env={**environment, "TERM": term},
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            seen += (chunk := os.read(master, 65536))
        except OSError:  # Linux reports the end of a terminal as an error
            break
        if not chunk:
            break
    os.close(master)
    assert process.wait(timeout=30) == 0
    return seen.decode()


PROGRESS = """
import sys
from anprompt.report import console
terms = {"total": 3.9412, "cross_entropy": 3.82, "similarity": 0.116, "weak_alignment": 0.202, "gamma": 0.0107}
with console.progress_bars() as progress:
    progress("reading [photos]", 24, 24, {})
    sys.stderr.write("note: said meanwhile\\n")
    for step in range(60):
        progress("training", step + 1, 60, {**terms, "epoch": 10, "rate": 0.000975})
"""


def test_progress_in_a_terminal() -> None:
    seen = in_a_terminal(PROGRESS, 80)
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", seen)]
    assert max(map(len, lines)) <= 80
    assert "note: said meanwhile" in lines
    last = [line for line in lines if line.startswith("training")][-1]
    assert re.search(r"━ 60/60 0:00:00 left", last)
    assert any(line.startswith("reading [photos] ━") and "24/24" in line for line in lines)
    numbers = "epoch 10  rate 0.000975  loss 3.94  ce 3.82  sim 0.116  wa 0.202  gamma 0.0107"
    assert [line for line in lines if line][-1] == numbers


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines() -> None:
    seen = in_a_terminal(PROGRESS, 80, "dumb")
    assert "\x1b" not in seen
    assert seen.count("training: 60/60") == 1


# Contact sheets


def tiles(n: int, right: bool = True, size: tuple[int, int] = (48, 48)) -> list[Tile]:
    return [Tile(Image.new("RGB", size, (0, 0, 200)), "cat", "cat" if right else "dog", 0.756) for _ in range(n)]


def corner(i: int, top: int) -> tuple[int, int]:
    """Upper left corner of tile ``i`` of a section whose heading begins at ``top``."""
    return GAP + (i % COLUMNS) * (TILE + GAP), top + 32 + (i // COLUMNS) * (TILE + CAPTION + GAP)


def test_contact_sheet(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sheet.png"
    save_contact_sheet(path, "a title", [("right", tiles(COLUMNS + 1)), ("none", []), ("wrong", tiles(2, False))])
    sheet = Image.open(path)
    row = TILE + CAPTION + GAP
    assert sheet.format == "PNG"
    assert sheet.size == (GAP + COLUMNS * (TILE + GAP), 50 + 2 * 32 + 3 * row)
    second = 50 + 32 + 2 * row
    for i, top, colour in ((0, 50, RIGHT), (COLUMNS - 1, 50, RIGHT), (COLUMNS, 50, RIGHT), (1, second, WRONG)):
        x, y = corner(i, top)
        assert sheet.getpixel((x - 2, y - 2)) == sheet.getpixel((x + TILE + 1, y + TILE + 1)) == colour
        assert sheet.getpixel((x + TILE // 2, y + TILE // 2)) == (0, 0, 200)
        caption = sheet.crop((x, y + TILE + 4, x + TILE, y + TILE + 20))
        inks = [pixel for _, pixel in caption.getcolors(10_000)]
        assert min(sum(abs(a - b) for a, b in zip(ink, colour, strict=True)) for ink in inks) < 20  # smoothed letters
    x, y = corner(2, second)
    assert sheet.crop((x - 2, y - 2, x + TILE, y + row - GAP)).getcolors() == [((TILE + 2) * (row - GAP + 2), PAPER)]


@pytest.mark.parametrize("size", [(1, 1), (48, 20), (20, 48), (3000, 10), (640, 480)])
def test_pictures_of_any_size_fill_their_tile(size: tuple[int, int], tmp_path: Path) -> None:
    picture = Image.new("RGB", size, (0, 0, 200))
    before = picture.tobytes()
    save_contact_sheet(tmp_path / "sheet.png", "t", [("s", [Tile(picture, "cat", "cat", 1.0)])])
    assert (picture.size, picture.tobytes()) == (size, before)  # the caller's picture is left alone
    x, y = corner(0, 50)
    box = Image.open(tmp_path / "sheet.png").crop((x, y, x + TILE, y + TILE))
    blue = sum(count for count, pixel in box.getcolors(100_000) if pixel == (0, 0, 200))
    share = min(size) / max(size)
    assert blue >= 0.9 * TILE * max(1, int(TILE * share))


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1, max_size=60))
def test_captions_are_cut_to_the_tile(text: str) -> None:
    draw, font = ImageDraw.Draw(Image.new("RGB", (1, 1))), ImageFont.load_default(12)
    text = " ".join(text.split())
    cut = _fit(draw, text, font)
    assert draw.textlength(cut, font=font) <= TILE
    assert cut == text or (cut.endswith("…") and text.startswith(cut[:-1]))
    if cut != text:
        assert draw.textlength(text, font=font) > TILE


def test_a_sheet_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="Cannot write"):
        save_contact_sheet(tmp_path / "file" / "sheet.png", "t", [("s", tiles(1))])
    assert (tmp_path / "file").read_text() == "mine"
