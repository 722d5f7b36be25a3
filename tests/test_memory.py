"""The estimate of a step's memory: equal to what a real step holds, without a trace of itself; and the plan from it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from anprompt.errors import UserError
from anprompt.methods import Method
from anprompt.training import Recipe, train
from anprompt.training.memory import (
    CPU_FIXED,
    CPU_HOLES,
    NotFollowed,
    estimate_step,
    plan_memory,
)
from anprompt.training.tracing import LiveBytes, untouched
from helpers_clip import random_backbone
from helpers_fit import Vector, copies, pictures, same, short_recipe
from helpers_memory import of_many_classes, shallow

CPU = torch.device("cpu")


def live_in_a_real_step(method: Method, batch: int) -> int:
    """The most bytes alive in losses and gradients as they are really computed."""
    side = method.backbone.config.image_size
    parameters = [p for p in method.parameters() if p.requires_grad]
    with LiveBytes() as live:
        pixels = torch.zeros(batch, 3, side, side)
        labels = torch.arange(batch) % len(method.class_names)
        loss = method.losses({"pixels": pixels, "labels": labels})["total"]
        forward, live.peak = live.peak, live.now
        torch.autograd.grad(loss, parameters, allow_unused=True)
    return max(forward + sum(p.numel() * p.element_size() for p in parameters), live.peak)


@pytest.fixture(scope="module")
def many() -> Method:
    return of_many_classes()


# ---- counting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes_only", [False, True])
def test_live_bytes_by_hand(shapes_only: bool) -> None:
    weight = torch.ones(100, 100)
    live = LiveBytes(shapes_only=shapes_only)
    with live:
        a = torch.empty(50, 100, device="meta" if shapes_only else "cpu")  # 20,000 bytes
        b = a @ weight.T  # the view of the weight is no memory of ours
        assert (live.now, live.peak) == (40_000, 40_000)
        c = b.view(100, 50)[:10]
        b += 1
        del b
        assert live.now == 40_000, "a view keeps all of it"
        del c, a
        assert (live.now, live.peak) == (0, 40_000)


def test_shapes_have_a_place_and_no_numbers() -> None:
    with LiveBytes(shapes_only=True, device=torch.device("cuda", 0)):
        shape = torch.empty(2, 3, device="meta") * torch.ones(3)
        moved = torch.ops.aten._to_copy(shape, device="cuda")  # as .to("cuda") does, once it has seen that there is one
        assert (shape.device.type, shape.is_cuda, moved.shape) == ("cuda", True, (2, 3))
        assert moved.untyped_storage()._cdata == shape.untyped_storage()._cdata, "nothing is copied to where it is"
        assert float(shape.sum()) == 1
    assert shape.untyped_storage().data_ptr() == 0


def test_positions_keep_their_numbers_and_tensors_from_outside_are_not_written_to() -> None:
    lengths, kept = torch.tensor([3, 1, 2]), torch.zeros(3)
    with LiveBytes(shapes_only=True):
        order = torch.arange(3)[lengths.argsort()]
        assert order.tolist() == [1, 2, 0]
        assert int(lengths.max()) == 3
        mask = torch.full((3, 3), 1.0).triu(1)
        assert float(mask.sum()) == 3
        lengths += 1
        kept.copy_(torch.empty(3, device="meta"))
    assert lengths.tolist() == [3, 1, 2]
    assert kept.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "precision", "chunk"),
    [
        ({}, "fp32", None),
        ({}, "fp32", 2),
        ({}, "bf16", None),
        ({"preset": "snapshot"}, "fp32", None),
        ({"maps": "low-rank", "projection": "low-rank", "gamma": "entropy", "distance": "cosine"}, "fp32", None),
        ({"mix": 0.5, "layers": "1-4", "detach_gamma": False}, "fp32", 1),
    ],
)
def test_the_estimate_is_what_a_real_step_holds(options: dict[str, Any], precision: str, chunk: int | None) -> None:
    backbone = random_backbone(vision_depth=4, text_depth=4).in_precision(precision)
    backbone.class_chunk = chunk
    estimate = estimate_step(shallow(backbone=backbone, **options), 3)
    assert estimate.activations == pytest.approx(live_in_a_real_step(shallow(backbone=backbone, **options), 3), 0.01)
    assert estimate.overhead == round(CPU_FIXED + CPU_HOLES * estimate.activations)


@pytest.mark.parametrize("batch", [5, 24])
def test_larger_steps_are_continued_in_a_straight_line(batch: int) -> None:
    real = live_in_a_real_step(shallow(), batch)
    assert estimate_step(shallow(), batch).activations == pytest.approx(real, 0.03)


def test_chunks_need_less_and_real_steps_agree(many: Method) -> None:
    found = {}
    for chunk in (None, 35):
        many.backbone.class_chunk = chunk
        many.blocks[0].sentences._trunk = None
        found[chunk] = estimate_step(many, 2).activations
        assert found[chunk] == pytest.approx(live_in_a_real_step(many, 2), 0.01)
    many.backbone.class_chunk = None
    assert found[35] < 0.6 * found[None]


class Odd(Vector):
    """Losses by ``way``, over a learnable vector."""

    def __init__(self, way: str) -> None:
        super().__init__(random_backbone(vision_depth=1, text_depth=1))
        self.way, self.store = way, {}
        self.blocks = [SimpleNamespace(names=("a", "b"))]  # type: ignore[list-item]

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = batch["pixels"].flatten(1) * self.colour.mean()  # (B, 3·H·W)
        if self.way == "recomputed":
            rows = checkpoint(lambda x: (x.sigmoid() * 2).exp(), rows, use_reentrant=False)
        if self.way == "reads":
            assert batch["labels"].tolist() == [0, 1, 0]
            rows = rows * float(rows.std())
        if self.way == "chooses":
            rows = rows[rows > 0]
        if self.way == "outside":
            KEPT.append(rows)
        if self.way == "inside":
            self.store["rows"] = rows
        if self.way == "refuses":
            raise UserError("not with these options")
        return {"total": rows.square().mean()}


KEPT: list[Tensor] = []


@pytest.mark.parametrize("way", ["recomputed", "reads", "inside"])
def test_methods_that_recompute_read_numbers_or_keep_things(way: str) -> None:
    assert estimate_step(Odd(way), 3).activations == pytest.approx(live_in_a_real_step(Odd(way), 3), 0.01)


def test_losses_that_need_real_numbers_are_said_to() -> None:
    with pytest.raises(NotFollowed):
        estimate_step(Odd("chooses"), 3)
    plan = plan_memory(Odd("chooses"), 3)
    assert plan.step is None
    assert plan.worth_saying
    assert plan.summary().startswith("how much memory training needs cannot be told in advance (")
    assert plan.to_json()["estimated_peak"] is None
    with pytest.raises(UserError, match="not with these options"):
        plan_memory(Odd("refuses"), 3)


def test_a_cache_out_of_reach_is_found() -> None:
    try:
        with pytest.raises(RuntimeError, match="1 tensors of a memory trace are kept in some cache"):
            estimate_step(Odd("outside"), 3)
    finally:
        KEPT.clear()


@pytest.mark.parametrize(("optimizer", "copies_kept"), [("adam", 2), ("adamw", 2), ("sgd", 1)])
def test_the_optimisers_state(optimizer: Any, copies_kept: int) -> None:
    method = shallow()
    recipe, size = Recipe(optimizer=optimizer, lr=0.1), sum(p.numel() * 4 for p in method.parameters())
    state = estimate_step(method, 2, recipe).state
    train(method, pictures(4), short_recipe(optimizer=optimizer, epochs=1), seed=1)
    assert state == pytest.approx(copies_kept * size, 0.01)
    assert estimate_step(method, 2).state == 0


# ---- no trace --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
def test_nothing_is_touched(warm: bool) -> None:
    method = shallow(resample="epoch")
    batch = {"pixels": torch.rand(3, 3, 32, 32), "labels": torch.tensor([0, 1, 2])}
    if warm:
        method.losses(batch)["total"].backward()
        method.logits(batch["pixels"])
    block, before = method.blocks[0], copies(method)
    objects = list(method.parameters())
    kept = block.kept, block.sentences._trunk, dict(block.extra), [p.grad for p in objects], vars(method.backbone)
    kept = (*kept[:-1], dict(kept[-1]))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    backbone = copies(method.backbone)

    estimate_step(method, 8, Recipe())

    assert all(a is b for a, b in zip(objects, method.parameters(), strict=True))
    assert same(before, copies(method))
    assert same(backbone, copies(method.backbone))
    assert block.kept is kept[0]
    assert block.sentences._trunk is kept[1]
    assert all(block.extra[name] is value for name, value in kept[2].items())
    assert all(p.grad is gradient for p, gradient in zip(objects, kept[3], strict=True))
    assert all(vars(method.backbone)[name] is value for name, value in kept[4].items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


def test_training_is_the_same_to_the_bit_after_an_estimate() -> None:
    results = []
    for estimated in (False, True):
        method = shallow()
        if estimated:
            plan_memory(method, 4)
        train(method, pictures(8), short_recipe(), seed=1)
        results.append(copies(method))
    assert same(*results)


def test_untouched_puts_everything_back() -> None:
    inner = SimpleNamespace(number=1)
    things = SimpleNamespace(
        items=[1, inner], table={"a": (inner, [2])}, generator=torch.Generator().manual_seed(1),
        dice=random.Random(1), numbers=np.random.default_rng(1), loop=None,
    )  # fmt: skip
    things.loop = things
    drawn = []

    def change() -> None:
        with untouched(things, [(inner, "stands for it")]):
            assert things.items == [1, "stands for it"]
            drawn.append((torch.rand(1, generator=things.generator).item(), things.dice.random(),
                          float(things.numbers.random()), random.random(), float(np.random.rand())))  # fmt: skip
            inner.number, inner.new, things.items[0] = 2, 3, 4
            things.items.append(5)
            things.table["a"][1].append(6)
            del things.table["a"]
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            change()
    assert drawn[0] == drawn[1]
    assert vars(inner) == {"number": 1}
    assert things.items == [1, inner]
    assert things.table == {"a": (inner, [2])}
    assert things.loop is things
