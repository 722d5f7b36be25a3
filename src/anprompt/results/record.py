"""One JSON document per run: what was run, on what, with which result. Tables are built from these."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

from anprompt import __version__
from anprompt.files import sha256_json, write_json

RECORD_VERSION = 1


def describe_machine() -> dict[str, Any]:
    """The machine and the versions in words, without any path or host name."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "anprompt": __version__,
    }


RECORD_KEY = '"record_version"'  # by which a file is known to be a record


def make_record(kind: str, config: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """Build a record.

    kind: the command: ``"fit"``, ``"evaluate"``, ``"zeroshot"``, ``"bench"``, ``"robustness"``, ``"explain"`` or
    ``"demo"``. config: the resolved settings; its hash identifies the run. parts: data, backbone, metrics, timings,
    notes.
    """
    return {
        "record_version": RECORD_VERSION,
        "kind": kind,
        "config": config,
        "config_sha256": sha256_json(config),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        **parts,
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record atomically."""
    write_json(path, record)
