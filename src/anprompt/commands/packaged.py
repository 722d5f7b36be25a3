"""The model that commands take where none is named, and what must be said of it."""

from __future__ import annotations

from collections.abc import Sequence

MINIATURE = "miniature"


def backbone_for(named: str | None, data: Sequence[str]) -> str:
    """``named``, or the packaged miniature, with a note unless all of ``data`` are the toy world by name."""
    if named is not None:
        return named
    if any(not name.lower().startswith("toyworld") for name in data):
        from anprompt.report import console

        console.note(
            "no --backbone is given: the packaged miniature knows the toy world only. For photos name a real model, "
            "such as --backbone openai/clip-vit-base-patch16; --backbone miniature hides this note."
        )
    return MINIATURE
