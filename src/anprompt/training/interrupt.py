"""Ctrl-C and SIGTERM: finish the step, keep the state, then stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


class Interrupted(Exception):
    """Training was asked to stop; its state is on disk. ``code`` is the exit code, 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, signum: int, epoch: int, step: int) -> None:
        super().__init__(f"Interrupted in epoch {epoch + 1} after {step} steps; the state is kept.")
        self.code = 128 + signum


class StopFlag:
    """Holds the number of the signal that asked to stop, or 0."""

    def __init__(self) -> None:
        self.signum = 0

    def leave(self, epoch: int, step: int, *, kept: bool) -> NoReturn:
        """Raise :class:`Interrupted` if the state is ``kept``; otherwise let the signal have its usual effect."""
        if kept:
            raise Interrupted(self.signum, epoch, step)
        signal.raise_signal(self.signum)  # the handler of before is back since the first one
        raise KeyboardInterrupt  # where that handler would have gone on


@contextlib.contextmanager
def watch_signals() -> Iterator[StopFlag]:
    """Note SIGINT and SIGTERM instead of dying; a second one has its usual effect. Only in the main thread."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(signum: int, frame: FrameType | None) -> None:
        flag.signum = signum
        signal.signal(signum, before[signal.Signals(signum)])

    for number in before:
        signal.signal(number, note)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
