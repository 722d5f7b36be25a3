"""Every registered method, trained for a few steps: it learns, resumes exactly, and is loaded as it was saved."""

from __future__ import annotations

import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anprompt import methods
from anprompt.adapter import load_adapter, round_to_storage, save_adapter
from anprompt.methods import Method
from anprompt.training import Interrupted, TrainingImages, train
from helpers_fit import ABOUT, BANK, CLASSES, copies, same, short_recipe, state_of
from helpers_methods import FewPhotos, small_backbone

NAMES = [method.name for method in methods.available()]
NEW = ["bright star field", "lake"]
LEFT = {"tac": 0.9}  # of the loss after six steps, at most; TAC averages over all epochs, the first included
every_method = pytest.mark.parametrize("name", NAMES)


@cache
def photos() -> TrainingImages:
    """Two pictures of each class: a colour for each, with noise."""
    rng = torch.Generator().manual_seed(0)
    colours = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200]])
    labels = torch.arange(6) % 3
    images = [
        (colours[y][:, None, None] + torch.randint(-50, 50, (3, 40, 36), generator=rng)).clamp(0, 255).byte()
        for y in labels.tolist()
    ]
    return TrainingImages(images, labels)


def make(name: str) -> Method:
    return methods.create(name, small_backbone(), CLASSES, texts=BANK, photos=FewPhotos(small_backbone(), len(CLASSES)))


def pixels() -> Tensor:
    transform = small_backbone().transform
    return transform([image.permute(1, 2, 0).numpy() for image in photos().images])


def loss(method: Method) -> float:
    """Cross entropy of the deciding logits on the training pictures."""
    return float(torch.nn.functional.cross_entropy(method.logits(pixels()), photos().labels))


@every_method
def test_fitting_resuming_saving_loading(name: str, tmp_path: Path) -> None:
    recipe = short_recipe(epochs=3, batch=3, crop_scale=0.8, warmup_epochs=0)
    method = make(name)
    if not method.trainable:
        pytest.skip("nothing to train")
    before = loss(method)
    train(method, photos(), recipe, seed=1, folder=tmp_path / "whole")
    assert loss(method) < LEFT.get(name, 0.8) * before

    def report(epoch: int, step: int, *_: Any) -> None:
        if (epoch, step) == (1, 0):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(make(name), photos(), recipe, seed=1, folder=tmp_path / "cut", report=report)
    resumed = make(name)
    train(resumed, photos(), recipe, seed=1, folder=tmp_path / "cut", resume=True)
    assert same(copies(resumed), copies(method)), "same seed, and interrupted: other tensors"
    assert same(state_of(tmp_path / "cut"), state_of(tmp_path / "whole"))

    round_to_storage(method, "fp16")
    method.requires_grad_(False)
    save_adapter(tmp_path / "adapter", method, ABOUT)
    loaded, _ = load_adapter(tmp_path / "adapter", small_backbone())
    assert torch.equal(loaded.logits(pixels()), method.logits(pixels()))
    if method.supports_new_classes:
        new = method.with_classes(NEW).logits(pixels())
        assert new.shape == (6, len(NEW))
        assert torch.equal(loaded.with_classes(NEW).logits(pixels()), new)
