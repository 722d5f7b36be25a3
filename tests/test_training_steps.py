"""Steps of the training loop whose numbers stay on the device for a while, and batches made ahead."""

from __future__ import annotations

import json
import math
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.clip import ImageTransform
from anprompt.errors import UserError
from anprompt.methods import Method
from anprompt.training import TrainingResult, batches, checkpoint, loop, train
from anprompt.training.batches import one_ahead, prefetches
from anprompt.training.checkpoint import FILE, load_state
from anprompt.training.log import LOG, StepReader, steps_between_reads
from helpers_clip import random_backbone
from helpers_fit import Vector, copies, new_method, pictures, same, short_recipe, state_of

# ---- numbers that stay on the device for some steps ------------------------------------------------------------------


def shallow(**options: Any) -> Method:
    """A method on few blocks: what is tested here does not depend on their number."""
    return new_method(backbone=random_backbone(vision_depth=3, text_depth=3), layers="last-2", **options)


def trained_with_reads(
    every: int, monkeypatch: pytest.MonkeyPatch, folder: Path, method: Any, n: int = 30, **recipe: Any
) -> tuple[dict[str, torch.Tensor], list[Any], list[dict[str, Any]], TrainingResult]:
    """Tensors, reported rows, log without times and result of a run that reads its numbers ``every`` few steps."""
    monkeypatch.setattr(loop, "steps_between_reads", lambda _: every)
    reported: list[Any] = []
    result = train(
        method, pictures(n), short_recipe(**recipe), seed=1, folder=folder, report=lambda *r: reported.append(r)
    )
    rows = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return copies(method), reported, rows, result


@pytest.mark.parametrize("every", [5, 100])
def test_reading_numbers_seldom_changes_nothing(every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, reported, rows, result = trained_with_reads(1, monkeypatch, tmp_path / "one", shallow())
    again = trained_with_reads(every, monkeypatch, tmp_path / "many", shallow())
    assert same(again[0], tensors)
    assert again[1] == reported
    assert again[2] == rows
    assert len(rows) == 3 * 7
    assert (again[3].history, again[3].steps) == (result.history, result.steps)
    assert same(state_of(tmp_path / "many"), state_of(tmp_path / "one"))


def test_numbers_are_read_together_and_at_the_end_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    read = StepReader.read

    def noted(self: StepReader) -> Any:
        rows = list(read(self))
        if rows:
            events.append(f"read {len(rows)}")
        return rows

    def saved(*arguments: Any) -> None:
        events.append("state")
        checkpoint.save_state(*arguments)

    monkeypatch.setattr(StepReader, "read", noted)
    monkeypatch.setattr(loop, "save_state", saved)
    trained_with_reads(5, monkeypatch, tmp_path, Vector(random_backbone()), epochs=2)
    assert events == ["read 5", "read 2", "state"] * 2


@pytest.mark.parametrize(
    ("sabotage", "what"), [({12: math.nan, 13: math.nan}, "the loss"), ({12: 1e38}, "the gradient")]
)
def test_numbers_that_explode_between_two_reads_are_found_named_and_not_kept(
    sabotage: dict[int, float], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Vector(random_backbone())
    trained_with_reads(5, monkeypatch, tmp_path / "whole", reference, n=40)  # 10 steps an epoch
    method = Vector(random_backbone(), sabotage)
    with pytest.raises(UserError, match=f"{what} is no longer a finite number in epoch 2, step 3") as error:
        trained_with_reads(5, monkeypatch, tmp_path, method, n=40)
    assert str(tmp_path / FILE) in str(error.value)
    assert method.calls == 15, "two more steps were taken before the numbers were read"
    assert len((tmp_path / LOG).read_text().splitlines()) == 12, "every finite step is in the log"
    assert all(bool(tensor.isfinite().all()) for tensor in state_of(tmp_path).values())
    kept = Vector(random_backbone())
    assert load_state(tmp_path, kept, short_recipe().make_optimizer(kept.parameters()), {}) == (1, 0)


def test_an_interruption_does_not_keep_numbers_that_were_not_read_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Vector(random_backbone(), {12: math.nan})
    losses = method.losses

    def interrupted(batch: Any) -> dict[str, torch.Tensor]:
        if method.calls == 13:  # numbers have been broken for one step, and will be read after the 15th
            signal.raise_signal(signal.SIGINT)
        return losses(batch)

    monkeypatch.setattr(method, "losses", interrupted)
    with pytest.raises(UserError, match="the loss is no longer a finite number in epoch 2, step 3"):
        trained_with_reads(5, monkeypatch, tmp_path, method, n=40)
    assert all(bool(tensor.isfinite().all()) for tensor in state_of(tmp_path).values())


@pytest.mark.parametrize("preset", ["paper", "snapshot"])
def test_a_step_reads_nothing_back_from_the_device(preset: str) -> None:
    """On the meta device nothing can be read: what passes there does not make the host wait for a GPU either."""
    method = shallow(preset=preset)
    method.backbone.to("meta")
    method.to("meta")
    for block in method.blocks:
        block.frozen = block.frozen.to("meta")
        block.extra = {name: tensor.to("meta") for name, tensor in block.extra.items()}
        assert block.sentences is not None
        block.sentences.ids, block.sentences.eot = block.sentences.ids.to("meta"), block.sentences.eot.to("meta")
    batch = {"pixels": torch.zeros(4, 3, 32, 32, device="meta"), "labels": torch.zeros(4, device="meta").long()}
    parameters, reader = list(method.parameters()), StepReader(20)
    for step in range(2):
        losses = method.losses(batch)
        losses["total"].backward()
        reader.add(0, step, 0.0, losses, [p.grad for p in parameters if p.grad is not None], parameters)
    assert all(p.grad is not None for p in parameters)
    with pytest.raises((RuntimeError, NotImplementedError)):
        list(reader.read())


def test_only_a_cpu_is_read_after_every_step() -> None:
    assert [steps_between_reads(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [1, 20, 20]
    assert [prefetches(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [False, True, True]


# ---- batches made ahead ----------------------------------------------------------------------------------------------


def test_batches_made_ahead_are_the_same_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, *_ = trained_with_reads(1, monkeypatch, tmp_path / "plain", shallow())
    monkeypatch.setattr(batches, "prefetches", lambda _: True)
    threads = set()
    crop = ImageTransform.random_resized_crop

    def watched(*arguments: Any, **named: Any) -> torch.Tensor:
        threads.add(threading.get_ident())
        return crop(*arguments, **named)

    monkeypatch.setattr(ImageTransform, "random_resized_crop", watched)
    ahead, *_ = trained_with_reads(1, monkeypatch, tmp_path / "ahead", shallow())
    assert same(ahead, plain)
    assert threads
    assert threading.get_ident() not in threads


@given(st.integers(0, 6))
@settings(max_examples=10)
def test_one_ahead_makes_the_next_before_the_last_is_done_with(n: int) -> None:
    begun = [threading.Event() for _ in range(n)]

    def make(number: int) -> int:
        begun[number].set()
        return 10 * number

    taken = []
    for number in one_ahead(make, range(n)):
        taken.append(number)
        assert all(event.wait(5) for event in begun[: len(taken) + 1])
        assert not any(event.is_set() for event in begun[len(taken) + 1 :])
    assert taken == [10 * number for number in range(n)]


def test_what_goes_wrong_while_a_batch_is_made_ahead_is_raised_at_its_turn() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    before = threading.active_count()
    made = one_ahead(make, range(4))
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(made)
    assert threading.active_count() == before, "its thread has ended"
