"""What all sources share: subsets, content hashes, and how `open_data` finds them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anprompt.data import DataSource, Item, base_new_split, open_data
from anprompt.data.toyworld_words import class_names
from anprompt.errors import UserError


def source_of(classes: int, per_class: int = 2) -> DataSource:
    names = tuple(f"class {i}" for i in range(classes))
    splits = {
        split: [Item(f"{split}/{k}/{i}", i, names[i]) for k in range(per_class) for i in reversed(range(classes))]
        for split in ("train", "test")
    }
    return DataSource("virtual", names, splits, opener=lambda item: Image.new("RGB", (item.label + 1, 1)))


@given(st.integers(4, 30))
def test_subsets(classes: int) -> None:
    source = source_of(classes)
    base, new = source.subset("base"), source.subset("new")
    assert source.subset("all") is source
    labels = base_new_split(range(classes))
    assert [len(base.classes), len(new.classes)] == [len(labels[0]), len(labels[1])]
    for part, kept in zip((base, new), labels, strict=True):
        assert part.classes == tuple(source.classes[label] for label in kept)
        for split, items in part.splits.items():
            assert all(part.classes[item.label] == item.name for item in items)
            assert [item.path for item in items] == [i.path for i in source.splits[split] if i.label in kept]


def test_subset_errors() -> None:
    with pytest.raises(UserError, match=r"Unknown subset 'bas'\. Did you mean 'base'\? Allowed: all, base, new"):
        source_of(4).subset("bas")
    with pytest.raises(UserError, match="would hold 1 of its 2 classes"):
        source_of(2).subset("base")
    assert len(source_of(3).subset("base").classes) == 2
    with pytest.raises(UserError, match="needs at least 2"):
        source_of(3).subset("new")


def test_more_classes_to_choose_among() -> None:
    wider = source_of(3).among(["other", "class 2"])
    assert wider.classes == ("other", "class 2", "class 0", "class 1")
    for split, items in source_of(3).splits.items():
        assert [item.path for item in wider.splits[split]] == [item.path for item in items]
        assert all(wider.classes[item.label] == item.name for item in wider.splits[split])
    with pytest.raises(UserError, match=r"Two classes of '.*' share a name"):
        source_of(3).among(["crane", "crane"])


def test_open_uses_the_opener() -> None:
    source = source_of(3)
    assert source.open(Item("x", 2, "class 2")).width == 3


def write_pictures(root: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (0, 0, ord(name[0]) + int(name[2]))).save(root / name)


def test_content_hash_follows_content_and_not_place(tmp_path: Path) -> None:
    write_pictures(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first, second = open_data(tmp_path / "one"), open_data(tmp_path / "two")
    items = first.splits["train"]
    original = first.content_hash(items)
    assert len(original) == 64
    assert second.content_hash(second.splits["train"]) == original
    assert first.content_hash(items[::-1]) != original
    assert first.content_hash(items[:-1]) != original
    assert first.content_hash([items[0]._replace(name="other"), *items[1:]]) != original
    with open(items[0].path, "ab") as file:
        file.write(b"x")
    assert first.content_hash(items) != original
    Path(items[0].path).unlink()
    with pytest.raises(UserError, match=r"Cannot read .*No such file"):
        first.content_hash(items)


def test_content_hash_does_not_depend_on_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "one")
    absolute = open_data(tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    relative = open_data("one")
    assert relative.splits["train"][0].path.startswith("one/")  # as the user wrote it
    assert relative.content_hash(relative.splits["train"]) == absolute.content_hash(absolute.splits["train"])


def test_content_hash_of_virtual_pictures() -> None:
    source = source_of(3)
    items = source.splits["train"]
    assert source.content_hash(items) == source_of(3).content_hash(items)
    assert source.content_hash(items) != source.content_hash(source.splits["test"])


def test_toy_world_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_data("toyworld-signs:night")
    assert source.classes == class_names("signs")
    assert {item.path.split("/")[1] for item in source.splits["test"]} == {"night"}
    with pytest.raises(UserError, match="Did you mean 'night'"):
        open_data("toyworld:nigth")
    write_pictures(tmp_path / "toyworld")
    monkeypatch.chdir(tmp_path)
    assert open_data("./toyworld").classes == ("a", "b")
    assert open_data(Path("toyworld")).classes == ("a", "b")
