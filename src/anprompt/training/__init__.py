"""The one training loop, recipes as data, and checkpoints. Knows no method by name."""

from anprompt.training.interrupt import Interrupted
from anprompt.training.loop import TrainingImages, TrainingResult, train
from anprompt.training.recipe import Recipe, resolve_recipe

__all__ = ["Interrupted", "Recipe", "TrainingImages", "TrainingResult", "resolve_recipe", "train"]
