"""What ``anprompt bench`` calls data: own ones are no published sets, and different ones have different names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from anprompt.data import open_data
from anprompt.errors import UserError
from anprompt.protocols.naming import labels_of
from helpers_bench import QUICK, records
from helpers_benchmarks import make_copy
from helpers_cli import Cli, write_photos


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


def test_folders_of_one_name_are_told_apart(bench: Any, photo_folder: Path, tmp_path: Path) -> None:
    for site in "ab":
        shutil.copytree(photo_folder, f"{site}/photos")
    code, out, err = bench("a/photos,b/photos", "--methods", "zero-shot,anprompt")
    assert code == 0, err
    assert "same evaluation" not in out
    assert "done 4/4: b/photos, anprompt, 2 shots, seed 1: b/photos base" in err
    drawn = ("-base", "-base-2shots-seed1", "-new", "-new-2shots-seed1")
    assert sorted(records()) == sorted(f"{site}-photos{end}" for site in "ab" for end in drawn)
    rows = [line.split()[0] for line in out.splitlines() if "/photos" in line]
    assert rows == ["a/photos", "b/photos"], out
    assert "8 of them done already; 0 runs to do" in bench("a/photos,b/photos", "--methods", "zero-shot,anprompt").err


def test_a_target_called_like_the_source_does_not_replace_it(bench: Any, photo_folder: Path) -> None:
    for site in "ab":
        shutil.copytree(photo_folder, f"{site}/photos")
    code, out, err = bench("b/photos", "--protocol", "cross-dataset", "--source", "a/photos")
    assert code == 0, err
    assert {(r["config"]["source"], r["config"]["target"]) for r in records().values()} == {
        ("a/photos", "a/photos"), ("a/photos", "b/photos")
    }  # fmt: skip
    assert "from a/photos" in out
    assert "same evaluation" not in out


def labels(*specs: str, root: str | None = None) -> list[str]:
    return list(labels_of({spec: open_data(spec, data_root=root) for spec in specs}).values())


def test_only_different_data_of_one_name_get_longer_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a/photos", "b/photos", "x/a/photos", "toyworld", "north/signs"):
        write_photos(Path(folder), ["blue star", "white cat"])
        Path(folder, "labels.csv").write_text("path,class\nblue star/0.png,blue\nwhite cat/0.png,white\n")
    assert labels("a/photos", "toyworld:night", "north/signs") == ["photos", "toyworld:night", "signs"]
    assert labels("a/photos", "./a/photos", str(tmp_path / "a" / "photos")) == ["photos"] * 3, "the same photos"
    assert labels("a/photos", "./a/photos", "b/photos") == ["a/photos", "a/photos", "b/photos"]
    assert labels("a/photos", "x/a/photos") == [f"{tmp_path.name}/a/photos", "x/a/photos"]
    tables = ["a/photos/labels.csv", "b/photos/labels.csv"]
    assert labels(*tables, "north/signs") == [*tables, "signs"]
    assert labels("toyworld:photo", "./toyworld") == ["toyworld:photo", "toyworld"]


def test_a_published_set_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_copy(Path("disk"), "dtd")
    write_photos(Path("dtd"), ["blue star", "white cat"])
    shutil.copytree("disk", "copy")
    assert labels("dtd", "./dtd", root="disk") == ["dtd", f"{tmp_path.name}/dtd"]
    assert labels("disk/dtd", "copy/dtd") == ["dtd", "dtd"], "the same photos"
    split = Path("copy/dtd/split_zhou_DescribableTextures.json")
    lists = json.loads(split.read_text())
    split.write_text(json.dumps({**lists, "train": lists["train"][1:]}))
    with pytest.raises(UserError, match=r"'disk/dtd' and 'copy/dtd' are both the published data set 'dtd' but hold"):
        labels("disk/dtd", "copy/dtd")


def test_a_record_says_the_template_that_a_target_is_put_in(bench: Any, photo_folder: Path) -> None:
    for name in ("oxford_pets", "eurosat"):
        make_copy(Path("disk"), name)
    transfer = ("--protocol", "cross-dataset", "--data-root", "disk", "--methods", "zero-shot,anprompt")
    code, _, err = bench(f"{photo_folder},eurosat", "--source", "oxford_pets", *transfer)
    assert code == 0, err
    found = [(record["config"], record["template"]) for record in records().values()]
    used = {(config["target"], config["settings"]["target_template"], template) for config, template in found}
    pets, fields = "a photo of a {}, a type of pet.", "a centered satellite photo of {}."
    assert used == {("oxford_pets", pets, pets), ("photos", pets, pets), ("eurosat", fields, fields)}
