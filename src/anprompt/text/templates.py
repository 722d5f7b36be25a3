"""Sentence frames around a class name."""

from __future__ import annotations

from collections.abc import Sequence

from anprompt.errors import UserError

DEFAULT_TEMPLATE = "a photo of a {}."

# Ways to say "here is a …": the ensemble of zero-shot, and the stand-in for descriptions when a class has none.
PARAPHRASES = (
    "a picture of a {}.",
    "an image showing a {}.",
    "this is a {}.",
    "a snapshot of one {}.",
    "a close view of a {}.",
    "a {} seen in a photograph.",
    "here you see a {}.",
    "a {} in its surroundings.",
)


def check_template(template: str) -> str:
    """Return ``template`` if it has exactly one ``{}``; else raise :class:`UserError`."""
    if template.count("{}") != 1:
        raise UserError(f"Template '{template}' must contain '{{}}' exactly once, where the class name goes.")
    return template


def fill(template: str, names: Sequence[str]) -> list[str]:
    """Put each class name into the template."""
    return [template.replace("{}", name) for name in names]
