"""Memory in use and memory that is free: of this process and machine, or of a CUDA device. All in bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
KIB = 1024


@dataclass(frozen=True)
class Share:
    """What one of several processes side by side may take. jobs: how many they are.

    free: what they may take together, by kind of device, measured before the first of them takes anything.
    """

    jobs: int
    free: Mapping[str, int]

    @classmethod
    def of(cls, jobs: int, device: torch.device) -> Share:
        """An equal share of what is free now, of this machine and of the device that all of the processes use."""
        amounts = {each.type: memory_free(each) for each in (torch.device("cpu"), device)}
        return cls(jobs, {kind: amount for kind, amount in amounts.items() if amount is not None})


_share: Share | None = None  # of this process


@contextlib.contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """Inside the block, :func:`memory_free` is what ``share`` leaves to this process; ``None``: all that is free."""
    global _share
    before, _share = _share, share
    try:
        yield
    finally:
        _share = before


def is_shared() -> bool:
    """Whether other processes of the same benchmark take their share."""
    return _share is not None


def memory_in_use(device: torch.device) -> int:
    """What this process holds now; on a CUDA device what PyTorch has handed out there."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    try:
        pages = int((PROC / "self" / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return _most_so_far()


def _most_so_far() -> int:
    """The most that this process ever held: what systems without /proc tell; 0 where they tell nothing."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, on macOS


def memory_free(device: torch.device) -> int | None:
    """What this process could still take: of the machine, of its control group, or of a CUDA device.

    Where the system does not say what is free, all of the machine's memory that the process does not hold; ``None``
    where it says nothing at all. Inside :func:`sharing` what is left of the share, at least an equal part of what is
    free now: some systems only tell the most that a process ever held.
    """
    free = _free(device)
    if free is None or _share is None or device.type not in _share.free:
        return free
    left = _share.free[device.type] // _share.jobs - memory_in_use(device)
    return max(free // _share.jobs, min(free, left))


def _free(device: torch.device) -> int | None:
    """What all processes could still take together, as far as the system tells."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    machine = _machine_free()
    free = [amount for amount in (machine, *_control_group_free()) if amount is not None]
    return max(0, min(free)) if free else None


def _machine_free() -> int | None:
    try:
        for line in (PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * KIB
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") - memory_in_use(torch.device("cpu"))
    except (ValueError, OSError, AttributeError):
        return None


def _control_group_free() -> list[int]:
    """What each limit above this process leaves, versions 1 and 2; file cache that can be dropped counts as free."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, limit, usage, cache = CGROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, usage, cache = (
                CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            )  # fmt: skip
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):  # a limit holds for all groups below
            if not folder.is_relative_to(top):
                break
            try:
                statistics = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
                used = int((folder / usage).read_text()) - int(statistics.get(cache, 0))
                left.append(int((folder / limit).read_text()) - used)
            except (OSError, ValueError):  # not there, as inside a container, or "max"
                continue
    return left
