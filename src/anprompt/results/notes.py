"""What must stand under a table, so that nobody reads more into it than it says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from anprompt.results.collect import Result
from anprompt.results.grid import Grid, Line, Scope, average, title_of
from anprompt.results.paper import AVERAGE, LARGEST_EFFECT, SHOTS, eleven, is_papers_backbone, paper_cells, paper_tables

MANY = 12  # missing runs that are named one by one


def notes_under(scope: Scope, results: Sequence[Result], grid: Grid, common: Sequence[str], beside: bool) -> list[str]:
    """All notes, the gravest first: what does not compare, what is missing, then how the numbers came about.

    common: the data sets of the average. beside: whether the table shows values of the paper.
    """
    few_shot = _few_shot(grid, common) if scope.protocol == "few-shot" else []
    notes = [_incomparable(scope.protocol, results)] if beside or few_shot else []
    notes += [_missing(grid), _smaller_average(grid, common, scope.source)]
    notes += [_paper_averages(grid, common, scope) if beside else "", *few_shot]
    notes += [_held_out(results), _recipes(results), _decisions(results), _backbone(results), _how(grid, common)]
    return [note for note in notes if note]


def _listed(parts: Iterable[str]) -> str:
    return "; ".join(parts)


def _incomparable(protocol: str, results: Sequence[Result]) -> str:
    """Why ours and the paper's numbers do not compare; empty if nothing is known against it."""
    reasons: dict[str, None] = {}
    backbones = {result.backbone for result in results}
    for backbone in sorted(backbones):
        if not is_papers_backbone(backbone):
            reasons[f"the backbone is '{backbone}', the paper's is OpenAI's CLIP {paper_tables()['backbone']}"] = None
    shots = {result.shots for result in results if result.seed is not None and result.shots is not None}
    if protocol != "few-shot" and shots - {SHOTS}:
        reasons[f"trained with {', '.join(map(str, sorted(shots)))} shots, not with the field's {SHOTS}"] = None
    for split in sorted({result.split for result in results} - {"test"}):
        reasons[f"measured on the split '{split}', not on test"] = None
    for result in sorted(results, key=lambda result: result.target):
        reasons |= dict.fromkeys(sentence.rstrip(".") for sentence in result.differs)
    return f"These numbers do not compare with the paper's: {_listed(reasons)}." if reasons else ""


def missing_runs(grid: Grid) -> str:
    """Which runs a complete table still needs: every line on every data set with every seed; empty if none."""
    every = grid.seeds()
    gaps = []
    for data_set in grid.data_sets:
        for line in grid.lines:
            expected = every if _is_seeded(grid, line) else {None}
            measures = _expected_measures(grid, line)
            lost: dict[tuple[int, ...], list[str]] = defaultdict(list)  # missing seeds -> of which measures
            for measure in measures:
                absent = expected - set(grid.cells.get((data_set, line.label), {}).get(measure, {}))
                if absent:
                    lost[tuple(sorted(seed for seed in absent if seed is not None))].append(measure)
            for seeds, of in lost.items():
                what = "" if of == measures else f" {', '.join(of)}" + " shots" * of[0].isdigit()
                which = f" seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" if seeds else ""
                gaps.append(f"{title_of(data_set)} {line.label}{what}{which}")
    rest = f" and {len(gaps) - MANY} more" if len(gaps) > MANY else ""
    return f"{_listed(gaps[:MANY])}{rest}"


def _missing(grid: Grid) -> str:
    missing = missing_runs(grid)
    halves = " A seed counts once it has both base and new." if "base" in grid.measures else ""
    return f"Incomplete, these runs are missing: {missing}.{halves}" if missing else ""


def _is_seeded(grid: Grid, line: Line) -> bool:
    return any(None not in by_seed for (_, label), cell in grid.cells.items() if label == line.label
               for by_seed in cell.values())  # fmt: skip


def _expected_measures(grid: Grid, line: Line) -> list[str]:
    if not any(measure.isdigit() for measure in grid.measures):
        return grid.measures
    return sorted((m for m in grid.measures if (m != "0") == _is_seeded(grid, line)), key=int)


def _smaller_average(grid: Grid, common: Sequence[str], source: str | None) -> str:
    """What an average leaves out because not all lines have it."""
    targets = [data_set for data_set in grid.data_sets if data_set != source]
    left = [title_of(data_set) for data_set in targets if data_set not in common]
    if not left or len(targets) < 2:
        return ""
    if len(common) < 2:
        return "No average is shown: there are no two data sets on which all rows have results."
    return f"The average is over the data sets that all rows have; left out: {', '.join(left)}."


def _paper_averages(grid: Grid, common: Sequence[str], scope: Scope) -> str:
    """How the paper's values beside our averages came about, where they are not simply as printed."""
    if scope.ablation is not None:
        same = set(common) == eleven()
        return "" if same else "The paper's values are averages over its eleven data sets: no difference is shown."
    own = [set(paper_cells(scope.protocol, line.method)) - {AVERAGE, scope.source} for line in grid.lines]
    computed = any(cells > set(common) or (cells == set(common) and LARGEST_EFFECT in cells) for cells in own)
    if len(common) < 2 or not computed:
        return ""
    return "The paper's averages over fewer data sets than its own are computed from its cells."


def _few_shot(grid: Grid, common: Sequence[str]) -> list[str]:
    """The few numbers that the paper prints of its figure, beside ours."""
    notes = []
    lines = {line.label: line for line in grid.lines}  # a label that is just the method: its own recipe
    for method, cells in paper_tables()["accuracy"]["few-shot"].items():
        for data_set, by_shots in cells.items():
            for shots, theirs in by_shots.items():
                ours = average(grid, [data_set], lines[method], shots) if method in lines else None
                if ours is not None:
                    notes.append(
                        f"{method} on {title_of(data_set)} with {shots} shots: here {ours.mean:.2f}, in the paper "
                        f"{theirs:.2f} ({ours.mean - theirs:+.2f})."
                    )
    gain = paper_tables()["few-shot gain"]
    if {gain["of"], gain["over"]} <= lines.keys() and common:
        pairs = []
        for shots, theirs in gain["by shots"].items():
            first, second = (average(grid, common, lines[gain[side]], shots) for side in ("of", "over"))
            if first is not None and second is not None:
                pairs.append(f"{shots}: {first.mean - second.mean:+.2f} ({theirs:+.2f})")
        if pairs:
            notes.append(
                f"Gain of {gain['of']} over {gain['over']} on average by shots, in brackets the paper's over its "
                f"eleven data sets: {_listed(pairs)}."
            )
    return notes


def _held_out(results: Sequence[Result]) -> str:
    """The data sets whose test photos anprompt chose, and how many these are."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for result in sorted(results, key=lambda result: result.target):
        if result.held_out:
            counts[result.target][result.target_subset] = result.held_out
    listed = _listed(f"{title_of(name)} ({_whole(each)} photos)" for name, each in counts.items())
    return f"Test photos held out by anprompt, because no test split was given: {listed}." if counts else ""


def _whole(counts: Mapping[str, int]) -> int:
    """Photos of all classes: as counted, or of both halves."""
    return counts.get("all", sum(counts.values()))


def _recipes(results: Sequence[Result]) -> str:
    """The recipe of each method that trains, and a warning where they are not the same."""
    recipes: dict[str, set[str]] = defaultdict(set)
    for result in results:
        if result.seed is not None and result.recipe is not None:
            recipes[result.method].add(result.recipe)
    if not recipes:
        return ""
    if len(set.union(*recipes.values())) == 1:
        return f"Recipe: {next(iter(recipes.values())).pop()}."
    listed = _listed(f"{method}: {', '.join(sorted(names))}" for method, names in sorted(recipes.items()))
    warning = (
        "each method under its own published recipe, so a difference may be the recipe's" if len(recipes) > 1 else ""
    )
    return f"Recipes{': ' + warning if warning else ''} ({listed})."


def _decisions(results: Sequence[Result]) -> str:
    words: dict[str, set[str]] = defaultdict(set)
    for result in results:
        words[result.decision].add(result.method)
    listed = _listed(f"{decision} ({', '.join(sorted(methods))})" for decision, methods in sorted(words.items()))
    return f"Decided by: {listed}."


def _backbone(results: Sequence[Result]) -> str:
    names = sorted({result.backbone for result in results})
    return f"Backbone: {', '.join(names)} (weights {results[0].weights[:12]})."


def _how(grid: Grid, common: Sequence[str]) -> str:
    parts = []
    if grid.seeds():
        parts.append("± is the standard deviation over seeds (n − 1)")
    if "base" in grid.measures:
        parts.append("HM of a data set is the mean over seeds of each seed's harmonic mean")
        if len(common) > 1:
            parts.append("HM of an average is that of the averages of base and new")
    return f"{_listed(parts)}." if parts else ""
