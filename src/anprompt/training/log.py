"""What is written down of a run: ``log.jsonl``, and the numbers of each step, read from the device many at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from anprompt.errors import UserError
from anprompt.files import write_text

LOG = "log.jsonl"
PLACE = ("epoch", "step", "lr", "seconds")  # what a line holds beside loss terms


class RunLog:
    """``log.jsonl``: one line per step. Lines of steps that a resumed run repeats are removed first."""

    def __init__(self, folder: Path | None, start: tuple[int, int]) -> None:
        self.path = folder / LOG if folder is not None else None
        self.rows: list[str] = []
        if self.path is not None:
            old = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() and start != (0, 0) else []
            write_text(self.path, "".join(f"{line}\n" for line in old if _position(line) < start))

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(json.dumps(row))

    def flush(self) -> None:
        """Write the rows that were added since; :class:`UserError` when the system refuses."""
        if self.path is not None and self.rows:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("".join(f"{row}\n" for row in self.rows))
            except OSError as error:
                raise UserError(f"Cannot write '{self.path}': {error.strerror or error}.") from error
        self.rows = []

    def whole_run(self) -> tuple[int, float, list[dict[str, float]]]:
        """Of all steps that were written down: their number, seconds, and the mean loss terms of each epoch."""
        assert self.path is not None
        rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        clock = [0.0, *(row["seconds"] for row in rows)]  # starts anew with each process
        seconds = sum(now - before if now >= before else now for before, now in pairwise(clock))
        epochs: dict[int, list[dict[str, float]]] = {}
        for row in rows:
            terms = {name: value for name, value in row.items() if name not in PLACE}
            epochs.setdefault(row["epoch"], []).append(terms)
        return len(rows), seconds, [
            {name: fmean(step[name] for step in steps) for name in steps[0]} for _, steps in sorted(epochs.items())
        ]  # fmt: skip


def is_log(file: Path) -> bool:
    """Whether ``file`` is the log of a training, by its first line."""
    line = ""
    try:
        with file.open(encoding="utf-8") as opened:
            line = opened.readline()
        row = json.loads(line)
    except (OSError, ValueError, RecursionError):  # also the only line of a run, which a full disk has cut off
        return line.startswith(f'{{"{PLACE[0]}": ') and not line.endswith("\n")
    return isinstance(row, dict) and set(PLACE) <= row.keys()


def _position(line: str) -> tuple[float, float]:
    try:
        row = json.loads(line)
        return int(row["epoch"]) - 1, int(row["step"]) - 1
    except (ValueError, KeyError, TypeError):  # the end of a line that a kill has cut off
        return math.inf, math.inf


class Diverged(Exception):
    """``what`` was not a finite number in ``step`` of ``epoch``, both counted from 0."""

    def __init__(self, what: str, epoch: int, step: int) -> None:
        super().__init__(f"{what} is no longer a finite number in epoch {epoch + 1}, step {step + 1}")


@dataclass(frozen=True)
class StepNumbers:
    """Loss terms of one step, as read from the device. epoch and step are counted from 0."""

    epoch: int
    step: int
    seconds: float
    terms: dict[str, float]


def steps_between_reads(device: torch.device) -> int:
    """After how many steps numbers are read. On a GPU each reading makes the host wait for all work that it has queued,
    so it should be rare; a CPU computes at once, and every step can be shown at once."""
    return 1 if device.type == "cpu" else 20


class StepReader:
    """Collects the numbers of steps where they are computed and reads them together: always the same ones, only later.

    every: number of steps after which :attr:`due` asks for reading.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._waiting: list[tuple[int, int, float, list[str], Tensor]] = []

    @property
    def due(self) -> bool:
        return len(self._waiting) >= self.every

    def add(
        self, epoch: int, step: int, seconds: float, losses: Mapping[str, Tensor],
        gradients: Sequence[Tensor], parameters: Sequence[Tensor],
    ) -> None:  # fmt: skip
        """Take the loss terms of a step, and the norms by which a number that is not finite will be found."""
        total = losses["total"].detach()
        norms = [torch.nn.utils.get_total_norm([t.detach() for t in tensors]) for tensors in (gradients, parameters)]
        numbers = torch.stack([value.detach().to(total).reshape(()) for value in (*losses.values(), *norms)])
        self._waiting.append((epoch, step, seconds, list(losses), numbers))

    def read(self) -> Iterator[StepNumbers]:
        """Yield what was added since the last reading, in order. Raises :class:`Diverged` at the first bad step."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        rows = torch.cat([numbers for *_, numbers in waiting]).tolist()  # the one wait for the device
        for epoch, step, seconds, names, numbers in waiting:
            *values, gradient, parameter = rows[: len(numbers)]
            del rows[: len(numbers)]
            terms = dict(zip(names, values, strict=True))
            for what, value in (
                ("the loss", terms["total"]), ("the gradient", gradient), ("a learned number", parameter)
            ):  # fmt: skip
                if not math.isfinite(value):
                    raise Diverged(what, epoch, step)
            yield StepNumbers(epoch, step, seconds, terms)
