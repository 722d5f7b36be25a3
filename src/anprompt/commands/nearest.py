"""What somebody may have meant by an option that a command does not have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from anprompt.errors import nearest

# What others call entries of the training recipe.
OTHER_NAMES = {"batch_size": "batch", "learning_rate": "lr", "num_epochs": "epochs", "warmup": "warmup_epochs"}


def nearest_option(name: str, own: Iterable[str], method: object, in_file: bool = False) -> str:
    """What to type instead, as in `` Did you mean '--recipe.epochs'?``, or an empty string.

    Args:
        name: what was typed, without dashes before it.
        own: the command's parameters.
        method: whose options may be meant; those of the default method where it is not known.
        in_file: whether it stands in a YAML file and not on the command line.
    """
    name, own = name.replace("-", "_"), list(own)
    near = nearest(name, own) if len(name) > 2 else None
    if near is not None:
        return f" Did you mean '{near if in_file else as_option(near)}'?"
    for group, names in _nested(method).items() if "recipe" in own else ():
        meant = _meant(name, names)
        if meant is None:
            continue
        if "options" not in own:  # bench and compare: their recipes are files
            whose = "the training recipe" if group == "recipe" else "a method"
            return (f" '{meant}' belongs to {whose}: write it into a YAML file for --recipe; 'anprompt recipes NAME' "
                    "shows one.")  # fmt: skip
        return f" Did you mean '{meant}' under '{group}:'?" if in_file else f" Did you mean '--{group}.{meant}'?"
    return ""


def _meant(name: str, names: Sequence[str]) -> str | None:
    """The one of ``names`` that ``name`` stands for; names of two letters only if they are just that."""
    name = OTHER_NAMES.get(name, name)
    return name if name in names else nearest(name, names) if len(name) > 2 else None


def as_option(name: str) -> str:
    """``bad_images`` -> ``--bad-images``, ``class_`` -> ``--class``, the way people type it."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def _nested(method: object) -> dict[str, list[str]]:
    """Entries of a recipe, and options of the method."""
    from dataclasses import fields  # all of this only after a mistake: it brings torch

    from anprompt import methods
    from anprompt.training import Recipe

    known = {entry.name: entry for entry in methods.available()}
    kind = known.get(str(method), known["anprompt"])
    return {"recipe": [f.name for f in fields(Recipe)], "options": [f.name for f in fields(kind.Options)]}
