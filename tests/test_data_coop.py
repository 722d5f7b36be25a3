"""CoOp's layout, its benchmarks, and the published split files."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anprompt.data import draw_few_shot, open_data
from anprompt.data.benchmarks import find_benchmark
from anprompt.data.matching import Matched, PictureFinder
from anprompt.data.source import Item
from helpers_data import refusal

SPLIT = {
    "train": [["Forest/F_1.jpg", 1, "Forest"], ["AnnualCrop/A_1.jpg", 0, "Annual_Crop Land"]],
    "val": [["Forest/F_2.jpg", 1, "Forest"]],
    "test": [["AnnualCrop/A_2.jpg", 0, "Annual_Crop Land"], ["Forest/F_3.jpg", 1, "Forest"]],
}


def make(root: Path, pictures: str = "2750", split: object = SPLIT, name: str = "split_zhou_EuroSAT.json") -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(split))
    for entries in SPLIT.values():
        for path, _, _ in entries:
            (root / pictures / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(root / pictures / path)
    return root


def test_layout_is_recognised_by_its_split_file(tmp_path: Path) -> None:
    source = open_data(make(tmp_path / "anything"))
    assert (source.name, source.benchmark) == ("EuroSAT", "eurosat")
    assert source.template == "a centered satellite photo of {}."
    assert source.classes == ("Annual Crop Land", "Forest")
    assert not source.own_split
    assert [item.label for item in source.splits["train"]] == [1, 0]  # the list's order, which the draw depends on
    assert source.splits["val"] == [(str(tmp_path / "anything/2750/Forest/F_2.jpg"), 1, "Forest")]
    assert open_data(tmp_path / "anything" / "split_zhou_EuroSAT.json") == source


@pytest.mark.parametrize("pictures", ["2750", "images", ".", "EuroSAT/2750", "deep/er/still"])
def test_pictures_are_found_in_other_copies(tmp_path: Path, pictures: str) -> None:
    source = open_data(make(tmp_path, pictures))
    assert all(source.open(item).size == (4, 4) for items in source.splits.values() for item in items)


def test_pictures_are_found_by_name_only_where_names_are_unique(tmp_path: Path) -> None:
    for file in ("x/a_1.jpg", "y/a_2.jpg", "z/a_2.jpg"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()

    def find(*paths: str, **options: Any) -> Matched:
        return PictureFinder(tmp_path, ".", **options).find([Item(path, 0, "one") for path in paths])

    assert find("one/a_1.jpg") == Matched({"one/a_1.jpg": "x/a_1.jpg"})
    assert find("one/a_2.jpg") == Matched({}, {"one/a_2.jpg": ["y/a_2.jpg", "z/a_2.jpg"]})
    assert find("y/a_2.jpg") == Matched({"y/a_2.jpg": "y/a_2.jpg"})
    # Never another class's picture: one/a_1.jpg is absent, and x/a_1.jpg is another entry of the list.
    assert find("x/a_1.jpg", "one/a_1.jpg") == Matched({"x/a_1.jpg": "x/a_1.jpg"})
    both = {"one/a_2.jpg": "y/a_2.jpg", "two/a_2.jpg": "z/a_2.jpg"}
    assert find(*both) == Matched({})
    assert find(*both, same_folders={"one": "Y", "two": "z"}) == Matched(both)
    (tmp_path / "one" / "two").mkdir(parents=True)
    (tmp_path / "one" / "two" / "b.jpg").touch()
    assert find("one/b.jpg", "two/b.jpg") == Matched({"two/b.jpg": "one/two/b.jpg"})
    assert find("one/x/b.jpg", "two/y/b.jpg", same_folders={"x": "two", "y": "one"}) == Matched({})  # one for two
    assert find("../a_1.jpg", "../../etc/passwd") == Matched({"../a_1.jpg": "x/a_1.jpg"})  # nothing outside the root


def test_a_folder_that_tells_another_class_is_not_looked_into(tmp_path: Path) -> None:
    for file in ("sea_lake/1.jpg", "Forest/2.jpg", "elsewhere/3.jpg"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    finder = PictureFinder(tmp_path, ".", class_of=lambda path: path.parent.name)
    items = [Item("a/1.jpg", 0, "Sea Lake"), Item("a/2.jpg", 0, "Sea Lake"), Item("b/3.jpg", 1, "forest")]
    assert finder.find(items) == Matched({"a/1.jpg": "sea_lake/1.jpg", "b/3.jpg": "elsewhere/3.jpg"})


def test_unknown_split_files(tmp_path: Path) -> None:
    own = make(tmp_path / "mine", "images", name="split_zhou_Mine.json")
    source = open_data(own)
    assert (source.name, source.benchmark, source.template) == ("mine", None, "a photo of a {}.")
    named = make(tmp_path / "oxford_pets", "images", name="split_zhou_other.json")
    assert open_data(named).template == "a photo of a {}, a type of pet."
    make(named, name="split_zhou_third.json")
    assert "holds 2 split files (split_zhou_other.json, split_zhou_third.json)" in refusal(named)
    make(named, name="split_zhou_OxfordPets.json")
    assert open_data(named).benchmark == "oxford_pets"


def test_absent_pictures_are_counted(tmp_path: Path) -> None:
    make(tmp_path)
    extra = [[f"Forest/gone_{i}.jpg", 1, "Forest"] for i in range(7)]
    make(tmp_path, split={**SPLIT, "test": SPLIT["test"] + extra})
    message = refusal(tmp_path)
    assert "7 of the 12 pictures" in message
    assert "Forest/gone_0.jpg, " in message
    assert "Forest/gone_4.jpg, …" in message
    assert "gone_5" not in message


@pytest.mark.parametrize(("split", "reason"), [
    ("[]", "is not of the form"),
    ('{"train": []}', "is not of the form"),
    ('{"train": 3, "test": []}', '"train" in the split file'),
    ('{"train": [["a.jpg", "0", "a"], ["b.jpg"]], "test": []}', 'train[1] is ["b.jpg"]'),
    ("{", "Cannot read the split file"),
    ('{"train": [["a.jpg", 1, "a"], ["b.jpg", 2, "b"]], "test": []}', "the label ids must be 0 to 1"),
    ('{"train": [["a.jpg", 0, "a"], ["b.jpg", 0, "b"]], "test": []}', "b.jpg calls label 0 'b', not 'a'"),
    ('{"train": [["a.jpg", 0, "a_b"], ["b.jpg", 1, "a b"]], "test": []}', "label 0 and label 1 are one class name"),
    ('{"train": [["a.jpg", 0, "a"], ["b.jpg", 1, "_"]], "test": []}', "label 1 has an empty class name"),
    ('{"train": [["a.jpg", 0, "a"]], "test": [["b.jpg", 1, "b"]]}', "class 'b' (label 1) has no picture in train"),
    ('{"train": [["a.jpg", 0, "a"]], "test": []}', "there is only one class ('a')"),
])  # fmt: skip
def test_bad_split_files(tmp_path: Path, split: str, reason: str) -> None:
    (tmp_path / "split_zhou_X.json").write_text(split)
    assert reason in refusal(tmp_path)


def test_benchmark_by_name(tmp_path: Path) -> None:
    make(tmp_path / "eurosat")
    assert open_data("EuroSAT", data_root=tmp_path).benchmark == "eurosat"
    assert "Unknown benchmark 'eurosta'. Did you mean 'eurosat'?" in refusal("eurosta", data_root=tmp_path)
    assert "expected in" in refusal("food", data_root=tmp_path)
    assert "it holds eurosat" in refusal("food", data_root=tmp_path)
    assert "'anprompt check food101 --data-root …' says what is needed" in refusal("food", data_root=tmp_path)
    assert "There is no 'nowhere'" in refusal("eurosat", data_root=tmp_path / "nowhere")


def test_benchmark_without_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--data-root" in refusal("caltech101")


def test_a_name_with_data_root_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "eurosat")
    monkeypatch.chdir(tmp_path)
    assert open_data("eurosat", data_root=tmp_path).root == tmp_path / "eurosat"
    assert open_data("./eurosat", data_root=tmp_path / "nowhere").root == Path("eurosat")
    assert "There is no 'nowhere'" in refusal("eurosat", data_root=tmp_path / "nowhere")


def test_fgvc_aircraft_lists(tmp_path: Path) -> None:
    (tmp_path / "variants.txt").write_text("707-320\nF/A-18\nDHC 8_100\n")
    (tmp_path / "images").mkdir()
    for split, number in (("train", 1), ("val", 4), ("test", 7)):
        lines = [f"000{number + i} {name}" for i, name in enumerate(("F/A-18", "707-320", "DHC 8_100"))]
        (tmp_path / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
        for i in range(3):
            Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"000{number + i}.jpg")
    source = open_data(tmp_path)
    assert (source.benchmark, source.classes) == ("fgvc_aircraft", ("707-320", "F/A-18", "DHC 8 100"))
    assert [item.label for item in source.splits["test"]] == [1, 0, 2]
    (tmp_path / "images_variant_test.txt").write_text("0007 F/A-19\n")
    assert "images_variant_test.txt, line 1: class 'F/A-19' is not in variants.txt" in refusal(tmp_path)
    (tmp_path / "images_variant_val.txt").unlink()
    assert "images_variant_val.txt: No such file" in refusal(tmp_path)


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "classes", "train", "test"), [("eurosat", 10, 600, 300), ("caltech-101", 100, 16, 5)]
)
def test_real_slices(real: Path, folder: str, classes: int, train: int, test: int) -> None:
    source = open_data(real / "coop-data" / folder)
    assert source.benchmark is not None
    assert len(source.classes) == classes
    assert set(Counter(item.label for item in source.splits["train"]).values()) <= set(range(1, train + 1))
    assert len(source.splits["test"]) <= classes * test
    assert open_data(source.benchmark, data_root=real / "coop-data") == source
    base, new = source.subset("base"), source.subset("new")
    assert base.classes + new.classes == source.classes
    for item in draw_few_shot(base.splits["train"], 1, seed=1):
        assert base.open(item).mode == "RGB"
    keys = json.loads((real / "texts/coprompt" / f"{folder.split('-')[0]}_prompt.json").read_text())
    assert set(source.classes) == set(keys)


@pytest.mark.real
def test_every_published_split_loads(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every picture were there: names, labels, order and templates are those of the list."""
    for file in sorted((real / "splits").glob("split_zhou_*.json")):
        benchmark = find_benchmark(file.name)
        lists = json.loads(file.read_text())
        pictures = [f"{benchmark.picture_folder}/{path}" for entries in lists.values() for path, _, _ in entries]
        there = [picture.removeprefix("./") for picture in pictures]
        monkeypatch.setattr("anprompt.data.matching.list_kept", lambda root, there=there: there)
        (tmp_path / benchmark.folder).mkdir()
        shutil.copy(file, tmp_path / benchmark.folder)
        source = open_data(benchmark.name, data_root=tmp_path)
        assert source.template == benchmark.template
        for split, entries in lists.items():
            folder = tmp_path / benchmark.folder / benchmark.picture_folder
            assert source.splits[split] == [
                (f"{folder}/{path}", label, name.replace("_", " ")) for path, label, name in entries
            ]
