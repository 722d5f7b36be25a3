"""Where ``anprompt fit`` may write, and what it says to do next."""

from __future__ import annotations

from pathlib import Path

import pytest

from anprompt.data import toyworld
from helpers_cli import Cli, Refused, contents, write_photos

PROBE = ("--method", "linear-probe", "--shots", 1, "--recipe.epochs", 2)


NAMES = ["README.md", "config.yaml", "record.json", "adapter.json", "adapter.safetensors", "training/log.jsonl",
         "training/state.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_files_of_others_are_not_replaced(
    name: str, small_clip: Path, photo_folder: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"method: \xff" if name == "config.yaml" else b"mine")
    before = contents(tmp_path)
    for resume in ((), ("--resume",)):
        message = refused("fit", photo_folder, "--backbone", small_clip, *PROBE, "--out", tmp_path, *resume)
        assert f"'{tmp_path}' holds files of yours that would be replaced; give another --out: {name}" in message
    assert contents(tmp_path) == before


def test_the_configuration_of_an_earlier_run_outlives_one_that_cannot_start(
    small_adapter: Path, tmp_path: Path, refused: Refused
) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes((small_adapter / "config.yaml").read_bytes())
    data = write_photos(tmp_path / "data", ["cat", "dog"], 2)
    for photo in (data / "cat").iterdir():
        photo.write_bytes(b"no picture")
    refused("fit", data, "--config", config, "--out", tmp_path)
    assert config.read_bytes() == (small_adapter / "config.yaml").read_bytes()


@pytest.mark.parametrize("place", ["../photos", "train", "train/*"])
def test_an_adapter_does_not_go_among_the_photos(
    place: str, small_clip: Path, tmp_path: Path, refused: Refused
) -> None:
    data = toyworld.export(tmp_path / "photos", train=2, classes=3)
    folder = next(data.glob(place))
    before = contents(data)
    message = refused("fit", data, "--backbone", small_clip, *PROBE, "--out", folder)
    assert f"The photos lie in '{folder}': give another --out, such as '{folder / 'adapter'}'." in message
    assert contents(data) == before


def test_new_classes_are_only_promised_where_the_method_has_them(
    small_clip: Path, photo_folder: Path, tmp_path: Path, cli: Cli
) -> None:
    line = ("fit", photo_folder, "--backbone", small_clip, *PROBE, "--subset", "base", "--out", tmp_path / "a")
    out = cli(*line).out
    assert "--subset base" in out
    assert "--subset new" not in out
