"""Carry out independent tasks on many machines with Ray, with the outcomes of :mod:`anprompt.protocols.executors`.

Every machine needs the same versions of anprompt, torch and ray, and files under the same paths. Ray is an optional
dependency: the extra ``ray``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from anprompt.errors import UserError
from anprompt.protocols.executors import GRACE, POLL, Outcome, Work, attempt, stopped, thread_variables

PENDING = 256  # tasks handed to Ray at a time: enough for as many machines to be always busy
ANSWER = 5.0  # seconds that an address may take to accept a connection; Ray itself would wait for five minutes


def run_on_ray(
    work: Work, tasks: Iterable[Any], *, address: str, cpus: int, gpus: float = 0, retries: int = 3
) -> Iterator[Outcome]:
    """Carry out each task as a Ray task with ``cpus`` cores, as many threads, and ``gpus`` GPUs; outcomes in any order.

    ``address`` is that of a running cluster: ``auto`` (this machine is part of it), ``host:port``, or ``ray://host:port``.
    A task whose worker or machine is lost, or is told to stop, is started again elsewhere, up to ``retries`` times; a
    task that raises is not. Ray does not say how often it did: ``tries`` stays 1. The connection is made with the first
    ``next()``.

    Ctrl-C and SIGTERM cancel what runs; training then keeps its state within ``GRACE`` seconds, and
    :func:`anprompt.protocols.executors.stopped` is raised.

    Raises:
        UserError: ray is not installed or already connected, no cluster answers at the address, or no machine of it has
            such resources.
    """
    ray = _import_ray()
    if ray.is_initialized():
        raise UserError("This process is already connected to a Ray cluster; call ray.shutdown() first.")
    from anprompt.training.interrupt import Interrupted, watch_signals  # imports torch

    with watch_signals() as early, _errors_to_stderr(ray):  # gives back the handlers, one of which Ray replaces
        try:
            _connect(ray, address)
            _check_resources(ray, address, cpus, gpus)
            remote = ray.remote(_execute).options(
                num_cpus=cpus,
                num_gpus=gpus,
                max_retries=retries,
                retry_exceptions=[Interrupted],  # somebody takes the machine away: go on elsewhere
                runtime_env={"env_vars": thread_variables(cpus)},
            )
            with watch_signals() as stop:
                yield from _outcomes(ray, partial(remote.remote, work), tasks, lambda: stop.signum or early.signum)
        finally:
            ray.shutdown()


def _execute(work: Work, index: int, task: Any) -> Outcome:
    """What runs on the other machine."""
    return attempt(partial(work, task), index)


def _outcomes(
    ray: Any, submit: Callable[[int, Any], Any], tasks: Iterable[Any], signum: Callable[[], int]
) -> Iterator[Outcome]:
    """Keep at most ``PENDING`` tasks in Ray's hands and yield what comes back."""
    numbered = enumerate(tasks)
    pending: dict[Any, int] = {}  # reference -> index
    try:
        while True:
            for index, task in islice(numbered, PENDING - len(pending)):
                pending[submit(index, task)] = index
            if not pending:
                return
            done, _ = ray.wait(list(pending), num_returns=1, timeout=POLL)
            for reference in done:
                yield _outcome(ray, reference, pending.pop(reference))
            if signum():
                raise stopped(signum())
    finally:
        for reference in pending:
            ray.cancel(reference)
        if pending:
            ray.wait(list(pending), num_returns=len(pending), timeout=GRACE)


def _outcome(ray: Any, reference: Any, index: int) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
        return outcome
    except ray.exceptions.RayTaskError:  # outside of the function, such as a module that is missing on that machine
        return Outcome(index, error=traceback.format_exc())
    except ray.exceptions.RayError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Outcome(index, error=f"Ray lost the run, also when it was started again: {reason}")


def _import_ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
    try:
        import ray
    except ImportError:
        raise UserError(
            "Runs on many machines need the package 'ray': pip install -c constraints.txt -e '.[ray]'"
        ) from None
    return ray


@contextlib.contextmanager
def _errors_to_stderr(ray: Any) -> Iterator[None]:
    """Ray prints the trouble of its machines to stdout, where results belong, and has no switch for it."""
    module = ray._private.worker
    before = module.print_to_stdstream

    def first_line(data: dict[str, Any], **_: Any) -> None:
        sys.stderr.write(f"ray: {data['lines'][0].strip().splitlines()[0]}\n")

    module.print_to_stdstream = first_line
    try:
        yield
    finally:
        module.print_to_stdstream = before


def _connect(ray: Any, address: str) -> None:
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"'{address}' is no address of a Ray cluster. Allowed: auto, HOST:PORT, ray://HOST:PORT.")
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"No Ray cluster answers at {address} ({reason}). 'ray start --head' starts one.") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"Cannot join a Ray cluster at '{address}': {reason}") from None


def _check_resources(ray: Any, address: str, cpus: int, gpus: float) -> None:
    """Ray would wait for ever for a machine that does not exist."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= gpus for has in machines):
        listed = ", ".join(sorted(f"{has.get('CPU', 0):g} CPU + {has.get('GPU', 0):g} GPU" for has in machines))
        need = f"{cpus} CPU + {gpus:g} GPU"
        raise UserError(f"No machine of the Ray cluster at '{address}' has the {need} of one run. It has: {listed}.")
