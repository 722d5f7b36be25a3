"""Methods whose memory is estimated."""

from __future__ import annotations

from typing import Any

from anprompt import methods
from anprompt.methods import Method
from helpers_clip import random_backbone
from helpers_fit import new_method

MANY = [f"{size} {colour} {thing}" for size in ("small", "large", "dark", "bright")
        for colour in ("red", "green", "blue", "striped", "dotted")
        for thing in ("circle", "square", "triangle", "star", "cat", "dog", "house")]  # fmt: skip


def shallow(**options: Any) -> Method:
    """A method on few blocks: frozen ones, the first prompted one and such whose prompts are overwritten."""
    backbone = options.pop("backbone", None) or random_backbone(vision_depth=4, text_depth=4)
    return new_method(backbone=backbone, **{"layers": "last-3", **options})


def of_many_classes() -> Method:
    """140 classes in front of a text tower that takes more memory than the vision tower."""
    backbone = random_backbone(text_width=64, vision_width=16, patch_size=16, vision_depth=4, text_depth=4)
    return methods.create("anprompt", backbone, MANY, seed=1, layers="last-3")
