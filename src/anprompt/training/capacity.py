"""Memory in use and memory that is free: of this process and machine, or of a CUDA device. All in bytes."""

from __future__ import annotations

import os
from pathlib import Path

import torch

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
KIB = 1024


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
    where it says nothing at all.
    """
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
