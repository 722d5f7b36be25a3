"""Answers to labelled photos, and how many of them are right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from anprompt.data import BadImage, DataSource, Item
from anprompt.errors import Problems, UserError
from anprompt.inference import refuse_bad, stream_logits
from anprompt.methods import Method
from anprompt.results import evaluate_predictions
from anprompt.settings import Progress, listed, note


def answer(
    method: Method,
    source: DataSource,
    items: Sequence[Item],
    *,
    stop: bool,
    progress: Progress | None = None,
    each: Callable[[Sequence[Item], torch.Tensor], None] | None = None,
) -> dict[str, Any]:
    """Choose among the classes of ``method``, which are those of ``source``, for each of ``items``.

    stop: at unreadable photos; otherwise they are left out, and a note says so.
    each: called with the items of every batch and their logits ``(B, C)``.
    Returns what ``PromptClassifier.evaluate`` does, without time and split.

    Raises:
        UserError: unreadable photos, all at once.
    """
    bad: list[BadImage] = []
    rows: list[dict[str, Any]] = []
    truth: list[int] = []
    guesses: list[int] = []
    for chunk, logits in stream_logits(method, items, source.open, bad=bad, stop=stop):
        if each is not None:
            each(chunk, logits)
        top = logits.softmax(dim=1).max(dim=1)
        for item, guess, probability in zip(chunk, top.indices.tolist(), top.values.tolist(), strict=True):
            truth.append(item.label)
            guesses.append(guess)
            rows.append({"path": source.relative(item), "item": item, "label": item.name,
                         "prediction": source.classes[guess], "probability": probability})  # fmt: skip
        if progress is not None:
            progress("evaluating", len(rows), len(items), {})
    if stop or not rows:
        refuse_bad(bad, len(items))
    if bad:
        note(f"{len(bad)} of {len(items)} pictures are left out: {listed([error.short for error in bad])}")
    return {
        **evaluate_predictions(truth, guesses, source.classes),
        "classes": list(source.classes),
        "data": {"sha256": source.content_hash([row["item"] for row in rows], keep=True), "unreadable": len(bad)},
        "decision": method.decision(),
        "template": method.template,
        "predictions": rows,
    }


def read_weights(given: Any, count: int) -> npt.NDArray[np.float64]:
    """What each of ``count`` pictures counts, ``(count,)``.

    Raises :class:`UserError` for what is no list of so many numbers, and for all that are negative or not finite.
    """
    try:
        weights = np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given, np.float64)
    except (TypeError, ValueError):
        raise UserError("sample_weight must be a list of numbers, one for each picture.") from None
    if weights.shape != (count,):
        raise UserError(f"sample_weight must have {count} numbers, one for each picture (got shape {weights.shape}).")
    problems = Problems("sample_weight cannot be used:")
    for at in np.flatnonzero(~(np.isfinite(weights) & (weights >= 0))):
        problems.add(f"entry {at} is {weights[at]:g}, and must be a number of at least 0")
    problems.raise_if_any()
    return weights


def weighted_share(rows: Sequence[Mapping[str, Any]], weights: npt.NDArray[np.float64]) -> float:
    """Share of correct answers, 0 to 1, among ``rows`` that :func:`answer` gave to pictures in memory.

    weights: of all pictures, those that are not among the rows included.
    Raises :class:`UserError` where no weight is left.
    """
    kept = weights[[int(row["item"].path) for row in rows]]
    if not kept.sum():
        raise UserError("sample_weight cannot be used: the weights of all pictures that can be read are 0.")
    return float(np.average([row["label"] == row["prediction"] for row in rows], weights=kept))
