"""Tiny work functions for the executors; here rather than in a test file, so that workers can import them cheaply."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from anprompt.errors import UserError

CALLS = 0


def square(task: int) -> dict[str, int]:
    return {"square": task * task}


def slow_first(task: int) -> int:
    """The first task is the last to end."""
    time.sleep(1.5 if task == 0 else 0)
    return task


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


def torch_threads(task: int) -> int:
    import torch

    return torch.get_num_threads()


def die_until(task: tuple[str, Path, int, int]) -> str:
    """``(name, folder, deaths, signal)``: the first ``deaths`` calls kill their process; signal 0: exit code 3."""
    name, folder, deaths, number = task
    calls = len(list(folder.glob(f"{name}.*")))
    (folder / f"{name}.{calls}").touch()
    if calls < deaths:
        if number:
            os.kill(os.getpid(), number)
            time.sleep(10)
        os._exit(3)
    return name


def train(folder: Path) -> str:
    """Like a training run: says its process id, then goes on until a signal comes, keeps its state and stops."""
    from anprompt.training.interrupt import Interrupted, watch_signals

    with watch_signals() as stop:
        (folder / f"pid.{os.getpid()}").touch()
        while not stop.signum:
            time.sleep(0.05)
        time.sleep(0.5)  # the step is finished and the state written; a second signal of the kind would end it
        (folder / f"state.{os.getpid()}").write_text(signal.Signals(stop.signum).name)
    raise Interrupted(stop.signum, 0, 7)
