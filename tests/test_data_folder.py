"""Folders: one sub-folder per class, with or without split folders; every mistake is found before training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from anprompt.clip import load_backbone
from anprompt.clip.cache import MARK as CACHE
from anprompt.data import DataSource, open_data
from anprompt.errors import UserError
from helpers_data import refusal


def put(root: Path, *files: str) -> None:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, "PNG")


def paths(source: DataSource, split: str) -> list[str]:
    return [source.relative(item) for item in source.splits[split]]


def test_classes_are_sorted_and_renamed(tmp_path: Path) -> None:
    put(tmp_path, "red_car/a.JPG", "red_car/b.png", "_bus/a.png", "bike/a.png", "bike/deep/er/b.Jpeg")
    source = open_data(str(tmp_path))
    assert source.classes == ("bus", "bike", "red car")
    assert (source.name, source.template, source.benchmark) == (tmp_path.name, "a photo of a {}.", None)
    items = source.splits["train"] + source.splits["test"]
    assert all(source.classes[item.label] == item.name for item in items)
    assert sorted(source.relative(item) for item in items) == [
        "_bus/a.png", "bike/a.png", "bike/deep/er/b.Jpeg", "red_car/a.JPG", "red_car/b.png"
    ]  # fmt: skip
    assert source.open(items[0]).mode == "RGB"


def test_other_files_are_ignored(tmp_path: Path) -> None:
    put(
        tmp_path,
        "a/1.png",
        "a/2.png",
        "b/1.png",
        "b/2.png",
        "a/.hidden.png",
        "a/._1.png",
        ".git/x.png",
        "__MACOSX/x.png",
    )
    for name in ("README.txt", ".DS_Store", "a/Thumbs.db", "a/notes.md", "b/.DS_Store"):
        (tmp_path / name).write_text("x")
    source = open_data(tmp_path)
    assert sorted(paths(source, "train") + paths(source, "test")) == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]


def test_own_split_is_deterministic_and_per_class(tmp_path: Path) -> None:
    put(tmp_path, *(f"a/{i:02d}.png" for i in range(10)), "b/1.png", "b/2.png", "c/only.png")
    source = open_data(tmp_path)
    assert source.own_split
    assert Counter(item.name for item in source.splits["test"]) == {"a": 3, "b": 1}
    assert Counter(item.name for item in source.splits["train"]) == {"a": 7, "b": 1, "c": 1}
    assert not set(source.splits["train"]) & set(source.splits["test"])
    # A fixed list: the split must never change between versions.
    assert [file for file in paths(source, "test") if file.startswith("a/")] == ["a/00.png", "a/06.png", "a/09.png"]
    put(tmp_path, *(f"0new/{i}.png" for i in range(5)))
    again = open_data(tmp_path)
    assert [file for file in paths(again, "test") if not file.startswith("0new")] == paths(source, "test")


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    # As folder names "b a" < "b_x", but "b x" < "b_a": labels must follow the names, not the order in each split.
    put(tmp_path, "train/b a/1.png", "train/b_x/1.png", f"{val}/b_a/2.png", "test/b x/3.png", "test/b_a/3.png")
    source = open_data(tmp_path)
    assert source.classes == ("b a", "b x")
    assert list(source.splits) == ["train", "val", "test"]
    assert not source.own_split
    assert paths(source, "val") == [f"{val}/b_a/2.png"]
    assert [(item.label, item.name) for item in source.splits["test"]] == [(1, "b x"), (0, "b a")]


def test_split_folders_without_test_get_a_test_split_of_our_own(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "train/a/2.png", "train/b/1.png", "train/b/2.png")
    source = open_data(tmp_path)
    assert source.own_split
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 2, "test": 2}


def test_a_class_called_train(tmp_path: Path) -> None:
    put(tmp_path, "car/1.png", "train/1.png", "plane/1.png")
    assert open_data(tmp_path).classes == ("car", "plane", "train")


@pytest.mark.parametrize(("train", "test"), [("training", "testing"), ("Training", "test"), ("train", "Testing")])
def test_training_and_testing_are_splits(tmp_path: Path, train: str, test: str) -> None:
    put(tmp_path, f"{train}/a/1.png", f"{train}/b/1.png", f"{test}/a/2.png", f"{test}/b/2.png")
    source = open_data(tmp_path)
    assert source.classes == ("a", "b")
    assert (paths(source, "train"), paths(source, "test")) == (
        [f"{train}/a/1.png", f"{train}/b/1.png"], [f"{test}/a/2.png", f"{test}/b/2.png"]
    )  # fmt: skip


def test_folders_that_rather_are_splits_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "part 1/cat/1.png", "part 1/dog/1.png", "part 2/cat/2.png", "part 2/dog/2.png", "part 2/owl/2.png")
    message = refusal(tmp_path)
    assert "The folders part 1, part 2 in" in message
    assert "all hold the folders cat, dog and no pictures" in message
    assert "train and test" in message
    put(tmp_path, "part 1/3.png")  # a class whose pictures lie in it and below it
    assert open_data(tmp_path).classes == ("part 1", "part 2")


WRITTEN = ["adapter.json", "training/.lock", "robustness.json", "records/p/m/run.json", "locks/run.lock", CACHE,
           "adapters/run/training/state.safetensors", "adapters/run/adapter.json"]  # fmt: skip


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("above", ["", "train/", "test/"])
def test_what_anprompt_wrote_is_no_class(tmp_path: Path, written: str, above: str) -> None:
    put(tmp_path, *(f"{split}/{name}/1.png" for split in ("train", "test") for name in ("a", "records")))
    put(tmp_path, "train/records/records/2.png")  # a folder of that name alone says nothing
    before = open_data(tmp_path)
    output = tmp_path / above / "new class" / written
    output.parent.mkdir(parents=True)
    output.write_text('{"format": "anprompt-adapter"}' if output.name == "adapter.json" else '{"record_version": 1}')
    put(tmp_path / above / "new class", "figure.png")
    assert open_data(tmp_path) == before


@pytest.mark.parametrize("name", ["record.json", "adapter.json", "explain.json", "records/p/m/run.json"])
def test_a_class_may_hold_files_that_are_called_like_ours(tmp_path: Path, name: str) -> None:
    put(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    before = open_data(tmp_path)
    (tmp_path / "cat" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "cat" / name).write_text('{"camera": "x", "exposure": 0.01}')
    assert open_data(tmp_path) == before


def test_mixed_split_and_class_folders_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "test/a/1.png", "extra/a/1.png")
    assert "other folders (extra)" in refusal(tmp_path)


def test_double_and_absent_split_folders_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "double", "train/a/1.png", "val/a/1.png", "valid/a/1.png")
    assert "are the val split" in refusal(tmp_path / "double")
    put(tmp_path / "no train", "val/a/1.png", "test/a/1.png")
    assert "holds test and val but no train" in refusal(tmp_path / "no train")


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    put(tmp_path, "red_car/1.png", "red car/1.png", "__/1.png", "dog/1.png", "Dog/1.png", "loose.png", "ok/1.png")
    (tmp_path / "hollow" / "inner").mkdir(parents=True)
    (tmp_path / "hollow" / "notes.txt").write_text("x")
    message = refusal(tmp_path)
    assert "class 'hollow' has no picture in hollow/" in message
    assert "red car/ and red_car/ are one class name" in message
    assert "Dog/ and dog/ are one class name" in message  # CLIP's tokenizer lower-cases
    assert "__/ has an empty class name" in message
    assert "1 pictures lie in" in message
    assert len(message.splitlines()) == 6


def test_accents_may_be_stored_in_either_way(tmp_path: Path) -> None:
    one, two = "caf\u00e9", "cafe\u0301"  # as typed, and as copied from a Mac
    put(tmp_path, f"train/{one}/1.png", "train/bar/1.png", f"test/{two}/1.png", "test/bar/1.png")
    source = open_data(tmp_path)
    assert source.classes == ("bar", one)
    assert paths(source, "test") == ["test/bar/1.png", f"test/{two}/1.png"]
    put(tmp_path, f"train/{two}/2.png")
    assert "are one class name to CLIP" in refusal(tmp_path)


def test_class_sets_of_train_and_test_must_agree(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dogs/1.png", "val/cow/1.png")
    message = refusal(tmp_path)
    assert "class 'dogs' is in test but not in train. Did you mean 'dog'?" in message
    assert "class 'dog' is in train but not in test" in message
    assert "class 'cow' is in val but not in train" in message


def test_one_class_only(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "cat/2.png")
    assert "there is only one class ('cat'), and at least two are needed" in refusal(tmp_path)
    put(tmp_path / "nested", "2750/Forest/1.png", "2750/River/1.png")
    assert f"give {tmp_path / 'nested' / '2750'} instead" in refusal(tmp_path / "nested")


def test_empty_folder_and_folder_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no class folders; expected empty/<class>/" in refusal(tmp_path / "empty")
    put(tmp_path / "flat", "1.png", "2.png")
    message = refusal(tmp_path / "flat")
    assert "holds 2 pictures but no class folders" in message
    assert "\n" not in message


def test_a_path_of_which_nothing_exists_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a drive of Windows that is not there, above which nothing is."""
    monkeypatch.setattr("os.path.exists", lambda path: False)
    monkeypatch.setattr(Path, "is_dir", lambda path: False)
    assert "There is no 'nowhere' in" in refusal(Path("/nowhere/photos"))
    with pytest.raises(UserError, match=r"Backbone '/nowhere/clip': no such file or folder\.$"):
        load_backbone("/nowhere/clip")


def test_missing_path_names_the_nearest_sibling(tmp_path: Path) -> None:
    put(tmp_path, "photos/a/1.png", "photos/b/1.png")
    assert "There is no 'fotos'" in refusal(tmp_path / "fotos")
    assert "Did you mean 'photos'?" in refusal(tmp_path / "fotos")
    deep = refusal(tmp_path / "photo" / "train")
    assert "There is no 'photo' in" in deep
    assert "Did you mean 'photos'?" in deep


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path, "store/1.png", "store/2.png", "data/b/1.png")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "store")
    source = open_data(tmp_path / "data")
    assert sorted(paths(source, "train") + paths(source, "test")) == ["a/1.png", "a/2.png", "b/1.png"]


def test_not_a_folder_nor_a_table(tmp_path: Path) -> None:
    (tmp_path / "data.xlsx").write_text("x")
    assert "neither a folder nor a table; a table is called .csv, .jsonl, .tsv" in refusal(tmp_path / "data.xlsx")
