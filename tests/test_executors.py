"""Executors: the same outcomes whether tasks run here or in workers, whatever becomes of a task or a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import helpers_executors as helpers
from anprompt.protocols import executors
from anprompt.protocols.executors import Outcome, run_processes, run_serial, stopped, thread_variables
from anprompt.training.interrupt import Interrupted

Run = Callable[..., Iterator[Outcome]]


def in_processes(work: Any, tasks: Any) -> Iterator[Outcome]:
    return run_processes(work, tasks, jobs=2, threads=1)


@pytest.fixture(params=[run_serial, in_processes])
def execute(request: pytest.FixtureRequest) -> Run:
    return request.param  # type: ignore[no-any-return]


def by_index(outcomes: Iterator[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda outcome: outcome.index)


def children() -> set[int]:
    """Process ids of the living children of this process; multiprocessing's own tracker stays for the whole session."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            line = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z" and "resource_tracker" not in line:
            found.add(int(stat.parent.name))
    return found


@pytest.fixture(autouse=True)
def _no_process_stays() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], Any], what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def test_each_task_gives_one_outcome_with_the_result_of_the_function(execute: Run) -> None:
    expected = [Outcome(i, {"square": i * i}) for i in range(7)]
    assert by_index(execute(helpers.square, range(7))) == expected
    assert list(execute(helpers.square, [])) == []


def test_where_signals_cannot_be_made_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, whose ``signal`` has no ``pthread_sigmask``; elsewhere multiprocessing itself needs it."""
    monkeypatch.setattr(executors, "WAITING", False)
    monkeypatch.setattr(executors, "signal", SimpleNamespace(SIGTERM=signal.SIGTERM, SIGINT=signal.SIGINT,
        SIGKILL=signal.SIGKILL, signal=signal.signal, getsignal=signal.getsignal))  # fmt: skip
    assert by_index(in_processes(helpers.square, [3])) == [Outcome(0, {"square": 9})]


def test_outcomes_come_as_they_end(tmp_path: Path) -> None:
    outcomes = list(in_processes(helpers.last, [(number, tmp_path) for number in range(4)]))
    assert outcomes[-1] == Outcome(0, 0)
    assert by_index(iter(outcomes)) == [Outcome(number, number) for number in range(4)]


def test_a_mistake_is_a_sentence_and_a_fault_is_a_traceback_and_neither_stops_the_others(execute: Run) -> None:
    bad, fault, good = by_index(execute(helpers.fussy, ["bad input", "our fault", "fine"]))
    assert bad == Outcome(0, error="No photos in 'x'.", wrong_input=True)
    assert not fault.wrong_input
    assert fault.tries == 1, "what raises is not tried again"
    assert "ValueError: a fault of ours" in str(fault.error)
    assert "helpers_executors.py" in str(fault.error), "says where"
    assert good == Outcome(2, "fine")


def test_a_result_that_cannot_be_sent_is_a_fault_of_its_task_only() -> None:
    fault, good = by_index(in_processes(helpers.fussy, ["no pickle", "fine"]))
    assert "pickle" in str(fault.error).lower()
    assert good == Outcome(1, "fine")


def test_a_worker_lives_for_many_tasks_and_has_the_threads_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    results = [outcome.result for outcome in run_processes(helpers.surroundings, range(6), jobs=2, threads=3)]
    pids = {result["pid"] for result in results}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert max(result["calls"] for result in results) >= 2, "a module's variable is still there for the next task"
    assert sum(result["calls"] == 1 for result in results) == 2
    for result in results:
        assert thread_variables(3).items() <= result["environment"].items()
    assert os.environ["OMP_NUM_THREADS"] == "7", "the environment of this process is as before"
    assert "MKL_NUM_THREADS" not in os.environ
    assert helpers.CALLS == 0, "nothing ran here"


@pytest.mark.parametrize("number", [0, signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_dies_costs_only_a_second_try_of_its_task(number: int, tmp_path: Path) -> None:
    tasks = [("a", tmp_path, 0, 0), ("dies", tmp_path, 2, number), ("b", tmp_path, 0, 0), ("c", tmp_path, 0, 0)]
    outcomes = by_index(in_processes(helpers.die_until, tasks))
    assert outcomes == [Outcome(0, "a"), Outcome(1, "dies", tries=3), Outcome(2, "b"), Outcome(3, "c")]
    calls = sorted(path.name for path in tmp_path.iterdir())
    assert calls == ["a.0", "b.0", "c.0", "dies.0", "dies.1", "dies.2"], "no other task is run twice"


def test_a_task_that_always_kills_its_worker_is_given_up_with_a_sentence(tmp_path: Path) -> None:
    tasks = [("killed", tmp_path, 99, signal.SIGKILL), ("fine", tmp_path, 0, 0), ("exits", tmp_path, 99, 0)]
    killed, fine, exits = by_index(run_processes(helpers.die_until, tasks, jobs=2, threads=1, retries=1))
    assert (killed.tries, exits.tries, killed.wrong_input) == (2, 2, False)
    assert str(killed.error).startswith("The worker process was killed by SIGKILL in each of 2 tries.")
    assert "memory" in str(killed.error)
    assert exits.error == "The worker process ended with exit code 3 in each of 2 tries, without an answer."
    assert fine == Outcome(1, "fine")
    assert len(list(tmp_path.glob("killed.*"))) == 2


def test_leaving_the_iterator_early_ends_the_workers_and_gives_the_signals_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    outcomes = in_processes(helpers.last, [(number, tmp_path) for number in (1, 0, 0)])  # two wait for ever
    assert next(outcomes).result == 1
    assert len(children()) >= 2
    outcomes.close()  # type: ignore[attr-defined]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted(signal.SIGTERM, 0, 1)])
def test_an_interruption_ends_the_list_that_runs_in_this_process(error: BaseException) -> None:
    def interrupted(task: int) -> None:
        raise error

    with pytest.raises(type(error)):
        list(run_serial(interrupted, [1, 2]))


def test_sigterm_is_passed_on_and_training_with_its_threads_keeps_its_state(tmp_path: Path) -> None:
    thread = helpers.press(signal.SIGTERM, tmp_path, runs=1)
    with pytest.raises(SystemExit) as end:
        list(run_processes(helpers.train, [tmp_path] * 2, jobs=1, threads=2))
    thread.join()
    assert end.value.code == 143
    assert [path.read_text() for path in tmp_path.glob("pid.*")] == ["2"], "torch has the threads that were asked for"
    assert [path.read_text() for path in tmp_path.glob("state.*")] == ["SIGINT"]


@pytest.mark.parametrize(("grace", "times"), [(0.5, 1), (60, 2)])
def test_a_worker_that_does_not_end_is_killed_after_a_while_or_by_a_second_signal(
    grace: float, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "GRACE", grace)
    thread = helpers.press(signal.SIGINT, tmp_path, runs=2, times=times)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(in_processes(helpers.stubborn, [tmp_path] * 2))
    assert time.monotonic() - start < 50
    thread.join()


def test_the_exit_code_says_which_signal_ended_the_list() -> None:
    assert isinstance(stopped(signal.SIGINT), KeyboardInterrupt), "130 by the command line"
    end = stopped(signal.SIGTERM)
    assert isinstance(end, SystemExit)
    assert end.code == 143


PARENT = """
import sys
from pathlib import Path
import helpers_executors
from anprompt.protocols.executors import run_processes

if __name__ == "__main__":
    jobs = int(sys.argv[2])
    list(run_processes(getattr(helpers_executors, sys.argv[3]), [Path(sys.argv[1])] * (jobs + 1), jobs, threads=1))
"""


def start_parent(tmp_path: Path, jobs: int, work: str) -> tuple[subprocess.Popen[str], Path]:
    """A process with ``jobs`` workers, in a process group of their own, and the folder where they say who they are."""
    script, folder = tmp_path / "parent.py", tmp_path / "runs"
    script.write_text(PARENT)
    folder.mkdir()
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    parent = subprocess.Popen(
        [sys.executable, script, folder, str(jobs), work],
        env={**os.environ, **paths},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    return parent, folder


@pytest.mark.parametrize(
    ("number", "jobs", "code", "noted"),
    [
        (signal.SIGINT, 2, -signal.SIGINT, {"SIGINT", "SIGTERM"}),  # Ctrl-C in a terminal reaches the workers, too
        (signal.SIGKILL, 1, -signal.SIGKILL, {"SIGTERM"}),
    ],
)
def test_when_the_parent_is_stopped_the_runs_keep_their_state_and_no_process_stays(
    number: int, jobs: int, code: int, noted: set[str], tmp_path: Path
) -> None:
    parent, folder = start_parent(tmp_path, jobs, "train")
    try:
        until(lambda: len(list(folder.glob("pid.*"))) == jobs, "all workers are training")
        pids = [int(path.suffix[1:]) for path in folder.glob("pid.*")]
        (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)
        _, err = parent.communicate(timeout=60)
        until(lambda: not any(alive(pid) for pid in pids), "the workers have ended")
    finally:
        if parent.poll() is None:
            parent.kill()
    states = {path.name: path.read_text() for path in folder.glob("state.*")}
    assert states.keys() == {f"state.{pid}" for pid in pids}, "every run has kept its state; no further one was begun"
    assert parent.returncode == code, err
    assert set(states.values()) <= noted
    assert "Process Spawn" not in err, f"no traceback of a worker: {err}"


def test_a_second_signal_while_workers_are_leaving_brings_no_traceback(tmp_path: Path) -> None:
    parent, folder = start_parent(tmp_path, 2, "slow_to_leave")
    try:
        until(lambda: len(list(folder.glob("pid.*"))) == 2, "both workers are at work")
        os.killpg(parent.pid, signal.SIGTERM)  # reaches the workers, to which the parent then passes on the other one
        _, err = parent.communicate(timeout=60)
    finally:
        if parent.poll() is None:
            parent.kill()
    assert parent.returncode == 143
    assert err == ""
