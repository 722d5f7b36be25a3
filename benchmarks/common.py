"""What all measurements share: arguments, timing in alternation, fresh processes, JSON documents."""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from anprompt.errors import UserError
from anprompt.files import write_json
from anprompt.report.console import table
from anprompt.training.capacity import memory_free
from benchmarks import machine

RESULTS = Path(__file__).resolve().parent / "results"
GIB = 2**30
RESERVE = GIB  # bytes of memory that a measurement leaves to the rest of the machine
CLOCK_HELP = "cpu: what this process itself computed, for a machine that others use too; with OMP_NUM_THREADS=1"

Json = dict[str, Any]
Timings = dict[str, list[float]]  # side -> seconds of each round


# ---- arguments -----------------------------------------------------------------------------------------------------


def parser(about: str) -> argparse.ArgumentParser:
    """Arguments that every measurement takes."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where both sides run")
    made.add_argument("--clock", choices=tuple(machine.CLOCKS), default="wall", help=CLOCK_HELP)
    made.add_argument("--quick", action="store_true", help="a few minutes: fewer sizes and rounds")
    made.add_argument("--rounds", type=int, help="timed rounds; by default what suits the size")
    made.add_argument("--seed", type=int, default=1, help="of weights, names and pixels")
    made.add_argument("--out", type=Path, help="JSON file; by default one in benchmarks/results")
    made.add_argument("--resume", action="store_true", help="keep what --out already holds of the same settings")
    return made


def run(main: Callable[[Sequence[str] | None], None]) -> None:
    """Run a script's ``main``; a user's mistake becomes one sentence."""
    try:
        main(None)
    except UserError as error:
        sys.exit(f"error: {error}")


def integers(text: str) -> list[int]:
    """``"50,500"`` -> ``[50, 500]``."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of positive numbers such as 50,500")
    return numbers


def check_device(device: str, clock: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no CUDA device on this machine.")
    if clock == "cpu" and (device != "cpu" or torch.get_num_threads() > 1):
        raise UserError("--clock cpu is for one thread on the CPU: set OMP_NUM_THREADS=1, and leave --device cpu.")


# ---- timing --------------------------------------------------------------------------------------------------------


def synchronise(device: str) -> None:
    """Wait until the device has done what was queued."""
    if device == "cuda":
        torch.cuda.synchronize()


def alternate(
    sides: Mapping[str, Callable[[], Any]], rounds: int, device: str, warmup: int = 1, clock: str = "wall"
) -> Timings:
    """Seconds of each side, side by side: round for round every side runs once, in the same order.

    warmup: calls of each side before the first round, not timed. clock: a name in ``machine.CLOCKS``.
    """
    seconds: Timings = {name: [] for name in sides}
    now = machine.CLOCKS[clock]
    for number in range(-warmup, rounds):
        for name, side in sides.items():
            synchronise(device)
            began = now()
            side()
            synchronise(device)
            if number >= 0:
                seconds[name].append(now() - began)
    return seconds


def ratio(seconds: Timings, base: str, ours: str) -> Json:
    """How many times as fast ``ours`` is: median over rounds of base / ours of the same round, and their range."""
    pairs = [b / o for b, o in zip(seconds[base], seconds[ours], strict=True)]
    return {"median": statistics.median(pairs), "low": min(pairs), "high": max(pairs)}


def range_of(value: Json) -> str:
    """A ratio for reading: median (lowest–highest)."""
    return f"{value['median']:.2f} ({value['low']:.2f}–{value['high']:.2f})"


def summary(seconds: Sequence[float]) -> Json:
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


# ---- processes and memory ------------------------------------------------------------------------------------------


def in_fresh_process(function: Callable[..., Json], *args: Any) -> Json:
    """``function(*args)`` in a process of its own: nothing of an earlier measurement is in its memory.

    A process that the system kills gives ``{"failed": …}``.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            return {"failed": "the system killed the process, probably for want of memory"}


def guarded(function: Callable[..., Json], *args: Any) -> Json:
    """``function(*args)`` under a limit on memory: too much gives ``{"failed": …}``, not a machine out of memory."""
    limit_memory()
    try:
        return function(*args)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        return {"failed": "ran out of memory"}


def limit_memory() -> None:
    """Let this process have what is free now, less a reserve (Linux; elsewhere nothing is limited)."""
    status, free = _status(), free_memory("cpu")
    if not status or free == sys.maxsize or torch.cuda.is_available():  # CUDA reserves far more addresses than memory
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = status["VmSize"] + free
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def free_memory(device: str) -> int:
    """Bytes that a measurement may use on the device; without limit where the system does not say."""
    free = memory_free(torch.device(device))
    return sys.maxsize if free is None else max(0, free - RESERVE)


def peak_memory() -> int:
    """The most bytes that this process has held at any time.

    From the kernel's per-process mark where there is one: ``getrusage`` also counts what a parent held at the start.
    """
    status = _status()
    if status:
        return status["VmHWM"]
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status() -> dict[str, int]:
    """Sizes in bytes from Linux's ``/proc/self/status``; empty elsewhere."""
    path = Path("/proc/self/status")
    if not path.exists():
        return {}
    pairs = (line.split(":") for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {name: 1024 * int(value.split()[0]) for name, value in pairs}


# ---- documents -----------------------------------------------------------------------------------------------------


class Document:
    """One JSON file: machine, command, settings and entries. It is written after every entry, so nothing is lost."""

    def __init__(self, kind: str, args: argparse.Namespace, settings: Json, out: Path) -> None:
        check_device(args.device, args.clock)
        self.path = out
        self.content: Json = {
            "benchmark": kind,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": command(kind),
            "machine": machine.describe(),
            "settings": {
                "device": args.device,
                "clock": args.clock,
                "quick": args.quick,
                "seed": args.seed,
                **settings,
            },
            "entries": [],
        }
        if args.resume and out.exists():
            old = json.loads(out.read_text("utf-8"))
            same = [old.get(key) == self.content[key] for key in ("settings", "machine")]
            if not all(same):
                raise UserError(f"--resume: '{out}' was measured with other settings or on another machine.")
            self.content = {**self.content, **{k: v for k, v in old.items() if k not in ("created", "command")}}

    def find(self, key: Json) -> Json | None:
        """The entry that has all of ``key``, if it was measured already."""
        return next((e for e in self.content["entries"] if key.items() <= e.items()), None)

    def add(self, entry: Json) -> None:
        self.content["entries"].append(entry)
        self.write()

    def write(self) -> None:
        write_json(self.path, self.content)


def command(kind: str) -> str:
    """The command line, without the place of any file."""
    shown = [part if "/" not in part else Path(part).name for part in sys.argv[1:]]
    return " ".join([f"python -m benchmarks.{kind}", *shown])


def load(paths: Sequence[Path]) -> list[Json]:
    """Documents of earlier measurements; :class:`UserError` for a file that is none."""
    documents = []
    for path in paths:
        try:
            document = json.loads(path.read_text("utf-8"))
            assert {"benchmark", "machine", "settings", "entries"} <= document.keys()
        except (OSError, ValueError, AttributeError, AssertionError) as error:
            raise UserError(f"{path}: not the result of a measurement ({type(error).__name__}).") from error
        documents.append(document)
    return documents


def note(text: str) -> None:
    """Say on stderr what is being measured."""
    sys.stderr.write(f"[{time.strftime('%H:%M:%S')}] {text}\n")
    sys.stderr.flush()


def default_out(kind: str, model: str, device: str) -> Path:
    return RESULTS / f"{kind}-{model}-{device}.json"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], out: Path) -> None:
    """Print a table to stdout and where the numbers are kept to stderr."""
    table(title, columns, rows, numeric=columns)
    note(f"written: {out.name}")
