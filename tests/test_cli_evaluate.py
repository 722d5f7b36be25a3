"""What 'evaluate' scores, and what it says of splits and of classes that the adapter knows or does not know."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers_cli import Cli


@pytest.fixture
def copied(photo_folder: Path, tmp_path: Path) -> Path:
    """The test photos alone, as class folders without splits: 16, none of them trained on."""
    return Path(shutil.copytree(photo_folder / "test", tmp_path / "mine"))


def test_other_data_without_splits_are_evaluated_whole(small_adapter: Path, copied: Path, cli: Cli) -> None:
    ran = cli("evaluate", small_adapter, copied)
    assert ran.code == 0
    assert "note: 'mine' has no splits, and none of its 16 photos was trained on: all of them are evaluated." in ran.err
    assert "16 of mine, split all, subset all" in ran.out
    assert "held out" not in ran.out
    asked = cli("evaluate", small_adapter, copied, "--split", "test", "--json")
    assert (asked.document["images"], asked.err.count("note:")) == (4, 0)
    every = cli("evaluate", small_adapter, copied, "--split", "all", "--json")
    assert (every.document["images"], every.err.count("note:")) == (16, 0)


def test_the_training_data_are_recognised(small_adapter: Path, photo_folder: Path, cli: Cli) -> None:
    ran = cli("evaluate", small_adapter, photo_folder / "train")
    assert "split test, subset all, held out by anprompt" in ran.out
    assert "of the 8 test photos were trained on: the accuracy is too high." in ran.err
    assert "48 of photos, split all" in cli("evaluate", small_adapter, photo_folder, "--split", "all").out
    assert "Allowed: train, test, all." in cli("evaluate", small_adapter, photo_folder, "--split", "tets").err


def test_new_classes_are_named_and_marked(small_adapter: Path, copied: Path, cli: Cli) -> None:
    (copied / "white_cat").rename(copied / "white_hat")
    (copied / "green_circle").rename(copied / "moon")
    ran = cli("evaluate", small_adapter, copied)
    assert "note: 2 classes are new to this adapter: 'moon', 'white hat' (near: 'white cat')." in ran.err
    marks = {line.rsplit(maxsplit=3)[0]: line.split()[-1] for line in ran.out.splitlines()[2:6]}
    assert marks == {"blue star": "trained", "moon": "new", "red square": "trained", "white hat": "new"}
    rows = cli("evaluate", small_adapter, copied, "--json").document["per_class"]
    assert {name: row["trained"] for name, row in rows.items()} == {
        name: mark == "trained" for name, mark in marks.items()
    }


def test_new_classes_that_are_not_new(small_adapter: Path, photo_folder: Path, cli: Cli) -> None:
    ran = cli("evaluate", small_adapter, photo_folder, "--subset", "new")
    assert "2 of the 2 classes of subset 'new', the second half of the data's, were trained on" in ran.err
    assert "new to this adapter" not in ran.err
