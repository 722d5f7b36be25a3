"""Whether probabilities can be trusted: of the answers given with 80 %, are 80 % right?

    ECE = Σ_b n_b / n · |right_b − confidence_b|                    expected calibration error

over bins of equal width of the probability of the answer (its confidence). Guo, Pleiss, Sun, Weinberger: On calibration
of modern neural networks, ICML 2017. https://arxiv.org/abs/1706.04599
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 10
LEVEL = 0.95  # of the intervals


@dataclass(frozen=True)
class Bin:
    """Answers of similar confidence. low, high: the bin. confidence, right: means, 0 to 1. interval: of ``right``."""

    low: float
    high: float
    count: int
    confidence: float
    right: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """bins: those that hold answers. ece, confidence (mean), right (accuracy): 0 to 1."""

    bins: tuple[Bin, ...]
    ece: float
    confidence: float
    right: float


def share_interval(hits: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, 0 to 1."""
    from scipy.stats import binomtest

    found = binomtest(hits, of).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def calibration(right: npt.NDArray[np.bool_], confidence: npt.NDArray[np.floating], bins: int = BINS) -> Calibration:
    """Reliability of ``n`` answers.

    right: whether each is right, ``(n,)``. confidence: the probability it was given with, ``(n,)``, 0 to 1.
    Raises ``ValueError`` without answers.
    """
    from sklearn.calibration import calibration_curve

    if not len(right):
        raise ValueError("no answers")
    confidence = np.clip(confidence.astype(np.float64), 0, 1)  # a softmax in fp32 may reach 1 + 1e-7
    shares, means = calibration_curve(right, confidence, n_bins=bins, pos_label=True)
    edges = np.linspace(0, 1, bins + 1)
    of = np.searchsorted(edges[1:-1], confidence)  # the bins of calibration_curve, which keeps those that hold any
    counts = np.bincount(of, minlength=bins)
    held = [
        Bin(
            float(edges[b]), float(edges[b + 1]), int(counts[b]), float(mean), float(share),
            share_interval(int(right[of == b].sum()), int(counts[b])),
        )
        for b, share, mean in zip(np.flatnonzero(counts), shares, means, strict=True)
    ]  # fmt: skip
    ece = sum(entry.count * abs(entry.right - entry.confidence) for entry in held) / len(right)
    return Calibration(tuple(held), ece, float(confidence.mean()), float(right.mean()))
