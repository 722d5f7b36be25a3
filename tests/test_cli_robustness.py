"""``anprompt robustness`` as a person meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from anprompt import PromptClassifier, methods
from anprompt.adapter import DOCUMENT
from anprompt.analysis import robustness
from anprompt.files import sha256_json, to_json
from anprompt.text.noise import STRATEGIES
from helpers_cli import Cli, Refused, contents


def test_without_data_the_noises_are_listed(cli: Cli) -> None:
    printed = cli("robustness").out
    assert all(name in printed for name in [*STRATEGIES, "blur"])
    assert {row["noise"] for row in cli("robustness", "--json").document} >= set(STRATEGIES)


def test_the_command(cli: Cli, photo_folder: Path, small_adapter: Path, tmp_path: Path) -> None:
    before = contents(small_adapter)
    texts = tmp_path / "bank.csv"
    texts.write_text("class,sentence\nwhite cat,one white cat here\nwhite cat,some white cat\nblue star,my blue star\n")
    line = ["robustness", photo_folder, "--adapter", small_adapter, "--texts", texts, "--wordings", 2, "--samples", 2,
            "--noises", "identity,drop,blur"]  # fmt: skip
    code, printed, err = cli(*line, "--out", tmp_path / "out")
    assert code == 0, err
    assert "4 classes, 8 of 16 test photos (at most 2 a class), 2 wordings of each noise" in printed
    assert "zero-shot, descriptions" in printed
    assert "Synonyms: " in printed
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"robustness.json", "noise.png", "noise.svg", "strength.png", "strength.svg"}
    assert contents(small_adapter) == before
    document = cli(*line, "--json", "--out", tmp_path / "out").document  # over its own files
    assert document["kind"] == "robustness"
    pairs = [(row["method"], row["noise"]) for row in document["rows"]]
    assert pairs == [(method, noise) for method in ("zero-shot", "zero-shot, descriptions", "anprompt")
                     for noise in ("identity", "drop", "blur")]  # fmt: skip
    for row in document["rows"]:
        assert ("image_shift" in row) is (row["noise"] == "blur")
        assert (row.get("text_shift") or row["image_shift"])["value"] >= 0
        if row["noise"] == "identity":
            assert row["logit_preservation"]["value"] == 1
    assert document["data"]["images"] == 8
    kept = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert kept["rows"] == document["rows"]  # seeded


def test_each_adapter_is_measured_in_its_own_precision(
    photo_folder: Path, small_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    rough = tmp_path / "bf16"
    shutil.copytree(small_adapter, rough)
    document = {**json.loads((rough / DOCUMENT).read_text()), "precision": "bf16"}
    document["recipe"] = {**document.get("recipe", {}), "precision": "bf16"}
    document["sha256"] = sha256_json({key: value for key, value in document.items() if key != "sha256"})
    (rough / DOCUMENT).write_text(to_json(document), encoding="utf-8")
    seen: list[list[str]] = []
    real = robustness.encode
    monkeypatch.setattr(
        robustness, "encode", lambda ms, *a, **k: seen.append([m.backbone.precision for m in ms]) or real(ms, *a, **k)
    )
    line = ["robustness", photo_folder, "--noises", "drop", "--wordings", 1, "--samples", 1, "--adapter"]
    for folders, expected in (((rough, small_adapter), "bf16 bf16 fp32"), ((small_adapter, rough), "fp32 fp32 bf16")):
        assert cli(*line, ",".join(map(str, folders))).code == 0
        assert seen.pop() == expected.split(), "zero-shot as the first adapter"


def test_methods_without_class_weights_are_left_out_of_weak_noise(
    cli: Cli, photo_folder: Path, small_adapter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = methods.find("anprompt")
    monkeypatch.setattr(own, "block_logits", lambda self, f, b: methods.Method.block_logits(self, f, b), raising=False)
    found = cli("robustness", photo_folder, "--adapter", small_adapter, "--noises", "weak,drop", "--wordings", 1,
                "--samples", 1, "--out", tmp_path / "out", "--json")  # fmt: skip
    assert "'anprompt' is left out of noise 'weak'" in found.err
    rows = [(row["method"], row["noise"]) for row in found.document["rows"]]
    assert rows == [("zero-shot", "weak"), ("zero-shot", "drop"), ("anprompt", "drop")]
    assert (tmp_path / "out" / "noise.png").stat().st_size > 1000


def test_an_adapter_of_zero_shot_has_a_name_of_its_own(
    cli: Cli, photo_folder: Path, small_clip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "frozen"
    line = ("--method", "zero-shot", "--template", "one {} here.", "--out", folder)
    assert cli("fit", photo_folder, "--backbone", small_clip, *line).code == 0
    found = cli("robustness", photo_folder, "--adapter", folder, "--noises", "drop,typo", "--wordings", 1,
                "--samples", 1, "--json")  # fmt: skip
    rows = [(row["method"], row["noise"]) for row in found.document["rows"]]
    assert rows == [(name, noise) for name in ("zero-shot", f"zero-shot ({folder})") for noise in ("drop", "typo")]


def test_unreadable_photos(cli: Cli, photo_folder: Path, small_clip: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_folder, tmp_path / "photos")
    (tmp_path / "photos" / "test" / "white_cat" / "test-0.png").write_bytes(b"no picture")
    line = ("robustness", tmp_path / "photos", "--backbone", small_clip, "--noises", "drop,jpeg", "--wordings", 1)
    code, _, err = cli(*line)
    assert code == 2
    assert "1 of 16 pictures cannot be used" in err
    found = cli(*line, "--bad-images", "skip", "--json")
    assert found.document["data"]["images"] == 15
    assert "1 of 16 photos cannot be read and are left out" in found.err


@pytest.mark.parametrize("mine", ["noise.png", "strength.svg", "robustness.json"])
@pytest.mark.usefixtures("no_model")
def test_files_of_ones_own_are_not_replaced(mine: str, refused: Refused) -> None:
    (refused.folder / mine).write_text("mine")
    words = f"'.' holds files of yours that would be replaced; give another --out: {mine}"
    assert words in refused("robustness", "toyworld", "--out", ".")


@pytest.mark.parametrize(("line", "words"), [
    ("robustness d --noises shufle", "'shufle' is none. Did you mean 'shuffle'?"),
    ("robustness d --wordings 0", "--wordings must be at least 1 (got 0)"),
    ("robustness d --samples 0", "--samples must be at least 1 (got 0)"),
    ("robustness d --strength 2", "--strength must be from 0 to 1 (got 2)"),
    ("robustness d --template photo", "must contain '{}' exactly once"),
    ("robustness d", "There is no 'd'"),
    ("robustness toyworld --adapter absent", "There is no adapter folder 'absent'"),
    ("robustness toyworld --synonyms absent.txt", "There is no file with texts 'absent.txt'"),
])  # fmt: skip
@pytest.mark.usefixtures("no_model")
def test_wrong_usage_of_robustness(line: str, words: str, refused: Refused) -> None:
    assert words in refused(*line.split())


def test_baked_adapters_are_refused(cli: Cli, small_adapter: Path, photo_folder: Path, tmp_path: Path) -> None:
    PromptClassifier.load(small_adapter).bake().save(tmp_path / "baked")
    code, _, err = cli("robustness", photo_folder, "--adapter", f"{small_adapter},{tmp_path / 'baked'}")
    assert code == 2
    assert "baked' is baked: it keeps class vectors instead of sentences" in err
