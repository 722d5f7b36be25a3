"""Metrics against scikit-learn's, and run records."""

from __future__ import annotations

import datetime
import getpass
import json
import socket
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, recall_score

from anprompt.results import describe_machine, evaluate_predictions, harmonic_mean, make_record, write_record


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    classes = draw(st.integers(2, 8))
    pairs = draw(st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=80))
    return classes, [label for label, _ in pairs], [guess for _, guess in pairs]


@given(answers())
def test_accuracies_equal_scikit_learns(given_answers: tuple[int, list[int], list[int]]) -> None:
    classes, labels, guesses = given_answers
    names = [f"class {i}" for i in range(classes)]
    result = evaluate_predictions(labels, guesses, names)
    assert result["accuracy"] == pytest.approx(100 * accuracy_score(labels, guesses))
    present = sorted(set(labels))
    recalls = recall_score(labels, guesses, labels=present, average=None, zero_division=0)
    assert list(result["per_class"]) == [names[i] for i in present], "classes without pictures have no accuracy"
    assert [row["accuracy"] for row in result["per_class"].values()] == pytest.approx(list(100 * recalls))
    assert [row["images"] for row in result["per_class"].values()] == [labels.count(i) for i in present]
    assert result["class_mean"] == pytest.approx(100 * recalls.mean())
    assert result["images"] == len(labels)


def test_no_pictures_is_zero_and_not_an_error() -> None:
    result = evaluate_predictions([], [], ["a", "b"])
    assert (result["accuracy"], result["class_mean"], result["images"], result["per_class"]) == (0.0, 0.0, 0, {})


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        evaluate_predictions([0, 1], [0], ["a", "b"])


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_harmonic_mean(base: float, new: float) -> None:
    assert harmonic_mean(base, new) == pytest.approx(statistics.harmonic_mean([base, new]))
    assert harmonic_mean(base, new) == harmonic_mean(new, base)


def test_harmonic_mean_of_the_papers_table_and_at_zero() -> None:
    assert round(harmonic_mean(69.34, 74.22), 2) == 71.70  # CLIP, average over 11 data sets
    assert harmonic_mean(0.0, 80.0) == 0.0
    assert harmonic_mean(0.0, 0.0) == 0.0


def test_a_records_hash_depends_on_the_settings_only() -> None:
    settings = {"seed": 1, "options": {"alpha": 0.001, "layers": "last-7"}}
    reordered = {"options": {"layers": "last-7", "alpha": 0.001}, "seed": 1}
    record = make_record("fit", settings, timings={"train": 1.0})
    assert record["config_sha256"] == make_record("fit", reordered, timings={"train": 2.0})["config_sha256"]
    assert record["config_sha256"] != make_record("fit", {**settings, "seed": 2})["config_sha256"]
    # written down: a record of today is found again by later versions
    assert record["config_sha256"] == "f2b35f92d958f3f5e257465d5af2d6a8fc20e8ce3c443dd37ea492b8095153f9"


def test_what_a_record_holds(tmp_path: Path) -> None:
    record = make_record("evaluate", {"seed": 1}, accuracy=50.0)
    assert (record["record_version"], record["kind"], record["config"]) == (1, "evaluate", {"seed": 1})
    assert record["accuracy"] == 50.0
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(record["created"])
    assert abs(age.total_seconds()) < 60
    write_record(tmp_path / "runs" / "record.json", record)
    assert json.loads((tmp_path / "runs" / "record.json").read_text()) == record


def test_the_machine_is_described_without_paths_or_names() -> None:
    machine = describe_machine()
    assert {"system", "processors", "python", "torch", "anprompt", "gpu", "threads"} <= set(machine)
    text = json.dumps(machine)
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    assert "/" not in text.replace("\\/", "/")
    assert socket.gethostname() not in text
    assert not {getpass.getuser()} & set(machine.values())
