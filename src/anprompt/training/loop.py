"""The one training loop. It sees a method's losses and parameters, and nothing else of it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anprompt.errors import UserError
from anprompt.files import remove_parts, write_text
from anprompt.methods.base import Method
from anprompt.training.checkpoint import FILE, load_state, save_state
from anprompt.training.images import TrainingImages
from anprompt.training.interrupt import Interrupted, watch_signals
from anprompt.training.recipe import Recipe

LOG = "log.jsonl"


@dataclass
class TrainingResult:
    """What a run did. ``history``: one dict of mean loss terms per epoch trained in this process."""

    steps: int = 0
    seconds: float = 0.0
    resumed_at: tuple[int, int] | None = None
    history: list[dict[str, float]] = field(default_factory=list)


def generator_for(*parts: object) -> torch.Generator:
    """A generator that depends on ``parts`` only, e.g. (seed, epoch, step): any step can be repeated on its own, so a
    resumed run draws exactly what the uninterrupted one drew."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def epoch_order(n: int, batch: int, seed: int, epoch: int) -> list[Tensor]:
    """Index batches of one epoch; an incomplete last batch is left out, unless it is the only one."""
    order = torch.randperm(n, generator=generator_for(seed, epoch, "order"))
    batches = list(torch.split(order, batch))
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < batch else batches


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
        if self.path is not None and self.rows:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("".join(f"{row}\n" for row in self.rows))
            except OSError as error:
                raise UserError(f"Cannot write '{self.path}': {error.strerror or error}.") from error
        self.rows = []


def _position(line: str) -> tuple[float, float]:
    try:
        row = json.loads(line)
        return int(row["epoch"]) - 1, int(row["step"]) - 1
    except (ValueError, KeyError, TypeError):  # the end of a line that a kill has cut off
        return math.inf, math.inf


def train(
    method: Method,
    data: TrainingImages,
    recipe: Recipe,
    *,
    seed: int,
    folder: Path | None = None,
    resume: bool = False,
    fingerprint: dict[str, Any] | None = None,
    report: Callable[[int, int, int, dict[str, float]], None] | None = None,
) -> TrainingResult:
    """Train ``method`` on ``data``.

    folder: where state and log are written, atomically after every epoch and on an interruption; ``None``: nowhere.
    resume: continue from the state in ``folder`` if there is one; the tensors are then bit-identical to those of an
        uninterrupted run on the same machine.
    fingerprint: settings that a state must have been written with to be continued.
    report: called after each step with (epoch, step, steps per epoch, loss terms), all counted from 0.

    Raises :class:`Interrupted` on SIGINT or SIGTERM when there is a folder, and :class:`UserError` when the loss is no
    longer finite; the last good state is kept in both cases.
    """
    parameters = list(method.parameters())
    optimizer = recipe.make_optimizer(parameters)
    result = TrainingResult()
    start = (0, 0)
    if folder is not None:
        remove_parts(folder / FILE, folder / LOG)
        if resume:
            result.resumed_at = load_state(folder, method, optimizer, fingerprint or {})
            start = result.resumed_at or (0, 0)
        else:
            (folder / FILE).unlink(missing_ok=True)  # of an earlier run, which a later --resume must not pick up
    transform, device = method.backbone.transform, method.backbone.device
    log = RunLog(folder, start)
    began = time.perf_counter()

    def keep(epoch: int, step: int) -> None:
        log.flush()  # before the state: after a kill in between, resuming removes rows, but could not add any
        if folder is not None:
            save_state(folder, method, optimizer, epoch, step, fingerprint or {})

    def diverged(what: str, epoch: int, step: int) -> UserError:
        kept = (
            f" The last good state is in '{folder / FILE}'." if folder is not None and (folder / FILE).exists() else ""
        )
        log.flush()
        return UserError(
            f"Training stopped: {what} is no longer a finite number in epoch {epoch + 1}, step {step + 1}."
            f"{kept} Lower the learning rate (--recipe.lr, now {recipe.lr:g}) or the loss weights."
        )

    with watch_signals() as stop:
        for epoch in range(start[0], recipe.epochs):
            method.start_epoch(epoch)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(epoch)
            batches = epoch_order(len(data), recipe.batch, seed, epoch)
            sums: dict[str, float] = {}
            first = start[1] if epoch == start[0] else 0
            for step in range(first, len(batches)):
                chosen = batches[step]
                pixels = transform.random_resized_crop(
                    [data.images[i] for i in chosen.tolist()],
                    generator_for(seed, epoch, step),
                    scale=(recipe.crop_scale, 1.0),
                    flip=recipe.flip,
                )  # (B, 3, H, W)
                losses = method.losses({"pixels": pixels.to(device), "labels": data.labels[chosen].to(device)})
                terms = {name: float(value.detach()) for name, value in losses.items()}
                if not math.isfinite(terms["total"]):
                    raise diverged("the loss", epoch, step)
                optimizer.zero_grad(set_to_none=True)
                losses["total"].backward()  # type: ignore[no-untyped-call]
                gradients = [p.grad for p in parameters if p.grad is not None]
                if not math.isfinite(float(torch.nn.utils.get_total_norm(gradients))):
                    raise diverged("the gradient", epoch, step)
                optimizer.step()
                if not math.isfinite(float(torch.nn.utils.get_total_norm([p.detach() for p in parameters]))):
                    raise diverged("a learned number", epoch, step)
                result.steps += 1
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + value
                elapsed = round(time.perf_counter() - began, 3)
                log.add({"epoch": epoch + 1, "step": step + 1, "lr": recipe.lr_at(epoch), "seconds": elapsed, **terms})
                if report is not None:
                    report(epoch, step, len(batches), terms)
                if stop.signum:
                    if folder is None:
                        raise KeyboardInterrupt
                    keep(epoch, step + 1)
                    raise Interrupted(stop.signum, epoch, step + 1)
            done = max(1, len(batches) - first)
            if sums:
                result.history.append({name: value / done for name, value in sums.items()})
            keep(epoch + 1, 0)
    result.seconds = time.perf_counter() - began
    return result
