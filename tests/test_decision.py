"""Training classes and new ones may be decided by other logits: the same ones, however a list of classes came about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from anprompt import methods
from anprompt.adapter import load_adapter, save_adapter
from anprompt.methods import Method
from helpers_methods import NAMES, NEW_NAMES, anprompt, bank, batch, perturb, small_backbone

KINDS: dict[str, dict[str, Any]] = {
    "mmrl": {}, "mmrl++": {}, "anprompt": {"preset": "snapshot"}, "coop": {},
}  # fmt: skip
PIXELS = batch(3)["pixels"]
MIXED = [NAMES[1], NEW_NAMES[0], NAMES[0], NEW_NAMES[1], NAMES[2]]  # as folders in alphabetical order may be


@pytest.fixture(params=list(KINDS))
def method(request: pytest.FixtureRequest) -> Method:
    """Its texts are those of all classes: what differs between views is the decision alone."""
    made = methods.create(request.param, small_backbone(), NAMES, texts=bank(), seed=1, **KINDS[request.param])
    return perturb(made)


def row_by_row(method: Method) -> dict[str, torch.Tensor]:
    """Logits ``(B,)`` of each class: of the training classes as they are, of others as a list of new ones alone."""
    views = method, method.with_classes(NEW_NAMES)
    return {
        name: column for view in views for name, column in zip(view.class_names, view.logits(PIXELS).T, strict=True)
    }


def agrees(view: Method, expected: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(
        view.logits(PIXELS), torch.stack([expected[name] for name in view.class_names], dim=1), rtol=1e-4, atol=1e-3
    )


def test_training_classes_and_new_ones_in_one_list(method: Method) -> None:
    expected = row_by_row(method)
    mixed = method.with_classes(MIXED)
    assert mixed.class_names == MIXED
    agrees(mixed, expected)
    added = method.with_classes(NAMES[:3])
    added.add_classes(NEW_NAMES, bank())
    agrees(added, expected)
    agrees(added.with_classes(MIXED), expected)


def test_a_view_does_not_forget_what_was_trained_on(method: Method, tmp_path: Path) -> None:
    expected = row_by_row(method)
    for names in (NEW_NAMES, NAMES[:2], MIXED):
        view = method.with_classes(names)
        agrees(view.with_classes(NAMES), expected)
        folder = tmp_path / str(len(names))
        save_adapter(folder, view, {"storage": "fp32"})
        loaded, document = load_adapter(folder, small_backbone())
        assert document["trained_classes"] == NAMES
        loaded.bank = bank()
        agrees(loaded, expected)
        agrees(loaded.with_classes(NAMES), expected)
    some = method.with_classes(NEW_NAMES)
    some.add_classes(NAMES[:2], bank())
    agrees(some, expected)


def test_what_only_decides_makes_a_view_of_the_same_learnables() -> None:
    method = anprompt()
    before, options = method.logits(PIXELS), vars(method.options)
    assert method.deciding_by(options) is method
    view = method.deciding_by({**options, "theta": 0.25, "alpha": 9.0})  # α is trained with: it stays
    assert torch.equal(view.logits(PIXELS), anprompt(theta=0.25).logits(PIXELS))
    assert torch.equal(method.logits(PIXELS), before)
    assert not torch.allclose(view.logits(PIXELS), before)
    assert all(a is b for a, b in zip(view.parameters(), method.parameters(), strict=True))
    in_loss = anprompt(theta_in_loss=True)
    assert in_loss.deciding_by({**vars(in_loss.options), "theta": 0.25}) is in_loss


def test_another_data_set_is_decided_as_a_whole(method: Method) -> None:
    new = method.with_classes(MIXED, foreign=True)
    assert {block.trained for block in new.blocks} == {False}
    known = method.with_classes(NAMES[:2], foreign=True)
    assert {block.trained for block in known.blocks} == {True}
    agrees(known, row_by_row(method))
    agrees(new.with_classes(NAMES), row_by_row(method))
