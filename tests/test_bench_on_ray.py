"""``anprompt bench --executor ray`` on a cluster of two machines gives what one process gives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers_bench import QUICK, lasting
from helpers_cli import Cli
from helpers_ray import two_machines


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_machines() as made:
        yield made


@pytest.fixture
def bench(cli: Cli, small_clip: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("quick.yaml").write_text(QUICK.replace("epochs: 2", "epochs: 20"))

    def run(out: str, *more: object) -> None:
        # A cluster's machines have working folders of their own, so paths are whole.
        code, _, err = cli("bench", "--backbone", small_clip, "--datasets", photo_folder, "--methods", "anprompt",
                           "--recipe", "quick.yaml", "--seeds", "1,2", "--threads", "1", "--out", tmp_path / out,
                           *more)  # fmt: skip
        assert code == 0, err

    return run


def adapters(folder: str) -> dict[str, bytes]:
    """Learned tensors by adapter."""
    return {path.parent.name: path.read_bytes() for path in Path(folder, "adapters").rglob("adapter.safetensors")}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_gives_the_records_of_one_process_also_when_a_machine_is_lost(
    bench: Any, cluster: Any, tmp_path: Path
) -> None:
    bench("alone")
    assert len(lasting("alone")) == 4
    bench("cluster", "--executor", "ray", "--address", cluster.address)
    assert lasting("cluster") == lasting("alone")
    assert adapters("cluster") == adapters("alone")

    lost: list[int] = []

    def lose_a_machine_when_both_train() -> None:
        end = time.monotonic() + 120
        while len(list(Path(tmp_path, "shared").rglob("state.safetensors"))) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        lost.append(len(list(Path(tmp_path, "shared", "records").rglob("*.json"))))
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=lose_a_machine_when_both_train)
    thread.start()
    bench("shared", "--executor", "ray", "--address", cluster.address, "--shared")
    thread.join()
    assert lost == [0], "the machine was lost before anything was finished"
    assert lasting("shared") == lasting("alone")
    assert adapters("shared") == adapters("alone")
