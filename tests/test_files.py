"""Files are replaced as a whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anprompt import files
from anprompt.errors import UserError
from anprompt.files import (
    atomic_path,
    atomic_paths,
    check_writable,
    locked,
    remove_parts,
    sha256_file,
    sha256_json,
    write_json,
    write_text,
)


def fail(number: int) -> Any:
    def failing(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return failing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_json_are_written_as_utf_8_in_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    write_json(path, {"ℓ_A": [1, 0.5, None], "é": "ü"})
    assert json.loads(path.read_bytes().decode("utf-8")) == {"ℓ_A": [1, 0.5, None], "é": "ü"}
    assert "ℓ_A".encode() in path.read_bytes(), "readable, not escaped"
    write_text(path, "x")
    assert path.read_bytes() == b"x"
    assert names(path.parent) == ["a.json"]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "x")
    (tmp_path / "theirs").write_text("x")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "theirs").stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_a_new_file_obeys_the_umask_of_that_time_without_changing_it(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to the whole process: what other threads write meanwhile must not be open to all."""
    before = os.umask(umask)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(files.os, "umask", fail(errno.EPERM))
            write_text(tmp_path / "ours", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("error", [ValueError("half way"), KeyboardInterrupt()])
def test_an_exception_in_the_middle_keeps_the_old_file(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_text(path, "old")
    with pytest.raises(type(error)), atomic_path(path) as part:  # noqa: PT012
        part.write_text("half of the n")
        assert part.parent == tmp_path, "on the same file system, so that replacing is one step"
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["state"]


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only")])
def test_when_the_system_refuses_the_old_file_survives(
    step: str, number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    write_text(path, "old")
    monkeypatch.setattr(files.os, step, fail(number))
    with pytest.raises(UserError) as error:
        write_text(path, "new")
    assert str(path) in str(error.value)
    assert words in str(error.value)
    assert "untouched" in str(error.value)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["state"]


def test_several_files_are_replaced_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = tmp_path / "a", tmp_path / "b"
    for path in paths:
        write_text(path, "old")
    synced: list[int] = []

    def full_disk(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full_disk)
        with pytest.raises(UserError, match="No space left"), atomic_paths(*paths) as (first, second):
            assert (first.write_text("new"), second.write_text("new")) == (3, 3)
    assert [path.read_text() for path in paths] == ["old", "old"]
    with atomic_paths(*paths) as parts:
        for part in parts:
            part.write_text("new")
    assert [path.read_text() for path in paths] == ["new", "new"]
    assert names(tmp_path) == ["a", "b"]


def write_all(text: str, *paths: Path) -> None:
    with atomic_paths(*paths) as parts:
        for part in parts:
            part.write_text(text)


def refusing(*calls: int) -> Any:
    """``os.replace`` that the system refuses in these of its calls, counted from 1."""
    made: list[Any] = []

    def replace(source: Path, target: Path, real: Any = os.replace) -> None:
        made.append(target)
        if len(made) in calls:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        real(source, target)

    return replace


@pytest.mark.parametrize("old", [("a", "b", "c"), ("b",), ()])
@pytest.mark.parametrize("refused", [1, 2, 3])
def test_all_files_come_back_when_one_cannot_be_replaced(
    refused: int, old: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where another program has one of them open."""
    for name in old:
        write_text(tmp_path / name, f"old {name}")
    monkeypatch.setattr(files.os, "replace", refusing(refused))
    with pytest.raises(UserError, match="Permission denied; what was there before is untouched"):
        write_all("new", *(tmp_path / name for name in "abc"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: f"old {name}" for name in old}


def test_old_files_that_cannot_be_put_back_are_kept_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        write_text(tmp_path / name, f"old {name}")
    monkeypatch.setattr(files.os, "replace", refusing(2, 3))
    with pytest.raises(UserError) as error:
        write_all("new", tmp_path / "a", tmp_path / "b")
    (kept,) = set(names(tmp_path)) - {"a", "b"}
    assert f"'{tmp_path / 'a'}' (the old one is '{tmp_path / kept}')" in str(error.value)
    assert "untouched" not in str(error.value)
    assert [(tmp_path / name).read_text() for name in ("a", "b", kept)] == ["new", "old b", "old a"]


def test_data_is_on_the_disk_before_the_old_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a)))
    write_text(tmp_path / "a", "x")
    assert calls == ["fsync", "replace"]


def test_what_is_flushed_is_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to flush a file that is open for reading only."""
    modes: list[int] = []
    monkeypatch.setattr(files.os, "fsync", lambda handle: modes.append(fcntl.fcntl(handle, fcntl.F_GETFL)))
    write_text(tmp_path / "a", "x")
    assert [mode & os.O_ACCMODE for mode in modes] == [os.O_RDWR]
    assert (tmp_path / "a").read_text() == "x"


def test_a_place_that_cannot_hold_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    below = tmp_path / "file" / "deeper" / "a.txt"
    with pytest.raises(UserError) as error:
        write_text(below, "x")
    assert f"Cannot write '{below}': Not a directory" in str(error.value)


def test_two_processes_cannot_be_at_one_run(tmp_path: Path) -> None:
    said: list[str] = []
    with locked(tmp_path / "lock", "'a'", said.append):  # noqa: SIM117
        with pytest.raises(UserError, match=r"Another process is at the same run \('a'\)"):
            with locked(tmp_path / "lock", "'a'", said.append):
                pass
    with locked(tmp_path / "lock", "'a'", said.append):
        pass
    assert said == []


def test_a_lock_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    (tmp_path / "file").touch()
    for path, words in ((tmp_path / "lock", "Is a directory"), (tmp_path / "file" / "lock", "(File exists|Not a dir)")):
        with pytest.raises(UserError, match=rf"Cannot write '{path}': {words}"), locked(path, "'a run'", [].append):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_once_and_stops_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", fail(number))
    files._say_unlocked.cache_clear()
    said: list[str] = []
    say, entered = said.append, 0
    for name in ("a", "b"):
        with locked(tmp_path / name, "'a run'", say):
            entered += 1
    assert entered == 2
    assert len(said) == 1
    assert f"({os.strerror(number)}): see to it that no two processes do the same run" in said[0]


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_both_ways_to_say_that_a_lock_is_held(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", fail(number))
    with pytest.raises(UserError, match="Another process"), locked(tmp_path / "a", "'a run'", [].append):
        pass


def test_only_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    kept = ["a[1].txt", ".a[1].txt", "b.part", ".b.x.part", ".a[1].txt.note"]
    for name in [*kept, ".a[1].txt.k3j_2.part", ".a[1].txt.zz.part"]:
        (tmp_path / name).write_text("x")
    remove_parts(tmp_path / "a[1].txt")
    assert names(tmp_path) == sorted(kept)
    remove_parts(tmp_path / "nowhere" / "a")  # no such folder: nothing to do


def test_check_writable_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    check_writable(tmp_path / "there")
    check_writable(tmp_path / "there" / "x" / "y")
    assert names(tmp_path) == ["there"]
    assert names(tmp_path / "there") == []


def test_check_writable_names_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file; give a folder"):
        check_writable(tmp_path / "file")
    with pytest.raises(UserError, match=r"Cannot write to the output folder .*: Not a directory"):
        check_writable(tmp_path / "file" / "below")
    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", fail(errno.EROFS))
    with pytest.raises(UserError, match=r"Cannot write to the output folder .*: Read-only file system"):
        check_writable(tmp_path)


@pytest.mark.parametrize("times", [1, 3])
def test_a_folder_that_other_processes_try_too_is_tried_again(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They remove it between making it and trying a file in it, as often as processes start together."""
    folder, tried = tmp_path / "new" / "folder", tempfile.NamedTemporaryFile
    left = [times]

    def removed(**arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            folder.rmdir()
            folder.parent.rmdir()
        return tried(**arguments)

    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", removed)
    check_writable(folder)
    assert (left, names(tmp_path)) == ([0], [])


def test_a_folder_that_is_made_meanwhile_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes it, and removes it before it is looked at."""
    folder, make, left = tmp_path / "folder", os.mkdir, [1]

    def made(path: str, *mode: int) -> None:
        if left[0]:
            left[0] -= 1
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        make(path, *mode)

    monkeypatch.setattr(os, "mkdir", made)
    check_writable(folder)
    assert (left, names(tmp_path)) == ([0], [])


def test_many_may_try_a_folder_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(check_writable, tmp_path / "new" / "folder") for _ in range(300)]:
            done.result()


def test_a_folder_that_is_never_there_is_not_tried_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", fail(errno.ENOENT))
    with pytest.raises(UserError, match=r"Cannot write to the output folder .*: No such file"):
        check_writable(tmp_path / "folder")
    assert names(tmp_path) == []


def test_hashes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    assert sha256_json({"b": [1, "é"], "a": 0.001}) == hashlib.sha256('{"a":0.001,"b":[1,"é"]}'.encode()).hexdigest()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), JSON, max_size=5))
def test_a_documents_hash_survives_writing_reading_and_reordering(document: dict[str, Any]) -> None:
    again = json.loads(files.to_json(document))
    backwards = dict(reversed(again.items()))
    assert sha256_json(again) == sha256_json(backwards) == sha256_json(document)
    assert sha256_json({**document, "one more": 1}) != sha256_json(document)
