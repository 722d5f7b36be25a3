"""The number format of the frozen towers: how it is chosen, said, kept and overridden. Nothing here depends on time."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from anprompt import PromptClassifier, load_backbone
from anprompt.adapter import read_document
from anprompt.clip import Backbone, precision
from anprompt.clip.precision import (
    CLEARLY,
    FEW,
    NARROW,
    ROWS,
    Choice,
    choose_precision,
    precision_of_adapter,
    suitable_threads,
)
from anprompt.data import open_data
from anprompt.errors import UserError
from anprompt.settings import Note
from anprompt.training import train
from anprompt.training.checkpoint import FILE, kept_precision
from helpers_clip import random_backbone
from helpers_fit import estimator, new_method, pictures, short_recipe

Measure = Callable[[float], None]


def wide_backbone() -> Backbone:
    """The smallest that is worth measuring: one tower of width 256, one block each."""
    return random_backbone(vision_width=NARROW, vision_heads=4, vision_depth=1, text_depth=1)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Sets what the measurement gives; before, measuring fails the test."""
    monkeypatch.setattr(precision, "bf16_speedup", lambda *_: pytest.fail("the machine was measured"))

    def gives(speedup: float) -> None:
        monkeypatch.setattr(precision, "bf16_speedup", lambda *_: speedup)

    return gives


def on(device: str, width: int = 768) -> Any:
    """What the choice sees of a backbone on another device."""
    config = SimpleNamespace(vision=SimpleNamespace(width=width), text=SimpleNamespace(width=width))
    return SimpleNamespace(device=torch.device(device), config=config)


# ---- choosing --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("measured")
def test_what_is_asked_for_is_taken_and_narrow_towers_stay_exact_without_measuring() -> None:
    assert choose_precision("fp32", on("cpu")) == Choice("fp32")
    assert choose_precision("bf16", on("cpu", width=32)) == Choice("bf16")
    for device in ("cpu", "cuda", "mps"):
        assert choose_precision("auto", on(device, width=NARROW - 1)) == Choice("fp32")
    assert choose_precision("auto", load_backbone("miniature")) == Choice("fp32"), "the demo's numbers are fp32's"


@pytest.mark.parametrize("device", ["cpu", "mps"])
@pytest.mark.parametrize(
    ("speedup", "chosen", "words"),
    [
        (3.94, "bf16", "the towers run in bf16: 3.9 times faster here than fp32 (--recipe.precision fp32 overrides)"),
        (CLEARLY, "bf16", "run in bf16: 1.2 times"),
        (CLEARLY - 0.01, "fp32", "run in fp32: bf16 is 1.2 times as fast"),
        (0.3, "fp32", "the towers run in fp32: bf16 is 0.3 times as fast here (--recipe.precision bf16 overrides)"),
        (0.0, "fp32", "fp32"),
    ],
)
def test_bf16_only_where_it_is_clearly_faster(
    device: str, speedup: float, chosen: str, words: str, measured: Measure
) -> None:
    measured(speedup)
    choice = choose_precision("auto", on(device, width=NARROW))
    assert (choice.precision, choice.speedup) == (chosen, speedup)
    assert words in choice.why


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("supported", [True, False])
def test_a_cuda_device_uses_what_it_has_without_measuring(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def answer(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return supported

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", answer)
    assert choose_precision("auto", on("cuda")).precision == ("bf16" if supported else "fp32")
    choice = choose_precision("auto", on("cpu"), device=torch.device("cuda"))  # before anything is there
    assert choice.precision == ("bf16" if supported else "fp32")
    assert asked == [False, False], "imitated bf16 is slow"


def test_an_adapter_runs_as_it_was_trained_unless_bf16_is_slow_here(measured: Measure) -> None:
    here = on("cpu")
    assert precision_of_adapter("fp32", "auto", here) == Choice("fp32")
    assert precision_of_adapter("bf16", "bf16", here) == Choice("bf16"), "asked for"
    assert precision_of_adapter("bf16", "auto", on("cuda")) == Choice("bf16")
    assert precision_of_adapter("bf16", "auto", here, torch.device("cuda")) == Choice("bf16")
    measured(1.2)  # too little to choose it, enough to keep it
    assert precision_of_adapter("bf16", "auto", here) == Choice("bf16")
    measured(0.4)
    choice = precision_of_adapter("bf16", "auto", here)
    assert choice.precision == "fp32"
    assert "trained in bf16, which is 0.4 times as fast here" in choice.why


# ---- measuring -------------------------------------------------------------------------------------------------------


def test_measuring_leaves_threads_and_random_numbers_alone_and_happens_once() -> None:
    config = wide_backbone().config
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    precision.bf16_speedup.cache_clear()
    try:
        first = precision.bf16_speedup(torch.device("cpu"), config)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert math.isfinite(first)
    assert first > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert precision.bf16_speedup(torch.device("cpu"), config) == first
    assert precision.bf16_speedup.cache_info().misses == 1


def with_seconds(monkeypatch: pytest.MonkeyPatch, exact: list[float], rough: list[float]) -> list[int]:
    """Replace the clock: the n-th run in each format takes the n-th of these; returns the rows of all runs."""
    runs: list[int] = []

    def seconds(_: Any, rows: int, device: torch.device) -> float:
        runs.append(rows)
        times, n = (rough, exact)[len(runs) % 2], (len(runs) - 1) // 2
        return times[min(n, len(times) - 1)]

    monkeypatch.setattr(precision, "_seconds", seconds)
    monkeypatch.setattr(precision, "SECONDS", 0.0)
    precision.bf16_speedup.cache_clear()
    return runs


def test_the_fastest_runs_are_compared_and_the_first_ones_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = with_seconds(monkeypatch, [0.1, 4.0, 0.1, 8.0, 6.0], [0.1, 2.0, 0.1, 3.0, 5.0])
    assert precision.bf16_speedup(torch.device("cpu"), wide_backbone().config) == 6.0 / 3.0
    assert runs == [FEW] * 4 + [ROWS] * 6


def test_imitated_bf16_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = with_seconds(monkeypatch, [1.0], [10.0])
    assert precision.bf16_speedup(torch.device("cpu"), wide_backbone().config) == 0.1
    assert runs == [FEW] * 4


def test_a_device_without_the_format_gives_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> float:
        raise TypeError("BFloat16 is not supported on this device")

    monkeypatch.setattr(precision, "_seconds", refused)
    precision.bf16_speedup.cache_clear()
    assert precision.bf16_speedup(torch.device("cpu"), wide_backbone().config) == 0.0
    precision.bf16_speedup.cache_clear()


# ---- in use ----------------------------------------------------------------------------------------------------------


def test_frozen_towers_in_bf16_give_nearly_the_same_features_and_train_in_fp32() -> None:
    exact, rough = random_backbone(), random_backbone().in_precision("bf16")
    pixels = exact.transform.normalise(torch.stack([image[:, :32, :32] for image in pictures(6).images]))
    for theirs, ours in (
        (exact.encode_image(pixels), rough.encode_image(pixels)),
        (exact.encode_text(["a photo of a cat.", "a dog"]), rough.encode_text(["a photo of a cat.", "a dog"])),
    ):
        assert ours.dtype == torch.float32
        assert not torch.equal(ours, theirs)
        assert (ours * theirs).sum(dim=1).min() > 0.99
    method = new_method(backbone=rough)
    frozen = {name: tensor.clone() for name, tensor in rough.state_dict().items()}
    terms: list[dict[str, float]] = []
    train(method, pictures(8), short_recipe(), seed=1, report=lambda *row: terms.append(row[3]))
    assert {parameter.dtype for parameter in method.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in frozen.values()} == {torch.float32, torch.bfloat16}
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in rough.state_dict().items())
    assert len(terms) == 6
    assert all(math.isfinite(value) for row in terms for value in row.values())


def fitted(folder: Path, photos: Path, *, resume: bool = False, **recipe: Any) -> tuple[PromptClassifier, list[str]]:
    """A classifier trained on a backbone that is wide enough, and what was said meanwhile."""
    made = estimator(wide_backbone(), options={"layers": "last-1"}, recipe=recipe)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made.fit(photos, folder=folder, resume=resume)
    return made, [str(warning.message) for warning in said if warning.category is Note]


def test_the_choice_is_said_once_and_recorded(photo_folder: Path, tmp_path: Path, measured: Measure) -> None:
    measured(3.2)
    made, said = fitted(tmp_path / "a", photo_folder)
    assert said == ["the towers run in bf16: 3.2 times faster here than fp32 (--recipe.precision fp32 overrides)"]
    assert made.record_["precision"] == {"towers": "bf16", "speedup": 3.2}
    assert made.record_["config"]["recipe"]["precision"] == "auto", "what was asked for identifies the run"
    assert read_document(made.save(tmp_path / "adapter"))["precision"] == "bf16"
    made, said = fitted(tmp_path / "b", photo_folder, precision="fp32")
    assert said == []
    assert made.record_["precision"] == {"towers": "fp32", "speedup": None}


def test_a_resumed_run_keeps_the_precision_of_the_interrupted_one(
    photo_folder: Path, tmp_path: Path, measured: Measure
) -> None:
    measured(3.2)
    whole, _ = fitted(tmp_path / "whole", photo_folder, epochs=2)
    assert kept_precision(tmp_path / "whole") == "bf16"
    cut = estimator(wide_backbone(), options={"layers": "last-1"}, recipe={"epochs": 2})

    def stop(stage: str, done: int, *_: Any) -> None:
        if (stage, done) == ("training", 3):
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError), pytest.warns(Note, match="bf16"):
        cut.fit(photo_folder, folder=tmp_path / "cut", progress=stop)
    measured(0.5)  # now the machine is busy, or another one
    resumed, said = fitted(tmp_path / "cut", photo_folder, resume=True, epochs=2)
    assert said == []
    assert resumed.record_["precision"]["towers"] == "bf16"
    assert resumed.record_["steps"] == 4, "of the whole run"
    assert all(a.equal(b) for a, b in zip(resumed.method_.parameters(), whole.method_.parameters(), strict=True))
    with pytest.raises(UserError, match=r"precision: bf16 → fp32; recipe\.precision: auto → fp32"):
        fitted(tmp_path / "cut", photo_folder, resume=True, epochs=2, precision="fp32")


@pytest.mark.parametrize("content", [None, b"", b"not a state"])
def test_nothing_is_taken_from_a_state_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    assert kept_precision(tmp_path) is None


def test_a_loaded_adapter_gives_the_same_bits_or_the_precision_asked_for(
    photo_folder: Path, tmp_path: Path, measured: Measure
) -> None:
    measured(3.2)
    made, _ = fitted(tmp_path / "run", photo_folder)
    folder = made.save(tmp_path / "adapter")
    photos = sorted((photo_folder / "test").rglob("*.*"))
    expected = made.decision_function(photos)
    assert np.array_equal(PromptClassifier.load(folder, wide_backbone()).decision_function(photos), expected)
    exact = PromptClassifier.load(folder, wide_backbone(), precision="fp32")
    assert exact.method_.backbone.precision == "fp32"
    assert not np.array_equal(exact.decision_function(photos), expected)
    measured(0.5)
    with pytest.warns(Note, match="trained in bf16"):
        elsewhere = PromptClassifier.load(folder, wide_backbone())
    assert np.array_equal(elsewhere.decision_function(photos), exact.decision_function(photos))
    with pytest.raises(UserError, match=r"Unknown precision 'fp16'.*'bf16'"):
        PromptClassifier.load(folder, wide_backbone(), precision="fp16")


@pytest.mark.parametrize("method", ["anprompt", "zero-shot", "tip-adapter"])  # the latter two read frozen features
def test_classifiers_in_another_precision_on_the_same_backbone_change_nothing(
    method: str, photo_folder: Path, tmp_path: Path
) -> None:
    photos = sorted((photo_folder / "test").rglob("*.*"))
    options = {"layers": "last-1"} if method == "anprompt" else {}

    def fitted_on(backbone: Backbone, precision: str) -> PromptClassifier:
        return estimator(backbone, method=method, options=options, recipe={"precision": precision}).fit(photo_folder)

    alone = {precision: fitted_on(wide_backbone(), precision) for precision in ("fp32", "bf16")}
    answers = {precision: made.decision_function(photos) for precision, made in alone.items()}
    assert not np.array_equal(answers["fp32"], answers["bf16"])
    shared = wide_backbone()
    exact, rough = fitted_on(shared, "fp32"), fitted_on(shared, "bf16")
    loaded = PromptClassifier.load(alone["bf16"].save(tmp_path / "adapter"), shared)
    assert shared.precision == "fp32"
    for made, own in ((exact, "fp32"), (rough, "bf16"), (exact, "fp32"), (loaded, "bf16"), (exact, "fp32")):
        assert np.array_equal(made.decision_function(photos), answers[own])
        assert made.method_.backbone.precision == own
    view = exact.with_classes(exact.classes_[::-1]) if exact.method_.supports_new_classes else exact
    assert view.method_.backbone is shared


@pytest.mark.slow
def test_an_adapter_trained_in_bf16_answers_alike_in_fp32(tmp_path: Path) -> None:
    source = open_data("toyworld:night")
    recipe = {"epochs": 1, "batch": 8, "precision": "bf16"}  # few: without bf16 products each takes half a second
    made = PromptClassifier("miniature", shots=2, subset="base", recipe=recipe).fit(source)
    folder = made.save(tmp_path / "adapter")
    exact = PromptClassifier.load(folder, precision="fp32")
    pictures = [source.open(item) for item in source.subset("base").splits["test"][::8]]
    rough_logits, logits = (torch.from_numpy(c.decision_function(pictures)) for c in (made, exact))
    assert len(pictures) == 60
    assert not torch.equal(rough_logits, logits)
    assert (rough_logits.argmax(dim=1) == logits.argmax(dim=1)).float().mean() >= 0.95
    assert (rough_logits.softmax(dim=1) - logits.softmax(dim=1)).abs().mean() < 0.005


def test_narrow_towers_run_in_one_thread_and_wide_ones_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = random_backbone()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with suitable_threads(narrow):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), suitable_threads(narrow):
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
        monkeypatch.setattr("anprompt.clip.precision.NARROW", 1)
        with suitable_threads(narrow):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("started", ["before", "meanwhile"])
def test_overlapping_predictions_leave_every_thread_what_it_had(started: str) -> None:
    """A thread that starts while another one runs with one thread must not stay with one for ever."""
    narrow, before = random_backbone(), torch.get_num_threads()
    first_is_in, second_is_in = threading.Event(), threading.Event()
    torch.set_num_threads(2)

    def second() -> tuple[int, int]:
        first_is_in.wait()
        with suitable_threads(narrow):
            inside = torch.get_num_threads()
            second_is_in.set()
        return inside, torch.get_num_threads()

    try:
        with ThreadPoolExecutor(max_workers=1) as pool:
            early = pool.submit(torch.get_num_threads).result() if started == "before" else 2
            with suitable_threads(narrow):
                other = pool.submit(second)
                first_is_in.set()
                assert second_is_in.wait(timeout=60)
                with suitable_threads(narrow):
                    pass
                assert (torch.get_num_threads(), other.result()) == (1, (1, 2))
            assert (early, torch.get_num_threads(), pool.submit(torch.get_num_threads).result()) == (2, 2, 2)
    finally:
        torch.set_num_threads(before)
