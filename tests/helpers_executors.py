"""Tiny work functions for the executors; here rather than in a test file, so that workers can import them cheaply."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from anprompt.errors import UserError

CALLS = 0


def square(task: int) -> dict[str, int]:
    return {"square": task * task}


def last(task: tuple[int, Path]) -> int:
    """Task 0 ends only after three others have."""
    number, folder = task
    while number == 0 and len(list(folder.glob("ended.*"))) < 3:
        time.sleep(0.05)
    (folder / f"ended.{number}").touch()
    return number


def fussy(task: Any) -> Any:
    if task == "bad input":
        raise UserError("No photos in 'x'.")
    if task == "our fault":
        raise ValueError("a fault of ours")
    if task == "no pickle":
        return lambda: None
    return task


def surroundings(task: int) -> dict[str, Any]:
    """What a worker sees, and how often this process has been called."""
    global CALLS
    CALLS += 1
    time.sleep(0.3)
    return {
        "pid": os.getpid(),
        "calls": CALLS,
        "environment": {name: value for name, value in os.environ.items() if name.endswith("_THREADS")},
    }


def where(task: tuple[int, Path]) -> int:
    """Leaves a file named after the machine of a Ray cluster, then waits until there is ``go.<machine>``."""
    import ray

    number, folder = task
    machine = ray.get_runtime_context().get_node_id()
    (folder / f"{number}.{machine}").touch()
    while not (folder / f"go.{machine}").exists():
        time.sleep(0.05)
    return number * number


def die_until(task: tuple[str, Path, int, int]) -> str:
    """``(name, folder, deaths, signal)``: the first ``deaths`` calls end their process by the signal.

    Signal 0 stands for leaving with exit code 3, and -1 for training that was told to stop.
    """
    name, folder, deaths, number = task
    calls = len(list(folder.glob(f"{name}.*")))
    (folder / f"{name}.{calls}").touch()
    if calls >= deaths:
        return name
    if number == 0:
        os._exit(3)
    if number == -1:
        from anprompt.training.interrupt import Interrupted

        raise Interrupted(signal.SIGTERM, 0, 7)
    os.kill(os.getpid(), number)
    time.sleep(10)
    return "not reached"


def stubborn(folder: Path) -> None:
    """Hears no signal."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    (folder / f"pid.{os.getpid()}").touch()
    time.sleep(100)


def slow_to_leave(folder: Path) -> None:
    """Works until a signal comes, and takes a while to end its process, as torch does."""
    atexit.register(time.sleep, 1.0)
    (folder / f"pid.{os.getpid()}").touch()
    time.sleep(100)


def train(folder: Path) -> str:
    """Like a training run: says its process id and threads, goes on until a signal comes, keeps its state and stops."""
    import torch

    from anprompt.training.interrupt import Interrupted, watch_signals

    with watch_signals() as stop:
        (folder / f"pid.{os.getpid()}").write_text(str(torch.get_num_threads()))
        while not stop.signum:
            time.sleep(0.05)
        time.sleep(0.5)  # the step is finished and the state written; a second signal of the kind would end it
        (folder / f"state.{os.getpid()}").write_text(signal.Signals(stop.signum).name)
    raise Interrupted(stop.signum, 0, 7)


def press(number: int, folder: Path, runs: int, times: int = 1) -> threading.Thread:
    """Send the signal to this process ``times`` times, once ``runs`` runs have said their process id."""

    def wait_and_press() -> None:
        end = time.monotonic() + 120
        while len(list(folder.glob("pid.*"))) < runs and time.monotonic() < end:
            time.sleep(0.05)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.5)

    thread = threading.Thread(target=wait_and_press)
    thread.start()
    return thread
