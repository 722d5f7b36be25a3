"""anprompt: teach a frozen CLIP-like model your own classes from a few photos each.

Heavy imports are lazy, so that ``import anprompt`` and ``anprompt --help`` stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["PromptClassifier", "UserError", "__version__", "load_backbone"]

if TYPE_CHECKING:
    from anprompt.classifier import PromptClassifier
    from anprompt.clip import load_backbone
    from anprompt.errors import UserError

_LAZY = {
    "PromptClassifier": "anprompt.classifier",
    "load_backbone": "anprompt.clip",
    "UserError": "anprompt.errors",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    try:
        return importlib.import_module(f"anprompt.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"anprompt.{name}":
            raise
    raise AttributeError(f"module 'anprompt' has no attribute '{name}'")
