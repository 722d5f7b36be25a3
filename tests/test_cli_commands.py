"""What the commands do and print: results on stdout, progress and notes on stderr, one JSON document with --json."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from anprompt import PromptClassifier
from helpers_cli import Cli, Refused, contents, write_photos


def line_with(text: str, start: str) -> str:
    """The one line of ``text`` that begins with ``start``."""
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    return found


# fit


def test_the_saved_configuration_repeats_the_run_bit_for_bit(small_adapter: Path, tmp_path: Path, cli: Cli) -> None:
    again = tmp_path / "again"
    code, out, err = cli("fit", "--config", small_adapter / "config.yaml", "--out", again, "--json")
    assert code == 0
    assert "training: " in err
    assert (again / "adapter.safetensors").read_bytes() == (small_adapter / "adapter.safetensors").read_bytes()
    record, first = json.loads(out), json.loads((small_adapter / "record.json").read_text())
    assert record == json.loads((again / "record.json").read_text())
    assert (record["config"], record["loss"]) == (first["config"], first["loss"])
    config, repeated = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (small_adapter, again))
    assert repeated == {**config, "out": str(again)}
    assert (config["preset"], config["options"]) == ("paper", first["config"]["options"])
    assert config["recipe"] == first["config"]["recipe"]


def test_resuming_a_finished_run_says_so(
    small_adapter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Cli
) -> None:
    monkeypatch.setattr("anprompt.settings.load_backbone", lambda name: pytest.fail("nothing is left to do"))
    before = contents(small_adapter)
    line = ("fit", "--config", small_adapter / "config.yaml", "--resume")
    assert cli(*line) == (0, f"'{small_adapter}' is finished: nothing was left to do.\n", "")
    assert cli(*line, "--json").document["kind"] == "fit"
    code, out, err = cli(*line, "--shots", 3, "--recipe.lr", 0.1)
    assert (code, out) == (2, "")
    assert "shots: 4 → 3" in err
    assert "recipe.lr: 0.001 → 0.1" in err
    assert err.count("→") == 2
    code, out, err = cli(*line[:-1])
    assert (code, out) == (2, "")
    assert "already holds an adapter" in err
    assert contents(small_adapter) == before


def test_a_run_says_whether_it_continues(small_clip: Path, photo_folder: Path, tmp_path: Path, cli: Cli) -> None:
    probe = ("--method", "linear-probe", "--recipe.epochs", "1")
    line = ("fit", photo_folder, "--backbone", small_clip, *probe, "--out", tmp_path / "a")
    code, out, err = cli(*line, "--resume")
    assert (code, "starts at the beginning" in err) == (0, True)
    assert out.startswith("Learned 4 classes from 32 photos in ")
    code, out, _ = cli("fit", photo_folder, "--backbone", small_clip, "--method", "zero-shot", "--out", tmp_path / "0")
    assert out.splitlines()[0].startswith("Nothing had to be learned to tell 4 classes apart: done in ")
    state = tmp_path / "b" / "training" / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"")
    code, _, err = cli(*line[:-1], tmp_path / "b")
    assert (code, "--resume would continue it" in err) == (0, True)
    assert not state.exists()  # a finished run keeps the adapter, not the much larger training state


def test_next_commands_are_ones_that_work(small_clip: Path, photo_folder: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "my adapter"
    printed = cli(
        "fit", photo_folder, "--backbone", small_clip, "--method", "zero-shot", "--subset", "base", "--out", out
    )
    lines = [shlex.split(line) for line in printed.out.splitlines() if "anprompt evaluate" in line]
    assert [line[-2:] for line in lines] == [["--subset", "base"], ["--subset", "new"]]
    for line in lines:
        assert cli(*line[line.index("anprompt") + 1 :]).code == 0


# predict


def test_predict_replaces_only_earlier_answers(
    small_adapter: Path, photo_folder: Path, tmp_path: Path, refused: Refused, cli: Cli
) -> None:
    photo, file = tmp_path / "photo.png", tmp_path / "answers.csv"
    shutil.copy(photo_folder / "test" / "white_cat" / "test-0.png", photo)
    assert "is the name of a picture: name a file such as 'answers.csv'" in refused(
        "predict", small_adapter, photo, "--csv", photo
    )
    file.write_text("path,label\na.png,cat\n")
    assert "is not a CSV file that anprompt wrote" in refused("predict", small_adapter, photo, "--csv", file)
    shutil.copy(photo, tmp_path / "photo")
    assert "is there already" in refused("predict", small_adapter, photo, "--csv", tmp_path / "photo")
    file.unlink()
    for _ in range(2):  # the second time over the first
        assert cli("predict", small_adapter, photo, "--csv", file).code == 0


def test_an_adapter_in_the_wrong_place_is_recognised(small_adapter: Path, photo_folder: Path, refused: Refused) -> None:
    for command in ("predict", "evaluate"):
        message = refused(command, photo_folder, small_adapter)
        assert f"'{small_adapter}' is one: the adapter comes first, as in anprompt {command}" in message.replace(
            "\n", " "
        )
    document, photo = small_adapter / "adapter.json", photo_folder / "test" / "white_cat" / "test-0.png"
    assert f"is a file: give the folder of the adapter, such as '{small_adapter}'" in refused(
        "predict", document, photo
    )


def test_predict_prints_a_table_and_writes_a_csv(
    small_adapter: Path, photo_folder: Path, tmp_path: Path, cli: Cli
) -> None:
    inputs = (photo_folder / "test" / "white_cat" / "test-0.png", photo_folder / "test" / "blue_star",
              photo_folder / "test" / "*" / "test-1.*")  # fmt: skip
    file = tmp_path / "new" / "answers.csv"
    code, out, err = cli("predict", small_adapter, *inputs, "--top", 2, "--csv", file)
    assert (code, err) == (0, "predicting: 9/9\n")
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    assert [row["rank"] for row in rows] == ["1", "2"] * 9
    assert [Path(row["path"]).name for row in rows[::2]] == [
        "test-0.png", *(f"test-{i}.{'png' if i % 3 == 0 else 'jpg'}" for i in range(4)), *["test-1.jpg"] * 4,
    ]  # fmt: skip
    table = [line.rsplit(maxsplit=1) for line in out.splitlines() if line.endswith(tuple("0123456789"))]
    assert [number for _, number in table] == [f"{100 * float(row['probability']):.1f}" for row in rows]
    assert all(left.endswith(row["class"]) for (left, _), row in zip(table, rows, strict=True))
    loaded = PromptClassifier.load(small_adapter)
    paths = [row["path"] for row in rows[::2]]
    probabilities = loaded.predict_proba(paths)
    assert [row["class"] for row in rows[::2]] == list(loaded.predict(paths))
    np.testing.assert_allclose([float(row["probability"]) for row in rows[::2]], probabilities.max(axis=1), atol=1e-6)


def test_predict_among_other_classes(small_adapter: Path, photo_folder: Path, tmp_path: Path, cli: Cli) -> None:
    photo = photo_folder / "test" / "white_cat" / "test-0.png"
    names = tmp_path / "names.txt"
    names.write_text("red dog\n\n  white cat  \ngreen house\n", encoding="utf-8")
    listed = cli("predict", small_adapter, photo, "--classes", "red dog, white cat,green house", "--json")
    assert listed.code == 0
    assert listed.out == cli("predict", small_adapter, photo, "--classes-file", names, "--json").out
    (result,) = listed.document["results"]
    assert sorted(guess["class"] for guess in result["predictions"]) == ["green house", "red dog", "white cat"]
    assert sum(guess["probability"] for guess in result["predictions"]) == pytest.approx(1, abs=1e-5)
    assert "note: 2 of 3 classes have no descriptions" in listed.err


def test_file_names_that_are_not_utf_8(small_adapter: Path, tmp_path: Path, cli: Cli) -> None:
    write_photos(tmp_path, ["in"], 1)
    os.rename(tmp_path / "in" / "0.png", os.fsencode(tmp_path / "in") + b"/\xf6.png")
    code, out, _ = cli("predict", small_adapter, tmp_path / "in", "--csv", tmp_path / "out.csv", "--json")
    assert code == 0
    assert json.loads(out)["results"][0]["path"].endswith("/\udcf6.png")
    assert r"/\udcf6.png,1," in (tmp_path / "out.csv").read_text(encoding="utf-8")


# evaluate, zeroshot


@pytest.mark.parametrize("subset", ["all", "new"])
def test_evaluate(subset: str, small_adapter: Path, photo_folder: Path, tmp_path: Path, cli: Cli) -> None:
    line = ("evaluate", small_adapter, photo_folder, "--subset", subset, "--record", tmp_path / "record.json")
    code, out, err = cli(*line)
    document = json.loads((tmp_path / "record.json").read_text())
    assert code == 0
    assert err.endswith(f"evaluating: {document['images']}/{document['images']}\n")
    right = round(document["accuracy"] * document["images"] / 100)
    names = {"all": ["blue star", "green circle", "red square", "white cat"], "new": ["red square", "white cat"]}[
        subset
    ]
    assert [line.split()[:3] for line in out.splitlines()[2 : 2 + len(names)]] == [
        [*name.split(), "4"] for name in names
    ]
    assert line_with(out, "accuracy").split()[1] == f"{100 * right / (4 * len(names)):.2f}"
    assert f"{4 * len(names)} of photos, split test, subset {subset}" in line_with(out, "photos")
    printed = cli(*line, "--json").document
    changing = ("created", "seconds")
    assert {k: v for k, v in printed.items() if k not in changing} == {
        k: v for k, v in document.items() if k not in changing
    }


def test_zeroshot_wordings(small_clip: Path, photo_folder: Path, tmp_path: Path, cli: Cli) -> None:
    line = ("zeroshot", photo_folder, "--backbone", small_clip)
    code, out, _ = cli(*line)
    assert code == 0
    assert "text: template" in line_with(out, "decided by")
    assert "text: ensemble" in line_with(cli(*line, "--text", "ensemble").out, "decided by")
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"white cat": ["a small cat."], "red square": ["a square this is red."]}))
    assert "text: descriptions" in line_with(cli(*line, "--texts", texts).out, "decided by")
    code, out, err = cli(*line, "--text", "ensemble", "--texts", texts)
    assert (code, out, err) == (2, "", "anprompt: --texts has no use with --text ensemble: leave one of them out.\n")


# check, info, methods


def test_check(tmp_path: Path, small_clip: Path, cli: Cli) -> None:
    data = write_photos(tmp_path / "data", ["cat", "dog"], 10)
    (data / "dog" / "0.png").unlink()
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"main": {"cat": ["a cat.", "the cat."]}, "noise": {"cat": ["a small cat."]}}))
    code, out, err = cli("check", data, "--shots", 7, "--texts", texts, "--backbone", small_clip)
    assert (code, err) == (0, "reading train: 14/14\nreading test: 5/5\n")
    assert out.splitlines()[0] == "data: 2 classes, 19 photos"
    assert line_with(out, "cat").split() == ["cat", "7", "3", "2", "1"]
    assert line_with(out, "dog").split() == ["dog", "7", "2", "0", "0"]
    assert "a fixed 30 % of each class is held out" in out
    assert "1 of 2 classes have no descriptions and would use the template: dog" in out
    assert "training photos" not in out
    assert out.endswith("Nothing is wrong.\n")
    assert "2 of 2 classes have fewer than 8 training photos and would give all: cat (7), dog (7)" in cli(
        "check", data, "--shots", 8).out  # fmt: skip


def test_check_reports_everything_that_is_wrong(tmp_path: Path, small_clip: Path, cli: Cli) -> None:
    long = "q" * 90
    data = write_photos(tmp_path / "data", ["cat", long], 2)
    for photo in (data / "cat").iterdir():
        photo.write_bytes(b"no picture")
    code, out, _ = cli("check", data, "--backbone", small_clip)
    assert code == 2
    assert out.count("unreadable: ") == 2
    assert "No photo can be read of 'cat' in train, 'cat' in test" in out
    assert "Texts longer than the text tower's 77 tokens" in out
    assert "2 photos cannot be used" in out
    document = cli("check", data, "--backbone", small_clip, "--json")
    assert document.code == 2
    assert len(document.document["unreadable"]) == 2
    assert long[:40] in document.document["too_long"]


def test_info(small_adapter: Path, small_clip: Path, cli: Cli) -> None:
    assert line_with(cli("info").out, "torch").split()[1]
    adapter = cli("info", small_adapter).out
    assert line_with(adapter, "classes").split(maxsplit=1)[1] == "blue star, green circle, red square, white cat"
    assert line_with(adapter, "bytes").split()[1] == f"{(small_adapter / 'adapter.safetensors').stat().st_size:,}"
    backbone = cli("info", small_clip, "--json").document
    assert (backbone["vision"]["depth"], backbone["text"]["width"], backbone["joint_width"]) == (12, 24, 16)
    record = json.loads((small_adapter / "record.json").read_text())
    assert backbone["weights_sha256"] == record["backbone"]["weights_sha256"]


def test_methods(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    rows = {row["name"]: row for row in cli("methods", "--json").document["methods"]}
    assert rows["anprompt"]["parameters"] == 4_992_256
    assert (rows["linear-probe"]["parameters"], rows["linear-probe"]["parameters_per_class"]) == (0, 513)
    assert rows["tip-adapter"]["needs"] == ["training photos"]
    assert {"paper", "link", "year", "needs", "supports_new_classes", "presets"} <= rows["anprompt"].keys()
    monkeypatch.setenv("COLUMNS", "80")
    table = cli("methods").out
    assert line_with(table, "anprompt  ").split()[:5] == ["anprompt", "2025", "4,992,256", "descriptions", "yes"]
    assert max(map(len, table.split("\n\n")[0].splitlines())) <= 80
    about = cli("methods", "anprompt", "--json").document
    assert {option["name"]: option["default"] for option in about["options"]}["alpha"] == 0.001
    assert {entry["name"]: entry["takes"] for entry in about["recipe"]}["batch"] == "whole number from 1"
    page = cli("methods", "anprompt").out
    assert line_with(page, "kl_direction").split()[:4] == ["kl_direction", "forward", "forward,", "reverse"]
    assert "warmup_epochs" in page
    assert "warmup_epochs" not in cli("methods", "zero-shot").out  # nothing of it is trained


JSON = [
    ("methods",), ("methods", "zero-shot"), ("info",), ("info", "ADAPTER"), ("info", "CLIP"), ("check", "DATA"),
    ("zeroshot", "DATA", "--backbone", "CLIP"), ("evaluate", "ADAPTER", "DATA"), ("predict", "ADAPTER", "DATA"),
    ("fit", "DATA", "--backbone", "CLIP", "--method", "zero-shot"),
]  # fmt: skip


@pytest.mark.parametrize("line", JSON, ids=" ".join)
def test_json_is_one_document_and_nothing_else(
    line: tuple[str, ...], small_adapter: Path, small_clip: Path, photo_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, cli: Cli,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    paths = {"ADAPTER": str(small_adapter), "CLIP": str(small_clip), "DATA": str(photo_folder)}
    outcome = cli(*(paths.get(word, word) for word in line), "--json")
    assert outcome.code == 0
    assert isinstance(outcome.document, dict)
    assert outcome.document


def test_names_are_shown_as_they_are(tmp_path: Path, cli: Cli) -> None:
    data = write_photos(tmp_path / "[red]data", ["[bold]cat", ":dog:"], 2)
    out = cli("check", data).out
    assert line_with(out, "[bold]cat").split() == ["[bold]cat", "1", "1"]
    assert line_with(out, ":dog:").split() == [":dog:", "1", "1"]
