"""All methods, by name. A new file in this folder with a :class:`Method` subclass is found by itself.

So are modules of installed packages that have an entry point in the group ``anprompt.methods``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from anprompt.clip.backbone import Backbone
from anprompt.errors import UserError, unknown_name
from anprompt.methods.base import REGISTRY, ClassBlock, Method, Photos, Preset
from anprompt.methods.options import build_options, checked_entries
from anprompt.text import DEFAULT_TEMPLATE, DescriptionBank, check_template

__all__ = ["ClassBlock", "Method", "Photos", "Preset", "available", "build", "create", "find", "resolve_options"]

BROKEN: dict[str, str] = {}  # methods of installed packages that cannot be imported, and why

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
for _plugin in importlib.metadata.entry_points(group=__name__):
    try:
        _plugin.load()
    except Exception as _error:  # whatever somebody else's module raises: it must not keep all others from working
        _what = f"The installed method '{_plugin.name}' cannot be imported from {_plugin.value}"
        BROKEN[_plugin.name] = f"{_what} ({_error}): mend or uninstall it."


def available() -> list[type[Method]]:
    """All registered methods, by year and name."""
    return sorted(REGISTRY.values(), key=lambda method: (method.year, method.name))


def find(name: str) -> type[Method]:
    """The method of that name; :class:`UserError` with the nearest name otherwise."""
    if name in BROKEN:
        raise UserError(BROKEN[name])
    if name not in REGISTRY:
        raise unknown_name("method", name, REGISTRY)
    return REGISTRY[name]


def find_preset(method: type[Method], preset: str | None) -> Preset:
    """The preset of that name, or the method's first one for ``None``; :class:`UserError` for an unknown name."""
    if preset is None:
        return next(iter(method.presets.values()))
    if preset not in method.presets:
        raise unknown_name(f"{method.name} preset", preset, method.presets)
    return method.presets[preset]


def resolve_options(name: str, preset: str | None = None, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """All options of method ``name``: defaults, then the preset's, then ``options``. Errors name the nearest option."""
    method = find(name)
    given = {key.replace("-", "_"): value for key, value in checked_entries("options", options).items()}
    merged = {**find_preset(method, preset).options, **given}
    return asdict(build_options(method.Options, merged, f"method '{name}'"))


def build(
    name: str,
    backbone: Backbone,
    *,
    preset: str | None = None,
    template: str = DEFAULT_TEMPLATE,
    seed: int = 1,
    **options: Any,
) -> Method:
    """Build a method with fresh learnables and no classes yet. Works on the ``meta`` device too."""
    method = find(name)
    values = resolve_options(name, preset, options)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        built = method(backbone, method.Options(**values), template=check_template(template), seed=seed)
    return built.to(backbone.device)


def create(
    name: str,
    backbone: Backbone,
    class_names: Sequence[str],
    *,
    texts: DescriptionBank | None = None,
    photos: Photos | None = None,
    preset: str | None = None,
    template: str = DEFAULT_TEMPLATE,
    seed: int = 1,
    **options: Any,
) -> Method:
    """Build a method for the training classes ``class_names``, ready for ``losses`` and ``logits``.

    name: registered name. texts: description bank. photos: for methods that need ``"training photos"``.
    preset: one of the method's presets. options: the method's own.
    Raises :class:`UserError` for unknown names (with the nearest valid one) and options out of range.
    """
    built = build(name, backbone, preset=preset, template=template, seed=seed, **options)
    built.start(class_names, texts or DescriptionBank())
    if "training photos" in built.needs:
        if photos is None:
            raise UserError(f"Method '{name}' looks at the training photos first: give them as 'photos'.")
        built.see(photos)
    return built
