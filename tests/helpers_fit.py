"""Small things to train: coloured pictures, a description bank, and a method with a single learnable vector."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from anprompt import PromptClassifier, methods
from anprompt.adapter import round_to_storage
from anprompt.clip import Backbone
from anprompt.methods import ClassBlock, Method
from anprompt.text import DescriptionBank
from anprompt.training import Recipe, TrainingImages, train
from anprompt.training.checkpoint import FILE
from anprompt.training.log import LOG
from helpers_clip import random_backbone

CLASSES = ("cat", "dog", "house")
BANK = DescriptionBank(
    {
        name: [f"a large {name} in the street.", f"a {name} this is small.", f"the {name} on a road."]
        for name in CLASSES
    },
    {name: [f"dark {name} at night.", f"an image with the {name}."] for name in CLASSES},
    "test bank",
)


def pictures(n: int = 10, seed: int = 0) -> TrainingImages:
    """``n`` uint8 noise pictures of several sizes, labels 0, 1, 2, 0, …"""
    rng = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 256, (3, 36 + i, 40), generator=rng, dtype=torch.uint8) for i in range(n)]
    return TrainingImages(images, torch.arange(n) % len(CLASSES))


def solid(colour: tuple[int, int, int], size: int = 32) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def noisy_array(seed: int, size: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def new_method(name: str = "anprompt", *, seed: int = 1, backbone: Backbone | None = None, **options: Any) -> Method:
    """A method on a small random backbone, in front of three classes with descriptions."""
    return methods.create(name, backbone or random_backbone(), CLASSES, texts=BANK, seed=seed, **options)


def copies(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Equal names, and every tensor equal bit by bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@dataclass
class NoOptions:
    """A method without options."""


class Vector(Method):
    """Learns the mean colour; ``sabotage`` maps a step number (from 0) to a factor on the loss. Not registered."""

    name = ""
    Options = NoOptions
    presets: Any = {}  # noqa: RUF012 - ClassVar in the base

    def __init__(self, backbone: Backbone, sabotage: Mapping[int, float] | None = None) -> None:
        super().__init__(backbone, NoOptions())
        self.colour = nn.Parameter(torch.ones(3))
        self.sabotage = dict(sabotage or {})
        self.calls = 0

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        distance = (self.colour - batch["pixels"].mean(dim=(0, 2, 3))).square().sum()
        loss = distance * self.sabotage.get(self.calls, 1.0)
        self.calls += 1
        return {"total": loss, "distance": distance}

    def image_features(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def class_weights(self, block: ClassBlock) -> Tensor:
        raise NotImplementedError


def short_recipe(**entries: Any) -> Recipe:
    """Three epochs at rates that move every tensor."""
    return Recipe(**{"epochs": 3, "batch": 4, "lr": 0.02, "warmup_lr": 0.005, **entries})


def state_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a training state: learnables, frozen prompts, optimiser."""
    from safetensors.torch import load_file

    return load_file(folder / FILE)


ABOUT = {"preset": "paper", "recipe": asdict(Recipe()), "storage": "fp16", "data": {"name": "test", "shots": 2}}


def trained(name: str = "anprompt", storage: str = "fp16", **options: Any) -> Method:
    """A method after one epoch, rounded as before saving."""
    method = new_method(name, **options)
    if method.trainable:
        train(method, pictures(8), short_recipe(epochs=1), seed=1)
        round_to_storage(method, storage)
    return method.requires_grad_(False)


PHOTO_CLASSES = ["blue star", "green circle", "red square", "white cat"]  # of the fixture photo_folder
PHOTO_TEXTS = DescriptionBank(
    {name: [f"a photo of the {name} on the road.", f"this is a large {name}."] for name in PHOTO_CLASSES},
    {name: [f"dark {name}.", f"an image with a {name} in it."] for name in PHOTO_CLASSES},
    "own texts",
)


def estimator(backbone: Any, **params: Any) -> PromptClassifier:
    """A classifier for the photos of the fixture photo_folder that is trained in two steps."""
    quick = {"epochs": 1, "warmup_epochs": 0, "lr": 0.01, "batch": 4}
    recipe = {**quick, **params.pop("recipe", {})}
    return PromptClassifier(backbone, **{"shots": 2, "texts": PHOTO_TEXTS, "recipe": recipe, **params})


def log_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def positions(folder: Path) -> list[tuple[int, int]]:
    return [(row["epoch"], row["step"]) for row in log_rows(folder)]
