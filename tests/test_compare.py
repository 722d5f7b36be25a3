"""Two methods compared: by hand, against scipy, and when nothing can be concluded."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.errors import UserError
from anprompt.results.compare import FEWEST, compare, from_differences
from helpers_records import Record, halves, read_back, record, table_of


def test_pairs_are_of_one_data_set_and_seed(tmp_path: Path) -> None:
    records: list[Record] = []
    for seed, (base, new) in enumerate([(80, 40), (90, 60)], start=1):
        records += halves("coop", "dtd", seed, base, new)  # HM 53.33 and 72
    records += halves("maple", "dtd", 2, 60, 60)  # HM 60
    records += halves("maple", "dtd", 3, 10, 10)  # coop has no seed 3
    records += halves("coop", "food101", 1, 50, 50)  # maple has nothing there
    found = compare(table_of("I", read_back(tmp_path, records)), "coop", "maple")
    assert (found.pairs, found.wins, found.losses, found.measure) == (1, 1, 0, "HM")
    assert found.mean == pytest.approx(12)
    assert (found.p_value, found.interval) == (None, None)
    assert "Too few pairs that differ to conclude anything: at least 6" in found.in_words


def test_zero_shot_is_paired_with_every_seed(tmp_path: Path) -> None:
    records = [*halves("zero-shot", "dtd", None, 50, 50)]
    for seed in (1, 2, 3):
        records += halves("coop", "dtd", seed, 50 + seed, 50 + seed)
    table = table_of("I", read_back(tmp_path, records))
    found = compare(table, "coop", "zero-shot")
    assert (found.pairs, found.mean) == (3, pytest.approx(2))
    other = compare(table, "zero-shot", "coop")
    assert (other.mean, other.wins, other.losses) == (pytest.approx(-2), 0, 3)


def test_the_source_of_a_transfer_is_no_pair_and_shots_are(tmp_path: Path) -> None:
    transfer = [
        record("cross-dataset", method, data, "all", 1, 50 + len(method), source="imagenet")
        for method in ("coop", "maple")
        for data in ("imagenet", "dtd")
    ]
    assert compare(table_of("II", read_back(tmp_path / "ii", transfer)), "coop", "maple").pairs == 1
    few = [
        record("few-shot", method, "dtd", "all", seed, 50 + shots, shots=shots)
        for method in ("coop", "maple")
        for shots in (1, 2, 4)
        for seed in (1, 2)
    ]
    table = table_of("6", read_back(tmp_path / "few", [*few, record("few-shot", "zero-shot", "dtd", "all", None, 50)]))
    assert compare(table, "coop", "maple").pairs == 6
    assert compare(table, "coop", "zero-shot").pairs == 6
    assert compare(table, "coop", "zero-shot").mean == pytest.approx(7 / 3)


def test_an_unknown_row_gets_the_nearest(tmp_path: Path) -> None:
    table = table_of("I", read_back(tmp_path, halves("coop", "dtd", 1, 80, 40)))
    with pytest.raises(UserError, match="Did you mean 'coop'"):
        compare(table, "coop", "cop")


def test_nothing_in_common(tmp_path: Path) -> None:
    records = [*halves("coop", "dtd", 1, 80, 40), *halves("maple", "food101", 1, 80, 40)]
    found = compare(table_of("I", read_back(tmp_path, records)), "coop", "maple")
    assert (found.pairs, found.mean) == (0, None)
    assert "no data set and seed in common" in found.in_words


def sign_test(wins: int, losses: int) -> float:
    """Two-sided: the chance of a split at least as uneven, if both were equally likely."""
    n, extreme = wins + losses, max(wins, losses)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(extreme, n + 1)) / 2**n)


differences = st.lists(st.floats(-20, 20).map(lambda number: round(number, 2)), max_size=24)


@settings(deadline=None, max_examples=30)
@given(differences, st.randoms(use_true_random=False))
def test_what_is_computed_whatever_the_order(numbers: list[float], order: random.Random) -> None:
    found = from_differences("a", "b", "HM", numbers)
    wins, losses = sum(n > 0 for n in numbers), sum(n < 0 for n in numbers)
    assert (found.pairs, found.wins, found.losses) == (len(numbers), wins, losses)
    assert found.mean == (pytest.approx(np.mean(numbers)) if numbers else None)
    if wins + losses < FEWEST:
        assert (found.p_value, found.interval) == (None, None)
    else:
        assert found.p_value == pytest.approx(sign_test(wins, losses))
    if found.interval is not None:
        assert min(numbers) <= found.interval[0] <= found.interval[1] <= max(numbers)
    order.shuffle(numbers)
    assert from_differences("a", "b", "HM", numbers) == found
    mirrored = from_differences("b", "a", "HM", [-number for number in numbers])
    assert (mirrored.p_value, mirrored.wins) == (found.p_value, found.losses)


def test_fewest_is_where_the_sign_test_can_first_say_something() -> None:
    assert sign_test(FEWEST - 1, 0) > 0.05 > sign_test(FEWEST, 0)


def test_the_interval_is_about_as_wide_as_theory_says() -> None:
    numbers = np.random.default_rng(0).normal(1.0, 2.0, 200)
    found = from_differences("a", "b", "HM", list(numbers))
    assert found.interval is not None
    middle, half = numbers.mean(), 1.96 * numbers.std(ddof=1) / 200**0.5
    assert found.interval == pytest.approx((middle - half, middle + half), abs=0.05)


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ([1.0, 2.0, 1.5, 0.5, 2.5, 1.2, 0.7], "a is better by more than chance explains"),
        ([-1.0, -2.0, -1.5, -0.5, -2.5, -1.2, -0.7], "b is better by more than chance explains"),
        ([1.0, -1.0, 2.0, -2.0, 0.5, -0.6], "The difference may be chance"),
        ([0.1] * 9 + [-20.0], "The difference may be chance"),  # many small wins, one large loss
        ([1.0] * 8, "a is better by more than chance explains"),  # constant: no interval, and none is needed
        ([1.0, 1.0, 1.0], "Too few pairs"),
        ([0.0] * 10, "Too few pairs that differ"),
    ],
)
def test_verdicts(numbers: list[float], verdict: str) -> None:
    assert verdict in from_differences("a", "b", "HM", numbers).in_words
