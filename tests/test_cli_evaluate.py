"""What 'evaluate' scores, and what it says of splits and of classes that the adapter knows or does not know."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from helpers_cli import Cli, Refused, write_photos


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


def test_zeroshot_takes_the_photos_that_an_adapter_of_the_data_is_tested_on(
    small_clip: Path, copied: Path, photo_folder: Path, cli: Cli
) -> None:
    ran = cli("zeroshot", copied, "--backbone", small_clip)
    assert "note: 'mine' has no splits: 4 of 16 photos are held out and evaluated; --split all evaluates" in ran.err
    assert "4 of mine, split test, subset all, held out by anprompt" in ran.out
    asked = cli("zeroshot", copied, "--backbone", small_clip, "--split", "all")
    assert "16 of mine, split all, subset all" in asked.out
    assert "note:" not in asked.err
    assert "16 of photos, split test" in cli("zeroshot", photo_folder, "--backbone", small_clip).out


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


def test_photos_that_were_trained_on_are_counted_in_every_split(
    small_adapter: Path, photo_folder: Path, cli: Cli
) -> None:
    every = cli("evaluate", small_adapter, photo_folder, "--split", "all")
    assert "note: 16 of the 48 photos were trained on: the accuracy is too high." in every.err
    assert "trained on" not in cli("evaluate", small_adapter, photo_folder).err
    assert "trained on" not in cli("evaluate", small_adapter, photo_folder, "--split", "train").err


def test_classes_of_the_adapter_that_the_data_lack_are_said_to_be_left_out(
    small_adapter: Path, copied: Path, cli: Cli
) -> None:
    shutil.rmtree(copied / "white_cat")
    ran = cli("evaluate", small_adapter, copied)
    assert "note: the data have 3 classes, and only these were chosen among: 1 of the adapter's 4" in ran.err
    assert "3 classes" in ran.out
    every = cli("evaluate", small_adapter, copied, "--among", "all")
    assert "only these were chosen among" not in every.err
    assert "4 classes" in every.out


@pytest.mark.parametrize("subset", ["all", "base"])
def test_accuracy_among_all_classes_is_that_of_predict(
    subset: str, small_adapter: Path, copied: Path, tmp_path: Path, cli: Cli
) -> None:
    shutil.rmtree(copied / "white_cat")
    record = tmp_path / "evaluation.json"
    cli("evaluate", small_adapter, copied, "--subset", subset, "--among", "all", "--record", record)
    kept = json.loads(record.read_text())
    assert kept["config"]["among"] == "all"
    folders = [copied / name.replace(" ", "_") for name in kept["per_class"]]
    assert len(folders) == (3 if subset == "all" else 2)
    predicted = cli("predict", small_adapter, *folders, "--json").document["results"]
    right = [row["predictions"][0]["class"] == Path(row["path"]).parent.name.replace("_", " ") for row in predicted]
    assert kept["accuracy"] == pytest.approx(100 * sum(right) / len(right))
    assert {len(row["predictions"]) for row in predicted} == {4}


def test_a_table_of_test_photos_alone(
    small_adapter: Path, small_clip: Path, copied: Path, tmp_path: Path, refused: Refused, cli: Cli
) -> None:
    rows = [f"{path},{path.parent.name},test" for path in sorted(copied.glob("*/*"))]
    table = copied.parent / "only.csv"
    table.write_text("\n".join(["path,label,split", *rows]))
    whole = cli("evaluate", small_adapter, copied, "--json").document
    assert cli("evaluate", small_adapter, table, "--json").document["per_class"] == whole["per_class"]
    cli("zeroshot", table, "--backbone", small_clip)
    cli("check", table)
    line = ("fit", table, "--backbone", small_clip, "--out", tmp_path / "never")
    assert "only has no training pictures: learn from other data, and evaluate on this." in refused(*line)
    line = ("compare", table, "--backbone", small_clip, "--methods", "zero-shot,anprompt", "--out", tmp_path / "never")
    assert "only has no training photos: learn on other data" in refused(*line)


@pytest.mark.parametrize("command", ["evaluate", "zeroshot", "robustness", "report"])
def test_without_test_photos_there_is_no_accuracy(
    command: str, small_adapter: Path, small_clip: Path, tmp_path: Path, refused: Refused, cli: Cli
) -> None:
    data = write_photos(tmp_path / "few", ["cat", "dog", "fox"], 1)
    line = {
        "evaluate": ["evaluate", small_adapter, data, "--split", "test"],
        "zeroshot": ["zeroshot", data, "--backbone", small_clip],
        "robustness": ["robustness", data, "--backbone", small_clip],
        "report": ["report", small_adapter, data, "--split", "test", "-o", tmp_path / "report.html"],
    }[command]
    assert "few has no test photos, so nothing can be tested on it." in refused(*line)
    assert "3 classes have no test photo" in cli("check", data).out


# ---- --texts, also where no class needs them -------------------------------------------------------------------------

NOT_NEEDED = "note: --texts was not needed: the adapter knows all"


@pytest.mark.parametrize("line", ["evaluate {adapter} {photos}", "report {adapter} {photos} --quick --out {out}",
                                  "predict {adapter} {photos} --classes star,moon",
                                  "robustness {photos} --adapter {adapter}"])  # fmt: skip
def test_texts_that_cannot_be_read_are_refused(
    small_adapter: Path, photo_folder: Path, tmp_path: Path, line: str, refused: Refused
) -> None:
    (tmp_path / "faulty.json").write_text(json.dumps({"blue star": [""]}))
    words = [word.format(adapter=small_adapter, photos=photo_folder, out=tmp_path / "r.html") for word in line.split()]
    assert "No such file or folder with texts" in refused(*words, "--texts", tmp_path / "absent.json")
    assert "class 'blue star' needs a list of non-empty" in refused(*words, "--texts", tmp_path / "faulty.json")


def test_texts_that_no_class_needs_are_noted(
    small_adapter: Path, photo_folder: Path, copied: Path, tmp_path: Path, cli: Cli
) -> None:
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"blue star": ["a field."], "moon": ["a round moon."]}))
    plain = cli("evaluate", small_adapter, photo_folder, "--json")
    ran = cli("evaluate", small_adapter, photo_folder, "--texts", texts, "--json")
    assert (NOT_NEEDED in ran.err, NOT_NEEDED in plain.err) == (True, False)
    assert ran.document["accuracy"] == plain.document["accuracy"]
    new = cli("evaluate", small_adapter, photo_folder, "--subset", "new", "--texts", texts)
    assert (new.code, f"{NOT_NEEDED} 2 classes." in new.err) == (0, True), "it is no mistake that they know neither"
    named = cli("predict", small_adapter, copied / "blue_star", "--classes", "white cat,red square", "--texts", texts)
    assert f"{NOT_NEEDED} 2 classes." in named.err
    page = cli("report", small_adapter, photo_folder, "--quick", "--out", tmp_path / "r.html", "--texts", texts)
    assert f"{NOT_NEEDED} 4 classes." in page.err
    (copied / "white_cat").rename(copied / "moon")
    assert NOT_NEEDED not in cli("evaluate", small_adapter, copied, "--texts", texts).err
    moon = cli("predict", small_adapter, copied / "blue_star", "--classes", "blue star,moon", "--texts", texts)
    assert (moon.code, NOT_NEEDED in moon.err) == (0, False)
