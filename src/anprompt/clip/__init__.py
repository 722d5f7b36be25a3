"""The frozen dual encoder: towers, prompts as data, checkpoints, tokenizer and image pipeline."""

from __future__ import annotations

from anprompt.clip.backbone import Backbone, ImageFeatures, LocalFeatures
from anprompt.clip.checkpoint import load_backbone
from anprompt.clip.config import ClipConfig, TowerConfig
from anprompt.clip.plan import BlockAdapter, PromptPlan, PromptWrite
from anprompt.clip.preprocess import ImageTransform
from anprompt.clip.sentences import Sentences
from anprompt.clip.tokenizer import ClipTokenizer

__all__ = [
    "Backbone",
    "BlockAdapter",
    "ClipConfig",
    "ClipTokenizer",
    "ImageFeatures",
    "ImageTransform",
    "LocalFeatures",
    "PromptPlan",
    "PromptWrite",
    "Sentences",
    "TowerConfig",
    "load_backbone",
]
