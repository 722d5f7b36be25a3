"""LwEIB against its literal second implementation, and what a step draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anprompt import methods
from anprompt.methods import lweib
from anprompt.text import DescriptionBank
from helpers_methods import NAMES, batch, small_backbone
from helpers_twins import check_against, make
from literal_lweib import LiteralLwEIB


def test_lweib_equals_the_literal_one() -> None:
    method, _ = check_against(LiteralLwEIB, "lweib", scale=0.4, slow_share=0.5, photos=2, negatives=1,
                              sizes={"vision_depth": 2, "text_depth": 2, "context": 48})  # fmt: skip
    drawn = method.draw(batch(2, seed=3)["labels"].tolist(), 0.0)
    assert len({scale for own in drawn.scales.values() for scale in own}) == 2, "slow and fast blocks are wanted"
    assert len(drawn.classes) == 4


def test_what_a_step_draws() -> None:
    method: Any = make("lweib", small_backbone(), negatives=2)
    drawn = method.draw([4, 1, 4], 0.25)
    assert drawn == method.draw([4, 1, 4], 0.25)
    assert drawn.classes[:2] == [1, 4]
    assert len(set(drawn.classes)) == 6 == len(drawn.sentences)
    assert drawn.sentences[1].startswith(f"a photo of a {NAMES[4]}, ")
    few = method.draw([4], 0.25)
    assert few.classes[0] == 4
    assert len(few.classes) == 3
    assert method.draw(list(range(6)), 0.25).classes == list(range(6)), "no more classes than photos: all of them"
    method.options.negatives = 0
    assert method.draw([4, 1], 0.25).classes == list(range(6)), "all classes, as asked for"
    draws = [method.draw([0, 1], i / 400) for i in range(400)]
    scales = torch.tensor([scale for one in draws for own in one.scales.values() for scale in own])
    assert set(scales.tolist()) == {torch.tensor(0.025).item(), torch.tensor(0.0625).item()}
    assert 0.18 < (scales > 0.05).float().mean() < 0.22
    assert {one.sentences[0] for one in draws} == set(method._sentences(NAMES[0]))


def test_sentences_run_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    method, pixels = make("lweib", small_backbone()), batch(2)["pixels"]
    whole = method.logits(pixels)
    monkeypatch.setattr(lweib, "TOGETHER", 5)  # of 24
    torch.testing.assert_close(make("lweib", small_backbone()).logits(pixels), whole, rtol=1e-5, atol=1e-4)


def test_chance_of_the_batch_decides_and_long_sentences_are_cut() -> None:
    method: Any = make("lweib", small_backbone())
    one, same, other = (method.losses({**batch(), "chance": torch.tensor(c)})["total"] for c in (0.1, 0.1, 0.7))
    assert one == same != other
    long = {name: ["a photo " * 80] for name in NAMES}
    cut = methods.create("lweib", small_backbone(), NAMES, texts=DescriptionBank(long))
    assert cut.logits(batch()["pixels"]).isfinite().all()
