"""Results in cells: data set × line (a method, or a variant of one) × measure, with one number per seed."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from anprompt.data.benchmarks import BENCHMARKS, match_benchmark
from anprompt.errors import UserError
from anprompt.results.collect import Result
from anprompt.results.metrics import harmonic_mean
from anprompt.results.paper import ablation_row, ablation_values, paper_tables

Seed = int | None  # None: nothing is drawn or trained
BySeed = Mapping[Seed, float]
HALVES = {"base", "new"}


class Scope(NamedTuple):
    """What a table is about. ``source`` is where all its methods were trained, None if that is each target itself.

    ``beside``: the method whose base-to-new results stand beside an ablation.
    """

    protocol: str
    source: str | None = None
    ablation: str | None = None
    beside: str | None = None


class Value(NamedTuple):
    """A mean in per cent, and its standard deviation over seeds (n − 1) where there are several."""

    mean: float
    sd: float | None = None


@dataclass(frozen=True)
class Line:
    """What is compared within a data set. ``label`` tells it apart from all others."""

    label: str
    method: str
    variant: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass
class Grid:
    """All numbers of a table. ``cells[data set, label][measure][seed]`` is a per cent."""

    data_sets: list[str]
    lines: list[Line]
    measures: list[str]
    cells: dict[tuple[str, str], dict[str, dict[Seed, float]]]

    def by_seed(self, data_set: str, line: Line, measure: str) -> BySeed:
        """The numbers of a cell, empty where there are none.

        Of base and new only seeds that have both count, so that their means and the harmonic mean speak of the same
        runs; ``hm`` is 2·b·n / (b + n) of each seed.
        """
        cell = self.cells.get((data_set, line.label), {})
        if measure != "hm" and measure not in HALVES:
            return cell.get(measure, {})
        base, new = cell.get("base", {}), cell.get("new", {})
        both = {seed: (base[seed], new[seed]) for seed in base if seed in new}
        pick: dict[str, Callable[[float, float], float]] = {
            "base": lambda b, n: b, "new": lambda b, n: n, "hm": harmonic_mean
        }  # fmt: skip
        return {seed: pick[measure](*pair) for seed, pair in both.items()}

    def common(self, measures: Sequence[str], source: str | None) -> tuple[str, ...]:
        """The data sets (without the source) on which no line lacks a measure that it has elsewhere."""
        has = {
            line.label: [m for m in measures if any(self.by_seed(data_set, line, m) for data_set in self.data_sets)]
            for line in self.lines
        }
        return tuple(
            data_set
            for data_set in self.data_sets
            if data_set != source
            and all(self.by_seed(data_set, line, measure) for line in self.lines for measure in has[line.label])
        )

    def seeds(self) -> set[int]:
        """All seeds of all cells."""
        every = {seed for cell in self.cells.values() for by_seed in cell.values() for seed in by_seed}
        return {seed for seed in every if seed is not None}


def summary(by_seed: BySeed) -> Value | None:
    """Mean and standard deviation (n − 1) over seeds; None without numbers."""
    if not by_seed:
        return None
    numbers = list(by_seed.values())
    return Value(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None)


def mean_over_data_sets(cells: Sequence[BySeed]) -> BySeed:
    """Per seed, the mean over data sets; under ``None`` if the seeds differ between data sets. Empty if a cell is."""
    if not cells or not all(cells):
        return {}
    seeds = set(cells[0])
    if all(set(cell) == seeds for cell in cells):
        return {seed: statistics.fmean(cell[seed] for cell in cells) for seed in seeds}
    return {None: statistics.fmean(statistics.fmean(cell.values()) for cell in cells)}


def average(grid: Grid, data_sets: Collection[str], line: Line, measure: str) -> Value | None:
    """Mean over data sets; of ``hm``, the harmonic mean of the means of base and new, as the field prints it.

    The standard deviation is that of the seeds' averages, and None if not all data sets have the same seeds.
    """
    if measure != "hm":
        return summary(mean_over_data_sets([grid.by_seed(data_set, line, measure) for data_set in data_sets]))
    halves = [
        mean_over_data_sets([grid.by_seed(data_set, line, half) for data_set in data_sets]) for half in ("base", "new")
    ]
    base, new = map(summary, halves)
    if base is None or new is None:
        return None
    spread = summary({seed: harmonic_mean(number, halves[1][seed]) for seed, number in halves[0].items()})
    return Value(harmonic_mean(base.mean, new.mean), spread.sd if spread else None)


def title_of(data_set: str) -> str:
    """A data set's name for people."""
    benchmark = match_benchmark(data_set)
    return data_set if benchmark is None else benchmark.title


def build_grid(results: Sequence[Result], measure_of: Callable[[Result], str], ablation: str | None = None) -> Grid:
    """Sort results into cells.

    Raises:
        UserError: two results that a line cannot tell apart belong into one cell and differ.
    """
    lines = _ablation_lines(results, ablation) if ablation is not None else _method_lines(results, measure_of)
    cells: dict[tuple[str, str], dict[str, dict[Seed, float]]] = defaultdict(lambda: defaultdict(dict))
    origin: dict[tuple[str, str, str, Seed], Result] = {}
    for result in results:
        place = (result.target, lines[result.identity].label, measure_of(result), result.seed)
        if place in origin and origin[place].accuracy != result.accuracy:  # zero-shot may be measured more than once
            raise UserError(
                f"'{origin[place].path}' and '{result.path}' belong into the same cell of the table ({place[1]} on "
                f"{title_of(place[0])}): move one of them away."
            )
        origin[place] = result
        cells[place[:2]][place[2]][place[3]] = result.accuracy
    unique = {line.label: line for line in lines.values()}
    measures = {measure_of(result) for result in results}
    return Grid(
        data_sets=sorted({result.target for result in results}, key=_data_set_rank),
        lines=sorted(unique.values(), key=lambda line: _line_rank(line, ablation)),
        measures=sorted(measures | (HALVES if measures & HALVES else set())),
        cells=cells,
    )


def _method_lines(results: Sequence[Result], measure_of: Callable[[Result], str]) -> dict[str, Line]:
    """Each result's line: its method, and behind it in brackets whatever else differs among the method's results.

    Another recipe than a method's own is named too where other methods have theirs.
    """
    traits: dict[str, Callable[[Result], str]] = {
        "recipe": lambda result: "" if result.seed is None else result.recipe or "",
        "shots": lambda result: "" if result.shots is None or measure_of(result).isdigit() else f"{result.shots} shots",
        "split": lambda result: result.split,
        "variant": lambda result: " ".join(f"{name} {shown(value)}" for name, value in sorted(result.variant.items())),
    }
    met: dict[tuple[str, str], set[str]] = defaultdict(set)
    for result in results:
        for name, trait in traits.items():
            met[result.method, name].add(trait(result))
    own_recipes = any(_has_own_recipe(result) for result in results if result.seed is not None)
    lines = {}
    for result in results:
        several = [name for name in traits if len(met[result.method, name]) > 1]
        if own_recipes and "recipe" not in several and result.seed is not None and not _has_own_recipe(result):
            several.insert(0, "recipe")
        marks = [_short(traits[name](result), met[result.method, name], result.method) for name in several]
        label = " ".join([result.method, *(f"[{mark}]" for mark in marks if mark)])
        lines[result.identity] = Line(label, result.method, result.variant)
    return lines


def _has_own_recipe(result: Result) -> bool:
    return result.recipe is not None and result.recipe.partition("/")[0] == result.method


def _short(trait: str, others: Collection[str], method: str) -> str:
    """``matched/base-to-new`` -> ``matched`` where that is enough; nothing for a method's own recipe."""
    if len({other.partition("/")[0] for other in others}) == len(others):
        trait = trait.partition("/")[0]
    return "" if trait == method else trait


def ablation_options(results: Iterable[Result], name: str) -> list[str]:
    """The options that an ablation varies: the paper's in its order, then others."""
    papers = list(ablation_values(name, {}))
    return [*papers, *sorted({option for result in results for option in result.variant} - set(papers))]


def _ablation_lines(results: Sequence[Result], name: str) -> dict[str, Line]:
    """Each result's line: the values of the options that vary; the method too if there are several."""
    options = ablation_options(results, name)
    several = len({result.method for result in results}) > 1
    lines = {}
    for result in results:
        if result.ablation is None:  # another method, beside the ablation
            lines[result.identity] = Line(result.method, result.method)
            continue
        values = ablation_values(name, result.variant)
        label = " / ".join(shown(values[option]) if option in values else "as in the recipe" for option in options)
        label = f"{result.method}: {label}" if several else label
        lines[result.identity] = Line(label or "as in the recipe", result.method, result.variant)
    return lines


def shown(value: Any) -> str:
    """An option's value as people write it."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _data_set_rank(name: str) -> tuple[int, str]:
    known = [benchmark.name for benchmark in BENCHMARKS]
    return (known.index(name) if name in known else len(known), name)


def _line_rank(line: Line, ablation: str | None) -> tuple[Any, ...]:
    """Zero-shot first, then as in the paper; variants as in the paper, then by their values."""
    methods = list(paper_tables()["methods"])
    method = methods.index(line.method) if line.method in methods else len(methods)
    if ablation is None:
        return (method, line.method, line.label)
    row = ablation_row(ablation, line.variant)
    values = [
        (0, value, "") if isinstance(value, int | float) else (1, 0, json.dumps(value))
        for _, value in sorted(line.variant.items())
    ]
    return (method, line.method, row is None, row or 0, len(values), values)
