"""Commands that look before you start: info, methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anprompt.errors import UserError

SHOWN_AS = {"own_split": "test photos held out by anprompt"}  # what a key of a record is to people


def info(path: str | None = None, json: bool = False) -> int:
    """Versions and machine, or what an adapter or a backbone is.

    Args:
        path: an adapter folder, or a backbone as for fit; without it: this installation.
        json: print one JSON document.

    Examples:
        anprompt info
        anprompt info my-adapter
        anprompt info openai/clip-vit-base-patch16
    """
    from anprompt.adapter import DOCUMENT
    from anprompt.report import console
    from anprompt.results import describe_machine

    if path is None:
        document = describe_machine()
    elif (Path(path) / DOCUMENT).exists():
        document = _adapter_facts(path)
    elif Path(path).is_dir() and not (Path(path) / "config.json").exists():
        raise UserError(f"'{path}' is neither an adapter (no {DOCUMENT}) nor a backbone (no config.json).")
    else:
        try:
            document = _backbone_facts(path)
        except UserError as error:
            if Path(path).exists():
                raise
            raise UserError(f"There is no adapter '{path}', and as a backbone: {error}") from None
    if json:
        console.print_json(document)
        return 0
    flat: list[tuple[str, Any]] = []
    for key, value in document.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        flat += [
            (f"{key} {SHOWN_AS.get(name, name)}".strip().replace("_", " "), _short(key, entry)) for name, entry in inner
        ]
    console.facts(flat)
    return 0


def _short(key: str, value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if key in ("parameters", "bytes") else value


def _adapter_facts(path: str) -> dict[str, Any]:
    from anprompt.adapter import read_document

    full = read_document(path)
    keys = ("method", "preset", "template", "decision", "baked", "seed", "data", "metrics", "backbone")
    return {
        "adapter": path,
        **{key: full.get(key) for key in keys},
        "classes": [name for block in full["class_blocks"] for name in block["names"]],
        "bytes": sum(entry["bytes"] for entry in full["files"].values()),
        "format_version": full["format_version"],
        "package_version": full["package_version"],
    }


def _backbone_facts(name: str) -> dict[str, Any]:
    from dataclasses import asdict

    from anprompt.clip import load_backbone

    backbone = load_backbone(name)
    return {
        "backbone": backbone.source,
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        **asdict(backbone.config),
        "weights_sha256": backbone.weights_hash,
    }


def methods(name: str | None = None, json: bool = False) -> int:
    """List the methods: learnable numbers on ViT-B/16, needs, new classes, paper. Or the options of one.

    Args:
        name: a method, to see its options, its presets and the entries of the training recipe.
        json: print one JSON document.

    Examples:
        anprompt methods
        anprompt methods anprompt
    """
    from anprompt.methods import BROKEN, available, find
    from anprompt.methods.count import learnable_numbers
    from anprompt.report import console

    for sentence in BROKEN.values() if name is None else ():
        console.note(sentence)
    rows: list[dict[str, Any]] = [
        {
            "name": method.name,
            "paper": method.paper,
            "link": method.link,
            "year": method.year,
            "parameters": learnable_numbers(method.name),
            "parameters_per_class": learnable_numbers(method.name, classes=1) - learnable_numbers(method.name),
            "parameters_per_photo": learnable_numbers(method.name, photos=1) - learnable_numbers(method.name),
            "needs": list(method.needs),
            "supports_new_classes": method.supports_new_classes,
            "presets": {name: preset.about for name, preset in method.presets.items()},
        }
        for method in (available() if name is None else [find(name)])
    ]
    if name is not None:
        return _print_method(rows[0], json)
    if json:
        console.print_json({"backbone": "ViT-B/16", "methods": rows})
        return 0
    table = [
        (
            row["name"],
            row["year"],
            _count(row),
            ", ".join(row["needs"]) or "–",
            "yes" if row["supports_new_classes"] else "no",
        )
        for row in rows
    ]
    columns = ("method", "year", "parameters", "needs", "new classes")
    console.table("", columns, table, ("year", "parameters"), spare=("year",))
    for row in rows:
        about = f"{row['name']}: {row['paper']}, {row['link']} (presets: {', '.join(row['presets'])})"
        console.say(console.prose(about, 2))
    console.say("\nParameters: learnable numbers on ViT-B/16. 'anprompt methods NAME' lists the options of one.")
    return 0


def _print_method(about: dict[str, Any], json: bool) -> int:
    """Options, presets and recipe of one method."""
    from anprompt.methods import find
    from anprompt.methods.options import describe_options
    from anprompt.report import console
    from anprompt.training import Recipe

    method = find(about["name"])
    options, recipe = describe_options(method.Options), describe_options(Recipe)
    changes = {name: {**preset.options, **{f"recipe.{key}": value for key, value in preset.recipe.items()}}
               for name, preset in method.presets.items()}  # fmt: skip
    if json:
        console.print_json({**about, "options": options, "recipe": recipe, "preset_changes": changes})
        return 0
    console.say(f"{about['name']}: {about['paper']} ({about['year']}), {about['link']}")
    console.say(f"{_count(about)} learnable numbers on ViT-B/16 with the first preset\n")
    columns = ("", "default", "takes", "meaning")
    parts = [("Options, --options.NAME VALUE", options)]
    if _count(about) != "0":
        parts.append(("Recipe, --recipe.NAME VALUE", recipe))
    for heading, entries in parts:
        shown = [(entry["name"], _plain(entry["default"]), entry["takes"], entry["help"]) for entry in entries]
        console.table(heading, columns, shown, ("default",))
    console.say("Presets, --preset NAME")
    for name, changed in changes.items():
        console.say(console.prose(f"  {name}: {about['presets'][name]}", 4))
        if changed:
            listed = ", ".join(f"{key} {_plain(value)}" for key, value in changed.items())
            console.say(console.prose(f"    {listed}", 4))
    return 0


def _count(about: dict[str, Any]) -> str:
    """Learnable numbers in words."""
    each = [f"{about[key]:,} a {key.rpartition('_')[2]}" for key in ("parameters_per_class", "parameters_per_photo")
            if about[key]]  # fmt: skip
    return " + ".join([*([f"{about['parameters']:,}"] if about["parameters"] or not each else []), *each])


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
