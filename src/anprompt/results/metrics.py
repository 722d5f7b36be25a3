"""Accuracy and harmonic mean, as the field reports them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anprompt.data.names import distinct_names


def harmonic_mean(base: float, new: float) -> float:
    """HM = 2·b·n / (b + n) of two accuracies in per cent; 0 if both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0


def evaluate_predictions(labels: Sequence[int], predicted: Sequence[int], classes: Sequence[str]) -> dict[str, Any]:
    """Top-1 accuracy over all images (micro), the mean over classes, and each class's own.

    labels, predicted: class ids in 0..len(classes) − 1, one per image. Returns per cents (0–100) and counts. Classes
    that share a name are counted apart; the later ones are shown with a number behind it.
    """
    totals, hits = [0] * len(classes), [0] * len(classes)
    for label, guess in zip(labels, predicted, strict=True):
        totals[label] += 1
        hits[label] += int(label == guess)
    per_class = {
        name: {"accuracy": 100 * hit / total, "images": total}
        for name, hit, total in zip(distinct_names(classes), hits, totals, strict=True)
        if total
    }
    return {
        "accuracy": 100 * sum(hits) / max(1, sum(totals)),
        "class_mean": sum(row["accuracy"] for row in per_class.values()) / max(1, len(per_class)),
        "images": sum(totals),
        "per_class": per_class,
    }
