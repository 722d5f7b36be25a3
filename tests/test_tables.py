"""Tables from made-up results whose numbers were worked out by hand."""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.errors import UserError
from anprompt.results import harmonic_mean
from anprompt.results.grid import Value, summary
from anprompt.results.tables import Table
from helpers_records import Record, halves, read_back, record, rows_of, table_of


def value(table: Table, group: str, label: str, key: str) -> Value:
    cell = rows_of(table)[group, label].cells[key]
    assert isinstance(cell, Value)
    return cell


def note(table: Table, start: str) -> str:
    found = [note for note in table.notes if note.startswith(start)]
    assert len(found) == 1, table.notes
    return found[0]


# Numbers


def test_base_to_new_by_hand(tmp_path: Path) -> None:
    records = [*halves("coop", "dtd", 1, 80, 40), *halves("coop", "dtd", 2, 90, 60)]
    records += [*halves("coop", "eurosat", 1, 60, 30), *halves("coop", "eurosat", 2, 70, 90)]
    table = table_of("I", read_back(tmp_path, records))
    assert value(table, "DTD", "coop", "base") == pytest.approx((85, 50**0.5))  # (80, 90): sd √50
    assert value(table, "DTD", "coop", "new") == pytest.approx((50, 200**0.5))
    # HM of seed 1: 2·80·40/120 = 53.333; of seed 2: 2·90·60/150 = 72; not HM of the means (62.96)
    assert value(table, "DTD", "coop", "hm") == pytest.approx((62.66667, 13.19933))
    average = "average of 2"
    assert value(table, average, "coop", "base").mean == pytest.approx(75)  # (85 + 65) / 2
    assert value(table, average, "coop", "new").mean == pytest.approx(55)  # (50 + 60) / 2
    assert value(table, average, "coop", "hm").mean == pytest.approx(2 * 75 * 55 / 130)  # of the averages
    assert value(table, average, "coop", "base").sd == pytest.approx(50**0.5)  # seeds' averages: 70 and 80
    assert value(table, average, "coop", "new").sd == pytest.approx((40**2 / 2) ** 0.5)  # 35 and 75
    assert rows_of(table)[average, "coop"].cells["seeds"] == "2"
    assert "mean over seeds of each seed's harmonic mean; HM of an average is that of the averages" in " ".join(
        table.notes
    )


@given(st.dictionaries(st.integers(1, 99), st.floats(0, 100), min_size=1, max_size=8))
def test_mean_and_standard_deviation_are_numpys(by_seed: dict[int, float]) -> None:
    found = summary(by_seed)
    assert found is not None
    numbers = np.array(list(by_seed.values()))
    assert found.mean == pytest.approx(numbers.mean())
    assert found.sd == (None if len(numbers) == 1 else pytest.approx(numbers.std(ddof=1), abs=1e-9))


def some_records(seed: int = 0) -> list[Record]:
    draw = random.Random(seed)
    methods = ("coop", "maple", "anprompt")
    made = [
        entry
        for data in ("dtd", "eurosat", "food101")
        for method in methods
        for number in (1, 2, 3)
        for entry in halves(method, data, number, draw.uniform(60, 99), draw.uniform(40, 90))
    ]
    return made + [entry for data in ("dtd", "eurosat", "food101") for entry in halves("zero-shot", data, None, 50, 60)]


@settings(deadline=None, max_examples=25)
@given(order=st.randoms(use_true_random=False))
def test_the_order_of_results_does_not_matter(tmp_path_factory: pytest.TempPathFactory, order: random.Random) -> None:
    results = read_back(tmp_path_factory.mktemp("results"), some_records())
    first = table_of("I", results).to_json()
    order.shuffle(results)
    assert table_of("I", results).to_json() == first


# Best, averages, order


def test_the_best_of_several_is_marked_and_ties_share_it(tmp_path: Path) -> None:
    records = [*halves("coop", "dtd", 1, 80.001, 40), *halves("maple", "dtd", 1, 80.004, 50)]
    rows = rows_of(table_of("I", read_back(tmp_path, records)))
    assert rows["DTD", "coop"].best == {"base"}, "80.00 both, as printed"
    assert rows["DTD", "maple"].best == {"base", "new", "hm"}


def test_a_single_method_is_not_the_best(tmp_path: Path) -> None:
    table = table_of("I", read_back(tmp_path, halves("coop", "dtd", 1, 80, 40)))
    assert [row.best for row in table.rows] == [frozenset()]
    assert [row.group for row in table.rows] == ["DTD"], "no average of one"


def test_averages_come_first_also_without_eurosat_and_methods_as_in_the_paper(tmp_path: Path) -> None:
    table = table_of("I", read_back(tmp_path, some_records()))
    groups = list(dict.fromkeys(row.group for row in table.rows))
    assert groups == ["average of 3", "without EuroSAT", "Food101", "DTD", "EuroSAT"], "then as in the paper's table"
    assert [row.label for row in table.rows[:4]] == ["zero-shot", "coop", "maple", "anprompt"]
    food, dtd = (value(table, group, "coop", "base").mean for group in ("Food101", "DTD"))
    assert value(table, "without EuroSAT", "coop", "base").mean == pytest.approx((food + dtd) / 2)
    zero = rows_of(table)["DTD", "zero-shot"].cells
    assert (zero["seeds"], zero["base"]) == (None, (50, None)), "nothing is drawn: no seeds, no spread"


# What is missing


def test_half_a_seed_does_not_count_and_missing_runs_are_named(tmp_path: Path) -> None:
    records = [*halves("coop", "dtd", 1, 80, 40), *halves("coop", "dtd", 2, 90, 60), *halves("maple", "dtd", 1, 1, 2)]
    (lost,) = [entry for entry in records if entry["config"]["seed"] == 2 and entry["config"]["target_subset"] == "new"]
    records.remove(lost)
    table = table_of("I", read_back(tmp_path, records))
    assert value(table, "DTD", "coop", "base") == (80, None), "the base of seed 2 has no partner"
    assert rows_of(table)["DTD", "coop"].cells["seeds"] == "1"
    missing = note(table, "Incomplete")
    assert "DTD coop new seed 2" in missing
    assert "DTD maple seed 2" in missing, "both halves"
    assert "coop base" not in missing


def test_an_average_is_over_what_all_rows_have(tmp_path: Path) -> None:
    records = [entry for data in ("dtd", "food101", "ucf101") for entry in halves("coop", data, 1, 80, 60)]
    records += [entry for data in ("dtd", "food101") for entry in halves("maple", data, 1, 60, 80)]
    table = table_of("I", read_back(tmp_path, records))
    assert table.rows[0].group == "average of 2"
    assert "left out: UCF101." in note(table, "The average is over")
    assert "UCF101 maple seed 1" in note(table, "Incomplete")
    records = [*halves("coop", "dtd", 1, 80, 60), *halves("maple", "food101", 1, 80, 60)]
    apart = table_of("I", read_back(tmp_path / "apart", records))
    assert [row.group for row in apart.rows] == ["Food101", "DTD"]
    note(apart, "No average is shown")


def test_different_seeds_have_no_spread_of_the_average(tmp_path: Path) -> None:
    records = [
        *halves("coop", "dtd", 1, 80, 60),
        *halves("coop", "dtd", 2, 82, 60),
        *halves("coop", "food101", 1, 90, 60),
    ]
    table = table_of("I", read_back(tmp_path, records))
    assert value(table, "average of 2", "coop", "base") == (85.5, None)
    assert rows_of(table)["average of 2", "coop"].cells["seeds"] == "1-2"


# Transfer and few-shot


def transfer(protocol: str = "cross-dataset", source: str = "imagenet", **changes: Any) -> list[Record]:
    accuracies = {source: 71.0, "dtd": 45.0, "eurosat": 50.0, "food101": 86.0}
    return [
        record(protocol, "coop", data, "all", 1, accuracy, source=source, **changes)
        for data, accuracy in accuracies.items()
    ]


def test_transfers_from_another_source_do_not_stand_beside_the_papers(tmp_path: Path) -> None:
    def papers(name: str, source: str) -> set[str]:
        made = table_of("II", read_back(tmp_path / name, transfer(source=source)))
        filled = [key for row in made.rows for key, cell in row.cells.items() if cell is not None]
        return {key for key in filled if key.startswith(("paper", "difference"))}

    assert papers("own", "imagenet") == {"paper_accuracy", "difference_accuracy"}
    assert not papers("other", "caltech101")  # its EuroSAT was never trained on, and the paper's is from ImageNet


def test_the_average_of_a_transfer_leaves_the_source_out(tmp_path: Path) -> None:
    table = table_of("II", read_back(tmp_path, transfer()))
    groups = [row.group for row in table.rows]
    assert groups == ["average of 3", "without EuroSAT", "ImageNet (source)", "Food101", "DTD", "EuroSAT"]
    assert value(table, "average of 3", "coop", "accuracy").mean == pytest.approx((45 + 50 + 86) / 3)
    assert value(table, "without EuroSAT", "coop", "accuracy").mean == pytest.approx((45 + 86) / 2)
    chosen = table_of("II", read_back(tmp_path, transfer()), data_sets=["DTD"])
    assert [row.group for row in chosen.rows] == ["ImageNet (source)", "DTD"], "the source always stays"


def test_several_sources_need_a_choice(tmp_path: Path) -> None:
    results = read_back(tmp_path, [*transfer(), *transfer(source="sun397")])
    with pytest.raises(
        UserError, match=r"2 sources: imagenet \(ImageNet\), sun397 \(SUN397\)\. Choose one with --source"
    ):
        table_of("II", results)
    assert "from SUN397" in table_of("II", results, source="SUN397").title
    with pytest.raises(UserError, match="Did you mean 'imagenet'"):
        table_of("II", results, source="imagenets")


def shots(method: str, gain: float, data: str = "dtd") -> list[Record]:
    return [
        record("few-shot", method, data, "all", seed, 40 + 8 * i + gain + seed, shots=count)
        for i, count in enumerate((1, 2, 4, 8, 16))
        for seed in (1, 3)
    ]


def test_few_shot(tmp_path: Path) -> None:
    records = [*shots("maple", 0), *shots("anprompt", 1.5), record("few-shot", "zero-shot", "dtd", "all", None, 44)]
    table = table_of("6", read_back(tmp_path, records))
    assert [column.head for column in table.columns] == [
        "0 shots",
        "1 shot",
        "2 shots",
        "4 shots",
        "8 shots",
        "16 shots",
    ]
    assert value(table, "DTD", "maple", "2") == pytest.approx((50, 2**0.5))
    cells = rows_of(table)["DTD", "zero-shot"].cells
    assert {key: cell for key, cell in cells.items() if cell is not None} == {"0": (44, None)}
    assert "here 75.50, in the paper 74.27 (+1.23)" in note(table, "anprompt on DTD with 16 shots")
    assert "1: +1.50 (+2.76); 2: +1.50 (+2.29)" in note(table, "Gain of anprompt over maple")
    assert not [note for note in table.notes if note.startswith("Incomplete")], "zero-shot has no shots to miss"


def test_test_photos_that_anprompt_held_out_are_counted(tmp_path: Path) -> None:
    own = halves("coop", "mine", 1, 80, 40, own_split=True)  # 100 photos each
    table = table_of("I", read_back(tmp_path, [*own, *halves("coop", "given", 1, 80, 40)]))
    assert note(table, "Test photos") == (
        "Test photos held out by anprompt, because no test split was given: mine (200 photos)."
    )


def test_missing_shots_are_named_together(tmp_path: Path) -> None:
    records = [entry for entry in shots("coop", 0) if (entry["config"]["seed"], entry["config"]["shots"]) not in
               ((3, 4), (3, 8))]  # fmt: skip
    records.append(record("few-shot", "zero-shot", "food101", "all", None, 80))
    table = table_of("6", read_back(tmp_path, records))
    missing = note(table, "Incomplete")
    assert "DTD coop 4, 8 shots seed 3" in missing
    assert "Food101 coop seeds 1, 3" in missing
    assert "DTD zero-shot" in missing
    assert rows_of(table)["DTD", "coop"].cells["seeds"] == "1-2"


# What is told apart


def test_recipes_shots_and_splits_of_one_method_are_rows_of_their_own(tmp_path: Path) -> None:
    records = [*halves("coop", "dtd", 1, 80, 60), *halves("coop", "dtd", 1, 70, 60, recipe="matched/base-to-new")]
    table = table_of("I", read_back(tmp_path, records))
    assert [row.label for row in table.rows] == ["coop", "coop [matched]"]
    records = [*halves("coop", "dtd", 1, 80, 60), *halves("coop", "dtd", 1, 70, 60, shots=4)]
    table = table_of("I", read_back(tmp_path / "shots", records))
    assert [row.label for row in table.rows] == ["coop [16 shots]", "coop [4 shots]"]


def test_another_recipe_is_named_beside_methods_with_their_own(tmp_path: Path) -> None:
    matched = {"recipe": "matched/base-to-new"}
    zero = [*halves("zero-shot", "dtd", None, 50, 60), *halves("zero-shot", "dtd", None, 50, 60, **matched)]
    own, others = halves("coop", "dtd", 1, 80, 60), halves("maple", "dtd", 1, 70, 60, **matched)
    table = table_of("I", read_back(tmp_path / "mixed", [*zero, *own, *others]))
    assert [row.label for row in table.rows] == ["zero-shot", "coop", "maple [matched]"]
    table = table_of("I", read_back(tmp_path / "alike", [*zero, *others, *halves("coop", "dtd", 1, 7, 6, **matched)]))
    assert [row.label for row in table.rows] == ["zero-shot", "coop", "maple"]


def test_results_that_belong_into_one_cell_are_refused_if_they_differ(tmp_path: Path) -> None:
    records = [*halves("coop", "dtd", 1, 80, 60), *halves("coop", "dtd", 1, 70, 60, subset="all")]
    with pytest.raises(UserError, match=r"belong into the same cell of the table \(coop on DTD\)"):
        table_of("I", read_back(tmp_path, records))
    zero = [record("few-shot", "zero-shot", "dtd", "all", None, 44, shots=count) for count in (1, 2, 4)]
    table = table_of("6", read_back(tmp_path / "zero", zero))
    assert value(table, "DTD", "zero-shot", "0") == (44, None), "measured three times, the same"


def test_nothing_is_left(tmp_path: Path) -> None:
    results = read_back(tmp_path, [*halves("coop", "dtd", 1, 80, 60), *halves("maple", "food101", 1, 70, 60)])
    with pytest.raises(UserError, match="None of the methods coop has results on food101"):
        table_of("I", results, methods=["coop"], data_sets=["Food101"])


def test_only_half_of_everything(tmp_path: Path) -> None:
    (base, _) = halves("coop", "dtd", 1, 80, 60)
    table = table_of("I", read_back(tmp_path, [base]))
    assert table.rows == ()
    assert "DTD coop new seed 1" in note(table, "Incomplete")


def test_several_backbones_need_a_choice(tmp_path: Path) -> None:
    records = [
        *halves("coop", "dtd", 1, 80, 60),
        *halves("coop", "dtd", 1, 70, 50, backbone="/models/small.pt", weights="b" * 64),
    ]
    results = read_back(tmp_path, records)
    with pytest.raises(UserError, match=r"2 backbones.*small.pt \(bbbbbbbbbbbb\), openai/.*--backbone"):
        table_of("I", results)
    for choice in ("/models/small.pt", "small.pt", "b" * 12):
        assert value(table_of("I", results, backbone=choice), "DTD", "coop", "base").mean == 70
    with pytest.raises(UserError, match="Unknown backbone"):
        table_of("I", results, backbone="b")


def test_recipes_and_decisions_are_named(tmp_path: Path) -> None:
    own = [*halves("coop", "dtd", 1, 80, 60), *halves("maple", "dtd", 1, 80, 60, decision="a mixture")]
    table = table_of("I", read_back(tmp_path / "own", own))
    assert "each method under its own published recipe" in note(table, "Recipes")
    assert note(table, "Decided by") == "Decided by: a mixture (maple); cosine of both features (coop)."
    zero = halves("zero-shot", "dtd", None, 50, 60)
    shared = [
        *halves("coop", "dtd", 1, 80, 60, recipe="matched/b"),
        *halves("maple", "dtd", 1, 8, 6, recipe="matched/b"),
    ]
    table = table_of("I", read_back(tmp_path / "shared", [*shared, *zero]))
    assert note(table, "Recipe") == "Recipe: matched/b.", "zero-shot trains nothing, so it has no recipe to differ in"


@given(st.floats(1, 100), st.floats(1, 100))
def test_hm_of_one_seed_is_the_harmonic_mean(base: float, new: float) -> None:
    assert harmonic_mean(base, new) == pytest.approx(statistics.harmonic_mean([base, new]))
