"""Learnable numbers of a method on a given shape, counted without any weights."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import torch

from anprompt import methods
from anprompt.clip.backbone import Backbone
from anprompt.clip.config import ClipConfig, TowerConfig

VIT_B_16 = ClipConfig(
    vision=TowerConfig(width=768, depth=12, heads=12, mlp=3072),
    text=TowerConfig(width=512, depth=12, heads=8, mlp=2048),
    joint_width=512,
    image_size=224,
    patch_size=16,
    vocabulary=49408,
    context=77,
    eot_id=49407,
    sot_id=49406,
)


def learnable_numbers(
    name: str, config: ClipConfig = VIT_B_16, preset: str | None = None, *, classes: int = 0, photos: int = 0,
    **options: Any,
) -> int:  # fmt: skip
    """Count the learnable numbers of method ``name``: nothing is allocated, shapes alone are enough.

    classes, photos: of the training; only methods with rows for each of them count these.
    """
    with torch.device("meta"):
        method = methods.build(name, _shapes(config), preset=preset, **options)
        method.make_room({"class": classes, "photo": photos})
    return sum(parameter.numel() for parameter in method.parameters())


@lru_cache(maxsize=4)
def _shapes(config: ClipConfig) -> Backbone:
    """Towers without numbers; methods leave them as they are, so that one serves all."""
    with torch.device("meta"):
        return Backbone(config, cast(Any, None), cast(Any, None))  # counting needs no tokenizer and no pictures
