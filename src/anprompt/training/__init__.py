"""The one training loop, recipes as data, and checkpoints. Knows no method by name."""

from anprompt.training.images import TrainingImages, read_images
from anprompt.training.interrupt import Interrupted
from anprompt.training.loop import TrainingResult, train
from anprompt.training.recipe import Recipe, resolve_recipe

__all__ = ["Interrupted", "Recipe", "TrainingImages", "TrainingResult", "read_images", "resolve_recipe", "train"]
