"""The one training loop. It sees a method's losses and parameters, and nothing else of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anprompt.errors import UserError
from anprompt.files import remove_parts
from anprompt.methods.base import Method
from anprompt.training.batches import augmented_batches, steps_in_epoch
from anprompt.training.checkpoint import FILE, is_state, load_state, save_state
from anprompt.training.compiled import compiled_blocks
from anprompt.training.images import TrainingImages
from anprompt.training.interrupt import watch_signals
from anprompt.training.log import LOG, Diverged, RunLog, StepReader, is_log, steps_between_reads
from anprompt.training.photos import FrozenPhotos
from anprompt.training.recipe import Recipe

Report = Callable[[int, int, int, dict[str, float]], None]
WRITTEN = {FILE: is_state, LOG: is_log}  # into a run's folder, and whether a file of that name is an earlier run's
KEEP_EVERY = 300.0  # seconds after the last state until another is kept in the middle of an epoch: these may be long


@dataclass
class TrainingResult:
    """What a run did, before an interruption too. ``history``: one dict of mean loss terms per epoch."""

    steps: int = 0
    seconds: float = 0.0
    resumed_at: tuple[int, int] | None = None
    history: list[dict[str, float]] = field(default_factory=list)


def train(
    method: Method,
    data: TrainingImages,
    recipe: Recipe,
    *,
    seed: int,
    folder: Path | None = None,
    resume: bool = False,
    fingerprint: dict[str, Any] | None = None,
    report: Report | None = None,
) -> TrainingResult:
    """Train ``method`` on ``data``.

    folder: where state and log are written, atomically after every epoch, every few minutes in between and on an
        interruption; ``None``: nowhere.
    resume: continue from the state in ``folder`` if there is one; on a CPU the tensors are then bit-identical to those
        of an uninterrupted run on the same machine, if both have the same ``backbone.class_chunk``.
    fingerprint: settings that a state must have been written with to be continued.
    report: called for each step with (epoch, step, steps per epoch, loss terms), all counted from 0; on a GPU for
        several steps together, because reading their numbers makes it wait.

    Raises :class:`anprompt.training.Interrupted` on SIGINT or SIGTERM when there is a folder, and :class:`UserError`
    when the loss is no longer finite; the last good state is kept in both cases.
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
    backbone, device = method.backbone, method.backbone.device
    log, reader = RunLog(folder, start), StepReader(steps_between_reads(device))
    steps = steps_in_epoch(len(data), recipe.batch)
    plain = FrozenPhotos(data, backbone, seed).features().cpu() if method.plain else None  # (n, d), once a run
    sums: dict[str, float] = {}  # of the loss terms in this epoch
    began = kept_at = time.perf_counter()

    def read() -> None:
        """Log, report and check the numbers of the steps since the last time."""
        try:
            for row in reader.read():
                place = {"epoch": row.epoch + 1, "step": row.step + 1, "lr": recipe.lr_at(row.epoch)}
                log.add({**place, "seconds": round(row.seconds, 3), **row.terms})
                result.steps += 1
                for name, value in row.terms.items():
                    sums[name] = sums.get(name, 0.0) + value
                if report is not None:
                    report(row.epoch, row.step, steps, row.terms)
        except Diverged as error:
            log.flush()
            state = folder / FILE if folder is not None else None
            kept = f" The last good state is in '{state}'." if state is not None and state.exists() else ""
            raise UserError(
                f"Training stopped: {error}.{kept} Lower the learning rate (--recipe.lr, now {recipe.lr:g}) or the "
                "loss weights."
            ) from None

    def keep(epoch: int, step: int) -> None:
        nonlocal kept_at
        read()  # before the state, which must not hold numbers that are not finite
        log.flush()  # before the state: after a kill in between, resuming removes rows, but could not add any
        if folder is not None:
            save_state(folder, method, optimizer, epoch, step, fingerprint or {})
        kept_at = time.perf_counter()

    with watch_signals() as stop, compiled_blocks(backbone, recipe.compile) as begin_step:
        for epoch in range(start[0], recipe.epochs):
            method.start_epoch(epoch)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(epoch)
            sums.clear()
            first = start[1] if epoch == start[0] else 0
            for step, batch in augmented_batches(
                data, backbone.transform, recipe, device, seed=seed, epoch=epoch, first=first,
                views=method.views, chance=method.chance, plain=plain,
            ):  # fmt: skip
                begin_step()
                losses = method.losses(batch)
                optimizer.zero_grad(set_to_none=True)
                method.backward(losses)
                gradients = [p.grad for p in parameters if p.grad is not None]
                optimizer.step()
                method.after_step()
                reader.add(epoch, step, time.perf_counter() - began, losses, gradients, parameters)
                if reader.due:
                    read()
                if stop.signum:
                    keep(epoch, step + 1)
                    stop.leave(epoch, step + 1, kept=folder is not None)
                long_ago = time.perf_counter() - kept_at >= KEEP_EVERY
                if folder is not None and long_ago and step + 1 < steps:  # after the last step the epoch's end keeps it
                    keep(epoch, step + 1)
            read()
            if sums:
                result.history.append({name: value / (steps - first) for name, value in sums.items()})
            method.end_epoch(epoch, recipe.epochs)
            keep(epoch + 1, 0)
            if stop.signum:  # while the epoch was ended
                stop.leave(epoch, steps, kept=folder is not None)
    result.seconds = time.perf_counter() - began
    if result.resumed_at is not None:
        result.steps, result.seconds, result.history = log.whole_run()
    return result
