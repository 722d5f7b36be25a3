"""States kept in the course of a run: when they are written, and what a continued run takes from them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from anprompt.clip import Backbone
from anprompt.settings import Note
from anprompt.training import kept_class_chunk, loop, memory, train
from anprompt.training.memory import GIB, StepMemory
from helpers_clip import random_backbone
from helpers_fit import Vector, copies, estimator, new_method, pictures, positions, same, short_recipe


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone()


class Killed(BaseException):
    """Nothing of the process's own runs after it."""


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("killed_in", [2, 4, 5, 9])
def test_killed_in_the_middle_of_an_epoch_it_goes_on_from_a_state_of_that_epoch(
    killed_in: int, every: int, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "steps_between_reads", lambda _: every)
    monkeypatch.setattr(loop, "KEEP_EVERY", 0.0)
    arguments: dict[str, Any] = {"seed": 1, "fingerprint": {"name": "test"}}
    data, recipe = pictures(24), short_recipe(epochs=2)  # six steps an epoch
    whole = new_method(backbone=backbone)
    train(whole, data, recipe, **arguments)
    cut, calls = new_method(backbone=backbone), 0
    losses = cut.losses

    def killed(batch: Any) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == killed_in:
            raise Killed
        return losses(batch)

    monkeypatch.setattr(cut, "losses", killed)
    with pytest.raises(Killed):
        train(cut, data, recipe, folder=tmp_path, **arguments)
    resumed = new_method(backbone=backbone)
    result = train(resumed, data, recipe, folder=tmp_path, resume=True, **arguments)
    assert result.resumed_at == divmod(killed_in - 1, 6), "only the step that was not finished is repeated"
    assert (result.steps, len(result.history)) == (12, 2)
    assert same(copies(resumed), copies(whole))
    assert positions(tmp_path) == [(epoch, step) for epoch in (1, 2) for step in range(1, 7)]


def test_the_time_between_two_states_counts_from_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    kept: list[tuple[float, int, int]] = []

    def later(*_: Any) -> None:
        nonlocal now
        now += 200

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(loop, "save_state", lambda *arguments: kept.append((now, *arguments[3:5])))
    train(Vector(random_backbone()), pictures(20), short_recipe(epochs=2), seed=1, folder=tmp_path, report=later)
    within = [(400, 0, 2), (800, 0, 4), (1000, 1, 0), (1400, 1, 2), (1800, 1, 4), (2000, 2, 0)]
    assert kept == within, "five steps of 200 seconds an epoch"


def cut_off(backbone: Backbone, photos: Path, folder: Path, chunk: int | None) -> None:
    """The first three steps of four, with the texts of ``chunk`` classes at a time."""

    def stop(stage: str, done: int, *_: Any) -> None:
        if (stage, done) == ("training", 3):
            raise Killed

    backbone.class_chunk = chunk
    try:
        with pytest.raises(Killed):
            estimator(backbone, recipe={"epochs": 2}).fit(photos, folder=folder, progress=stop)
    finally:
        backbone.class_chunk = None


@pytest.mark.parametrize("chunk", [None, 1])
def test_a_continued_run_has_as_many_classes_at_a_time_as_before(
    chunk: int | None, backbone: Backbone, photo_folder: Path, tmp_path: Path
) -> None:
    cut_off(backbone, photo_folder, tmp_path, chunk)
    assert kept_class_chunk(tmp_path) == (chunk or 0)
    backbone.class_chunk = chunk
    try:
        whole = estimator(backbone, recipe={"epochs": 2}).fit(photo_folder)
        backbone.class_chunk = None if chunk else 2  # as where another amount of memory is free
        resumed = estimator(backbone, recipe={"epochs": 2}).fit(photo_folder, folder=tmp_path, resume=True)
    finally:
        backbone.class_chunk = None
    assert resumed.record_["memory"]["class_chunk"] == chunk
    assert resumed.record_["steps"] == 4, "of the whole run"
    assert same(copies(resumed.method_), copies(whole.method_))


def test_fewer_classes_at_a_time_than_before_are_said(
    backbone: Backbone, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(backbone, photo_folder, tmp_path, None)
    monkeypatch.setattr(memory, "SMALLEST_CHUNK", 1)
    monkeypatch.setattr(
        memory, "estimate_step", lambda *_: StepMemory(0, 0, GIB if backbone.class_chunk == 2 else 2 * GIB, 0)
    )
    made = estimator(backbone, recipe={"epochs": 2}, memory_gb=1.5)
    with pytest.warns(Note, match="the interrupted run had the texts of all classes at a time, for which there is too"):
        made.fit(photo_folder, folder=tmp_path, resume=True)
    assert made.record_["memory"]["class_chunk"] == 2


@pytest.mark.parametrize("content", [None, b"", b"not a state"])
def test_no_number_of_classes_is_taken_from_a_state_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "state.safetensors").write_bytes(content)
    assert kept_class_chunk(tmp_path) is None
