"""Is one method better than another? Paired over data sets and seeds, with a sign test and a bootstrap interval."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from anprompt.errors import unknown_name
from anprompt.results.grid import Grid, Line

LEVEL = 0.05
FEWEST = 6  # pairs: with five, even five wins of five are no evidence at 5 % (2 · 0.5⁵ = 0.0625)
HEADS = {"hm": "HM", "accuracy": "accuracy"}


@dataclass(frozen=True)
class Comparison:
    """First minus second method, in per cent points. ``interval`` and ``p_value`` are None with too few pairs."""

    first: str
    second: str
    measure: str
    pairs: int
    wins: int
    losses: int
    mean: float | None
    p_value: float | None
    interval: tuple[float, float] | None

    @property
    def in_words(self) -> str:
        """One or two sentences: the numbers, and what follows from them."""
        if self.mean is None:
            return f"{self.first} and {self.second} have no data set and seed in common: nothing to compare."
        ties = self.pairs - self.wins - self.losses
        counts = f"{self.wins} wins, {self.losses} losses" + (f", {ties} ties" if ties else "")
        numbers = (
            f"{self.first} − {self.second}: {HEADS.get(self.measure, self.measure)} {self.mean:+.2f} points on average "
            f"over {self.pairs} pairs of data set and seed ({counts})"
        )
        if self.p_value is None:
            return f"{numbers}. Too few pairs that differ to conclude anything: at least {FEWEST} are needed."
        numbers += f"; sign test p = {self.p_value:.3g}"
        if self.interval is not None:
            numbers += f"; 95 % bootstrap interval {self.interval[0]:+.2f} to {self.interval[1]:+.2f}"
        return f"{numbers}. {self._verdict()} Seeds of one data set share its photos, so this is rather too sure."

    def _verdict(self) -> str:
        assert self.mean is not None
        assert self.p_value is not None
        sure = self.p_value < LEVEL and (self.interval is None or self.interval[0] * self.interval[1] > 0)
        if not sure:
            return "The difference could be chance."
        more = self.first if self.wins > self.losses else self.second
        return f"{more} is better more often than chance explains."

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "in_words": self.in_words}


def compare(grid: Grid, first: str, second: str, measures: Sequence[str]) -> Comparison:
    """Compare two rows of a table, by their labels.

    measures: what is compared; with several (shots), each is a pair of its own. A row without seeds (nothing is drawn,
    as in zero-shot) is paired with every seed of the other.

    Raises:
        UserError: the table has no such row.
    """
    lines = {line.label: line for line in grid.lines}
    for label in (first, second):
        if label not in lines:
            raise unknown_name("row to compare:", label, list(lines))
    return from_differences(first, second, _differences(grid, lines[first], lines[second], measures), measures[-1])


def _differences(grid: Grid, first: Line, second: Line, measures: Sequence[str]) -> list[float]:
    """One difference per data set, measure and seed that both have."""
    found = []
    for data_set in grid.data_sets:
        for measure in measures:
            ours, theirs = (grid.by_seed(data_set, line, measure) for line in (first, second))
            for seed in sorted({*ours, *theirs}, key=lambda seed: (seed is not None, seed or 0)):
                a, b = ours.get(seed, ours.get(None)), theirs.get(seed, theirs.get(None))
                if a is not None and b is not None:
                    found.append(a - b)
    return found


def from_differences(first: str, second: str, differences: Sequence[float], measure: str) -> Comparison:
    """The statistics of paired differences. The bootstrap (BCa, 9,999 resamples) has a fixed seed."""
    from scipy import stats

    rounded = [round(difference, 6) for difference in differences]  # equal accuracies are equal
    wins, losses = sum(d > 0 for d in rounded), sum(d < 0 for d in rounded)
    p_value, interval = None, None
    if wins + losses >= FEWEST:
        p_value = float(stats.binomtest(wins, wins + losses).pvalue)
        if len(set(rounded)) > 1:
            with warnings.catch_warnings(action="ignore"):  # nearly constant differences: no interval then
                found = stats.bootstrap((sorted(rounded),), statistics_mean, rng=0).confidence_interval
            low, high = float(found.low), float(found.high)
            interval = (low, high) if math.isfinite(low + high) else None
    mean = statistics.fmean(differences) if differences else None
    return Comparison(first, second, measure, len(differences), wins, losses, mean, p_value, interval)


def statistics_mean(sample: Any, axis: int) -> Any:
    """Mean along an axis, as scipy's bootstrap calls it."""
    return sample.mean(axis=axis)
