"""The Ray executor on a cluster of two machines, both of them processes here."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import helpers_executors as helpers
from anprompt.errors import UserError
from anprompt.protocols import on_ray
from anprompt.protocols.executors import Outcome, run_serial
from anprompt.protocols.on_ray import run_on_ray
from helpers_ray import two_machines

pytest.importorskip("ray", reason="the package 'ray' is not installed (extra 'ray')")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_machines() as made:
        yield made


@pytest.fixture
def execute(cluster: Any) -> Callable[..., Iterator[Outcome]]:
    def execute(work: Any, tasks: Any, **options: Any) -> Iterator[Outcome]:
        return run_on_ray(work, tasks, address=cluster.address, **{"cpus": 1, **options})

    return execute


def by_index(outcomes: Iterator[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda outcome: outcome.index)


def test_outcomes_equal_those_of_this_process_and_only_a_few_tasks_are_handed_over_at_a_time(
    execute: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_ray, "PENDING", 3)
    tasks = [1, "bad input", 2.5, "our fault", {"a": [1]}, "fine", None]
    taken = 0

    def counted() -> Iterator[Any]:
        nonlocal taken
        for taken, task in enumerate(tasks, 1):  # noqa: B007
            yield task

    outcomes = []
    for outcome in execute(helpers.fussy, counted()):
        outcomes.append(outcome)
        assert taken <= len(outcomes) + 2, "more than three were handed over"
    fault = next(outcome for outcome in outcomes if outcome.index == 3)
    assert "ValueError: a fault of ours" in str(fault.error)
    assert not fault.wrong_input
    others = [outcome for outcome in by_index(iter(outcomes)) if outcome is not fault]
    assert others == [outcome for outcome in run_serial(helpers.fussy, tasks) if outcome.index != 3]
    assert others[1] == Outcome(1, error="No photos in 'x'.", wrong_input=True)
    out, err = capfd.readouterr()
    assert out == "", "stdout is for results"
    assert "INFO" not in err


@pytest.mark.slow
def test_a_worker_that_dies_costs_a_second_try_and_at_last_a_sentence(execute: Any, tmp_path: Path) -> None:
    deaths = [("once", 1, signal.SIGKILL), ("always", 99, 0), ("told to stop", 1, -1), ("never", 0, 0)]
    tasks = [(name, tmp_path, times, number) for name, times, number in deaths]
    once, always, told, never = by_index(execute(helpers.die_until, tasks, retries=1))
    assert [once, told, never] == [Outcome(0, "once"), Outcome(2, "told to stop"), Outcome(3, "never")]
    assert str(always.error).startswith("Ray lost the run, also when it was started again: ")
    assert "\n" not in str(always.error)
    assert not always.wrong_input
    assert len(list(tmp_path.glob("once.*"))) == len(list(tmp_path.glob("always.*"))) == 2


def test_ctrl_c_cancels_what_runs_and_the_runs_keep_their_state(execute: Any, tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    thread = helpers.press(signal.SIGINT, tmp_path, runs=2)
    with pytest.raises(KeyboardInterrupt):
        list(execute(helpers.train, [tmp_path] * 3))
    thread.join()
    pids = {path.suffix: path.read_text() for path in tmp_path.glob("pid.*")}
    assert len(pids) == 2, "the third was not begun"
    assert {path.suffix for path in tmp_path.glob("state.*")} == pids.keys()
    assert set(pids.values()) == {"1"}, "torch has as many threads as the run has cores, not the 4 of the machine"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_run_that_no_machine_can_carry_is_refused(execute: Any) -> None:
    with pytest.raises(
        UserError, match=r"has the 2 CPU \+ 1 GPU of one run\. It has: 1 CPU \+ 0 GPU, 1 CPU \+ 0 GPU\."
    ):
        next(execute(helpers.square, [1], cpus=2, gpus=1))


def test_both_machines_work_and_one_lost_in_the_middle_loses_nothing(
    cluster: Any, execute: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Last, because the machine does not come back."""
    (lost,) = cluster.worker_nodes
    stays = cluster.head_node.node_id

    def lose_when_both_are_busy() -> None:
        end = time.monotonic() + 120
        while len({path.suffix for path in tmp_path.iterdir()}) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        cluster.remove_node(lost, allow_graceful=False)
        (tmp_path / f"go.{stays}").touch()

    thread = threading.Thread(target=lose_when_both_are_busy)
    thread.start()
    outcomes = by_index(execute(helpers.where, [(number, tmp_path) for number in range(4)]))
    thread.join()
    assert outcomes == [Outcome(number, number * number) for number in range(4)]
    begun_there = {path.stem for path in tmp_path.glob(f"[0-9].{lost.node_id}")}
    begun_here = {path.stem for path in tmp_path.glob(f"[0-9].{stays}")}
    assert len(begun_there) == 1
    assert begun_here == {"0", "1", "2", "3"}, "what the lost machine had begun was begun again on the other"
    assert capfd.readouterr().out == "", "stdout is for results; Ray's news of the loss goes elsewhere"


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:1", "No Ray cluster answers at 127.0.0.1:1 (Connection refused)"),
        ("ray://127.0.0.1:1", "No Ray cluster answers at ray://127.0.0.1:1 (Connection refused)"),
        ("127.0.0.1:99999", "No Ray cluster answers at 127.0.0.1:99999"),
        ("mars", "'mars' is no address of a Ray cluster. Allowed: auto, HOST:PORT, ray://HOST:PORT."),
        ("auto", "Cannot join a Ray cluster at 'auto': "),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(
    address: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def nothing(*_: Any, **__: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nMore lines.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", nothing)  # there may well be a cluster here: that of this file
    with pytest.raises(UserError) as refused:
        next(run_on_ray(helpers.square, [1], address=address, cpus=1))
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_a_connection_of_somebody_else_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("it was shut down"))
    with pytest.raises(UserError, match="already connected"):
        next(run_on_ray(helpers.square, [1], address="auto", cpus=1))


def test_without_ray_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install -c constraints\.txt -e '\.\[ray\]'"):
        next(run_on_ray(helpers.square, [1], address="auto", cpus=1))
