"""The training loop: schedule, batches, reproducibility, log, and what happens when a loss explodes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.errors import UserError
from anprompt.training import Recipe, resolve_recipe, train
from anprompt.training.batches import epoch_order, generator_for, steps_in_epoch
from anprompt.training.checkpoint import FILE, load_state
from anprompt.training.log import LOG
from helpers_clip import random_backbone
from helpers_fit import Vector, copies, new_method, pictures, same, short_recipe, state_of

PRESETS = ("paper", "snapshot")


# ---- recipes ---------------------------------------------------------------------------------------------------------


def test_defaults_are_the_papers() -> None:
    recipe = Recipe()
    assert (recipe.optimizer, recipe.lr, recipe.epochs, recipe.batch) == ("adam", 1e-3, 10, 4)
    assert (recipe.warmup_epochs, recipe.warmup_lr, recipe.schedule) == (1, 1e-5, "cosine")


@given(st.integers(1, 60), st.integers(0, 5), st.floats(1e-6, 10.0))
def test_cosine_schedule_in_closed_form(epochs: int, warmup: int, lr: float) -> None:
    recipe = Recipe(epochs=epochs, warmup_epochs=warmup, lr=lr)
    for epoch in range(epochs):
        expected = 1e-5 if epoch < warmup else 0.5 * lr * (1 + math.cos(math.pi * (epoch - warmup) / epochs))
        assert recipe.lr_at(epoch) == pytest.approx(expected, rel=1e-12)


def test_constant_schedule() -> None:
    recipe = Recipe(schedule="constant", lr=0.1, warmup_epochs=2, warmup_lr=0.01)
    assert [recipe.lr_at(epoch) for epoch in range(4)] == [0.01, 0.01, 0.1, 0.1]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"epoch": 3}, "unknown option 'epoch'. Did you mean 'epochs'?"),
        ({"learning-rate": 3}, "unknown option 'learning_rate'"),
        ({"optimizer": "adamm"}, "must be one of adam, adamw, sgd. Did you mean 'adam'?"),
        ({"batch": 0}, "'batch' must be at least 1"),
        ({"epochs": 2.5}, "'epochs' must be a whole number"),
        ({"lr": "fast"}, "'lr' must be a number"),
    ],
)
def test_mistakes_in_a_recipe_are_named(entries: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        resolve_recipe({}, entries)
    assert words in str(error.value)


def test_all_mistakes_in_a_recipe_at_once_and_the_users_entries_win() -> None:
    with pytest.raises(UserError) as error:
        resolve_recipe({}, {"batch": 0, "flipp": True})
    assert "'batch'" in str(error.value)
    assert "Did you mean 'flip'?" in str(error.value)
    recipe = resolve_recipe({"optimizer": "adamw", "lr": 0.5}, {"lr": 0.25, "warmup-epochs": 3})
    assert (recipe.optimizer, recipe.lr, recipe.warmup_epochs) == ("adamw", 0.25, 3)


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_optimisers(name: str, kind: type) -> None:
    method = Vector(random_backbone())
    optimizer = Recipe(optimizer=name, weight_decay=0.125).make_optimizer(method.parameters())  # type: ignore[arg-type]
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["weight_decay"] == 0.125
    assert optimizer.param_groups[0].get("momentum", 0.9) == 0.9
    result = train(method, pictures(), short_recipe(optimizer=name, epochs=8), seed=1)
    assert result.history[-1]["total"] < 0.9 * result.history[0]["total"]


# ---- batches and randomness ------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 10**9), st.integers(0, 100))
@settings(max_examples=60)
def test_an_epoch_goes_through_the_photos_once_and_drops_an_incomplete_batch(
    n: int, batch: int, seed: int, epoch: int
) -> None:
    order = epoch_order(n, batch, seed, epoch)
    assert len(order) == steps_in_epoch(n, batch)
    seen = torch.cat(order).tolist()
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(n))
    if n <= batch:
        assert [len(b) for b in order] == [n]
    else:
        assert [len(b) for b in order] == [batch] * (n // batch)


def test_epochs_and_seeds_have_their_own_order() -> None:
    first = torch.cat(epoch_order(50, 5, 1, 0))
    assert torch.equal(first, torch.cat(epoch_order(50, 5, 1, 0)))
    assert not torch.equal(first, torch.cat(epoch_order(50, 5, 1, 1)))
    assert not torch.equal(first, torch.cat(epoch_order(50, 5, 2, 0)))
    # written down: later versions train on the same photos in the same order, with the same crops
    assert generator_for(1, 0, "order").initial_seed() == 7_659_968_175_802_763_360
    assert generator_for(2, 3, 4).initial_seed() == 1_792_634_249_454_129_381


def test_every_step_has_its_own_generator_and_the_global_one_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    draws = {
        parts: torch.rand(4, generator=generator_for(*parts)) for parts in [(1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0)]
    }
    assert len({tuple(draw.tolist()) for draw in draws.values()}) == 4
    assert torch.equal(draws[1, 0, 1], torch.rand(4, generator=generator_for(1, 0, 1)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(preset: str) -> None:
    def trained(method_seed: int, train_seed: int) -> dict[str, torch.Tensor]:
        method = new_method(preset=preset, seed=method_seed)
        train(method, pictures(8), short_recipe(epochs=2), seed=train_seed)
        return copies(method)

    first = trained(1, 1)
    torch.manual_seed(99)  # whatever ran before in this process
    assert same(trained(1, 1), first)
    assert not torch.equal(trained(1, 2)["prompts"], first["prompts"])
    assert not torch.equal(trained(2, 1)["prompts"], first["prompts"])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_backbone_stays_as_it_is_and_every_learnable_moves(preset: str) -> None:
    backbone = random_backbone()
    method = new_method(preset=preset, backbone=backbone)
    frozen, start = copies(backbone), copies(method)
    train(method, pictures(8), short_recipe(), seed=1)
    assert same(copies(backbone), frozen)
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    still = [name for name, parameter in method.named_parameters() if torch.equal(parameter, start[name])]
    assert still == []
    assert torch.equal(method.state_dict()["noise_prompts"], start["noise_prompts"])


@pytest.mark.parametrize("changes", [{"crop_scale": 0.2, "flip": False}, {"augment": "randaugment"}], ids=str)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_training_is_the_plain_loop(optimizer: str, changes: dict[str, Any]) -> None:
    """Each epoch with batches of its own and at its own rate, each step with the gradient of that step alone."""
    recipe, data = short_recipe(optimizer=optimizer, **changes), pictures(8)
    backbone = random_backbone(vision_depth=1, text_depth=1)
    method, twin = Vector(backbone), Vector(backbone)
    train(method, data, recipe, seed=5)
    own, rates = recipe.make_optimizer(twin.parameters()), [0.005, 0.02, 0.01 * (1 + math.cos(math.pi / 3))]
    for epoch, rate in enumerate(rates):
        for step, chosen in enumerate(epoch_order(8, 4, 5, epoch)):
            photos, generator = [data.images[i] for i in chosen], generator_for(5, epoch, step)
            if "augment" in changes:
                pixels = backbone.transform.rand_augmented(photos, generator)
            else:
                pixels = backbone.transform.random_resized_crop(photos, generator, scale=(0.2, 1.0), flip=False)
            own.param_groups[0]["lr"] = rate
            (twin.colour.grad,) = torch.autograd.grad(twin.losses({"pixels": pixels})["total"], [twin.colour])
            own.step()
    torch.testing.assert_close(method.colour, twin.colour, rtol=1e-6, atol=0)


# ---- results ---------------------------------------------------------------------------------------------------------


def test_the_log_has_one_row_per_step_and_the_history_its_means(tmp_path: Path) -> None:
    reported: list[tuple[int, int, int, dict[str, float]]] = []
    recipe = short_recipe()
    result = train(
        new_method(), pictures(10), recipe, seed=1, folder=tmp_path, report=lambda *row: reported.append(row)
    )
    rows = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(e, s) for e in (1, 2, 3) for s in (1, 2)]
    assert [(e, s, steps) for e, s, steps, _ in reported] == [(e, s, 2) for e in (0, 1, 2) for s in (0, 1)]
    assert [row["lr"] for row in rows] == [recipe.lr_at(row["epoch"] - 1) for row in rows]
    names = {"total", "cross_entropy", "similarity", "weak_alignment", "gamma"}
    for row, (_, _, _, terms) in zip(rows, reported, strict=True):
        assert set(row) == names | {"epoch", "step", "lr", "seconds"}
        assert {name: row[name] for name in names} == terms
    assert rows == sorted(rows, key=lambda row: row["seconds"])
    assert result.steps == 6
    assert result.resumed_at is None
    for epoch, means in enumerate(result.history):
        for name in names:
            assert means[name] == pytest.approx((rows[2 * epoch][name] + rows[2 * epoch + 1][name]) / 2)


def test_zero_epochs_change_nothing(tmp_path: Path) -> None:
    method = new_method()
    start = copies(method)
    result = train(method, pictures(), short_recipe(epochs=0), seed=1, folder=tmp_path)
    assert (result.steps, result.history) == (0, [])
    assert same(copies(method), start)


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(Vector(random_backbone()), pictures(), short_recipe(), seed=1)
    assert list(tmp_path.iterdir()) == []


# ---- when numbers explode --------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state_kept(tmp_path: Path) -> None:
    recipe, data = short_recipe(epochs=4), pictures(12)  # 3 steps per epoch
    with pytest.raises(UserError) as error:
        train(Vector(random_backbone(), {7: math.nan}), data, recipe, seed=1, folder=tmp_path)
    message = str(error.value)
    assert "the loss is no longer a finite number in epoch 3, step 2" in message
    assert str(tmp_path / FILE) in message
    assert "now 0.02" in message
    reference = Vector(random_backbone())
    train(reference, data, short_recipe(epochs=4), seed=1, folder=tmp_path / "whole")
    kept = Vector(random_backbone())
    optimizer = recipe.make_optimizer(kept.parameters())
    assert load_state(tmp_path, kept, optimizer, {}) == (2, 0)
    rows = (tmp_path / LOG).read_text().splitlines()
    assert len(rows) == 7, "every finite step is in the log"
    train(kept, data, recipe, seed=1, folder=tmp_path, resume=True)
    assert same(copies(kept), copies(reference))


@pytest.mark.parametrize(("factor", "what"), [(math.inf, "the loss"), (1e38, "the gradient")])
def test_what_stopped_is_named(factor: float, what: str, tmp_path: Path) -> None:
    method = Vector(random_backbone(), {0: factor})
    method.colour.data.fill_(-1e-3 if factor == math.inf else 1.0)
    with pytest.raises(UserError, match=f"{what} is no longer a finite number in epoch 1, step 1") as error:
        train(method, pictures(), short_recipe(), seed=1, folder=tmp_path)
    assert "last good state" not in str(error.value), "there is none before the first epoch is over"


def test_a_huge_learning_rate_stops_before_broken_numbers_are_kept(tmp_path: Path) -> None:
    recipe = short_recipe(optimizer="sgd", lr=3e38, warmup_epochs=1)
    with pytest.raises(UserError, match="a finite number in epoch 2, step"):
        train(new_method(), pictures(8), recipe, seed=1, folder=tmp_path)
    assert all(bool(tensor.isfinite().all()) for tensor in state_of(tmp_path).values())


def test_broken_numbers_after_the_last_step_of_an_epoch_are_not_kept(tmp_path: Path) -> None:
    recipe = short_recipe(optimizer="sgd", lr=3e38, warmup_epochs=0, epochs=1)
    with pytest.raises(UserError, match="a learned number is no longer a finite number in epoch 1, step 1"):
        train(Vector(random_backbone(), {0: 4.0}), pictures(4), recipe, seed=1, folder=tmp_path)
    assert not (tmp_path / FILE).exists()


def test_the_state_of_an_earlier_run_is_not_taken_for_a_new_runs(tmp_path: Path) -> None:
    train(Vector(random_backbone()), pictures(), short_recipe(), seed=1, folder=tmp_path)
    assert (tmp_path / FILE).exists()
    with pytest.raises(UserError) as error:
        train(Vector(random_backbone(), {0: math.nan}), pictures(), short_recipe(), seed=2, folder=tmp_path)
    assert "last good state" not in str(error.value)
    assert not (tmp_path / FILE).exists()
