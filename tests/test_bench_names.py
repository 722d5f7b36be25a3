"""What ``anprompt bench`` calls data: own ones are no published sets, and different ones have different names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers_bench import QUICK, records
from helpers_cli import Cli


@pytest.fixture
def bench(cli: Cli, small_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``bench(data sets, option, value, …)``, zero-shot unless told otherwise; gives the outcome."""
    monkeypatch.chdir(tmp_path)
    Path("quick.yaml").write_text(QUICK)

    def run(datasets: str, *more: object) -> Any:
        chosen = () if "--methods" in more else ("--methods", "zero-shot")
        return cli("bench", "--backbone", small_clip, "--datasets", datasets, "--recipe", "quick.yaml", "--seeds", "1",
                   "--threads", "1", *chosen, *more)  # fmt: skip

    return run


@pytest.mark.parametrize("name", ["flowers", "dtd"])
def test_a_folder_called_like_a_published_set_is_none(bench: Any, photo_folder: Path, name: str) -> None:
    shutil.copytree(photo_folder, name)
    code, out, err = bench(f"./{name}")
    assert code == 0, err
    assert f"{name} (own data)" in out
    assert "paper" not in out
    found = records()
    assert sorted(found) == [f"{name}-base", f"{name}-new"]
    for record in found.values():
        assert (record["data"]["benchmark"], record["fit"]["benchmark"]) == (None, None)


def test_a_transfer_from_a_folder_called_like_imagenet_is_none_of_the_papers(bench: Any, photo_folder: Path) -> None:
    shutil.copytree(photo_folder, "imagenet")
    shutil.copytree(photo_folder, "eurosat")
    code, out, err = bench("eurosat", "--protocol", "cross-dataset", "--source", "imagenet")
    assert code == 0, err
    assert "cross-dataset transfer from imagenet (own data)" in out
    assert "paper" not in out
