"""The recipe files: every entry is one that the method, the recipe and the benchmarks know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import anprompt
from anprompt import methods
from anprompt.data.benchmarks import find_benchmark
from anprompt.training import resolve_recipe

FILES = [Path(anprompt.__file__).parent / "recipes" / f"{method.name}.yaml" for method in methods.available()]
BASE_TO_NEW = [path for path in FILES if "base-to-new" in yaml.safe_load(path.read_text("utf-8"))]
PROTOCOLS = {"base-to-new", "cross-dataset", "domain-generalisation", "few-shot"}


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_entry_is_known(path: Path) -> None:
    recipe: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    name = recipe["method"]
    assert path.stem == name
    assert recipe["from"]
    protocols = {key: part for key, part in recipe.items() if key not in ("method", "from")}
    assert set(protocols) == (PROTOCOLS if methods.find(name).supports_new_classes else {"few-shot"})
    for part in protocols.values():
        assert set(part) <= {"shots", "options", "recipe", "data", "by-shots"}
        changes = [{}, *part.get("data", {}).values(), *part.get("by-shots", {}).values()]
        for change in changes:
            assert set(change) <= {"options", "recipe"}
            methods.resolve_options(name, options={**part.get("options", {}), **change.get("options", {})})
            made = resolve_recipe({}, {**part.get("recipe", {}), **change.get("recipe", {})})
            assert not made.only_warms_up, "which would be said to be a mistake"
        for benchmark in part.get("data", {}):
            assert find_benchmark(benchmark).name == benchmark
        assert set(part.get("by-shots", {})) <= set(part["shots"] if isinstance(part.get("shots"), list) else ())


@pytest.mark.parametrize("path", BASE_TO_NEW, ids=[path.stem for path in BASE_TO_NEW])
def test_the_first_preset_is_the_base_to_new_recipe(path: Path) -> None:
    recipe = yaml.safe_load(path.read_text("utf-8"))
    part, preset = recipe["base-to-new"], next(iter(methods.find(recipe["method"]).presets.values()))
    assert resolve_recipe(preset.recipe) == resolve_recipe({}, part.get("recipe"))
    given = {**preset.options, **part.get("options", {})}
    assert methods.resolve_options(recipe["method"], options=given) == methods.resolve_options(recipe["method"])
