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


def test_data_without_splits_are_those_of_evaluate(small_adapter: Path, copied: Path, tmp_path: Path, cli: Cli) -> None:
    expected = cli("evaluate", small_adapter, copied, "--json")
    ran = cli("report", small_adapter, copied, "-o", tmp_path / "page.html", "--quick", "--json")
    assert ran.document["numbers"]["images"] == expected.document["images"] == 16
    assert ran.document["numbers"]["accuracy"] == expected.document["accuracy"]
    sentence = "note: 'mine' has no splits, and none of its 16 photos was trained on: all of them are evaluated."
    assert sentence in ran.err
    made = Page((tmp_path / "page.html").read_text())
    assert f"anprompt evaluate {small_adapter} {copied} --split all" in made.text
    assert "held out the test photos" not in made.text


def test_photos_that_were_trained_on_are_said_beside_the_accuracy(
    small_adapter: Path, photo_folder: Path, tmp_path: Path, cli: Cli
) -> None:
    line = ("report", small_adapter, photo_folder, "-o", tmp_path / "page.html", "--quick")
    sentence = "16 of the 48 photos were trained on: the accuracy is too high."
    assert f"note: {sentence}\n" in cli(*line, "--split", "all").err
    top, _, _ = (tmp_path / "page.html").read_text().partition("<dl")
    assert sentence in top
    assert "trained on" not in cli(*line).err
    assert "trained on" not in (tmp_path / "page.html").read_text()


def test_photos_that_were_not_there_are_not_promised(
    small_adapter: Path, small_clip: Path, photo_folder: Path, tmp_path: Path, cli: Cli
) -> None:
    card = (small_adapter / "README.md").read_text()
    assert "- Trained on: photos, 16 photos, at most 4 of each class, seed 1\n" in card
    frozen = tmp_path / "frozen"
    cli("fit", photo_folder, "--backbone", small_clip, "--method", "zero-shot", "--out", frozen)
    assert "Trained on" not in (frozen / "README.md").read_text()
    for adapter, said in ((small_adapter, True), (frozen, False)):
        cli("report", adapter, "-o", tmp_path / "page.html", "--quick")
        text = Page((tmp_path / "page.html").read_text()).text
        assert ("16 photos, at most 4 a class, all classes of photos" in text) == ("Learned from" in text) == said
