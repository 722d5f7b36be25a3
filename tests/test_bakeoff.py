"""The bake-off on one's own data: what is collected, what is advised, and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anprompt.results.bakeoff import Entrant, advice, bake_off, photos_tested
from helpers_bench import QUICK
from helpers_cli import Cli


def record(method: str, subset: str, seed: int | None, accuracy: float, seconds: float = 9.0) -> dict[str, Any]:
    protocol = "few-shot" if subset == "all" else "base-to-new"
    return {
        "config": {"method": method, "protocol": protocol, "target_subset": subset, "seed": seed},
        "accuracy": accuracy,
        "fit": {"seconds": seconds, "memory": 2**20, "adapter_bytes": 4096, "parameters": 7},
    }


def test_scores_and_costs_are_collected_by_method() -> None:
    found = bake_off(
        [
            record("a", "all", 1, 80, 10), record("a", "all", 2, 84, 14), record("a", "base", 1, 60, 99),
            record("a", "new", 1, 30, 99), record("closed", "all", 1, 90, 1),
        ],
        ["a"],
    )  # fmt: skip
    a, closed = found
    assert (a.method, a.new_classes, a.seconds, a.memory, a.adapter, a.parameters) == ("a", True, 12, 2**20, 4096, 7)
    assert a.value("all") == (82, pytest.approx(2.828, abs=1e-3))
    assert a.value("hm") == (pytest.approx(40), None)
    assert (closed.new_classes, closed.value("hm"), closed.value("all")) == (False, None, (90, None))


def test_photos_of_the_whole_are_counted() -> None:
    more = {"images": 12, "data": {"own_split": True}}
    found = photos_tested([record("a", "all", 1, 80) | more, record("a", "base", 1, 80) | more | {"images": 6}])
    assert found == {"test_photos": 12, "own_split": True}
    assert photos_tested([]) == {"test_photos": 0, "own_split": False}


def entrant(method: str, scores: list[float], seconds: float, **more: Any) -> Entrant:
    return Entrant(method, more.pop("new_classes", True), {"all": dict(enumerate(scores))}, seconds)


def test_advice_says_no_more_than_the_numbers() -> None:
    few = advice([entrant("a", [80, 81], 9), entrant("b", [70, 72], 9)])
    assert few == [
        "For the classes at hand, a is ahead (accuracy on all classes 80.5 %, b 71.0 %). Too few pairs that differ to "
        "conclude anything: at least 6 are needed (a pair: both on the same data with the same seed)."
    ]
    assert advice([entrant("a", [100], 9), entrant("b", [100], 9)]) == [
        "For the classes at hand, a and b are equal (accuracy on all classes 100.0 %)."
    ]
    sure, *_ = advice([entrant("a", [80, 81, 83, 82, 80, 81], 9), entrant("b", [70, 72, 71, 70, 73, 70], 9)])
    assert "a is better by more than chance explains" in sure
    unsure, cheap, closed = advice(
        [
            entrant("slow", [80, 90, 80, 90, 80, 90], 90),
            entrant("quick", [81, 88, 82, 88, 81, 88], 9, new_classes=False),
        ]
    )
    assert "The difference may be chance" in unsure
    assert cheap == "quick comes within a standard deviation of it in 10 times less training."
    assert closed == "quick: no answer for classes that were not in the training."


def test_the_command_compares_on_a_folder(
    cli: Cli, small_clip: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quick.yaml").write_text(QUICK)
    line = ("compare", photo_folder, "--backbone", small_clip, "--recipe", "quick.yaml", "--seeds", "1", "--shots", 2,
            "--methods", "zero-shot,anprompt")  # fmt: skip
    code, out, err = cli(*line)
    assert code == 0, err
    assert [row.split()[0] for row in out.splitlines() if row.startswith(("zero-shot", "anprompt"))] == [
        "zero-shot", "anprompt"
    ]  # fmt: skip
    assert "For the classes at hand" in out
    assert "If classes are to be added later" in out
    assert "all classes, 16 test photos; base, new" in out
    again = cli(*line, "--json")
    assert "training" not in again.err
    assert (again.document["test_photos"], again.document["own_split"]) == (16, False)
    first, second = again.document["entrants"]
    assert (first["method"], first["parameters"], first["adapter_bytes"]) == ("zero-shot", 0, None)
    assert second["adapter_bytes"] > 1000
    assert second["memory"] > 2**20
    assert set(second) >= {"all", "base", "new", "hm"}


@pytest.mark.parametrize("command", ["compare", "bench", "robustness"])
def test_held_out_photos_are_said_to_be_so(
    command: str, cli: Cli, small_clip: Path, photo_folder: Path, tmp_path: Path
) -> None:
    data = photo_folder / "test"  # 4 photos a class, of which 1 is held out
    line = {
        "compare": [data, "--methods", "zero-shot", "--out", tmp_path],
        "bench": ["--protocol", "few-shot", "--datasets", data, "--methods", "zero-shot", "--out", tmp_path],
        "robustness": [data, "--noises", "drop", "--wordings", 1],
    }[command]
    said = {
        "compare": "4 test photos, held out by anprompt: no test split was given;",
        "bench": "Test photos held out by anprompt, because no test split was given: test (4 photos).",
        "robustness": "The 4 test photos were held out by anprompt: no test split was given.",
    }[command]
    code, out, err = cli(command, *line, "--backbone", small_clip)
    assert code == 0, err
    assert said in " ".join(out.split())


def test_mistakes_are_named(cli: Cli, photo_folder: Path) -> None:
    assert "Did you mean 'anprompt'?" in cli("compare", photo_folder, "--methods", "anpromt").err
    assert "--jobs and --threads must be at least 1" in cli("compare", photo_folder, "--jobs", "0").err
