"""Streaming through a method: in constant memory, in batches that memory decides, with the same logits in each."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from anprompt import inference
from anprompt.data import BadImage
from anprompt.inference import FEW, MOST, SHARE, batch_size, stream_logits
from anprompt.methods import Method
from helpers_clip import random_backbone
from helpers_fit import new_method, noisy_array

CPU = torch.device("cpu")
FREE = 2**30


@pytest.fixture(scope="module")
def method() -> Method:
    return new_method(layers="last-1", backbone=random_backbone(vision_depth=1, text_depth=1))


def picture(seed: int) -> Image.Image:
    return Image.fromarray(noisy_array(seed))


def run(method: Method, count: int, **settings: Any) -> tuple[list[int], Tensor]:
    """Sizes of the batches, and all logits."""
    chunks = list(stream_logits(method, range(count), picture, bad=[], **settings))
    assert [item for items, _ in chunks for item in items] == list(range(count))
    return [len(items) for items, _ in chunks], torch.cat([logits for _, logits in chunks])


def test_thousands_of_pictures_in_constant_memory(method: Method) -> None:
    alive: set[int] = set()
    most, taken = 0, 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 3000:
            taken += 1
            yield taken

    def open_item(item: int) -> Image.Image:
        nonlocal most
        made = Image.new("RGB", (33, 35), (item % 256, 0, 0))
        alive.add(item)
        weakref.finalize(made, alive.discard, item)
        most = max(most, len(alive))
        return made

    done = 0
    for chunk, logits in stream_logits(method, items(), open_item, bad=[]):
        done += len(chunk)
        assert logits.shape == (len(chunk), 3)
        assert taken - done <= MOST["cpu"], "inputs are read one batch ahead"
    assert done == 3000
    assert most <= 2 * MOST["cpu"], "pictures go once their pixels are made"


@pytest.mark.parametrize("batch", [1, 3, 8, 50, None])
def test_logits_do_not_depend_on_the_batch(method: Method, batch: int | None) -> None:
    _, alone = run(method, 45, batch=45)
    sizes, logits = run(method, 45, batch=batch)
    assert sizes[0] == min(batch or FEW, 45)
    torch.testing.assert_close(logits, alone, rtol=1e-5, atol=1e-5 * float(alone.abs().max()))


def test_the_size_follows_the_memory_that_a_batch_took(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def spy(bytes_per_picture: float, device: torch.device) -> int:
        asked.append(bytes_per_picture)
        return 16

    monkeypatch.setattr(inference, "batch_size", spy)
    assert run(method, 60)[0] == [8, 8, 8, 16, 16, 4], "the third was read before the second was through"
    pixels, hidden = 3 * 32 * 32 * 4, 17 * 4 * 32 * 4
    assert len(asked) == 1
    assert pixels + hidden < asked[0] < 20 * (pixels + hidden)


def test_batches_of_bad_pictures_do_not_count(method: Method) -> None:
    def open_item(item: int) -> Image.Image:
        if item < 2 * FEW:
            raise BadImage(str(item), "broken")
        return picture(item)

    bad: list[BadImage] = []
    chunks = list(stream_logits(method, range(3 * FEW), open_item, bad=bad))
    assert len(bad) == 2 * FEW
    assert [len(items) for items, _ in chunks] == [FEW]


@given(st.floats(0, 1e12), st.sampled_from(["cpu", "cuda", "mps"]), st.none() | st.integers(0, 2**40))
def test_batch_sizes(each: float, device: str, free: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "memory_free", lambda _: free)
        size = batch_size(each, torch.device(device))
    most = MOST.get(device, MOST["cpu"])
    assert FEW <= size <= most
    assert size & (size - 1) == 0
    if free is None or each == 0:
        assert size == most
    else:
        assert size == FEW or size * each <= SHARE * free
        assert size == most or 2 * size * each > SHARE * free * (1 - 1e-9)
