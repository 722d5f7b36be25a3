"""Answers to labelled photos, and how many of them are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from anprompt.data import BadImage, DataSource, Item
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
