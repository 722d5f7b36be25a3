"""What every literal second implementation of a method has, and how a method is compared with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anprompt import methods
from anprompt.clip import Backbone
from helpers_clip import random_backbone
from helpers_methods import NAMES, NEW_NAMES, FewPhotos, bank, batch, perturb
from literal_anprompt import Encoder, unit
from test_anprompt_equations import assert_close, double_precision

SIZES = {"vision_depth": 3, "text_depth": 3}  # blocks, when a method has nothing that asks for more
SINGLE, DOUBLE = 1e-4, 1e-6  # the package as it is, in fp32, and in fp64, where only real differences remain


class Twin:
    """A method in fp64, one image and one class at a time, all 77 positions, no short cut.

    leaf: clones of the learnables by their names in the method; :meth:`losses` leaves gradients in them.
    held: the method's other tensors. names: the training classes.
    """

    def __init__(self, method: Any, names: Sequence[str], template: str = "a photo of a {}.") -> None:
        self.encoder, self.template, self.names = Encoder(method.backbone), template, list(names)
        self.options = method.options
        self.leaf = {name: p.detach().double().clone().requires_grad_() for name, p in method.named_parameters()}
        self.held = {name: t.detach().clone() for name, t in method.state_dict().items() if name not in self.leaf}

    def frozen_image(self, pixels: Tensor) -> Tensor:
        return unit(self.encoder.image(pixels)[0])

    def sentence(self, name: str) -> str:
        return self.template.replace("{}", name)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.leaf[f"{name}.weight"].T + self.leaf[f"{name}.bias"]

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def decide(self, pixels: Tensor, names: Sequence[str], *, trained: bool) -> Tensor:
        raise NotImplementedError


def mean_of(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(dim=0)


def make(name: str, backbone: Backbone, names: Sequence[str] = NAMES, **settings: Any) -> Any:
    texts, photos = bank([*names, *NEW_NAMES]), FewPhotos(backbone, len(names))
    return methods.create(name, backbone, names, texts=texts, photos=photos, **settings)


def check_against(
    twin_class: Any, name: str, *, sizes: Mapping[str, Any] | None = None, photos: int = 3,
    names: Sequence[str] = NAMES, **settings: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """Loss terms, gradients of every learnable and logits of ``name`` equal those of its twin, in fp32 and in fp64.

    Returns the perturbed method in fp64 and its twin.
    """
    backbone = random_backbone(seed=2, **(SIZES if sizes is None else sizes))
    data = batch(photos, len(names), seed=3, side=backbone.config.image_size)
    single = perturb(make(name, backbone, names, **settings))
    state = {key: tensor.clone() for key, tensor in single.state_dict().items()}  # losses may change what is kept
    twin = twin_class(single, names)
    theirs = twin.losses(data["pixels"], data["labels"])
    theirs["total"].backward()
    few = data["pixels"][:2]
    decided = {"known": (single, twin.decide(few, names, trained=True).detach())}
    if single.supports_new_classes:
        decided["new"] = (single.with_classes(NEW_NAMES), twin.decide(few, NEW_NAMES, trained=False).detach())
    for which, (method, logits) in decided.items():
        assert_close(method.logits(few), logits, f"logits of {which} classes", SINGLE)
    compare(single, twin, theirs, data, SINGLE)

    with double_precision():
        double = make(name, backbone.double(), names, **settings)
        double.load_state_dict(state)
        double = double.double()
        for which, (_, logits) in decided.items():
            method = double if which == "known" else double.with_classes(NEW_NAMES)
            assert_close(method.logits(few.double()), logits, f"logits of {which} classes", DOUBLE)
        compare(double, twin, theirs, {"pixels": data["pixels"].double(), "labels": data["labels"]}, DOUBLE)
    return double, twin


def compare(method: Any, twin: Twin, theirs: dict[str, Tensor], data: dict[str, Tensor], tolerance: float) -> None:
    ours = method.losses(data)
    assert set(ours) == set(theirs)
    for term, value in theirs.items():
        assert_close(ours[term].detach(), value.detach(), term, tolerance)
    method.zero_grad()
    ours["total"].backward()
    gradients = {name: (parameter.grad, twin.leaf[name].grad) for name, parameter in method.named_parameters()}
    assert set(gradients) == set(twin.leaf)
    mine, literal = (torch.cat([pair[i].flatten() for pair in gradients.values()]) for i in (0, 1))
    assert_close(mine, literal, "gradient", tolerance)
    rounding = 1e-12 * literal.abs().max()
    for name, (mine, literal) in gradients.items():
        if mine.dtype == torch.float64 and literal.abs().max() < rounding:  # a zero, e.g. of a bias before a norm
            assert mine.abs().max() < rounding, name
        elif mine.dtype == torch.float64:
            assert_close(mine, literal, f"gradient of {name}", tolerance)
