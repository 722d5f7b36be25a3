"""Recipes as YAML: all that are shipped can be used, matched ones give one budget, mistakes are named."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from anprompt import methods
from anprompt.cli import COMMANDS
from anprompt.commands.arguments import parse
from anprompt.errors import UserError
from anprompt.protocols.declare import Asked, declare
from anprompt.protocols.recipes import FOLDER, RUNNABLE, find_recipe, read_recipes, shipped
from anprompt.results.paper import ablation_row, paper_tables
from anprompt.training import resolve_recipe


def test_every_method_has_recipes_and_every_file_can_be_used() -> None:
    files = {file.stem: read_recipes(file) for file in shipped()}
    assert {method.name for method in methods.available()} <= files.keys()
    for stem, recipes in files.items():
        assert recipes.source, f"{stem} does not say where its numbers are from"
        assert recipes.method in ("any", stem)
        assert recipes.protocols


@pytest.mark.parametrize("protocol", RUNNABLE)
def test_the_matched_recipe_gives_one_budget(protocol: str) -> None:
    budgets = set()
    for method in methods.available():
        if protocol not in read_recipes(FOLDER / f"{method.name}.yaml").protocols:
            continue
        recipe = find_recipe(method.name, protocol, "matched")
        assert recipe.name == f"matched/{protocol}"
        for data, shots in product((None, "imagenet", *recipe.data), (1, 16, *recipe.by_shots)):
            changes = recipe.resolve(data, shots)
            full = resolve_recipe(methods.find_preset(method, changes.preset).recipe, changes.recipe)
            views = (full.augment, full.crop_scale, full.flip)
            budgets.add((data == "imagenet", full.epochs, full.batch, full.schedule, *views))
    assert len(budgets) <= 2  # ImageNet's and that of all others


@pytest.mark.parametrize("protocol", ["cross-dataset", "domain-generalisation", "few-shot"])
def test_the_small_recipe_trains_for_more_than_a_handful_of_steps(protocol: str) -> None:
    own = find_recipe("anprompt", protocol).resolve(None, 16)
    changes = find_recipe("anprompt", protocol, "small").resolve(None, 16)
    full = resolve_recipe({}, changes.recipe)
    assert (full.epochs, full.optimizer, changes.options) == (10, "adam", own.options)
    assert full.batch < resolve_recipe({}, own.recipe).batch


def test_layers_of_a_recipe_lie_on_each_other(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(
        "method: anprompt\nfrom: here\nfew-shot:\n  shots: [2, 4]\n  options: {alpha: 0.5}\n"
        "  recipe: {epochs: 7, batch: 3}\n  by-shots: {2: {recipe: {epochs: 9, lr: 0.1}}}\n"
        "  data: {EuroSAT: {recipe: {epochs: 11}, options: {theta: 0.2}}}\n"
    )
    recipe = find_recipe("anprompt", "few-shot", str(file))
    assert (recipe.name, recipe.source, recipe.shots) == ("own/few-shot", "here", (2, 4))
    assert recipe.resolve(None, 4).recipe == {"epochs": 7, "batch": 3}
    assert recipe.resolve(None, 2).recipe == {"epochs": 9, "batch": 3, "lr": 0.1}
    assert recipe.resolve("eurosat", 2).recipe == {"epochs": 11, "batch": 3, "lr": 0.1}
    assert recipe.resolve("eurosat", 2).options == {"alpha": 0.5, "theta": 0.2}


def test_a_budget_for_all_holds_in_special_cases_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anprompt.protocols.recipes.FOLDER", tmp_path)
    (tmp_path / "anprompt.yaml").write_text(
        "method: anprompt\nfrom: a\nfew-shot: {by-shots: {1: {recipe: {epochs: 99, lr: 0.1}, options: {alpha: 1}}},"
        " data: {dtd: {recipe: {batch: 99}}}}\n"
    )
    (tmp_path / "matched.yaml").write_text("method: any\nfrom: b\nfew-shot: {recipe: {epochs: 2, batch: 3}}\n")
    changes = find_recipe("anprompt", "few-shot", "matched").resolve("dtd", 1)
    assert changes.recipe == {"epochs": 2, "batch": 3, "lr": 0.1}
    assert changes.options == {"alpha": 1}


def test_a_recipe_for_any_method_keeps_what_is_the_methods_own(tmp_path: Path) -> None:
    file = tmp_path / "quick.yaml"
    file.write_text("method: any\nfrom: here\ncross-dataset: {recipe: {epochs: 2}}\n")
    changes = find_recipe("anprompt", "cross-dataset", str(file)).resolve("imagenet", 16)
    assert changes.options == {"sim_weight": 0.2}
    assert changes.recipe["epochs"] == 2
    assert changes.recipe["lr"] == 0.001


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("- a\n", ["must name its method"]),
        ("method: [\n", ["Cannot read the recipe"]),
        ("method: anpromt\n", ["Did you mean 'anprompt'?"]),
        ("method: anprompt\nbase-to-nwe: {}\n", ["'base-to-nwe' is no protocol. Did you mean 'base-to-new'?"]),
        ("method: anprompt\nfew-shot: 5\n", ["few-shot: must hold entries"]),
        (
            "method: anprompt\nfew-shot: {shot: 5, shots: [0], options: {alhpa: 1}, data: {eurosta: {}}, recipe: 1}\n",
            ["unknown entry 'shot'. Did you mean 'shots'?", "shots must be a whole number above 0", "must hold entries",
             "Did you mean 'eurosat'?"],
        ),
        (
            "method: anprompt\nfew-shot: {options: {alhpa: 1}, by-shots: {two: {}}}\n",
            ["'alhpa'. Did you mean 'alpha'?", "by-shots takes numbers of shots (got 'two')"],
        ),
        ("method: anprompt\nfew-shot: {recipe: {epocs: 1}}\n", ["'epocs'. Did you mean 'epochs'?"]),
        ("method: any\nfew-shot: {options: {alpha: 1}}\n", ["options and presets belong to one method"]),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, text: str, parts: list[str]) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_recipes(file)
    for part in parts:
        assert part in str(error.value)


def test_a_recipe_of_another_method_or_protocol_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("method: zero-shot\nfrom: here\nfew-shot: {}\n")
    with pytest.raises(UserError, match="is for method 'zero-shot', not 'anprompt'"):
        find_recipe("anprompt", "few-shot", str(file))
    with pytest.raises(UserError, match=r"own\.yaml' is for few-shot, not for base-to-new\."):
        find_recipe("zero-shot", "base-to-new", str(file))
    with pytest.raises(UserError, match=r"The published recipe of 'tip-adapter' is for few-shot, not for domain"):
        find_recipe("tip-adapter", "domain-generalisation")


def test_a_shipped_recipe_is_named_as_people_name_it() -> None:
    with pytest.raises(UserError) as error:
        declare(Asked("base-to-new", ["zero-shot", "anprompt"], ["dtd"], recipe="small"))
    message = "The recipe 'small' is for cross-dataset, domain-generalisation, few-shot, not for base-to-new: take "
    assert str(error.value) == f"The benchmark cannot be run: {message}'published' or 'matched'."
    with pytest.raises(UserError, match="'linear-probe' only knows the classes that it was trained on"):
        declare(Asked("base-to-new", ["linear-probe"], ["dtd"]))


def test_an_unknown_recipe_is_said_once() -> None:
    with pytest.raises(UserError) as error:
        declare(Asked("few-shot", ["zero-shot", "coop", "anprompt"], ["dtd"], recipe="foo"))
    assert str(error.value).count("There is no recipe 'foo'") == 1


def test_the_papers_ablations_cover_all_of_its_rows() -> None:
    files = {file.stem.removeprefix("ablation-"): file for file in sorted(FOLDER.glob("ablation-*.yaml"))}
    assert files.keys() == paper_tables()["ablations"].keys()
    for name, file in files.items():
        given = parse(COMMANDS["bench"], ["--config", str(file)])
        runs = declare(Asked(given["protocol"], [given["methods"]], ["dtd"], seeds=[1], vary=given["vary"]))
        for run in runs:
            methods.resolve_options(run.method, run.preset, dict(run.options))
        rows = {ablation_row(name, run.variant) for run in runs}
        assert rows >= set(range(len(paper_tables()["ablations"][name]["rows"])))
        assert given["ablation"] == name
