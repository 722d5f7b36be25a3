"""The one training loop, recipes as data, and checkpoints. Knows no method by name."""

from anprompt.training.checkpoint import kept_class_chunk, kept_precision
from anprompt.training.compiled import check_can_compile
from anprompt.training.images import TrainingImages, read_images
from anprompt.training.interrupt import Interrupted
from anprompt.training.loop import WRITTEN, TrainingResult, train
from anprompt.training.memory import MemoryPlan, check_limit, estimate_step, plan_memory
from anprompt.training.photos import FrozenPhotos
from anprompt.training.recipe import Recipe, resolve_recipe

__all__ = [
    "WRITTEN",
    "FrozenPhotos",
    "Interrupted",
    "MemoryPlan",
    "Recipe",
    "TrainingImages",
    "TrainingResult",
    "check_can_compile",
    "check_limit",
    "estimate_step",
    "kept_class_chunk",
    "kept_precision",
    "plan_memory",
    "read_images",
    "resolve_recipe",
    "train",
]
