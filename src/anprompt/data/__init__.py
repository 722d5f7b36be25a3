"""Image sources, decoding, few-shot draws and the base/new split."""

from anprompt.data.draw import base_new_split, draw_few_shot, draw_validation, short_classes
from anprompt.data.open import open_data
from anprompt.data.source import DataSource, Item
from anprompt.data.verify import decoding_threads, verify_images
from anprompt.pictures import BadImage, decode

__all__ = [
    "BadImage",
    "DataSource",
    "Item",
    "base_new_split",
    "decode",
    "decoding_threads",
    "draw_few_shot",
    "draw_validation",
    "open_data",
    "short_classes",
    "verify_images",
]
