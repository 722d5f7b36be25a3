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
from PIL import Image, ImageEnhance, ImageOps

from anprompt.clip import ImageTransform
from anprompt.clip.augment import OPERATIONS, rand_augment
from anprompt.errors import UserError
from anprompt.methods import Method
from anprompt.training import Interrupted, TrainingResult, batches, checkpoint, loop, train
from anprompt.training.batches import one_ahead, prefetches
from anprompt.training.checkpoint import FILE, load_state
from anprompt.training.log import LOG, StepReader, steps_between_reads
from helpers_clip import random_backbone
from helpers_fit import Vector, copies, new_method, noisy_array, pictures, same, short_recipe, state_of

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


# ---- what a method may do at its place in the loop -------------------------------------------------------------------


class Averaged(Vector):
    """Its gradient is halved by a rule of its own; after the last epoch it becomes the mean of its states."""

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.sum = torch.zeros(3)
        self.ended: list[tuple[int, bool]] = []
        self.steps: list[torch.Tensor] = []

    def backward(self, losses: Any) -> None:
        super().backward(losses)
        assert self.colour.grad is not None
        self.colour.grad *= 0.5

    def after_step(self) -> None:
        self.steps.append(self.colour.detach().clone())

    def end_epoch(self, epoch: int, epochs: int) -> None:
        last = epoch + 1 == epochs
        self.ended.append((epoch, last))
        self.sum += self.colour.detach()
        if last:
            self.colour.data.copy_(self.sum / (epoch + 1))

    def training_state(self) -> dict[str, torch.Tensor]:
        return {"sum": self.sum}


def test_the_loop_takes_a_methods_gradient_rule_and_ends_its_epochs() -> None:
    method, plain = Averaged(random_backbone()), Vector(random_backbone())
    train(method, pictures(8), short_recipe(optimizer="sgd", epochs=1), seed=1)
    train(plain, pictures(8), short_recipe(optimizer="sgd", epochs=1, lr=0.01, warmup_lr=0.0025), seed=1)
    torch.testing.assert_close(method.colour, plain.colour)
    assert method.ended == [(0, True)]
    assert len(method.steps) == 2
    assert not torch.equal(method.steps[0], torch.ones(3)), "it is called when the optimiser has stepped"
    assert torch.equal(method.steps[1], method.colour), "the mean of one epoch is its end"


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5, 6])
def test_what_a_method_gathers_over_epochs_survives_resuming(stop_after: int, tmp_path: Path) -> None:
    whole = Averaged(random_backbone())
    train(whole, pictures(), short_recipe(), seed=1, folder=tmp_path / "whole")
    assert whole.ended == [(0, False), (1, False), (2, True)]
    cut = Averaged(random_backbone())

    def report(epoch: int, step: int, steps: int, _: Any) -> None:
        if epoch * steps + step + 1 == stop_after:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(cut, pictures(), short_recipe(), seed=1, folder=tmp_path, report=report)
    resumed = Averaged(random_backbone())
    train(resumed, pictures(), short_recipe(), seed=1, folder=tmp_path, resume=True)
    assert torch.equal(resumed.colour, whole.colour)
    assert same(state_of(tmp_path), state_of(tmp_path / "whole"))
    assert "training.sum" in state_of(tmp_path)
    assert set(copies(resumed)) == {"colour"}, "no part of the adapter"


def test_a_state_without_what_the_method_gathers_is_refused(tmp_path: Path) -> None:
    train(Vector(random_backbone()), pictures(), short_recipe(epochs=1), seed=1, folder=tmp_path)
    with pytest.raises(UserError, match="another version's method"):
        train(Averaged(random_backbone()), pictures(), short_recipe(epochs=1), seed=1, folder=tmp_path, resume=True)


# ---- what a method may ask of its batches ----------------------------------------------------------------------------


def some_batches(**asked: Any) -> list[dict[str, torch.Tensor]]:
    backbone, recipe = random_backbone(), short_recipe(**asked.pop("recipe", {}))
    device = torch.device("cpu")
    made = batches.augmented_batches(pictures(8), backbone.transform, recipe, device, seed=1, epoch=0, **asked)
    return [batch for _, batch in made]


@pytest.mark.parametrize("augment", ["crop", "randaugment"])
def test_further_views_and_numbers_leave_the_batch_as_it_was(augment: str) -> None:
    plain, more = (some_batches(recipe={"augment": augment}, **a) for a in ({}, {"views": 2, "chance": True}))
    assert {name for batch in plain for name in batch} == {"pixels", "labels"}
    for one, other in zip(plain, more, strict=True):
        assert torch.equal(one["pixels"], other["pixels"])
        assert torch.equal(one["labels"], other["labels"])
        assert other["views"].shape == (2, *one["pixels"].shape)
        assert len({tensor.sum().item() for tensor in (one["pixels"], *other["views"])}) == 3
        assert 0 <= float(other["chance"]) < 1
    assert len({float(batch["chance"]) for batch in more}) == len(more)
    resumed = some_batches(recipe={"augment": augment}, views=2, chance=True, first=1)
    assert same(resumed[0], more[1])


def test_rand_augment_keeps_size_and_does_something() -> None:
    picture = Image.fromarray(noisy_array(0, 24))
    strong = {name: operation(picture, 0.9, 1.0) for name, operation in OPERATIONS.items()}
    none = {name: operation(picture, 0.0, 1.0) for name, operation in OPERATIONS.items()}
    assert all(image.size == picture.size and image.mode == "RGB" for image in strong.values())
    unchanged = {name for name, image in strong.items() if image.tobytes() == picture.tobytes()}
    assert unchanged <= {"identity", "auto contrast"}  # noise has all contrast already
    assert {n for n, image in none.items() if image.tobytes() != picture.tobytes()} <= {"auto contrast", "equalise"}
    one, again, other = (rand_augment(picture, torch.Generator().manual_seed(seed), 4) for seed in (1, 1, 2))
    assert one.tobytes() == again.tobytes() != other.tobytes()


def test_rand_augment_has_the_papers_ranges() -> None:
    """At a third of them, as by default; both signs are drawn."""
    picture, third = Image.fromarray(noisy_array(0, 24)), 1 / 3
    grey = {"fillcolor": (128, 128, 128)}

    def moved(*map_: float) -> Image.Image:
        return picture.transform((24, 24), Image.Transform.AFFINE, map_, **grey)

    expected = {
        "rotate": picture.rotate(-10, **grey),
        "solarise": ImageOps.solarize(picture, 171),
        "posterise": ImageOps.posterize(picture, 7),
        "contrast": ImageEnhance.Contrast(picture).enhance(0.7),
        "shear x": moved(1, -0.1, 0, 0, 1, 0),
        "shear y": moved(1, 0, 0, -0.1, 1, 0),
        "move x": moved(1, 0, -24 / 9, 0, 1, 0),
        "move y": moved(1, 0, 0, 0, 1, -24 / 9),
    }
    for name, image in expected.items():
        assert OPERATIONS[name](picture, third, -1.0).tobytes() == image.tobytes(), name
    signs = set()
    for seed in range(8):
        drawn, again = (torch.Generator().manual_seed(seed) for _ in "ab")
        name = list(OPERATIONS)[int(torch.randint(14, (), generator=drawn))]
        sign = 1.0 if float(torch.rand((), generator=drawn)) < 0.5 else -1.0
        assert rand_augment(picture, again, 1).tobytes() == OPERATIONS[name](picture, third, sign).tobytes(), name
        signs.add(sign)
    assert len(signs) == 2
