"""The protocols of the field as lists of runs: declared here, planned and executed elsewhere.

base-to-new            train on the base half of the classes; test on the base half and on the new one
cross-dataset          train on all classes of one source; test there and on other data sets
domain-generalisation  train on all classes of one source; test there and on the same classes in other renderings
few-shot               train on all classes with 1, 2, 4, … photos each; test on all
ablation               base-to-new with every combination of some options' values
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from anprompt import methods
from anprompt.data.open import named_benchmark
from anprompt.errors import Problems, UserError, unknown_name
from anprompt.methods.count import learnable_numbers
from anprompt.protocols.recipes import PUBLISHED, ProtocolRecipe, find_recipe
from anprompt.protocols.runs import PROTOCOLS, Run, Target
from anprompt.settings import LARGEST_SEED

ELEVEN = (
    "imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft", "sun397",
    "dtd", "eurosat", "ucf101",
)  # fmt: skip
VARIANTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
PHOTOS = "training photos"  # what a method needs that learns nothing, but looks at the drawn photos all the same


@dataclass(frozen=True)
class Asked:
    """What a user asks of a benchmark.

    datasets: the sets to train on, or for transfers the targets; empty: the paper's. source: where transfers learn;
    ``None``: ImageNet. shots: ``()``: those of the recipe. vary: values by option (``alpha``) or by entry of the
    training recipe (``recipe.lr``), for ablations.
    """

    protocol: str
    methods: Sequence[str]
    datasets: Sequence[str] = ()
    source: str | None = None
    seeds: Sequence[int] = (1, 2, 3)
    shots: Sequence[int] = ()
    recipe: str = PUBLISHED
    vary: Mapping[str, Sequence[Any]] | None = None
    ablation: str | None = None


def named(spec: str) -> str | None:
    """The benchmark that a specification names, if it is a plain name."""
    found = named_benchmark(spec)
    return found.name if found else None


def declare(asked: Asked, benchmark_of: Callable[[str], str | None] = named) -> list[Run]:
    """The runs of a protocol, data set by data set.

    benchmark_of: which published data set a specification of data is, for recipes that treat some in their own way.
    Raises :class:`UserError` that lists every name that does not exist and every combination that makes no sense.
    """
    if asked.protocol not in PROTOCOLS:
        raise unknown_name("protocol", asked.protocol, PROTOCOLS)
    problems = Problems("The benchmark cannot be run:")
    _check_lists(asked, problems)
    recipes: dict[str, ProtocolRecipe] = {}
    for name in asked.methods:
        try:
            _check_method(name, asked.protocol)
            recipes[name] = find_recipe(name, asked.protocol, asked.recipe)
        except UserError as error:
            problems.add(str(error))
    problems.raise_if_any()
    layouts = LAYOUTS[asked.protocol](asked)
    plain = [
        Run(asked.protocol, name, recipes[name].name, source, subset, 0, None, targets)
        for source, subset, targets in layouts
        for name in asked.methods
    ]
    return [run for one in plain for run in _runs_of(asked, recipes[one.method], one, benchmark_of(one.source))]


Layout = tuple[str, str, tuple[Target, ...]]  # data to train on, which of its classes, evaluations


def _base_to_new(asked: Asked) -> list[Layout]:
    return [(data, "base", (Target(data, "base"), Target(data, "new"))) for data in asked.datasets or ELEVEN]


def _few_shot(asked: Asked) -> list[Layout]:
    return [(data, "all", (Target(data, "all"),)) for data in asked.datasets or ELEVEN]


def _transfer(usual: Sequence[str]) -> Callable[[Asked], list[Layout]]:
    def layout(asked: Asked) -> list[Layout]:
        source = asked.source or "imagenet"
        targets = [data for data in asked.datasets or usual if data != source]
        return [(source, "all", tuple(Target(data, "all") for data in (source, *targets)))]

    return layout


LAYOUTS: Mapping[str, Callable[[Asked], list[Layout]]] = {
    "base-to-new": _base_to_new,
    "cross-dataset": _transfer([name for name in ELEVEN if name != "imagenet"]),
    "domain-generalisation": _transfer(VARIANTS),
    "few-shot": _few_shot,
    "ablation": _base_to_new,
}


@cache
def learns(method: str) -> bool:
    """Whether a result of this method depends on the drawn photos and the seed."""
    return learnable_numbers(method, classes=2, photos=2) > 0 or PHOTOS in methods.find(method).needs


def _runs_of(asked: Asked, recipe: ProtocolRecipe, run: Run, benchmark: str | None) -> list[Run]:
    """The run with every number of shots, every seed and every variant."""
    drawn: list[tuple[int, int | None]] = [(0, None)]
    if learns(run.method):
        drawn = list(itertools.product(asked.shots or recipe.shots, asked.seeds))
    made = []
    for (shots, seed), variant in itertools.product(drawn, _variants(asked.vary or {})):
        varied_options = {name: value for name, value in variant.items() if not name.startswith("recipe.")}
        varied_recipe = {name.removeprefix("recipe."): v for name, v in variant.items() if name.startswith("recipe.")}
        changes = recipe.resolve(benchmark, shots)
        made.append(replace(
            run, shots=shots, seed=seed, preset=changes.preset, options={**changes.options, **varied_options},
            training={**changes.recipe, **varied_recipe}, variant=variant, ablation=asked.ablation,
        ))  # fmt: skip
    return made


def _variants(vary: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values: one empty variant if nothing is varied."""
    return [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]


def _check_method(name: str, protocol: str) -> None:
    if protocol in ("base-to-new", "cross-dataset", "ablation") and not methods.find(name).supports_new_classes:
        raise UserError(
            f"'{name}' only knows the classes that it was trained on, but {protocol} tests on others: take few-shot."
        )


def _check_lists(asked: Asked, problems: Problems) -> None:
    """Empty lists, repetitions, numbers out of range, and settings that the protocol has no use for."""
    lists: list[tuple[str, Sequence[Any]]] = [
        ("method", asked.methods), ("data set", asked.datasets), ("seed", asked.seeds), ("number of shots", asked.shots)
    ]  # fmt: skip
    for what, given in lists:
        for value in dict.fromkeys(v for v in given if list(given).count(v) > 1):
            problems.add(f"the {what} '{value}' is there twice")
    if not asked.methods:
        problems.add("no method is named")
    if not asked.seeds:
        problems.add("no seed is named")
    for what, values, low in (("seeds", asked.seeds, 0), ("shots", asked.shots, 1)):
        if wrong := [value for value in values if value < low]:
            problems.add(f"{what} must be whole numbers of at least {low} (got {', '.join(map(str, wrong))})")
    if wrong := [seed for seed in asked.seeds if seed > LARGEST_SEED]:
        problems.add(f"seeds must be at most {LARGEST_SEED} (got {', '.join(map(str, wrong))})")
    transfers = ("cross-dataset", "domain-generalisation")
    if asked.source is not None and asked.protocol not in transfers:
        problems.add(f"a source belongs to {' and '.join(transfers)}; {asked.protocol} learns on each data set itself")
    if (
        asked.protocol in transfers
        and asked.source is not None
        and not [d for d in asked.datasets if d != asked.source]
    ):
        problems.add(f"name the data sets that '{asked.source}' is to be transferred to")
    if asked.protocol == "ablation" and not asked.vary:
        problems.add("an ablation needs something to vary, such as 'alpha' with the values 0.001, 0.01")
    if asked.protocol != "ablation" and (asked.vary or asked.ablation):
        problems.add(f"only an ablation varies options; {asked.protocol} does not")
    for name, values in (asked.vary or {}).items():
        if not values:
            problems.add(f"'{name}' is to be varied but has no values")
    known = {method.name for method in methods.available()}
    for name in asked.methods if asked.protocol == "ablation" else ():
        if name in known and not learns(name):
            problems.add(f"'{name}' has nothing to train: an ablation would repeat the same run")
