"""What is in use and what is free: of the machine and of the control groups that bound this process."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from anprompt.training import capacity
from anprompt.training.capacity import Share, is_shared, memory_free, memory_in_use, sharing

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``proc`` and ``cgroup`` of a machine with 8 GiB free, and no control group yet."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n")
    monkeypatch.setattr(capacity, "PROC", tmp_path / "proc")
    monkeypatch.setattr(capacity, "CGROUPS", tmp_path / "cgroup")
    return tmp_path


def group(folder: Path, names: tuple[str, str, str], limit: object, used: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=False):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


V1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
V2 = "memory.max", "memory.current", "inactive_file"


def test_memory_in_use_follows_what_is_taken() -> None:
    """Taken from the system itself: a tensor may lie in what earlier tests gave back to the C library."""
    before = memory_in_use(CPU)
    with mmap.mmap(-1, 64 * MIB) as taken:
        for page in range(0, len(taken), mmap.PAGESIZE):
            taken[page] = 1
        assert 56 * MIB < memory_in_use(CPU) - before < 96 * MIB


def test_without_groups_the_machine_decides(machine: Path) -> None:
    assert memory_free(CPU) == 8192 * MIB


def test_the_tightest_group_above_the_process_decides(machine: Path) -> None:
    (machine / "proc" / "self" / "cgroup").write_text("1:cpu:/x\n0::/a/b\n")
    top = machine / "cgroup"
    group(top / "a" / "b", V2, "max", 100 * MIB, 0)
    group(top / "a", V2, 1000 * MIB, 700 * MIB, 200 * MIB)
    assert memory_free(CPU) == 500 * MIB
    group(top / "a" / "b", V2, 400 * MIB, 100 * MIB, 0)
    assert memory_free(CPU) == 300 * MIB
    group(top / "a" / "b", V2, 400 * MIB, 500 * MIB, 0)
    assert memory_free(CPU) == 0


def test_groups_of_the_first_version(machine: Path) -> None:
    (machine / "proc" / "self" / "cgroup").write_text("5:devices:/\n4:cpu,memory:/c\n")
    group(machine / "cgroup" / "memory" / "c", V1, 2**63 - 4096, 10, 0)
    assert memory_free(CPU) == 8192 * MIB, "no limit is a very large number"
    group(machine / "cgroup" / "memory", V1, 600 * MIB, 500 * MIB, 50 * MIB)
    assert memory_free(CPU) == 150 * MIB


def test_a_group_that_is_not_mounted_does_not_count(machine: Path) -> None:
    (machine / "proc" / "self" / "cgroup").write_text("0::/somewhere/else\n")
    assert memory_free(CPU) == 8192 * MIB


def test_systems_without_proc(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "proc" / "meminfo").unlink()
    pages = {"SC_PHYS_PAGES": 1000 * MIB, "SC_PAGE_SIZE": 1}
    monkeypatch.setattr(capacity.os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(capacity, "_most_so_far", lambda: 300 * MIB)
    assert memory_in_use(CPU) == 300 * MIB
    assert memory_free(CPU) == 700 * MIB
    monkeypatch.delattr(capacity.os, "sysconf")
    assert memory_free(CPU) is None


def test_processes_side_by_side_take_equal_shares(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = Share.of(4, CPU)
    assert share == Share(4, {"cpu": 8192 * MIB})
    held = 500 * MIB
    monkeypatch.setattr(capacity, "memory_in_use", lambda device: held)
    meminfo = machine / "proc" / "meminfo"
    meminfo.write_text(f"MemAvailable: {(8192 - 4 * 500) * 1024} kB\n")
    with sharing(share):
        assert is_shared()
        assert memory_free(CPU) == (2048 - 500) * MIB
        meminfo.write_text(f"MemAvailable: {3000 * 1024} kB\n")  # the others have taken theirs
        assert memory_free(CPU) == (2048 - 500) * MIB
        meminfo.write_text(f"MemAvailable: {1000 * 1024} kB\n")  # and some other program has come
        assert memory_free(CPU) == 1000 * MIB
        held = 2040 * MIB
        assert memory_free(CPU) == 250 * MIB, "an equal part of what is free"
        meminfo.unlink()
        monkeypatch.setattr(capacity, "_machine_free", lambda: None)
        assert memory_free(CPU) is None
    assert not is_shared()
