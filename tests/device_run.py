"""Every method on a pretended device: run by ``test_device.py`` in a process of its own.

Prints one line of JSON for each case: its name, and what is wrong with it, if anything.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anprompt import methods
from anprompt.adapter import load_adapter, round_to_storage, save_adapter
from anprompt.analysis.explain import cam, rollout
from anprompt.clip import Backbone, transfer
from anprompt.errors import UserError
from anprompt.methods import Method
from anprompt.training import FrozenPhotos, TrainingImages
from anprompt.training.batches import augmented_batches
from anprompt.training.checkpoint import load_state, save_state
from anprompt.training.log import StepReader
from anprompt.training.memory import plan_memory
from helpers_clip import random_backbone
from helpers_device import DEVICE, NAME, Elsewhere
from helpers_fit import ABOUT, BANK, CLASSES, pictures, short_recipe

SMALL = {"layers": "last-2", "depth": 2, "cross": 1, "text_block": 2, "vision_block": 2, "switch": 0, "length": 4}
# What no method does by default: name -> (method, its options, precision, classes whose texts run at a time).
MORE: Mapping[str, tuple[str, dict[str, Any], str, int | None]] = {
    "anprompt in bf16": ("anprompt", {}, "bf16", None),
    "anprompt in chunks": ("anprompt", {"projection": "random", "resample": "epoch"}, "fp32", 2),
    "snapshot": ("anprompt", {"preset": "snapshot"}, "fp32", None),
    "coop, name in the middle": ("coop", {"position": "middle"}, "fp32", None),
    "hicropl, frozen maps": ("hicropl", {"preset": "code"}, "fp32", None),
    "lweib in bf16": ("lweib", {"negatives": 0}, "bf16", None),
    "prograd": ("prograd", {"start": ""}, "fp32", None),  # else its first direction is rounding: it starts as zero-shot
    "tip-adapter, trained": ("tip-adapter", {"preset": "trained", "choose": "leave-one-out"}, "fp32", None),
}
CASES = {method.name: (method.name, dict[str, Any](), "fp32", None) for method in methods.available()} | dict(MORE)
RECIPE = short_recipe(epochs=1, batch=2, crop_scale=0.8, warmup_epochs=0)


def make(name: str, backbone: Backbone, data: TrainingImages, options: Mapping[str, Any]) -> Method:
    known = {field.name for field in fields(methods.find(name).Options)}
    small = {key: value for key, value in SMALL.items() if key in known}
    photos = FrozenPhotos(data, backbone, 1)
    return methods.create(name, backbone, CLASSES, texts=BANK, photos=photos, **{**small, **options})


def steps(method: Method, data: TrainingImages, mode: Elsewhere | None = None) -> list[dict[str, float]]:
    """Loss terms of two steps. mode: the second, which finds all that is kept, must not wait."""
    backbone, parameters, reader = method.backbone, list(method.parameters()), StepReader(20)
    optimizer = RECIPE.make_optimizer(parameters)
    plain = FrozenPhotos(data, backbone, 1).features().cpu() if method.plain else None
    wanted = {"views": method.views, "chance": method.chance, "plain": plain}
    for number, batch in augmented_batches(
        data, backbone.transform, RECIPE, backbone.device, seed=1, epoch=0, **wanted
    ):  # fmt: skip
        if mode is not None:
            mode.waits.clear()
        losses = method.losses(batch)
        optimizer.zero_grad()
        method.backward(losses)
        optimizer.step()
        method.after_step()
        reader.add(0, number, 0.0, losses, [p.grad for p in parameters if p.grad is not None], parameters)
    if mode is not None and mode.waits:
        raise AssertionError(f"a step makes the host wait: {sorted(set(mode.waits))}")
    method.end_epoch(0, 1)
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder), method, optimizer, 1, 0, {})
        assert load_state(Path(folder), method, optimizer, {}) == (1, 0)
    return [row.terms for row in reader.read()]


def predicted(method: Method, pixels: Tensor) -> list[Tensor]:
    """Logits of all classes, of other ones, and with one more."""
    new = ["bright star field", CLASSES[1]] if method.supports_new_classes else CLASSES[:2]
    found = [method.logits(pixels), method.with_classes(new).logits(pixels)]
    if method.supports_new_classes:
        method.add_classes(["lake"], BANK)
        found.append(method.logits(pixels))
    return [logits.cpu() for logits in found]


def check(name: str, options: Mapping[str, Any], precision: str, chunk: int | None) -> None:
    home, data = random_backbone(seed=5, vision_depth=2, text_depth=2), pictures(4)
    tolerance = 1e-3 if precision == "fp32" else torch.inf  # in bf16, other kernels round far otherwise
    expected = _all(name, home.in_precision(precision), chunk, data, options)
    with Elsewhere() as mode, tempfile.TemporaryDirectory() as folder:
        device = torch.device(DEVICE)
        backbone = home.in_precision(precision, device)
        terms, logits, method = _all(name, backbone, chunk, data, options, mode)
        for one, other in zip(terms, expected[0], strict=True):
            for key, value in one.items():
                assert abs(value - other[key]) < tolerance * (1 + abs(other[key])), f"{key}: {value}, CPU {other[key]}"
        for mine, theirs in zip(logits, expected[1], strict=True):
            assert float((mine - theirs).abs().max()) < tolerance * (1 + float(theirs.abs().max())), "other logits"
        round_to_storage(method, "fp16")
        pixels = _pixels(backbone, data)
        save_adapter(Path(folder), method, ABOUT)
        loaded, _ = load_adapter(Path(folder), home, device, precision)
        assert torch.equal(loaded.logits(pixels).cpu(), method.logits(pixels).cpu()), "loaded: other logits"
        if name in ("anprompt", "tac", "cocoop"):
            assert cam(method, pixels, [0] * len(pixels)).shape == rollout(method, pixels).shape
        try:
            method.bake()
        except UserError:
            return
        method.with_classes([*CLASSES, "star"]).logits(pixels)
        save_adapter(Path(folder), method, ABOUT)
        load_adapter(Path(folder), home, device, precision)[0].logits(pixels)


def _all(
    name: str, backbone: Backbone, chunk: int | None, data: TrainingImages, options: Mapping[str, Any],
    mode: Elsewhere | None = None,
) -> tuple[list[dict[str, float]], list[Tensor], Method]:  # fmt: skip
    if mode is not None:
        mode.waits.clear()
    method = make(name, backbone, data, options)
    drawn = [wait for wait in mode.waits if "draws" in wait] if mode is not None else []
    assert not drawn, drawn
    backbone.class_chunk, terms = chunk, list[dict[str, float]]()
    if method.trainable:
        method.start_epoch(0)
        if mode is not None and (chunk or backbone.precision == "bf16"):  # enough of them: it takes its time
            plan = plan_memory(method, 2, recipe=RECIPE)
            assert plan.step is not None, plan.unknown
        terms = steps(method, data, mode)
    method.requires_grad_(False)
    return terms, predicted(method, _pixels(backbone, data)), method


def _pixels(backbone: Backbone, data: TrainingImages) -> Tensor:
    return backbone.preprocess([image.permute(1, 2, 0).numpy() for image in data.images])


def run(cases: list[str]) -> Iterator[tuple[str, str | None]]:
    for case in cases:
        try:
            check(*CASES[case])
        except Exception as error:
            frame = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename][-1]
            yield case, f"{Path(frame.filename).name}:{frame.lineno}: {type(error).__name__}: {error}"
        else:
            yield case, None


if __name__ == "__main__":
    torch.set_num_threads(1)
    transfer.QUEUES.add(NAME)
    torch.Tensor.pin_memory = lambda self, *_: self  # type: ignore[method-assign]
    for outcome in run(sys.argv[1:] or list(CASES)):
        print(json.dumps(outcome), flush=True)
