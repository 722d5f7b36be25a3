"""Is one method better than another? Paired over data sets and seeds, with a sign test and a bootstrap interval."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from anprompt.errors import unknown_name
from anprompt.results.grid import BySeed, Line
from anprompt.results.tables import Table

LEVEL = 0.05
FEWEST = 6  # pairs that differ: with five, even five wins are no evidence at 5 % (2 · 0.5⁵ = 0.0625)
RESAMPLES = 9999


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
        """The numbers, and what follows from them."""
        if self.mean is None:
            return f"{self.first} and {self.second} have no data set and seed in common: nothing to compare."
        ties = self.pairs - self.wins - self.losses
        numbers = (
            f"{self.first} − {self.second}: {self.measure} {self.mean:+.2f} points on average over {self.pairs} pairs "
            f"({self.wins} wins, {self.losses} losses{f', {ties} ties' if ties else ''})"
        )
        if self.p_value is None:
            return f"{numbers}. {self.verdict}"
        numbers += f"; sign test p = {self.p_value:.2g}"
        if self.interval is not None:
            numbers += f"; 95 % bootstrap interval {self.interval[0]:+.2f} to {self.interval[1]:+.2f}"
        return f"{numbers}. {self.verdict}"

    @property
    def verdict(self) -> str:
        """What follows from the numbers, in a sentence."""
        if self.mean is None or self.p_value is None:
            needed = f"at least {FEWEST} are needed (a pair: both on the same data with the same seed)"
            return f"Too few pairs that differ to conclude anything: {needed}."
        verdict = "The difference may be chance"
        if self._agree(self.mean) and self.p_value < LEVEL:
            verdict = f"{self.first if self.mean > 0 else self.second} is better by more than chance explains"
        return f"{verdict} (seeds of one data set share its photos: the test is rather too sure)."

    def _agree(self, mean: float) -> bool:
        """Whether the number of wins, the mean and its interval point the same way."""
        low, high = self.interval or (mean, mean)
        return (self.wins > self.losses and low > 0) or (self.wins < self.losses and high < 0)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "in_words": self.in_words}


def compare(table: Table, first: str, second: str) -> Comparison:
    """Compare two rows of a table by their labels: HM or accuracy, one pair per data set (not the source) and seed.

    In a few-shot table each number of shots makes pairs of its own. A row without seeds, such as zero-shot, is paired
    with every seed of the other.

    Raises:
        UserError: the table has no such row.
    """
    lines = {line.label: line for line in table.grid.lines}
    for label in (first, second):
        if label not in lines:
            raise unknown_name("row of this table:", label, list(lines))
    measures = table.measures if table.scope.protocol == "few-shot" else table.measures[-1:]
    found = []
    for data_set in (name for name in table.grid.data_sets if name != table.scope.source):
        for measure in (name for name in measures if name != "0"):
            found += differences(*(_numbers(table, data_set, lines[label], measure) for label in (first, second)))
    return from_differences(first, second, "HM" if measures[-1] == "hm" else "accuracy", found)


def _numbers(table: Table, data_set: str, line: Line, measure: str) -> BySeed:
    return table.grid.by_seed(data_set, line, measure) or table.grid.by_seed(data_set, line, "0")


def differences(ours: BySeed, theirs: BySeed) -> list[float]:
    """One difference per seed that both have; what has no seeds is paired with every seed of the other."""
    seeds = {*ours, *theirs} - {None} or {None}
    pairs = [(ours.get(seed, ours.get(None)), theirs.get(seed, theirs.get(None))) for seed in seeds]
    return [a - b for a, b in pairs if a is not None and b is not None]


def from_differences(first: str, second: str, measure: str, found: Sequence[float]) -> Comparison:
    """The statistics of paired differences, whatever their order. The bootstrap (BCa) has a fixed seed."""
    from scipy import stats

    rounded = sorted(round(difference, 6) for difference in found)  # equal accuracies are equal
    wins, losses = sum(d > 0 for d in rounded), sum(d < 0 for d in rounded)
    p_value, interval = None, None
    if wins + losses >= FEWEST:
        p_value = float(stats.binomtest(wins, wins + losses).pvalue)
        with warnings.catch_warnings(action="ignore"):  # about constant differences: then there is no interval
            drawn = stats.bootstrap((rounded,), _mean, n_resamples=RESAMPLES, rng=0).confidence_interval
        if math.isfinite(drawn.low) and math.isfinite(drawn.high):
            interval = (float(drawn.low), float(drawn.high))
    mean = statistics.fmean(found) if found else None
    return Comparison(first, second, measure, len(found), wins, losses, mean, p_value, interval)


def _mean(sample: Any, axis: int) -> Any:
    return sample.mean(axis=axis)
