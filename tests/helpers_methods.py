"""Classes, sentences, pictures and perturbed methods for the tests of ``anprompt.methods``."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from anprompt import methods
from anprompt.clip import Backbone
from anprompt.text import DescriptionBank
from helpers_clip import random_backbone

NAMES = ["cat", "large red striped square house", "dog", "night street", "green lake", "bright dotted star field"]
NEW_NAMES = ["small blue triangle", "forest", "dark river with crop"]


def bank(names: list[str] | None = None) -> DescriptionBank:
    """Four main and three noise sentences per class, all different."""
    names = [*NAMES, *NEW_NAMES] if names is None else names
    main = ["a photo of the {} in a street", "a large {} on a field", "the image is a bright {}", "one {} and a road"]
    noise = ["this picture: {} at night", "a sketch with a small {}", "an animal, a house and the {} on the lake"]
    return DescriptionBank(
        {name: [s.replace("{}", name) for s in main] for name in names},
        {name: [s.replace("{}", name) for s in noise] for name in names},
        "test",
    )


@cache
def small_backbone() -> Backbone:
    """12 + 12 blocks, tiny; shared by tests, none of which may change it."""
    return random_backbone(seed=5)


def batch(
    size: int = 4, classes: int = len(NAMES), seed: int = 0, side: int = 32, *, extras: bool = False
) -> dict[str, Tensor]:
    """Random pixels ``(B, 3, side, side)`` and labels ``(B,)``; with ``extras`` also what only some methods ask for."""
    generator = torch.Generator().manual_seed(seed)
    made = {
        "pixels": torch.randn(size, 3, side, side, generator=generator),
        "labels": torch.randint(classes, (size,), generator=generator),
    }
    if extras:
        made["views"] = torch.randn(2, size, 3, side, side, generator=generator)
        made["chance"] = torch.rand((), generator=generator)
    return made


class FewPhotos:
    """Two random photos of each class: what methods that look at the training photos get."""

    def __init__(self, backbone: Backbone, classes: int = len(NAMES)) -> None:
        self.pixels = batch(2 * classes, classes, seed=11, side=backbone.config.image_size)["pixels"]
        self.labels = torch.arange(2 * classes) % classes
        self.backbone = backbone

    def features(self, views: int = 0) -> Tensor:
        shifted = [self.pixels + 0.2 * view for view in range(max(views, 1))]
        weight = self.backbone.vision.patch.weight
        features = torch.stack([self.backbone.encode_image(p.to(weight.dtype)) for p in shifted])
        return torch.nn.functional.normalize(features.mean(dim=0), dim=-1)


@torch.no_grad()
def perturb(method: methods.Method, seed: int = 0) -> methods.Method:
    """Move every learnable away from its start, so that nothing is zero or equal by construction."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(method.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(noise * 0.3 / parameter.shape[-1] ** 0.5)
    return method


def anprompt(names: list[str] | None = None, *, texts: DescriptionBank | None = None, **options: Any) -> Any:
    """A perturbed ANPrompt on :func:`small_backbone`."""
    created = methods.create(
        "anprompt", small_backbone(), NAMES if names is None else names, texts=texts or bank(), **options
    )
    return perturb(created)
