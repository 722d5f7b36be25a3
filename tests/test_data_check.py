"""``anprompt check`` on published data sets: what is there, what is not, and how to obtain it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from anprompt.commands import check as command
from helpers_benchmarks import make_copy, write
from helpers_cli import Cli


def rows(out: str) -> dict[str, list[str]]:
    """First word -> the other words of each line."""
    return {words[0]: words[1:] for line in out.splitlines() if (words := line.split())}


def test_a_copy_that_can_be_used(tmp_path: Path, cli: Cli) -> None:
    folder = make_copy(tmp_path, "eurosat")
    code, out, err = cli("check", "eurosat", "--data-root", tmp_path)
    assert code == 0
    split = folder / "split_zhou_EuroSAT.json"
    assert out.startswith(f"EuroSAT (eurosat) in {folder}; split: as published, {split}\n")
    assert rows(out)["train"] == ["30", "30", "13,500"]
    assert rows(out)["val"] == ["10", "10", "5,400"]
    assert "Results do not compare with published ones: EuroSAT differs in size" in out
    assert "EuroSAT: 10 classes, 60 photos" in out
    assert rows(out)["River"] == ["3", "1", "2"]
    assert "warning: 54 pairs of the same photo in different classes" in out  # the copy has one picture for all
    assert out.endswith("Nothing stops a run, but see the 2 warnings above.\n")
    assert "reading train: 30/30" in err
    document = cli("check", "EuroSAT", "--data-root", tmp_path, "--json").document
    assert document["published"]["ready"] is True
    assert document["published"]["counts"]["test"] == {"there": 20, "listed": 20, "published": 8100}
    assert document["published"]["classes"] == {"there": 10, "published": 10}
    assert document["classes"]["River"] == {"train": 3, "val": 1, "test": 2, "main": 0, "noise": 0}
    assert document["photos_read"] == "all"


def test_an_own_split_is_called_so(tmp_path: Path, cli: Cli) -> None:
    folder = make_copy(tmp_path, "eurosat")
    (folder / "split_zhou_EuroSAT.json").unlink()
    code, out, _ = cli("check", "eurosat", "--data-root", tmp_path)
    assert code == 0
    assert "split: own: made by anprompt, because the published one is not there" in out
    assert "EuroSAT is split by anprompt (50% train, 20% val, the rest test, per class)" in out
    assert "EuroSAT (own split): 10 classes, 60 photos" in out
    assert rows(out)["train"] == ["30", "–", "13,500"]
    assert cli("check", "eurosat", "--data-root", tmp_path, "--json").document["own_split"] is True


@pytest.mark.parametrize("name", ["stanford_cars", "imagenet", "fgvc_aircraft", "imagenet_a"])
def test_what_to_do_without_the_data(tmp_path: Path, cli: Cli, name: str) -> None:
    code, out, err = cli("check", name, "--data-root", tmp_path)
    assert (code, err) == (2, "")
    folder = {"stanford_cars": "stanford_cars", "imagenet": "imagenet", "fgvc_aircraft": "fgvc_aircraft",
              "imagenet_a": "imagenet-adversarial"}[name]  # fmt: skip
    assert f"There is no folder '{folder}' in {tmp_path}." in out
    assert "\nPhotos: " in out
    assert ("is linked in DATASETS.md" in out) is (name != "fgvc_aircraft")
    assert f"\n    {folder}/\n        " in out
    outcome = cli("check", name, "--data-root", tmp_path, "--json")
    assert outcome.code == 2
    published = outcome.document["published"]
    assert (published["ready"], published["folder"], published["name"]) == (False, None, name)
    assert published["layout"][0] == f"{folder}/"
    assert published["obtain"]


def test_without_a_data_root(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = cli("check", "dtd")
    assert code == 2
    assert "No folder of data sets was given: add --data-root" in out
    code, out, err = cli("check", "dtd", "--data-root", "nowhere")
    assert (code, out) == (2, "")
    assert "There is no folder nowhere" in err
    folder = make_copy(tmp_path, "dtd")
    assert f"{folder} looks like the data set itself: give the folder above it" in cli(
        "check", "dtd", "--data-root", folder).out  # fmt: skip
    (folder / "split_zhou_DescribableTextures.json").unlink()
    shutil.move(folder / "images", tmp_path / "photos")
    assert cli("check", "dtd", "--data-root", tmp_path).code == 2
    (tmp_path / "photos").rename(tmp_path / "food")
    assert "food: 47 classes" in cli("check", "food").out  # a folder of that name comes before the data set


def test_missing_files_are_listed(tmp_path: Path, cli: Cli) -> None:
    pictures = make_copy(tmp_path, "caltech101") / "101_ObjectCategories"
    for n in (1, 2, 3, 4):
        (pictures / "class_003" / f"image_{n:04}.jpg").unlink()
    (pictures / "class_009" / "image_0006.jpg").unlink()
    code, out, err = cli("check", "caltech101", "--data-root", tmp_path)
    assert (code, err) == (2, "")
    assert "5 of the 600 pictures" in out
    assert rows(out)["train"] == ["297", "300", "4,128"]
    assert rows(out)["val"] == ["99", "100", "1,649"]
    assert rows(out)["test"] == ["199", "200", "2,465"]
    first = "class_003/image_0001.jpg, class_003/image_0002.jpg, class_003/image_0003.jpg, …"
    assert f"class 003 4 {first}" in " ".join(out.split())
    assert "class 009 1 class_009/image_0006.jpg" in " ".join(out.split())
    published = cli("check", "caltech101", "--data-root", tmp_path, "--json").document["published"]
    assert published["missing"] == {
        "train": [f"class_003/image_000{n}.jpg" for n in (1, 2, 3)],
        "val": ["class_003/image_0004.jpg"],
        "test": ["class_009/image_0006.jpg"],
    }
    assert published["missing_by_class"]["class 003"]["count"] == 4
    assert published["ambiguous"] == {}


def test_a_corrupt_split_file(tmp_path: Path, cli: Cli) -> None:
    file = make_copy(tmp_path, "oxford_pets") / "split_zhou_OxfordPets.json"
    file.write_text(json.dumps({"train": [], "test": 3}))
    code, out, _ = cli("check", "pets", "--data-root", tmp_path)
    assert code == 2
    assert f'"test" in the split file {file} is not a list' in out
    assert "split_zhou_OxfordPets.json is linked in" in out


def test_of_many_photos_a_sample_is_read(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_copy(tmp_path, "eurosat")
    damaged = folder / "2750" / "River" / "River_2.jpg"
    write(damaged, b"no picture")
    code, out, _ = cli("check", "eurosat", "--data-root", tmp_path)
    assert (code, "No photo can be read" in out) == (2, False)  # River has others
    monkeypatch.setattr(command, "MANY", 59)
    monkeypatch.setattr(command, "SAMPLE", 1)  # River_1.jpg of train, River_4.jpg of val, River_5.jpg of test
    code, out, err = cli("check", "eurosat", "--data-root", tmp_path)
    assert code == 0
    assert "as far as looked, but see the 2 warnings above: a sample of 1 photos per class and split was read" in out
    assert "reading test: 10/10" in err
    code, out, err = cli("check", "eurosat", "--data-root", tmp_path, "--photos", "none")
    assert (code, "reading" in err) == (0, False)
    assert "no photo was read" in out
    code, out, _ = cli("check", "eurosat", "--data-root", tmp_path, "--photos", "all")
    assert code == 2
    assert f"unreadable: {damaged}" in out


def test_classes_that_share_a_name_are_shown_apart(tmp_path: Path, cli: Cli) -> None:
    make_copy(tmp_path, "imagenetv2")
    document = cli("check", "imagenetv2", "--data-root", tmp_path, "--photos", "none", "--json").document
    assert len(document["classes"]) == 1000
    assert document["classes"]["sunglasses (2)"]["test"] == 1
    assert document["fewer_than_shots"] == {}  # there is nothing to train on
    out = cli("check", "imagenetv2", "--data-root", tmp_path, "--photos", "none").out
    assert "split: as its makers split it, by folders" in out
    assert rows(out)["test"] == ["1,000", "–", "10,000"]


def test_classes_without_test_photos_are_named(tmp_path: Path, cli: Cli) -> None:
    for number in range(4):
        write(tmp_path / "photos" / "cat" / f"{number}.png")
    write(tmp_path / "photos" / "dog" / "0.png")
    code, out, _ = cli("check", tmp_path / "photos")
    assert code == 0
    assert "warning: 1 class has no test photo: 'dog'. Accuracy says nothing about them" in out
    assert "Nothing is wrong" not in out


def test_texts_that_miss_classes_are_noted_where_they_are_read(tmp_path: Path, small_clip: Path, cli: Cli) -> None:
    for name in ("cat", "dog"):
        for number in range(4):
            write(tmp_path / "photos" / name / f"{number}.png")
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"main": {"cat": ["a cat that sits"], "zebra": ["a zebra"]}}))
    line = (tmp_path / "photos", "--backbone", small_clip, "--texts", texts)
    assert "1 of 2 classes have no descriptions and use the template instead: dog" in cli("zeroshot", *line).err
    out = cli("check", tmp_path / "photos", "--texts", texts).out
    assert "warning: 1 key of the texts is no class: 'zebra'. Their sentences are not used" in out
    assert "Nothing is wrong" not in out
    coop = ("--method", "coop", "--recipe.epochs", 1, "--shots", 1, "--out", tmp_path / "out")
    assert "descriptions" not in cli("fit", *line, *coop).err
