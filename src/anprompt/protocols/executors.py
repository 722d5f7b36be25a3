"""Carry out independent tasks here: one after the other, or in worker processes that may die.

An executor takes a function at the top level of an importable module and tasks that can be pickled, and yields one
:class:`Outcome` per task as they come. A task that fails never stops the others. The executor for many machines, with
the same results, is :func:`anprompt.protocols.on_ray.run_on_ray`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NoReturn, TypeAlias

from anprompt.errors import UserError

Work = Callable[[Any], Any]  # takes a task, returns a result; both are pickled unless it runs in this process
Pipe: TypeAlias = "connection.Connection[Any, Any]"

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WAITING = hasattr(signal, "pthread_sigmask")  # whether signals can be made to wait: not on Windows
GRACE = 30.0  # seconds that a run has to finish its training step and to write its state
POLL = 0.2  # seconds between two looks at whether a signal has come


@dataclass(frozen=True)
class Outcome:
    """How one task ended.

    ``index`` is the place of the task in the list. Without ``error``, ``result`` is what the function returned.
    ``error`` is one sentence where the user can mend it (``wrong_input``) or where the worker died, else a traceback.
    ``tries`` is how often the task was started.
    """

    index: int
    result: Any = None
    error: str | None = None
    wrong_input: bool = False
    tries: int = 1


def attempt(call: Callable[[], Any], index: int, tries: int = 1) -> Outcome:
    """Call, and make an :class:`Outcome` of whatever happens but an interruption, which goes on as an exception."""
    try:
        return Outcome(index, call(), tries=tries)
    except UserError as error:
        return Outcome(index, error=str(error), wrong_input=True, tries=tries)
    except Exception as error:
        if type(error).__name__ == "Interrupted":  # importing its class would import torch
            raise
        return Outcome(index, error=traceback.format_exc(), tries=tries)


def thread_variables(threads: int) -> dict[str, str]:
    """The environment that limits torch, BLAS and tokenizers to ``threads`` threads, if it is set before the start."""
    names = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "RAYON_NUM_THREADS",
    )
    return dict.fromkeys(names, str(threads))


def stopped(signum: int) -> BaseException:
    """What to raise when a signal ended the whole list: the command line exits with 130 or 143."""
    return KeyboardInterrupt() if signum == signal.SIGINT else SystemExit(128 + signum)


def run_serial(work: Work, tasks: Iterable[Any]) -> Iterator[Outcome]:
    """Carry out the tasks in this process, in order. ``KeyboardInterrupt`` and ``Interrupted`` end the whole list."""
    for index, task in enumerate(tasks):
        yield attempt(partial(work, task), index)


def run_processes(work: Work, tasks: Iterable[Any], jobs: int, threads: int, retries: int = 2) -> Iterator[Outcome]:
    """Carry out the tasks in ``jobs`` worker processes of ``threads`` threads each; outcomes come in any order.

    A worker is a fresh interpreter (*spawn*) that lives for many tasks, so what ``work`` keeps in a module's variable
    is still there for the next one. A worker that dies costs only its own task, which is started again up to
    ``retries`` times; a task that raises is not. Workers read nothing from stdin and share stdout and stderr with this
    process, and cannot start processes with ``multiprocessing``. Everything starts with the first ``next()``.

    Ctrl-C and SIGTERM are passed on; the runs have ``GRACE`` seconds to keep their state, then :func:`stopped` is
    raised. A second signal ends everything at once. Leaving the iterator early, or the death of this process, asks the
    workers to stop in the same way.
    """
    from anprompt.training.interrupt import watch_signals  # imports torch

    pickled = [pickle.dumps(task) for task in tasks]
    waiting = deque((index, 1) for index in range(len(pickled)))  # index, number of the try
    busy: dict[Pipe, tuple[_Worker, int, int]] = {}
    idle: list[_Worker] = []
    with watch_signals() as stop:
        try:
            done: list[Outcome] = []
            while True:
                while waiting and len(busy) < jobs and not stop.signum:
                    index, tries = waiting.popleft()
                    idle = [worker for worker in idle if worker.process.is_alive()]
                    worker = idle.pop() if idle else _Worker(work, threads)
                    with contextlib.suppress(OSError):  # it has just died: the wait below finds the end of its pipe
                        worker.pipe.send((index, tries, pickled[index]))
                    busy[worker.pipe] = worker, index, tries
                yield from done
                if stop.signum:
                    raise stopped(stop.signum)
                if not busy:
                    return
                done = []
                ready = connection.wait(list(busy), POLL)
                for pipe in [pipe for pipe in busy if pipe in ready]:
                    worker, index, tries = busy.pop(pipe)
                    try:
                        outcome: Outcome = pipe.recv()
                    except (EOFError, OSError):
                        death = worker.death(tries)
                        if tries <= retries:
                            waiting.append((index, tries + 1))
                        else:
                            done.append(Outcome(index, error=death, tries=tries))
                    else:
                        idle.append(worker)
                        if outcome.error is None:
                            outcome = replace(outcome, result=pickle.loads(outcome.result))
                        done.append(outcome)
        finally:
            _dismiss([worker for worker, *_ in busy.values()], idle, stop.signum)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Signals that come inside the block, also to processes that start there, wait for its end or for those."""
    if not WAITING:
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, work: Work, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process: BaseProcess = spawn.Process(target=_serve, args=(work, theirs), daemon=True)
        variables = thread_variables(threads)
        before = {name: os.environ.get(name) for name in variables}
        # Inherited from here, because the worker's main module may import torch before any line of ours runs there.
        # Signals wait until the worker is ready for them.
        with _signals_wait():
            os.environ.update(variables)
            try:
                self.process.start()
            finally:
                for name, value in before.items():
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value
        theirs.close()  # else the end of the worker would not be the end of the pipe

    def death(self, tries: int) -> str:
        """One sentence on how the process ended."""
        self.process.join(GRACE)
        code = self.process.exitcode
        times = f" in each of {tries} tries" if tries > 1 else ""
        if code is None or code >= 0:
            return f"The worker process ended with exit code {code}{times}, without an answer."
        hint = " Perhaps the memory was full: fewer jobs at a time need less." if -code == signal.SIGKILL else ""
        return f"The worker process was killed by {signal.Signals(-code).name}{times}.{hint}"


def _dismiss(busy: list[_Worker], idle: list[_Worker], signum: int) -> None:
    """Ask the busy workers to stop, wait for all, and kill those that do not end."""
    crew = [*busy, *idle]
    # Whoever signals a whole process group has reached the workers too, and the same signal again would cut them off
    # while they write their state; hence the other one.
    other = signal.SIGINT if signum == signal.SIGTERM else signal.SIGTERM
    try:
        for worker in busy:
            if worker.process.pid and worker.process.is_alive():
                os.kill(worker.process.pid, other)
        for worker in crew:
            worker.pipe.close()  # for an idle worker the end
        end = time.monotonic() + GRACE
        for worker in crew:
            worker.process.join(max(0.0, end - time.monotonic()))
    finally:
        for worker in crew:
            worker.process.kill()
            worker.process.join()


def _serve(work: Work, pipe: Pipe) -> None:
    """The life of a worker: one task after the other until the pipe is closed."""
    for number in SIGNALS:
        signal.signal(number, _leave)
    threading.Thread(target=_follow_parent, daemon=True).start()
    if WAITING:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    while True:
        try:
            index, tries, task = pipe.recv()
        except (EOFError, OSError):
            return _hear_no_more()
        try:
            outcome = attempt(partial(_pickled, work, task), index, tries)
        except Exception as error:  # Interrupted: its state is kept
            _hear_no_more()
            raise SystemExit(getattr(error, "code", 1)) from None
        with contextlib.suppress(OSError):  # nobody waits for it any more
            pipe.send(outcome)


def _pickled(work: Work, task: bytes) -> bytes:
    """Unpickle and pickle where a fault of either becomes the outcome."""
    return pickle.dumps(work(pickle.loads(task)))


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    _hear_no_more()
    raise SystemExit(128 + signum)


def _hear_no_more() -> None:
    """Leaving has begun: another signal would only cut short what runs at exit, with a traceback."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _follow_parent() -> None:
    """End this process when its parent has died, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)  # a training run keeps its state first
        time.sleep(GRACE)
        os._exit(1)
