"""Listing a large folder once, and again only where it changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anprompt.data import listing
from anprompt.data.listing import cache_folder, list_files, list_kept
from anprompt.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every tree is kept, and trusted at once; the cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "KEEP_FROM", 0)
    monkeypatch.setattr(listing, "SETTLED_NS", -(10**12))
    return tmp_path / "cache" / "anprompt" / "listings"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in ("a/1.jpg", "a/2.jpg", "b/c/3.jpg", "4.jpg", ".hidden/5.jpg", "b/.6.jpg", "__MACOSX/7.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders that were read from the disk."""
    seen: list[str] = []
    original = listing._list

    def spy(place: Path, stamp: listing.Stamp | None) -> listing.Folder:
        seen.append(place.name)
        return original(place, stamp)

    monkeypatch.setattr(listing, "_list", spy)
    return seen


def test_files_below_a_folder(tree: Path) -> None:
    assert list_files(tree) == list_kept(tree) == ["4.jpg", "a/1.jpg", "a/2.jpg", "b/c/3.jpg"]
    (tree / "b" / "loop").symlink_to(tree)
    (tree / "outside").symlink_to(tree / "a")
    assert list_files(tree) == ["4.jpg", "a/1.jpg", "a/2.jpg", "b/c/3.jpg"]  # no folder twice
    with pytest.raises(UserError, match="Cannot read the folder"):
        list_files(tree / "nowhere")


def test_nothing_is_read_twice(tree: Path, read: list[str], cache: Path) -> None:
    first = list_kept(tree)
    assert read == ["data", "a", "b", "c"]
    assert len(list(cache.iterdir())) == 1
    read.clear()
    assert list_kept(tree) == first
    assert read == []


def test_only_what_changed_is_read_again(tree: Path, read: list[str]) -> None:
    list_kept(tree)
    read.clear()
    (tree / "b" / "c" / "new.jpg").touch()
    assert "b/c/new.jpg" in list_kept(tree)
    assert read == ["c"]
    read.clear()
    (tree / "a" / "1.jpg").unlink()
    (tree / "4.jpg").rename(tree / "a" / "5.jpg")
    (tree / "new").mkdir()
    assert list_kept(tree) == ["a/2.jpg", "a/5.jpg", "b/c/3.jpg", "b/c/new.jpg"]
    assert read == ["data", "a", "new"]
    read.clear()
    list_kept(tree)
    assert read == []


def test_another_folder_in_the_same_place_is_noticed(tree: Path, read: list[str]) -> None:
    list_kept(tree)
    status = (tree / "a").stat()
    (tree / "a").rename(tree.parent / "old")
    (tree / "a").mkdir()
    (tree / "a" / "other.jpg").touch()
    os.utime(tree / "a", ns=(status.st_atime_ns, status.st_mtime_ns))  # as copying programs do
    assert list_kept(tree) == ["4.jpg", "a/other.jpg", "b/c/3.jpg"]


def test_what_changed_a_moment_ago_is_not_trusted(tree: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change within the clock's resolution would leave the time stamp as it is."""
    monkeypatch.setattr(listing, "SETTLED_NS", 10**12)
    first = list_kept(tree)
    read.clear()
    assert list_kept(tree) == first
    assert read == ["data", "a", "b", "c"]


def test_small_trees_are_not_kept(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "KEEP_FROM", 5)
    list_kept(tree)
    assert not cache.exists()
    (tree / "5.jpg").touch()
    list_kept(tree)
    assert cache.exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99, "root": "", "tree": {}}', "null", "WRONG TREE"])
def test_a_damaged_cache_is_made_anew(tree: Path, cache: Path, read: list[str], content: str) -> None:
    first = list_kept(tree)
    (file,) = cache.iterdir()
    good = file.read_text()
    file.write_text(json.dumps({**json.loads(good), "tree": {"": [1, 2]}}) if content == "WRONG TREE" else content)
    read.clear()
    assert list_kept(tree) == first
    assert read == ["data", "a", "b", "c"]
    assert json.loads(file.read_text()) == json.loads(good)


def test_a_cache_that_cannot_be_written_costs_only_time(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    assert list_kept(tree) == list_files(tree)


def test_every_folder_has_a_cache_of_its_own(tree: Path, cache: Path) -> None:
    assert list_kept(tree / "a") == ["1.jpg", "2.jpg"]
    assert list_kept(tree / "b") == ["c/3.jpg"]
    (tree.parent / "link").symlink_to(tree / "a")
    assert list_kept(tree.parent / "link") == ["1.jpg", "2.jpg"]
    assert len(list(cache.iterdir())) == 2


def test_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache" / "anprompt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "anprompt"


CHANGES = st.lists(st.tuples(st.sampled_from(["add", "remove", "folder"]), st.integers(0, 5), st.integers(0, 3)))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHANGES, max_size=3))
def test_the_kept_listing_is_always_the_true_one(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, int, int]]]
) -> None:
    root = tmp_path_factory.mktemp("changing")
    for changes in rounds:
        for change, folder, number in changes:
            place = root / f"d{folder % 3}" / f"e{folder % 2}"
            if change == "add":
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{number}.jpg").touch()
            elif change == "remove":
                (place / f"{number}.jpg").unlink(missing_ok=True)
            else:
                (root / f"f{number}").mkdir(exist_ok=True)
        assert list_kept(root) == list_files(root)
