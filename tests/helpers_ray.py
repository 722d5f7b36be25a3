"""A Ray cluster of two machines, both of them processes here."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MACHINE = {"num_cpus": 1, "object_store_memory": 100 * 1024**2}


@contextlib.contextmanager
def two_machines() -> Iterator[Any]:
    """A head and a second machine with one core each; ends with all of its processes. Skips where ray is missing."""
    pytest.importorskip("ray.cluster_utils", reason="the package 'ray' is not installed (extra 'ray')")
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-")  # pytest's folders are too long for the sockets
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)  # Ray notes the cluster's address there, in a folder that it may not make
        Path(folder, "ray").mkdir()
        patch.setenv("OMP_NUM_THREADS", "4")
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))  # workers import the helpers
        head = {**MACHINE, "temp_dir": folder, "include_dashboard": False, "no_monitor": True}
        made = Cluster(initialize_head=True, head_node_args={**head, "include_log_monitor": False})
        try:
            made.add_node(**MACHINE)
            yield made
        finally:
            made.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
