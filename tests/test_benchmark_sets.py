"""The fifteen published data sets by name, in small copies of CoOp's layout and in others."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from anprompt.data import DataSource, benchmarks, open_data
from anprompt.data.benchmarks import BENCHMARKS, Benchmark, differences, find_benchmark, match_benchmark, register
from anprompt.data.matching import MissingPictures
from anprompt.data.source import Item
from anprompt.errors import UserError
from helpers_benchmarks import PER_CLASS, class_names, entries, make_all, make_copy, write
from helpers_data import counts, refusal

NAMES = [benchmark.name for benchmark in BENCHMARKS]
LISTED = [benchmark.name for benchmark in BENCHMARKS if benchmark.split_file]
SPLIT = [benchmark.name for benchmark in BENCHMARKS if benchmark.split_file.startswith("split_zhou")]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All fifteen; only for reading."""
    return make_all(tmp_path_factory.mktemp("data-root"))


# ---- by name


def test_there_are_fifteen_entries() -> None:
    assert len(NAMES) == len(set(NAMES)) == 15
    for benchmark in BENCHMARKS:
        assert benchmark.template.count("{}") == 1
        assert benchmark.classes > 1
        assert set(benchmark.counts) <= {"train", "val", "test"}
        assert bool(benchmark.split_file) != bool(benchmark.class_folders)
        for name in (benchmark.name, benchmark.title, benchmark.folder, *benchmark.aliases):
            assert find_benchmark(name) is benchmark
            assert find_benchmark(name.upper().replace("_", "-")) is benchmark
    assert match_benchmark("") is None
    assert match_benchmark("split_zhou_OxfordFlowers.json") is find_benchmark("flowers")


@pytest.mark.parametrize("name", LISTED)
def test_split_files_load_by_name(data_root: Path, name: str) -> None:
    benchmark = find_benchmark(name)
    source = open_data(name, data_root=data_root)
    assert (source.name, source.benchmark, source.template) == (benchmark.title, name, benchmark.template)
    assert not source.own_split
    assert counts(source) == {split: n * benchmark.classes for split, n in PER_CLASS.items()}
    assert len(source.classes) == benchmark.classes
    expected = [(path, label, class_name.replace("_", " ")) for _, path, label, class_name in entries(benchmark)]
    found = [item for items in source.splits.values() for item in items]
    assert sorted((item.label, item.name) for item in found) == sorted((label, n) for _, label, n in expected)
    place = data_root / benchmark.folder / benchmark.picture_folder
    assert {item.path for item in found} == {str(place / path) for path, _, _ in expected}
    assert source.open(found[0]).size == (8, 8)
    half = (benchmark.classes + 1) // 2
    assert source.subset("base").classes == source.classes[:half]
    assert source.subset("new").classes == source.classes[half:]
    assert source.differs == (  # small copies are no published data, and say so
        f"{benchmark.title} differs in size from what was published: "
        + ", ".join(
            f"{n * benchmark.classes:,} of {benchmark.counts[s]:,} pictures in {s}" for s, n in PER_CLASS.items()
        ),
    )


@pytest.mark.parametrize(("name", "classes", "splits"), [
    ("imagenet", 1000, {"train": 1000, "test": 1000}),
    ("imagenetv2", 1000, {"test": 1000}),
    ("imagenet_sketch", 1000, {"test": 1000}),
    ("imagenet_a", 200, {"test": 200}),
    ("imagenet_r", 200, {"test": 200}),
])  # fmt: skip
def test_class_folders_load_by_name(data_root: Path, name: str, classes: int, splits: dict[str, int]) -> None:
    source = open_data(name, data_root=data_root)
    assert counts(source) == splits
    listed = class_names()
    numbers = range(0, 1000, 1000 // classes)
    assert source.classes == tuple(listed[i][1].replace("_", " ") for i in numbers)
    for label, (item, number) in enumerate(zip(source.splits["test"], numbers, strict=True)):
        assert (item.label, item.name) == (label, source.classes[label])
        folder = str(number) if name == "imagenetv2" else listed[number][0]
        assert Path(item.path).parent.name == folder
    assert source.open(source.splits["test"][-1]).size == (8, 8)
    assert "differs in size" in source.differs[0]
    assert open_data(data_root / find_benchmark(name).folder) == source


def test_the_documentation_lists_them() -> None:
    page = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text("utf-8")
    for benchmark in BENCHMARKS:
        sizes = " | ".join(
            f"{benchmark.counts[s]:,}" if s in benchmark.counts else "–" for s in ("train", "val", "test")
        )
        names = f"| {benchmark.title} | `{benchmark.name}` | `{benchmark.folder}/` |"
        assert f"{names} {benchmark.classes} | {sizes} | {benchmark.template} |\n" in page


def test_counts_of_complete_copies_differ_in_nothing() -> None:
    benchmark = dataclasses.replace(find_benchmark("dtd"), classes=2, counts={"train": 2, "test": 1})
    items = [Item("a", 0, "a"), Item("b", 1, "b")]
    complete = {"train": items, "test": items[:1]}
    assert differences(benchmark, ["a", "b"], complete, own_split=False) == ()
    assert differences(benchmark, ["a", "b"], {"train": items}, own_split=False) == (
        "DTD differs in size from what was published: 0 of 1 pictures in test",
    )
    assert differences(benchmark, ["a", "b"], {**complete, "val": items}, own_split=False) == (
        "DTD differs in size from what was published: 2 of 0 pictures in val",
    )
    own = differences(benchmark, ["a"], {"train": items[:1], "val": items[:1], "test": items[:1]}, own_split=True)
    assert own == (
        "DTD is split by anprompt (50% train, 20% val, the rest test, per class), because its published split is not "
        "there",
        "DTD has 1 classes here, 2 as published",
    )


@pytest.mark.real
def test_published_split_files_have_the_published_counts(real: Path) -> None:
    files = sorted((real / "splits").glob("split_zhou_*.json"))
    assert len(files) == 7
    for file in files:
        benchmark, lists = find_benchmark(file.name), json.loads(file.read_text())
        assert {split: len(rows) for split, rows in lists.items()} == benchmark.counts
        assert len({row[1] for row in lists["train"]}) == benchmark.classes


def test_one_entry_adds_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "BENCHMARKS", list(BENCHMARKS))
    register(Benchmark(
        "leaves", "Leaves", "leaves-2", "a leaf of {}.", 2, {"train": 2, "test": 2}, "ask the forester",
        ("scans/<class>/*.png", "split_zhou_Leaves.json"), split_file="split_zhou_Leaves.json", picture_folder="scans",
    ))  # fmt: skip
    rows = [[f"{name}/{name}_{i}.png", label, name] for label, name in enumerate(("ash", "elm")) for i in range(2)]
    lists = {"train": rows[::2], "test": rows[1::2]}
    write(tmp_path / "leaves-2" / "split_zhou_Leaves.json", json.dumps(lists))
    for path, _, _ in rows:
        write(tmp_path / "leaves-2" / "scans" / str(path))
    source = open_data("Leaves", data_root=tmp_path)
    assert (source.template, source.classes, source.differs) == ("a leaf of {}.", ("ash", "elm"), ())
    with pytest.raises(UserError, match="'trees' cannot be added: 'DTD' already means DTD"):
        register(dataclasses.replace(find_benchmark("leaves"), name="trees", title="DTD", folder="t", split_file=""))


# ---- other layouts of the same data


@pytest.mark.parametrize("folder", ["Caltech101", "caltech_101", "CALTECH-101"])
def test_the_folder_may_have_another_of_the_names(tmp_path: Path, folder: str) -> None:
    make_copy(tmp_path, "caltech101").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path / folder)
    assert len(open_data("caltech101", data_root=tmp_path).classes) == 100


def test_the_split_file_may_lie_beside_the_folder(tmp_path: Path) -> None:
    folder = make_copy(tmp_path, "dtd")
    for place in (tmp_path, tmp_path / "splits"):
        place.mkdir(exist_ok=True)
        split = next(path for path in tmp_path.rglob("split_zhou*"))
        split.rename(place / split.name)
        source = open_data("dtd", data_root=tmp_path)
        assert (source.own_split, source.root) == (False, folder)


def test_aircraft_as_unpacked_from_the_archive(tmp_path: Path) -> None:
    folder = make_copy(tmp_path, "fgvc_aircraft")
    expected = open_data("aircraft", data_root=tmp_path)
    folder.rename(tmp_path / "data")
    (tmp_path / "fgvc-aircraft-2013b").mkdir()
    (tmp_path / "data").rename(tmp_path / "fgvc-aircraft-2013b" / "data")
    source = open_data("aircraft", data_root=tmp_path)
    assert (source.classes, counts(source)) == (expected.classes, counts(expected))


def sorted_into_classes(root: Path) -> DataSource:
    """Stanford Cars, its pictures moved into train/<class>/ and test/<class>/ under their old names."""
    folder = make_copy(root, "stanford_cars")
    source = open_data("cars", data_root=root)
    for items in source.splits.values():
        for item in items:
            top = Path(item.path).parent.name.removeprefix("cars_")
            words = item.name.split()
            place = folder / "car_data" / top / " ".join([*words[1:], words[0]]) / Path(item.path).name
            place.parent.mkdir(parents=True, exist_ok=True)
            Path(item.path).rename(place)
    shutil.rmtree(folder / "cars_train")
    shutil.rmtree(folder / "cars_test")
    return source


def test_cars_sorted_into_class_folders(tmp_path: Path) -> None:
    before = sorted_into_classes(tmp_path)
    source = open_data("cars", data_root=tmp_path)
    for split, items in source.splits.items():
        for item, old in zip(items, before.splits[split], strict=True):
            assert (item.label, Path(item.path).name) == (old.label, Path(old.path).name)
            assert Path(item.path).parts[-3] == ("test" if split == "test" else "train")


def test_a_file_of_the_right_name_in_another_class_is_not_taken(tmp_path: Path) -> None:
    """Copies that number their pictures anew have the names, but not the pictures."""
    sorted_into_classes(tmp_path)
    top = tmp_path / "stanford_cars" / "car_data" / "train"
    (top / "model-000 2010" / "00001.jpg").rename(top / "model-001 2011" / "00001.jpg")
    with pytest.raises(MissingPictures) as caught:
        open_data("cars", data_root=tmp_path)
    assert [item.path for item in caught.value.missing["train"]] == ["cars_train/00001.jpg"]
    assert caught.value.ambiguous == {}


def test_ambiguous_names_are_reported(tmp_path: Path) -> None:
    folder = make_copy(tmp_path, "oxford_flowers")
    for place in ("a", "b"):
        write(folder / place / "image_00001.jpg")
    (folder / "jpg" / "image_00001.jpg").unlink()
    message = refusal("flowers", tmp_path)
    assert "1 of the 612 pictures" in message
    assert "could each be one of several files" in message
    assert "image_00001.jpg (a/image_00001.jpg, b/image_00001.jpg). Keep one copy." in message
    assert "absent" not in message


# ---- what is wrong with a copy


def test_missing_files_are_listed_by_class(tmp_path: Path) -> None:
    folder = make_copy(tmp_path, "food101")
    for path in [*sorted((folder / "images" / "food_003").iterdir()), folder / "images" / "food_050" / "301.jpg"]:
        path.unlink()
    with pytest.raises(MissingPictures) as caught:
        open_data("food", data_root=tmp_path)
    message = str(caught.value)
    assert "7 of the 606 pictures" in message
    assert "food_003/19.jpg, food_003/20.jpg, food_003/21.jpg, food_050/301.jpg, food_003/22.jpg, … (looked" in message
    assert "By class: 6 of food 003, 1 of food 050." in message
    assert {split: len(items) for split, items in caught.value.missing.items()} == {"train": 4, "val": 1, "test": 2}
    assert caught.value.listed == {"train": 303, "val": 101, "test": 202}


def test_a_renamed_class_folder_is_named(tmp_path: Path) -> None:
    folder = make_copy(tmp_path, "caltech101") / "101_ObjectCategories"
    (folder / "class_007").rename(folder / "seventh")
    (folder / "class_008" / "image_0002.jpg").unlink()  # its folder is there, so it was not renamed
    message = refusal("caltech101", tmp_path)
    assert "7 of the 600 pictures" in message
    assert "By class: 6 of class 007, 1 of class 008." in message
    assert message.count("was it renamed?") == 1
    assert "'101_ObjectCategories/seventh' holds files of the names of 'class_007': was it renamed?" in message


@pytest.mark.parametrize("name", SPLIT)
def test_a_corrupt_split_file_is_never_replaced_by_our_own(tmp_path: Path, name: str) -> None:
    benchmark = find_benchmark(name)
    write(tmp_path / benchmark.folder / benchmark.split_file, '{"train": [["a.jpg", 0')
    assert f"Cannot read the split file {tmp_path / benchmark.folder / benchmark.split_file}" in refusal(name, tmp_path)
