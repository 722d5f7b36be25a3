"""Published and matched recipes: how each method is trained in each protocol, as YAML files in ``recipes/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from anprompt import methods
from anprompt.data.benchmarks import find_benchmark
from anprompt.errors import Problems, UserError, did_you_mean, unknown_name
from anprompt.protocols.runs import PROTOCOLS
from anprompt.training import resolve_recipe

FOLDER = Path(__file__).parents[1] / "recipes"
RUNNABLE = tuple(name for name in PROTOCOLS if name != "ablation")  # an ablation varies the recipe of base-to-new
PUBLISHED = "published"
FOR_ALL = ("matched", "small")  # shipped recipes for any method
CHANGES = ("preset", "options", "recipe")
ENTRIES = (*CHANGES, "shots", "data", "by-shots")
FEW_SHOTS = (1, 2, 4, 8, 16)
K = TypeVar("K")


@dataclass(frozen=True)
class Changes:
    """What is set differently from the method's preset."""

    preset: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def then(self, other: Changes) -> Changes:
        """These, and ``other`` on top of them."""
        return Changes(other.preset or self.preset, {**self.options, **other.options}, {**self.recipe, **other.recipe})


@dataclass(frozen=True)
class ProtocolRecipe:
    """How one method is trained in one protocol. name: ``method/protocol``, as results name it."""

    name: str
    source: str
    shots: tuple[int, ...]
    changes: Changes = Changes()
    data: Mapping[str, Changes] = field(default_factory=dict)
    by_shots: Mapping[int, Changes] = field(default_factory=dict)

    def resolve(self, benchmark: str | None, shots: int) -> Changes:
        """What holds for a data set and a number of shots; the data set's entry wins."""
        general = self.changes.then(self.by_shots.get(shots, Changes()))
        return general.then(self.data.get(benchmark or "", Changes()))


def shipped() -> list[Path]:
    """The recipe files of this package, by name; ``ablation-*.yaml`` beside them are options of ``anprompt bench``."""
    return [file for file in sorted(FOLDER.glob("*.yaml")) if not file.stem.startswith("ablation-")]


def find_recipe(method: str, protocol: str, which: str = PUBLISHED) -> ProtocolRecipe:
    """The recipe of ``method`` for ``protocol``.

    which: ``"published"``: the method's own; ``"matched"`` or ``"small"``: that, with one budget, batch and
    augmentation for all methods; or a YAML file: if it is for any method, on top of the published one as well.

    Raises :class:`UserError` for unknown names, faulty files, and protocols that the method cannot run.
    """
    kind = methods.find(method)
    own = FOLDER / f"{method}.yaml"
    named = {PUBLISHED: own, **{name: FOLDER / f"{name}.yaml" for name in FOR_ALL}}
    if which not in named and not Path(which).is_file():
        names = ", ".join(f"'{name}'" for name in named)
        raise UserError(f"There is no recipe '{which}': give {names} or a YAML file.{did_you_mean(which, named)}")
    file = named.get(which, Path(which))
    if not own.is_file():  # a method from elsewhere: its first preset
        published = ProtocolRecipe(f"{method}/{next(iter(kind.presets))} preset", kind.paper, _usual_shots(protocol))
    else:
        published = _of_protocol(read_recipes(own), protocol, f"The published recipe of '{method}'")
    if file == own:
        return published
    recipes = read_recipes(file)
    if recipes.method not in ("any", method):
        raise UserError(f"The recipe '{file}' is for method '{recipes.method}', not '{method}'.")
    others = [name for name in (PUBLISHED, *FOR_ALL) if name != which] if which in FOR_ALL else []
    over = _of_protocol(recipes, protocol, f"The recipe '{which}'", others)
    if recipes.method == method:
        return over

    def laid_over(own: Mapping[K, Changes], others: Mapping[K, Changes]) -> dict[K, Changes]:
        """What the method sets in special cases, but with the budget of ``over`` in these as well."""
        keys = [*own, *(key for key in others if key not in own)]
        return {key: own.get(key, Changes()).then(over.changes).then(others.get(key, Changes())) for key in keys}

    return ProtocolRecipe(
        over.name, over.source, over.shots, published.changes.then(over.changes),
        laid_over(published.data, over.data), laid_over(published.by_shots, over.by_shots),
    )  # fmt: skip


@dataclass(frozen=True)
class RecipeFile:
    """A recipe file: for which method (or ``"any"``), where its numbers are from, and a recipe per protocol."""

    method: str
    source: str
    protocols: Mapping[str, ProtocolRecipe]


def read_recipes(file: Path) -> RecipeFile:
    """Read and check a recipe file; :class:`UserError` with all that is wrong in it."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"Cannot read the recipe '{file}': {' '.join(str(error).split())}.") from None
    problems = Problems(f"The recipe '{file}' cannot be used:")
    if not isinstance(content, dict) or not isinstance(content.get("method"), str):
        raise UserError(f"The recipe '{file}' must name its method, as in 'method: anprompt', or 'method: any'.")
    method = content["method"]
    if method != "any":
        methods.find(method)
    found: dict[str, ProtocolRecipe] = {}
    for key, entry in content.items():
        if key in ("method", "from"):
            continue
        if key not in RUNNABLE:
            problems.add(f"'{key}' is no protocol.{did_you_mean(str(key), RUNNABLE)} Allowed: {', '.join(RUNNABLE)}")
        elif not isinstance(entry, dict):
            problems.add(f"{key}: must hold entries such as 'recipe: {{epochs: 10}}'")
        else:
            name = f"{file.stem}/{key}"
            found[key] = _protocol(name, " ".join(str(content.get("from", "")).split()), method, key, entry, problems)
    problems.raise_if_any()
    return RecipeFile(method, " ".join(str(content.get("from", "")).split()), found)


def _protocol(
    name: str, source: str, method: str, protocol: str, entry: Mapping[str, Any], problems: Problems
) -> ProtocolRecipe:
    for key in entry:
        if key not in ENTRIES:
            problems.add(f"{protocol}: unknown entry '{key}'.{did_you_mean(str(key), ENTRIES)}")
    shots = entry.get("shots", list(_usual_shots(protocol)))
    counts = (shots,) if isinstance(shots, int) else tuple(shots) if isinstance(shots, list) else ()
    if not counts or not all(isinstance(n, int) and n > 0 for n in counts):
        problems.add(f"{protocol}: shots must be a whole number above 0, or a list of them (got {shots!r})")
    general = _changes(method, entry, protocol, problems)
    data: dict[str, Changes] = {}
    for key, part in _parts(entry, "data", protocol, problems):
        try:
            data[find_benchmark(str(key)).name] = _changes(method, part, f"{protocol}, {key}", problems, general)
        except UserError as error:
            problems.add(f"{protocol}: {error}")
    by_shots: dict[int, Changes] = {}
    for key, part in _parts(entry, "by-shots", protocol, problems):
        if isinstance(key, int):
            by_shots[key] = _changes(method, part, f"{protocol}, {key} shots", problems, general)
        else:
            problems.add(f"{protocol}: by-shots takes numbers of shots (got '{key}')")
    return ProtocolRecipe(name, source, counts, general, data, by_shots)


def _parts(entry: Mapping[str, Any], name: str, where: str, problems: Problems) -> Sequence[tuple[Any, Any]]:
    part = entry.get(name) or {}
    if isinstance(part, dict) and all(isinstance(value, dict) for value in part.values()):
        return list(part.items())
    problems.add(f"{where}: '{name}' must hold entries of its own, such as 'imagenet: {{recipe: {{epochs: 5}}}}'")
    return []


def _changes(
    method: str,
    entry: Mapping[str, Any],
    where: str,
    problems: Problems,
    base: Changes = Changes(),
) -> Changes:
    """Read preset, options and recipe of one place and try them out on the method."""
    parts = {key: entry.get(key) or {} for key in ("options", "recipe")}
    for key, part in parts.items():
        if not isinstance(part, dict):
            problems.add(f"{where}: '{key}' must hold entries, as in '{key}: {{NAME: VALUE}}' (got {part!r})")
            return Changes()
    changes = Changes(entry.get("preset"), parts["options"], parts["recipe"])
    try:
        whole = base.then(changes)
        preset: Mapping[str, Any] = {}
        if method != "any":
            methods.resolve_options(method, whole.preset, dict(whole.options))
            preset = methods.find_preset(methods.find(method), whole.preset).recipe
        elif whole.options or whole.preset:
            raise UserError("options and presets belong to one method: this recipe is for any.")
        resolve_recipe(preset, whole.recipe)
    except UserError as error:
        problems.add(f"{where}: {error}")
    return changes


def _of_protocol(recipes: RecipeFile, protocol: str, title: str, others: Sequence[str] = ()) -> ProtocolRecipe:
    """The recipe for a protocol; an ablation is one of base-to-new. others: recipes that are for all protocols."""
    wanted = "base-to-new" if protocol == "ablation" else protocol
    if wanted not in RUNNABLE:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    if wanted not in recipes.protocols:
        there = ", ".join(recipes.protocols) or "no protocol"
        instead = f": take {' or '.join(map(repr, others))}" if others else ""
        raise UserError(f"{title} is for {there}, not for {wanted}{instead}.")
    return recipes.protocols[wanted]


def _usual_shots(protocol: str) -> tuple[int, ...]:
    return FEW_SHOTS if protocol == "few-shot" else (16,)
