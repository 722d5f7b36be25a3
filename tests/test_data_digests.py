"""What files hold is read once, and again only where a file changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from anprompt.data import digests, open_data
from anprompt.data.digests import Digest, digest, kept_digests
from anprompt.errors import UserError
from anprompt.files import sha256_file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every file is kept, and trusted at once; the cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "KEEP_FROM", 0)
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**12))
    return tmp_path / "cache" / "anprompt" / "digests"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(bytes([number] * 5))
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read from the disk."""
    seen: list[str] = []
    original = digests._read

    def spy(path: str) -> tuple[digests.Stamp, Digest]:
        seen.append(Path(path).name)
        return original(path)

    monkeypatch.setattr(digests, "_read", spy)
    return seen


def kept(root: Path, *more: str) -> list[Digest]:
    """Of all files, which are always the true ones."""
    paths = sorted(map(str, root.iterdir()))
    found = list(kept_digests(root, [*paths, *more]))
    assert found[: len(paths)] == [Digest(os.stat(path).st_size, sha256_file(Path(path))) for path in paths]
    return found


def test_only_what_changed_is_read_again(root: Path, read: list[str], cache: Path) -> None:
    first = kept(root)
    assert read == ["0.jpg", "1.jpg", "2.jpg"]
    assert [digest(str(path)) for path in sorted(root.iterdir())] == first
    read.clear()
    kept(root)
    assert read == []
    status = (root / "1.jpg").stat()
    (root / "1.jpg").write_bytes(b"other")  # of the same length, and dated back, as copying programs do
    os.utime(root / "1.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))
    (root / "new.jpg").write_bytes(b"new")
    (root / "2.jpg").unlink()
    assert kept(root) != first
    assert read == ["1.jpg", "new.jpg"]
    (file,) = cache.iterdir()
    assert [Path(path).name for path in sorted(json.loads(file.read_text())["files"])] == ["0.jpg", "1.jpg", "new.jpg"]


def test_parts_of_the_data_are_kept_together(root: Path, read: list[str]) -> None:
    paths = sorted(map(str, root.iterdir()))
    list(kept_digests(root, paths[:1]))
    list(kept_digests(root, paths[1:]))
    read.clear()
    kept(root)
    assert read == []


def test_what_changed_a_moment_ago_is_not_trusted(root: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change within the clock's resolution would leave the time stamp as it is."""
    monkeypatch.setattr(digests, "SETTLED_NS", 10**12)
    kept(root)
    read.clear()
    kept(root)
    assert read == ["0.jpg", "1.jpg", "2.jpg"]


def test_a_few_small_files_are_not_kept(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "KEEP_FROM", 16)
    kept(root)
    assert not cache.exists()
    (root / "3.jpg").write_bytes(b"x")
    kept(root)
    assert cache.exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99, "root": "", "files": {}}', "null", "WRONG FILES"])
def test_a_damaged_cache_is_made_anew(root: Path, cache: Path, read: list[str], content: str) -> None:
    kept(root)
    (file,) = cache.iterdir()
    good = file.read_text()
    wrong = {**json.loads(good), "files": {str(root / "0.jpg"): [[1, 2], "x"]}}
    file.write_text(json.dumps(wrong) if content == "WRONG FILES" else content)
    read.clear()
    kept(root)
    assert read == ["0.jpg", "1.jpg", "2.jpg"]
    assert json.loads(file.read_text()) == json.loads(good)


def test_a_cache_that_cannot_be_written_costs_only_time(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    kept(root)


def test_a_file_that_is_gone_is_an_error(root: Path) -> None:
    kept(root)
    (root / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"Cannot read .*1\.jpg: No such file"):
        list(kept_digests(root, [str(root / "1.jpg")]))


def test_the_hash_of_data_keeps_what_it_read(tmp_path: Path, read: list[str]) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (0, 0, ord(name[0]) + int(name[2]))).save(tmp_path / "photos" / name)
    source = open_data(tmp_path / "photos")
    first = source.content_hash(source.items("all"), keep=True)
    assert len(read) == 4
    assert source.content_hash(source.items("all"), keep=True) == first
    assert len(read) == 4, "nothing was read again"
