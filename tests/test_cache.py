"""The activation cache: every bit comes back, the size is bounded, processes share it, and nothing damaged is used."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from anprompt.clip.cache import ENTRY, MARK, ActivationCache
from anprompt.errors import UserError
from helpers_clip import random_backbone

BATCH = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Lower:
    """Stands for the lower blocks: counts its calls and never gives the same twice."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.calls = 0
        self.dtype = dtype

    def __call__(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        return (pixels.mean((1, 2, 3))[:, None, None] + self.calls).expand(-1, 17, 8).to(self.dtype)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{ENTRY}"))


def size_of_one(folder: Path) -> int:
    ActivationCache(folder / "probe").fetch("e", BATCH, 2, Lower())
    return entries(folder / "probe")[0].stat().st_size


# Same results


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_read_is_what_was_computed(tmp_path: Path, dtype: torch.dtype) -> None:
    cache, lower = ActivationCache(tmp_path / "new" / "cache"), Lower(dtype)
    cold, warm = (cache.fetch("e", BATCH, 6, lower) for _ in range(2))
    assert lower.calls == 1
    assert warm.dtype == dtype
    assert torch.equal(cold, warm)
    assert cold.stride() == warm.stride()
    assert warm.data_ptr() % 64 == 0
    warm.zero_()  # belongs to the caller
    assert torch.equal(cache.fetch("e", BATCH, 6, lower), cold)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_part_of_the_key_counts(data: st.DataObject) -> None:
    """Batches that differ in anything that bits may depend on do not share an entry."""
    base = {"encoder": "e", "block": 6, "pixels": BATCH}
    other = {
        "encoder": data.draw(st.sampled_from(["f", "e/bf16", ""])),
        "block": data.draw(st.sampled_from([5, 7, 66])),
        "pixels": data.draw(st.sampled_from(["order", "size", "layout", "bit", "dtype"])),
    }
    changed = {
        "order": BATCH.flip(0),
        "size": BATCH[:3],
        "layout": BATCH.contiguous(memory_format=torch.channels_last),
        "bit": BATCH + torch.zeros_like(BATCH).index_fill_(0, torch.tensor([3]), 1e-6),
        "dtype": BATCH.double(),
    }
    what = data.draw(st.sampled_from(sorted(base)))
    second = {**base, what: changed[other["pixels"]] if what == "pixels" else other[what]}  # type: ignore[index]
    with tempfile.TemporaryDirectory() as folder:
        cache, lower = ActivationCache(folder), Lower()
        for call in (base, second, base, second):
            cache.fetch(call["encoder"], call["pixels"], call["block"], lower)  # type: ignore[arg-type]
        assert (lower.calls, cache.hits, cache.misses) == (2, 2, 2)


def test_another_number_of_threads_is_a_miss(tmp_path: Path) -> None:
    cache, lower = ActivationCache(tmp_path), Lower()
    cache.fetch("e", BATCH, 6, lower)
    torch.set_num_threads(2)
    try:
        cache.fetch("e", BATCH, 6, lower)
    finally:
        torch.set_num_threads(1)
    assert (cache.hits, cache.misses) == (0, 2)


def test_encoders_do_not_share_entries(tmp_path: Path) -> None:
    """Other weights, another precision, and the same weights with another number of heads."""
    heads = random_backbone(vision_heads=4)
    assert heads.weights_hash == random_backbone().weights_hash
    cache = ActivationCache(tmp_path)
    backbones = [random_backbone(), random_backbone(seed=1), random_backbone().in_precision("bf16"), heads]
    for _ in range(2):
        for backbone in backbones:
            expected = backbone.trunk(BATCH, 6)
            with cache.attached(backbone):
                assert torch.equal(backbone.trunk(BATCH, 6), expected)
    assert (cache.hits, cache.misses) == (4, 4)


def test_compiled_blocks_do_not_share_entries_with_others(tmp_path: Path) -> None:
    """What ``anprompt.training.compiled`` does to the blocks, without a compiler."""
    backbone = random_backbone()
    with ActivationCache(tmp_path).attached(backbone) as cache:
        backbone.trunk(BATCH, 6)
        with pytest.MonkeyPatch.context() as patch:
            for block in backbone.vision.blocks:
                patch.setattr(block, "packed", block.packed)
            backbone.trunk(BATCH, 6)
        backbone.trunk(BATCH, 6)
    assert (cache.hits, cache.misses) == (1, 2)


def test_the_first_block_is_not_kept(tmp_path: Path) -> None:
    cache, lower = ActivationCache(tmp_path), Lower()
    for _ in range(2):
        cache.fetch("e", BATCH, 1, lower)
    assert (lower.calls, cache.hits, cache.misses, entries(tmp_path)) == (2, 0, 0, [])


# Damage


@pytest.mark.parametrize("damage", ["empty", "half", "one bit", "other entry", "text", "folder", "header"])
def test_damaged_entries_are_computed_again_and_replaced(tmp_path: Path, damage: str) -> None:
    cache, lower = ActivationCache(tmp_path), Lower()
    cache.fetch("e", BATCH, 6, lower)
    (path,) = entries(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "one bit":
        content[-5] ^= 4
    elif damage == "header":
        content[:8] = b"\xff" * 8
    elif damage == "other entry":
        cache.fetch("e", BATCH + 1, 6, lower)
        content = bytearray(next(p for p in entries(tmp_path) if p != path).read_bytes())
    else:
        content = {"empty": bytearray(), "half": content[: len(content) // 2]}.get(damage, bytearray(b"no tensors"))
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(content)
    before = lower.calls
    again = cache.fetch("e", BATCH, 6, lower)
    assert lower.calls == before + 1
    third = cache.fetch("e", BATCH, 6, lower)
    if damage != "folder":  # which nothing can replace
        assert lower.calls == before + 1
        assert torch.equal(again, third)


def test_entries_that_vanish_are_misses(tmp_path: Path) -> None:
    cache, lower = ActivationCache(tmp_path / "cache"), Lower()
    cache.fetch("e", BATCH, 6, lower)
    for path in (*entries(cache.folder), cache.folder / MARK):
        path.unlink()
    cache.folder.rmdir()
    cache.fetch("e", BATCH, 6, lower)
    cache.fetch("e", BATCH, 6, lower)
    assert (cache.hits, cache.misses) == (1, 2)
    ActivationCache(cache.folder)  # still known as a cache


# Size


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    limit, folder = int(3.5 * size_of_one(tmp_path)), tmp_path / "cache"
    assert scan(ActivationCache(folder, limit), [0, 1, 2]) == [False] * 3
    assert scan(ActivationCache(folder, limit), [0]) == [True]  # 1 is now what was not used for longest
    assert scan(ActivationCache(folder, limit), [3]) == [False]
    assert scan(ActivationCache(folder, limit), [0, 2, 3, 1]) == [True] * 3 + [False]
    assert ActivationCache(folder).bytes <= limit
    assert len(entries(folder)) == 3


def scan(cache: ActivationCache, numbers: Iterable[int]) -> list[bool]:
    """Fetch these batches; which of them were kept."""
    lower, hits = Lower(), []
    for number in numbers:
        before = lower.calls
        cache.fetch("e", BATCH + number, 6, lower)
        hits.append(lower.calls == before)
    return hits


@pytest.mark.parametrize("processes", [1, 3])
def test_more_batches_than_fit_are_no_reason_to_forget_those_that_do(
    processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 batches in the same order each time, with room for 16; what does not fit is not even prepared for writing."""
    limit, folder = int(17.5 * size_of_one(tmp_path)), tmp_path / "cache"
    caches = [ActivationCache(folder, limit) for _ in range(processes)]
    assert not any(scan(caches[0], range(24)))
    kept = entries(folder)
    assert len(kept) == 16
    written: list[object] = []
    monkeypatch.setattr("anprompt.clip.cache.save", lambda tensors: written.append(tensors) or save(tensors))
    for cache in [*caches[1:], caches[0]]:
        assert scan(cache, range(24)) == [True] * 16 + [False] * 8
    assert entries(folder) == kept
    assert len(written) == processes - 1, "each finds out once that there is no room"
    assert "this run shows more than fits the limit of" in caches[0].summary()


def test_runs_take_the_room_of_what_none_of_the_last_two_has_used(tmp_path: Path) -> None:
    """Training and evaluation of one method do not drive out each other's entries, but those of an earlier method."""
    cache = ActivationCache(tmp_path / "cache", int(5.5 * size_of_one(tmp_path)))

    def run(numbers: Iterable[int]) -> list[bool]:
        with cache.attached(random_backbone()):
            return scan(cache, numbers)

    assert not any(run(range(8)))  # five are kept
    assert not any(run(range(10, 13)))
    assert run(range(8)) == [True] * 5 + [False] * 3
    assert not any(run(range(10, 13)))
    assert not any(run(range(20, 23)))  # the five were last used two runs ago: three of them make room
    assert run(range(20, 23)) == [True] * 3


def test_files_that_others_are_writing_are_not_deleted_for_room(tmp_path: Path) -> None:
    one = size_of_one(tmp_path)
    cache = ActivationCache(tmp_path / "cache", int(3.5 * one))
    scan(cache, [0])
    theirs = cache.folder / f".theirs{ENTRY}.x.part"
    theirs.write_bytes(bytes(2 * one))
    assert scan(cache, [1, 0]) == [False, True]
    assert theirs.exists()


@settings(max_examples=25, deadline=None)
@given(st.floats(0.5, 12), st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(1, 3))
def test_the_limit_holds_and_answers_stay_right(factor: float, order: list[int], processes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        limit = int(factor * size_of_one(Path(name)))
        caches = [ActivationCache(Path(name) / "cache", limit) for _ in range(processes)]
        for turn, number in enumerate(order):
            batch = BATCH + number
            got = caches[turn % processes].fetch("e", batch, 6, lambda pixels: pixels.flatten(2) * 2)
            assert torch.equal(got, batch.flatten(2) * 2)
            assert sum(path.stat().st_size for path in entries(Path(name) / "cache")) <= limit


def test_a_batch_above_the_limit_is_not_kept_and_the_summary_says_so(tmp_path: Path) -> None:
    cache, lower = ActivationCache(tmp_path, 1000), Lower()
    for _ in range(2):
        cache.fetch("e", BATCH, 6, lower)
    assert entries(tmp_path) == []
    assert "2 misses" in cache.summary()
    assert "too much for a limit of 1000 B" in cache.summary()


def test_what_killed_processes_left_is_deleted(tmp_path: Path) -> None:
    cache = ActivationCache(tmp_path)
    old, young = (tmp_path / f".{name}{ENTRY}.x.part" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    cache.fetch("e", BATCH, 6, Lower())
    assert young.exists()
    assert not old.exists()


def test_a_full_disk_ends_writing_and_nothing_else(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the system refuses in the middle of a write."""
    cache, lower = ActivationCache(tmp_path), Lower()
    kept = cache.fetch("e", BATCH, 6, lower)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, hard))
    try:
        cache.fetch("e", BATCH + 1, 6, lower)
        assert torch.equal(cache.fetch("e", BATCH, 6, lower), kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    cache.fetch("e", BATCH + 2, 6, lower)
    assert len(entries(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    assert cache.summary().startswith("cache: 1 hits, 3 misses, ")
    assert "nothing more can be written: File too large" in cache.summary()
    assert "\n" not in cache.summary()


def test_the_summary(tmp_path: Path) -> None:
    cache = ActivationCache(tmp_path)
    for number in (0, 1, 0, 0):
        cache.fetch("e", BATCH + number, 6, Lower())
    size = sum(path.stat().st_size for path in entries(tmp_path))
    assert cache.bytes == size
    assert cache.summary() == f"cache: 2 hits, 2 misses, {size / 1024:.1f} KiB in '{tmp_path}'"


# Folders


def test_folders_that_are_not_a_cache_are_refused(tmp_path: Path) -> None:
    photo = tmp_path / "photos" / "a.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"x")
    with pytest.raises(UserError, match=r"photos' is not an activation cache and not empty"):
        ActivationCache(photo.parent)
    assert list(photo.parent.iterdir()) == [photo]
    with pytest.raises(UserError, match="is a file; give a folder"):
        ActivationCache(photo)
    with pytest.raises(UserError, match=r"Cannot make the activation cache '.*below': Not a directory\."):
        ActivationCache(photo / "below")
    with pytest.raises(UserError, match="must be above 0"):
        ActivationCache(tmp_path / "none", 0)
    ActivationCache(tmp_path / "none")
    assert not (tmp_path / "none").exists()  # nothing is left of a run that could not start


@pytest.mark.parametrize("mark", ["", "[]", "no json", "later"])
def test_other_formats_are_refused(tmp_path: Path, mark: str) -> None:
    ActivationCache(tmp_path).fetch("e", BATCH, 6, Lower())
    known = json.loads((tmp_path / MARK).read_text())
    (tmp_path / MARK).write_text(json.dumps({**known, "format": 2}) if mark == "later" else mark)
    with pytest.raises(UserError, match="not an activation cache that this version can use"):
        ActivationCache(tmp_path)


def test_a_folder_that_another_process_is_marking_is_accepted(tmp_path: Path) -> None:
    (tmp_path / f".{MARK}.abc.part").touch()
    ActivationCache(tmp_path).fetch("e", BATCH, 6, Lower())
    assert len(entries(tmp_path)) == 1


def test_a_folder_that_another_process_is_trying_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes the folder, tries a file in it and removes both."""
    folder, read = tmp_path / "cache", Path.iterdir
    folder.mkdir()
    (folder / ".writable.abc").touch()
    ActivationCache(folder)

    def too_late(self: Path) -> Iterable[Path]:
        (folder / ".writable.abc").unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()
        return read(self)

    monkeypatch.setattr(Path, "iterdir", too_late)
    ActivationCache(folder)
    monkeypatch.undo()
    ActivationCache(folder).fetch("e", BATCH, 6, Lower())
    assert len(entries(folder)) == 1


WORKER = """
import sys, torch
from anprompt.clip.cache import ActivationCache
torch.set_num_threads(1)
cache = ActivationCache(sys.argv[1], int(sys.argv[2]))
for number in range(120):
    pixels = torch.full((2, 3, 8, 8), float(number // 2 * int(sys.argv[3]) % 17))
    assert torch.equal(cache.fetch("e", pixels, 2, lambda p: p.flatten(2) * 3), pixels.flatten(2) * 3)
print(cache.hits, cache.misses)
"""


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    """Two write, evict and read the same few entries at once: nobody fails, nobody reads something wrong."""
    folder, limit = tmp_path / "cache", 12_000
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), str(limit), str(step)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for step in (1, 3)
    ]  # fmt: skip
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err
        hits, misses = map(int, out.split())
        assert hits + misses == 120
        assert hits > 0
    last = ActivationCache(folder, limit)
    last.fetch("e", BATCH, 6, Lower())  # writers at the same moment may have gone beyond the limit
    assert last.bytes <= limit
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]
