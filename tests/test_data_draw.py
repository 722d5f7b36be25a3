"""The few-shot draw and the base/new split equal the field's."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anprompt import PromptClassifier
from anprompt.data import DataSource, Item, base_new_split, draw_few_shot, draw_validation, short_classes
from anprompt.data.draw import spread
from anprompt.errors import UserError
from helpers_clip import random_backbone

BACKBONE = random_backbone()
LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=80)


def items_of(labels: list[int], split: str = "train") -> list[Item]:
    return [Item(f"{split}/{i}.jpg", label, f"class {label}") for i, label in enumerate(labels)]


def literal_draw(lists: list[tuple[list[Item], int]], seed: int) -> list[list[Item]]:
    """The field's rule in its own terms: seed Python's global generator, then sample class by class, list by list."""
    state = random.getstate()
    random.seed(seed)
    drawn = []
    for items, shots in lists:
        by_label = defaultdict(list)
        for item in items:
            by_label[item.label].append(item)
        drawn.append([i for g in by_label.values() for i in (random.sample(g, shots) if len(g) >= shots else g)])
    random.setstate(state)
    return drawn


@given(LABELS, LABELS, st.integers(1, 20), st.integers(0, 10_000))
def test_draws_equal_the_literal_rule(train: list[int], val: list[int], shots: int, seed: int) -> None:
    train_items, val_items = items_of(train), items_of(val, "val")
    expected = literal_draw([(train_items, shots), (val_items, min(shots, 4))], seed)
    assert draw_few_shot(train_items, shots, seed) == expected[0]
    assert draw_validation(val_items, shots, seed, train_items=train_items) == expected[1]


@given(LABELS, st.integers(1, 20))
def test_every_class_gives_its_shots_or_all_it_has(labels: list[int], shots: int) -> None:
    items = items_of(labels)
    available = Counter(labels)
    drawn = draw_few_shot(items, shots, seed=1)
    assert Counter(item.label for item in drawn) == {label: min(n, shots) for label, n in available.items()}
    assert len(set(drawn)) == len(drawn)
    assert list(dict.fromkeys(i.label for i in drawn)) == list(dict.fromkeys(labels))  # order of first appearance
    assert short_classes(items, shots) == {f"class {label}": n for label, n in available.items() if n < shots}


def test_global_generator_is_left_alone() -> None:
    items = items_of([0, 1] * 20)
    random.seed(5)
    before = random.getstate()
    draw_validation(items, 4, 1, train_items=items)
    assert random.getstate() == before
    first = draw_few_shot(items, 4, 1)
    random.seed(6)
    assert draw_few_shot(items, 4, 1) == first
    assert draw_few_shot(items, 4, 2) != first


def test_plain_tuples_work_and_no_shots_are_refused() -> None:
    assert draw_few_shot([("a.jpg", 0, "a"), ("b.jpg", 1, "b")], 1, 1) == [("a.jpg", 0, "a"), ("b.jpg", 1, "b")]
    with pytest.raises(UserError, match="shots must be 1 or more, not 0"):
        draw_few_shot(items_of([0, 1]), 0, 1)


@given(st.lists(st.integers(0, 50)))
def test_base_new_split(labels: list[int]) -> None:
    base, new = base_new_split(labels)
    assert base + new == sorted(set(labels))
    assert len(base) - len(new) in (0, 1)


@pytest.mark.parametrize(("classes", "base"), [(1000, 500), (397, 199), (101, 51), (47, 24), (37, 19), (2, 1), (1, 1)])
def test_base_takes_the_odd_class(classes: int, base: int) -> None:
    labels = [label for label in reversed(range(classes)) for _ in range(2)]
    assert base_new_split(labels) == (list(range(base)), list(range(base, classes)))


@settings(deadline=None, max_examples=20)
@given(st.permutations([label for label in range(4) for _ in range(5)]), st.integers(0, 100))
def test_base_classes_are_drawn_from_the_whole_list(labels: list[int], seed: int) -> None:
    """As the field does: where the list mixes the classes, drawing from the base classes alone gives other photos."""
    items = items_of(labels)
    data = DataSource("mixed", tuple(f"class {label}" for label in range(4)), {"train": items}, opener=_grey)
    (expected,) = literal_draw([(items, 2)], seed)
    fitted = PromptClassifier(
        BACKBONE, "linear-probe", recipe={"epochs": 1}, shots=2, subset="base", random_state=seed
    ).fit(data)
    assert fitted.record_["drawn"] == [item.path for item in expected if item.label in (0, 1)]


def _grey(item: Item) -> Image.Image:
    return Image.new("RGB", (8, 8))


@pytest.mark.real
def test_published_draws(real: Path) -> None:
    split = json.loads((real / "splits/split_zhou_EuroSAT.json").read_text())
    items = [Item(*entry) for entry in split["train"]]
    drawn = draw_few_shot(items, 16, seed=1)
    assert [Path(item.path).stem for item in drawn[:2]] == ["AnnualCrop_2365", "AnnualCrop_93"]
    assert Counter(item.label for item in drawn) == dict.fromkeys(range(10), 16)


SPLITS = ("Caltech101", "DescribableTextures", "EuroSAT", "OxfordFlowers", "OxfordPets", "StanfordCars", "UCF101")


@pytest.mark.real
@pytest.mark.parametrize("name", SPLITS)
def test_draws_on_the_published_splits(real: Path, name: str) -> None:
    split = json.loads((real / f"splits/split_zhou_{name}.json").read_text())
    train, val = ([Item(*entry) for entry in split[part]] for part in ("train", "val"))
    available = Counter(item.label for item in train)
    for shots in (1, 2, 4, 8, 16):
        for seed in (1, 2, 3):
            expected = literal_draw([(train, shots), (val, min(shots, 4))], seed)
            drawn = [draw_few_shot(train, shots, seed), draw_validation(val, shots, seed, train_items=train)]
            assert drawn == expected, (shots, seed)
            assert Counter(i.label for i in drawn[0]) == {label: min(n, shots) for label, n in available.items()}


@given(LABELS, st.integers(1, 9))
def test_spread_takes_some_of_every_class_in_the_order_of_the_list(labels: list[int], most: int) -> None:
    items = items_of(labels)
    kept = spread(items, most)
    assert kept == [item for item in items if item in kept]
    assert Counter(item.label for item in kept) == {label: min(most, n) for label, n in Counter(labels).items()}
