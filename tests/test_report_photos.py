"""Which photos a page of ``anprompt report`` is about: those of ``anprompt evaluate``, and what is said of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anprompt.report.page import parts
from helpers_cli import Cli
from helpers_page import Page


@pytest.fixture
def copied(photo_folder: Path, tmp_path: Path) -> Path:
    """The test photos alone, as class folders without splits: 16, none of them trained on."""
    return Path(shutil.copytree(photo_folder / "test", tmp_path / "mine"))


@pytest.mark.parametrize("command", ["evaluate", "zeroshot"])
def test_a_record_of_all_photos(
    command: str, small_adapter: Path, small_clip: Path, copied: Path, tmp_path: Path, cli: Cli
) -> None:
    line = [small_adapter, copied] if command == "evaluate" else [copied, "--backbone", small_clip]
    cli(command, *line, "--split", "all", "--record", tmp_path / "e.json")
    ran = cli("report", tmp_path / "e.json", copied, "-o", tmp_path / "page.html")
    assert ran.code == 0, ran.err
    made = Page((tmp_path / "page.html").read_text())
    assert "mine, split all, all classes" in made.text
    assert "--split all --subset all" in made.text
    assert len(made.all("img")) == 4 * parts.THUMBS
    assert "held out the test photos" not in made.text
