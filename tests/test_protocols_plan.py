"""Which runs share a training: those that differ in nothing that decides it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anprompt.protocols.declare import Asked, declare
from anprompt.protocols.plan import make_plan
from anprompt.protocols.runs import Bench, Task


@pytest.fixture
def tasks(photo_folder: Path, tmp_path: Path) -> Any:
    """``tasks(vary={…})``: what ANPrompt is to do on the four classes of coloured photos."""

    def make(protocol: str = "ablation", *, weights: str = "0" * 64, **asked: Any) -> list[Task]:
        given = Asked(protocol, ["anprompt"], [str(photo_folder)], **{"seeds": [1], **asked})
        return make_plan(declare(given), Bench("nowhere", str(tmp_path / "results")), weights).tasks

    return make


def test_what_only_decides_is_one_training_with_evaluations_of_its_own(tasks: Any) -> None:
    (task,) = tasks(vary={"theta": [0.1, 0.7, 1.0]})
    assert len(task.evaluations) == len({evaluation.file for evaluation in task.evaluations}) == 6
    thetas = [evaluation.config["settings"]["options"]["theta"] for evaluation in task.evaluations]
    assert thetas == [0.1, 0.1, 0.7, 0.7, 1.0, 1.0]
    assert [evaluation.target.subset for evaluation in task.evaluations] == ["base", "new"] * 3
    apart = tasks(vary={"theta": [0.1, 1.0], "theta_in_loss": [True]})
    assert [task.run.options["theta"] for task in apart] == [0.1, 1.0]


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"vary": {"alpha": [0.001, 0.5]}}, 2),
        ({"vary": {"recipe.lr": [0.001, 0.01, 0.1]}}, 3),
        ({"vary": {"alpha": [0.001]}, "seeds": [1, 2, 3]}, 3),
        ({"protocol": "few-shot", "shots": [1, 2], "seeds": [1, 2]}, 4),
    ],
)
def test_what_decides_the_training_is_a_training_of_its_own(tasks: Any, changes: dict[str, Any], count: int) -> None:
    made = tasks(**changes)
    assert len(made) == len({task.adapter for task in made}) == count
    elsewhere = {task.adapter for task in tasks(**changes, weights="1" * 64)}
    assert elsewhere.isdisjoint(task.adapter for task in made), "of another backbone"
