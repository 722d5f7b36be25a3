"""Reading benchmark records: what counts, what is left out, what is damaged."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from anprompt.errors import UserError
from anprompt.results.collect import read_results
from helpers_records import halves, record, write_records


def test_a_record_becomes_a_result(tmp_path: Path) -> None:
    made = record("cross-dataset", "coop", "EuroSAT", "all", 2, 48.25, source="imagenet", differs=["Smaller."])
    (result,) = read_results(write_records(tmp_path, [made])).results
    assert (result.protocol, result.method, result.seed, result.shots, result.accuracy) == (
        "cross-dataset", "coop", 2, 16, 48.25
    )  # fmt: skip
    assert (result.source, result.target) == ("imagenet", "eurosat"), "benchmarks have one name"
    assert (result.differs, result.weights, result.variant) == (("Smaller.",), "a" * 64, {})


NEITHER, BOTH = (None, None), ("oxford_flowers", "oxford_flowers")


def test_data_called_like_a_published_set_are_not_taken_for_it(tmp_path: Path) -> None:
    made = [record("few-shot", "coop", "flowers", "all", 1, 40, benchmarks=NEITHER),
            record("few-shot", "coop", "oxford_flowers", "all", 1, 50, benchmarks=BOTH),
            record("few-shot", "coop", "flowers", "all", 2, 60),
            record("few-shot", "coop", "photos", "all", 1, 70, benchmarks=NEITHER)]  # fmt: skip
    read = read_results(write_records(tmp_path, made))
    assert {result.accuracy: (result.source, result.target) for result in read.results} == {
        40: ("flowers (own data)",) * 2, 50: BOTH, 60: BOTH, 70: ("photos", "photos"),
    }, "a record that does not say what its data are goes by their name"  # fmt: skip
    assert read.notes == ()


def test_own_data_and_a_published_set_of_one_name_are_two_evaluations(tmp_path: Path) -> None:
    made = [record("few-shot", "coop", "dtd", "all", 1, 40 + i, benchmarks=who)
            for i, who in enumerate([NEITHER, ("dtd", "dtd")])]  # fmt: skip
    read = read_results(write_records(tmp_path, made))
    assert sorted((result.target, result.accuracy) for result in read.results) == [("dtd", 41), ("dtd (own data)", 40)]
    assert read.notes == ()


def test_other_files_below_the_folder_are_left_alone(tmp_path: Path) -> None:
    folder = write_records(tmp_path, halves("coop", "dtd", 1, 80, 60))
    (folder / "records" / "fit.json").write_text('{"kind": "fit", "record_version": 1}')
    (folder / "records" / "list.json").write_text("[1, 2]")
    (folder / "records" / "log.txt").write_text("no record")
    (folder / "plan.json").write_text("not beside the records")
    assert len(read_results(folder).results) == 2
    assert len(read_results(folder / "records" / "base-to-new").results) == 2, "a folder of records itself"
    assert len(read_results(folder / "records" / "base-to-new" / "0.json").results) == 1
    assert len(read_results(folder, folder / "records").results) == 2, "no file counts twice"


def test_of_two_records_of_one_evaluation_the_newer_counts(tmp_path: Path) -> None:
    old, new, other = (record("few-shot", "coop", "dtd", "all", 1, value) for value in (40, 50, 60))
    new["created"] = "2026-11-24T12:00:00+01:00"  # later than 10:00 in UTC
    new["config"]["settings"] = {"precision": "bf16"}
    other["config"]["seed"] = 2
    read = read_results(write_records(tmp_path, [new, old, other]))
    assert sorted(result.accuracy for result in read.results) == [50, 60]
    (note,) = read.notes
    assert note.endswith("0.json'.")
    assert "1.json" in note
    assert "same evaluation" in note


def test_the_same_run_on_another_backbone_is_another_evaluation(tmp_path: Path) -> None:
    pair = [record("few-shot", "coop", "dtd", "all", 1, 40, weights=weights * 64) for weights in "ab"]
    read = read_results(write_records(tmp_path, pair))
    assert (len(read.results), read.notes) == (2, ())


BROKEN = {
    "no json": "{",
    "no text": b"\xff\xfe\x00",
    "version": {"record_version": 2},
    "accuracy": {"accuracy": 101.0},
    "accuracy as text": {"accuracy": "88"},
    "accuracy as truth": {"accuracy": True},
    "date": {"created": "yesterday"},
    "config": {"config": None},
    "backbone": {"backbone": {"source": "x"}},
    "protocol": {"config.protocol": "base2new"},
    "subset": {"config.target_subset": "old"},
    "seed": {"config.seed": "1"},
    "benchmark": {"data.benchmark": 1},
    "fit": {"fit": None},
}


def test_all_damaged_files_are_listed_at_once(tmp_path: Path) -> None:
    good = record("few-shot", "coop", "dtd", "all", 1, 40)
    folder = write_records(tmp_path, [good])
    for name, damage in BROKEN.items():
        file = folder / "records" / f"{name}.json"
        if isinstance(damage, dict):
            broken = copy.deepcopy(good)
            for key, value in damage.items():
                place, _, last = key.rpartition(".")
                (broken[place] if place else broken)[last] = value
            file.write_text(json.dumps(broken))
        else:
            file.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    with pytest.raises(UserError) as error:
        read_results(folder)
    message = str(error.value)
    for name in BROKEN:
        assert f"{name}.json'" in message
    assert "0.json" not in message
    details = (
        "not JSON",
        "record version 2 is not 1",
        "101.0",
        "'config.protocol' is 'base2new', not one of base-to-new",
        "'backbone.weights_sha256' is missing",
        "'config.seed' is \"1\"",
    )
    for detail in details:
        assert detail in message


def test_an_own_split_without_a_sentence_gets_one(tmp_path: Path) -> None:
    (result,) = read_results(
        write_records(tmp_path, [record("few-shot", "coop", "dtd", "all", 1, 40, own_split=True)])
    ).results
    assert result.differs == ("dtd is split by anprompt, not as published",)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no results at .*anprompt bench"):
        read_results(tmp_path / "nowhere")
