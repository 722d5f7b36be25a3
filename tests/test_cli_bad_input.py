"""Bad input through the command line: exit code 2, one clear message, and nothing is written, changed or lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from anprompt.data import BadImage, decode
from anprompt.files import sha256_json, to_json
from anprompt.inference import stream_logits
from helpers_cli import Cli, Refused, write_photos
from helpers_clip import random_backbone

ZERO = ("--method", "zero-shot", "--out", "out")  # no training: the fastest whole run
PROBE = ("--method", "linear-probe", "--recipe.epochs", "1")  # which reads photos


# Data


def empty(root: Path) -> Path:
    root.mkdir()
    return root


def class_without_image(root: Path) -> Path:
    write_photos(root, ["cat", "dog"])
    (root / "red_fox").mkdir()
    (root / "red_fox" / "notes.txt").write_text("no photo")
    return root


def twice(root: Path) -> Path:
    return write_photos(root, ["red_fox", "red fox", "_", "dog"])


def csv_with_unused_class(root: Path) -> Path:
    write_photos(root, ["cat", "dog"])
    (root / "classes.txt").write_text("cat\ndog\nfox\n")
    lines = [f"{name}/{i}.png,{name}" for name in ("cat", "dog") for i in range(3)]
    (root / "list.csv").write_text("\n".join(["path,label", *lines, "cat/0.png,", "gone.png,dgo"]))
    return root / "list.csv"


def split_file_with_absent_pictures(root: Path) -> Path:
    write_photos(root, ["cat", "dog"])
    rows = [[f"{name}/{i}.png", label, name] for label, name in enumerate(("cat", "dog")) for i in range(7)]
    (root / "split_zhou_Mine.json").write_text(json.dumps({"train": rows, "val": [], "test": rows[:2] + rows[7:8]}))
    return root


def not_utf_8(root: Path) -> Path:
    write_photos(root, ["cat", "dog"])
    os.rename(root / "dog", os.fsencode(root) + b"/d\xf6g")
    return root


def garbling(root: Path) -> Path:
    return write_photos(root, ["cat", "d\nog", "f\u202eox"])


DATA = [
    (lambda root: root, ["There is no 'data'"]),
    (empty, ["holds no class folders"]),
    (class_without_image, ["class 'red fox' has no picture in red_fox/"]),
    (lambda root: write_photos(root, ["cat"]), ["there is only one class ('cat'), and at least two are needed"]),
    (twice, ["red fox/ and red_fox/ are one class name to CLIP: 'red fox'", "_/ has an empty class name"]),
    (garbling, [r"'d\nog/' has a class name with the control character U+000A: rename it", "U+202E"]),
    (not_utf_8, [r"d\udcf6g/ has a class name that is not UTF-8: rename it"]),
    (
        csv_with_unused_class,
        ["class 'fox' is listed in", "but has no row", "line 8: empty label", "cat/0.png is already listed on line 2",
         "1 file does not exist", "gone.png (line 9)", "Did you mean 'dog'?"],
    ),
    (split_file_with_absent_pictures,
     ["8 of the 17 pictures", "cat/3.png, cat/4.png, cat/5.png, cat/6.png, dog/3.png, …"]),
]  # fmt: skip


@pytest.mark.parametrize(("make", "words"), DATA)
@pytest.mark.parametrize("command", ["fit", "check", "zeroshot", "evaluate"])
@pytest.mark.usefixtures("no_model")
def test_data(
    make: Callable[[Path], Path], words: list[str], command: str, refused: Refused, tmp_path: Path, small_adapter: Path
) -> None:
    data = make(tmp_path / "data")
    message = refused(command, *([small_adapter] if command == "evaluate" else []), data)
    assert all(word in message for word in words), message


def test_fewer_images_than_shots_are_used_and_said(small_clip: Path, tmp_path: Path, cli: Cli) -> None:
    data = write_photos(tmp_path / "data", ["cat", "dog"], 10)
    (data / "dog" / "0.png").unlink()
    code, _, err = cli("fit", data, "--backbone", small_clip, *PROBE, "--shots", 7, "--out", tmp_path / "out")
    assert (code, "fewer" in err) == (0, False)
    line = ("fit", data, "--backbone", small_clip, *PROBE, "--shots", 8, "--out", tmp_path / "out2")
    code, _, err = cli(*line)
    assert code == 0
    assert "note: 2 of 2 classes have fewer than 8 photos and give all: cat (7), dog (7)\n" in err
    assert json.loads((tmp_path / "out2" / "record.json").read_text())["data"]["images"] == 14


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photos of two classes; among those of the dog four that cannot be used."""
    root = tmp_path_factory.mktemp("damaged")
    for split in ("train", "test"):
        write_photos(root / split, ["cat", "dog"], 4)
        folder = root / split / "dog"
        (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:60])
        (folder / "empty.png").write_bytes(b"")
        (folder / "text.jpg").write_text("a letter")
        Image.new("1", (30_000, 8_000)).save(folder / "bomb.png")
    return root


BAD = {
    "cut.png": "cannot be decoded",
    "empty.png": "0 bytes",
    "text.jpg": "not a picture",
    "bomb.png": "; make it smaller",
}


def all_listed(message: str, folder: Path) -> bool:
    return all(f"{folder / 'dog' / name}: " in message and reason in message for name, reason in BAD.items())


def test_bad_images_stop_or_are_skipped_in_training(
    damaged: Path, small_clip: Path, refused: Refused, tmp_path: Path
) -> None:
    line = ("fit", damaged, "--backbone", small_clip, *PROBE, *ZERO[2:])
    message = refused(*line)
    assert message.startswith("anprompt: 4 of 12 pictures cannot be used (--bad-images skip leaves them out):")
    assert all_listed(message, damaged / "train")
    code, _, err = refused.cli(*line, "--bad-images", "skip")
    assert code == 0
    assert "note: 4 unreadable photos are left out: " in err
    assert all_listed(err, damaged / "train")
    assert json.loads((tmp_path / "out" / "record.json").read_text())["data"]["images"] == 8


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_bad_images_stop_or_are_skipped_in_use(
    command: str, damaged: Path, small_adapter: Path, refused: Refused, tmp_path: Path
) -> None:
    inputs = damaged / "test" if command == "predict" else damaged
    old = tmp_path / "old"
    old.write_text("path,rank,class,probability\n" if command == "predict" else '{"record_version": 1}')
    line = (command, small_adapter, inputs, "--csv" if command == "predict" else "--record", old)
    message = refused(*line)
    assert "4 of 12 pictures cannot be used" in message
    assert all_listed(message, damaged / "test")
    code, out, err = refused.cli(*line, "--bad-images", "skip", "--json")
    assert code == 0
    assert all_listed(err, damaged / "test")
    document = json.loads(out)
    assert (len(document["results"]) if command == "predict" else document["images"]) == 8
    assert len(old.read_text()) > 100, "an earlier result is replaced"
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    assert "notes.txt' is there already and is not" in refused(*line[:-1], notes)
    assert notes.read_text() == "mine"


def test_a_photo_that_is_not_there_costs_no_evaluation(
    damaged: Path, small_adapter: Path, refused: Refused, tmp_path: Path
) -> None:
    shutil.copytree(damaged, tmp_path / "photos")
    (tmp_path / "photos" / "test" / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    code, out, err = refused.cli("evaluate", small_adapter, tmp_path / "photos", "--bad-images", "skip", "--json")
    assert code == 0
    assert "gone.png" in err
    assert json.loads(out)["images"] == 8
    whole = refused.cli("evaluate", small_adapter, damaged, "--bad-images", "skip", "--json")[1]
    assert json.loads(out)["data"]["sha256"] == json.loads(whole)["data"]["sha256"], "of the photos that were read"


def test_bad_images_are_listed_by_check(damaged: Path, cli: Cli) -> None:
    code, out, _ = cli("check", damaged)
    assert code == 2
    assert all_listed(out, damaged / "train")
    assert all_listed(out, damaged / "test")
    assert "8 photos cannot be used" in out


def test_only_bad_images_are_refused_even_when_skipped(damaged: Path, small_adapter: Path, refused: Refused) -> None:
    message = refused("predict", small_adapter, damaged / "test" / "dog" / "cut.png", "--bad-images", "skip")
    assert "1 of 1 pictures cannot be used" in message


def test_what_needs_the_models_shape_is_found_before_photos_are_read(small_clip: Path, refused: Refused) -> None:
    write_photos(Path("data"), ["cat", "q" * 90, "x" * 91])
    line = ("fit", "data", "--backbone", small_clip)
    code, _, err = refused.cli(*line)
    assert code == 2
    assert "longer than the text tower's 77 tokens" in err
    assert "q" * 40 in err
    assert "x" * 40 in err
    assert "reading photos" not in err
    shutil.rmtree("data")
    write_photos(Path("data"), ["cat", "dog"])
    for options, words in (
        (("--options.layers", "6-13"), "Option 'layers' is '6-13', outside the tower: allowed are blocks 1 to 12"),
        (("--options.layers", "six"), "Option 'layers' must look like '6-12' or 'last-7' (got 'six')."),
        (("--template", "a photo"), "must contain '{}' exactly once"),
        (("--device", "gpu"), "Unknown device 'gpu'. Did you mean 'cpu'?"),
    ):
        message = refused(*line, *options)
        assert words in message
        assert "reading photos" not in message
    assert not Path("adapter").exists()


# Adapters and backbones


def change_document(folder: Path, **entries: Any) -> None:
    """Change the document and its checksum, as another program would."""
    path = folder / "adapter.json"
    document = {**json.loads(path.read_text()), **entries}
    document.pop("sha256")
    path.write_text(json.dumps({**document, "sha256": sha256_json(document)}))


def truncate(folder: Path) -> None:
    os.truncate(folder / "adapter.safetensors", 100)


def tamper(folder: Path) -> None:
    content = bytearray((folder / "adapter.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "adapter.safetensors").write_bytes(content)


ADAPTERS: list[tuple[Callable[[Path], Any], str]] = [
    (shutil.rmtree, "There is no adapter folder 'broken'."),
    (lambda folder: (folder / "adapter.json").unlink(), "is not an adapter: it has no adapter.json"),
    (truncate, "'broken/adapter.safetensors' is truncated: 100 bytes instead of"),
    (tamper, "was changed after it was written"),
    (lambda folder: change_document(folder, format_version=99), "format version 99"),
    (lambda folder: change_document(folder, files={"../secret": {}}), "names a file outside its folder ('../secret')"),
    (lambda folder: os.truncate(folder / "adapter.json", 50), "'broken/adapter.json' is damaged"),
]


@pytest.mark.parametrize(("breaks", "words"), ADAPTERS)
@pytest.mark.usefixtures("no_model")
def test_adapters(
    breaks: Callable[[Path], Any], words: str, small_adapter: Path, photo_folder: Path, refused: Refused, tmp_path: Path
) -> None:
    shutil.copytree(small_adapter, tmp_path / "broken")
    breaks(tmp_path / "broken")
    for command in ("predict", "evaluate"):
        assert words in refused(command, "broken", photo_folder)


def test_an_adapter_of_another_backbone(
    small_adapter: Path, small_clip: Path, photo_folder: Path, refused: Refused, tmp_path: Path
) -> None:
    other = shutil.copytree(small_clip, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["visual_projection.weight"] = torch.zeros_like(tensors["visual_projection.weight"])
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    message = refused("predict", small_adapter, photo_folder, "--backbone", other)
    assert "belongs to the backbone" in message
    assert "other weights" in message


@pytest.mark.parametrize("command", ["predict A D", "evaluate A D", "report A D", "robustness D --adapter A",
                                     "explain D --adapter A"])  # fmt: skip
def test_an_adapter_whose_backbone_is_elsewhere(
    command: str, small_adapter: Path, photo_folder: Path, tmp_path: Path, refused: Refused
) -> None:
    document = json.loads((small_adapter / "adapter.json").read_text())
    document["backbone"]["source"] = "bb"  # as typed in another folder
    document["sha256"] = sha256_json({key: value for key, value in document.items() if key != "sha256"})
    (shutil.copytree(small_adapter, tmp_path / "abb") / "adapter.json").write_text(to_json(document))
    words = {"A": "abb", "D": str(photo_folder)}
    message = refused(*(words.get(word, word) for word in command.split()))
    assert "The adapter 'abb' was trained on the backbone 'bb', which is not here: say with --backbone" in message


@pytest.mark.parametrize("command", ["fit", "zeroshot", "info"])
def test_missing_backbones(command: str, photo_folder: Path, refused: Refused) -> None:
    line = (command, "minature") if command == "info" else (command, photo_folder, "--backbone", "minature")
    assert "Did you mean 'miniature'?" in refused(*line)
    assert "neither an adapter (no adapter.json) nor a backbone" in refused("info", photo_folder)


# Output


@pytest.mark.usefixtures("no_model")
def test_output_that_cannot_be_written(
    small_adapter: Path, photo_folder: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("mine")
    assert "'file' is a file; give a folder for the output." in refused("fit", photo_folder, "--out", "file")
    assert "Cannot write to the output folder 'file/x'" in refused("demo", "--out", "file/x")
    Path("folder").mkdir()
    assert "'folder' is a folder" in refused("predict", small_adapter, photo_folder, "--csv", "folder")
    assert "'folder' is a folder" in refused("evaluate", small_adapter, photo_folder, "--record", "folder")

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", read_only)
    assert "'new/out': Read-only file system." in refused("fit", photo_folder, "--out", "new/out")


@pytest.mark.parametrize("after", [0, 1])
def test_a_full_disk_while_saving(
    after: int, small_clip: Path, small_adapter: Path, photo_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, refused: Refused,
) -> None:  # fmt: skip
    calls = iter(range(100))

    def full(_: int) -> None:
        if next(calls) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("anprompt.files.os.fsync", full)
    Path("answers.csv").write_text("path,rank,class,probability\n")
    code, out, err = refused.cli("fit", photo_folder, "--backbone", small_clip, *ZERO)
    assert (code, out) == (2, "")
    assert "No space left on device; what was there before is untouched." in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["config.yaml"] * after
    assert "No space left" in refused("predict", small_adapter, photo_folder, "--csv", "answers.csv")


@pytest.mark.slow
def test_a_real_limit_of_the_system_in_training(small_clip: Path, photo_folder: Path, tmp_path: Path) -> None:
    """Files may have 20 kB only: the first training state does not fit."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    code = f"{limit}\nfrom anprompt.cli import main\nmain()"
    line = [
        "fit",
        str(photo_folder),
        "--backbone",
        str(small_clip),
        "--recipe.epochs",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    ended = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr
    assert "File too large" in ended.stderr
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("stop", [True, False])
def test_after_a_bad_image_nothing_more_is_computed_but_all_are_found(stop: bool) -> None:
    computed: list[int] = []

    def logits(pixels: torch.Tensor) -> torch.Tensor:
        computed.append(len(pixels))
        return torch.zeros(len(pixels), 2)

    method: Any = SimpleNamespace(backbone=random_backbone(), logits=logits)
    bad: list[BadImage] = []
    items = [Image.new("RGB", (40, 40)), b"", Image.new("L", (40, 50)), b"x", Image.new("RGB", (50, 40))]
    shown = [item for chunk, _ in stream_logits(method, items, decode, bad=bad, stop=stop, batch=1) for item in chunk]
    assert shown == ([items[0]] if stop else items[::2])
    assert computed == [1] * len(shown)
    assert [error.path for error in bad] == ["picture of 0 bytes", "picture of 1 bytes"]
