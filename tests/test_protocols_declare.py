"""Protocols as lists of runs: what is trained on, what is tested on, and what is refused."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.errors import UserError
from anprompt.protocols.declare import ELEVEN, VARIANTS, Asked, declare, learns
from anprompt.protocols.runs import Run, Target

NAMES = st.lists(st.sampled_from(ELEVEN), min_size=1, max_size=4, unique=True)
SEEDS = st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)


def refused(asked: Asked) -> str:
    with pytest.raises(UserError) as error:
        declare(asked)
    return str(error.value)


@settings(max_examples=20)
@given(NAMES, SEEDS)
def test_base_to_new_trains_on_base_and_tests_both_halves(datasets: list[str], seeds: list[int]) -> None:
    runs = declare(Asked("base-to-new", ["anprompt"], datasets, seeds=seeds))
    assert [(run.source, run.seed) for run in runs] == list(product(datasets, seeds))
    for run in runs:
        assert (run.subset, run.shots, run.recipe) == ("base", 16, "anprompt/base-to-new")
        assert run.targets == (Target(run.source, "base"), Target(run.source, "new"))


def test_what_learns_nothing_runs_once() -> None:
    assert not learns("zero-shot")
    assert learns("anprompt")
    assert learns("linear-probe"), "it has a row for each class"
    assert learns("tip-adapter"), "it looks at the photos"
    runs = declare(Asked("base-to-new", ["zero-shot", "anprompt"], ["dtd"], seeds=[4, 5]))
    assert [(run.method, run.shots, run.seed) for run in runs] == [
        ("zero-shot", 0, None), ("anprompt", 16, 4), ("anprompt", 16, 5)
    ]  # fmt: skip


def test_few_shot_has_every_number_of_shots_of_the_recipe() -> None:
    runs = declare(Asked("few-shot", ["anprompt"], ["dtd"], seeds=[1]))
    assert [(run.shots, run.subset, run.targets) for run in runs] == [
        (shots, "all", (Target("dtd", "all"),)) for shots in (1, 2, 4, 8, 16)
    ]
    assert [run.shots for run in declare(Asked("few-shot", ["anprompt"], ["dtd"], seeds=[1], shots=[3]))] == [3]


def test_transfers_share_one_training() -> None:
    (run,) = declare(Asked("cross-dataset", ["anprompt"], seeds=[1]))
    assert (run.source, run.subset) == ("imagenet", "all")
    assert [target.data for target in run.targets] == list(ELEVEN)
    (run,) = declare(Asked("domain-generalisation", ["anprompt"], seeds=[1]))
    assert [target.data for target in run.targets] == ["imagenet", *VARIANTS]
    (run,) = declare(Asked("cross-dataset", ["anprompt"], ["caltech101", "eurosat"], source="eurosat", seeds=[1]))
    assert [target.data for target in run.targets] == ["eurosat", "caltech101"]


def test_the_papers_eleven_are_the_default() -> None:
    assert [run.source for run in declare(Asked("base-to-new", ["zero-shot"]))] == list(ELEVEN)


def test_an_ablation_is_every_combination() -> None:
    vary = {"alpha": [0.1, 1], "recipe.lr": [0.01, 0.02], "text_noise": [True]}
    runs = declare(Asked("ablation", ["anprompt"], ["dtd"], seeds=[1], vary=vary, ablation="mine"))
    assert [run.variant for run in runs] == [
        {"alpha": a, "recipe.lr": lr, "text_noise": True} for a, lr in product([0.1, 1], [0.01, 0.02])
    ]
    assert {run.ablation for run in runs} == {"mine"}
    for run in runs:
        assert run.options["alpha"] == run.variant["alpha"]
        assert run.training["lr"] == run.variant["recipe.lr"]
        assert "recipe.lr" not in run.options


def test_published_data_have_their_own_recipe() -> None:
    def epochs(runs: list[Run]) -> list[tuple[object, object]]:
        return [(run.training["epochs"], run.training["batch"]) for run in runs]

    runs = declare(Asked("base-to-new", ["anprompt"], ["imagenet", "dtd"], seeds=[1]))
    assert epochs(runs) == [(5, 32), (10, 4)]
    somebodys = declare(Asked("base-to-new", ["anprompt"], ["photos/imagenet"], seeds=[1]))
    assert epochs(somebodys) == [(10, 4)]
    recognised = declare(Asked("base-to-new", ["anprompt"], ["photos/x"], seeds=[1]), lambda spec: "imagenet")
    assert epochs(recognised) == [(5, 32)]


def test_everything_wrong_is_said_at_once() -> None:
    message = refused(
        Asked("base-to-new", ["anpromt", "zero-shot", "zero-shot"], ["dtd", "dtd"], "imagenet", [1, -1, 2**32], [0],
              vary={"alpha": [1]})
    )  # fmt: skip
    for part in (
        "Did you mean 'anprompt'?", "the method 'zero-shot' is there twice", "the data set 'dtd' is there twice",
        "a source belongs to cross-dataset", "seeds must be whole numbers of at least 0 (got -1)",
        "seeds must be at most 4294967295 (got 4294967296)", "shots must be whole numbers of at least 1 (got 0)",
        "only an ablation varies options",
    ):  # fmt: skip
        assert part in message


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        (Asked("base-to-old", ["anprompt"]), "Did you mean 'base-to-new'?"),
        (Asked("base-to-new", []), "no method is named"),
        (Asked("base-to-new", ["anprompt"], seeds=[]), "no seed is named"),
        (Asked("ablation", ["anprompt"]), "an ablation needs something to vary"),
        (Asked("ablation", ["anprompt"], vary={"alpha": []}), "'alpha' is to be varied but has no values"),
        (Asked("ablation", ["zero-shot"], vary={"text": ["template"]}), "has nothing to train"),
        (Asked("cross-dataset", ["anprompt"], ["dtd"], source="dtd"), "name the data sets that 'dtd' is to be transf"),
        (Asked("base-to-new", ["anprompt"], recipe="matchd"), "Did you mean 'matched'?"),
    ],
)
def test_refusals(asked: Asked, part: str) -> None:
    assert part in refused(asked)


def test_closed_methods_are_refused_where_classes_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    from anprompt import methods

    monkeypatch.setattr(methods.find("anprompt"), "supports_new_classes", False)
    for protocol in ("base-to-new", "cross-dataset"):
        assert "only knows the classes that it was trained on" in refused(Asked(protocol, ["anprompt"]))
    assert declare(Asked("few-shot", ["anprompt"], ["dtd"]))
    assert declare(Asked("domain-generalisation", ["anprompt"]))
