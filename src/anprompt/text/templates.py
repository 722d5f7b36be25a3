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

# Sixty photographs, pictures and views of a thing, for methods that average over many wordings.
_LOOKS = (
    "bright", "dark", "blurry", "sharp", "grainy", "cropped", "large", "small",
    "worn", "new", "strange", "plain", "beautiful", "dirty", "clean", "distant",
)  # fmt: skip
_MEDIA = ("drawing", "painting", "sketch", "sculpture", "toy", "video", "cartoon", "poster")
ENSEMBLE = (
    *(f"a {look} photo of {article} {{}}." for look in _LOOKS for article in ("a", "the")),
    *(f"a {medium} of {article} {{}}." for medium in _MEDIA for article in ("a", "the")),
    *(f"a photo of {article} {{}}." for article in ("a", "the", "one", "my")),
    *(f"a photo of {article} {{}}, {where}." for article in ("a", "the") for where in ("from above", "seen from afar")),
    *(f"{start} a {{}}." for start in ("a black and white photo of", "a close-up of", "there is", "this photo shows")),
)


def check_template(template: str) -> str:
    """Return ``template`` if it has exactly one ``{}``; else raise :class:`UserError`."""
    if template.count("{}") != 1:
        raise UserError(f"Template '{template}' must contain '{{}}' exactly once, where the class name goes.")
    return template


def fill(template: str, names: Sequence[str]) -> list[str]:
    """Put each class name into the template."""
    return [template.replace("{}", name) for name in names]
