"""Commands that look before you start: check, info, methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.data import DataSource, Item
    from anprompt.text import DescriptionBank


def check(
    data: str,
    shots: int = 16,
    texts: str | None = None,
    backbone: str | None = None,
    template: str | None = None,
    data_root: str | None = None,
    json: bool = False,
) -> int:
    """Look through data before training: classes, counts, unreadable photos, texts. Exit code 2 if something is wrong.

    Args:
        data: as for fit.
        shots: photos that a run would draw per class.
        texts: JSON file with descriptions, or folder of such files, to see which classes they cover.
        backbone: also check that all names and sentences fit its context.
        template: sentence with {} for the class name.
        data_root: folder that holds the benchmark data sets.
        json: print one JSON document.

    Examples:
        anprompt check photos
        anprompt check photos --texts descriptions.json --backbone openai/clip-vit-base-patch16
    """
    from anprompt.data import short_classes
    from anprompt.inputs import as_source
    from anprompt.report import console
    from anprompt.settings import bank_for, listed
    from anprompt.text import check_template

    source = as_source(data, data_root=data_root)
    wording = check_template(template or source.template)
    bank = bank_for(texts, source)
    unreadable: list[str] = []
    lost: list[str] = []  # classes of which no photo of a split can be read
    with console.progress_bars() as progress:
        for split in source.splits:

            def checked(done: int, total: int, split: str = split) -> None:
                progress(f"reading {split}", done, total, {})

            bad, gone = _unreadable(source, split, checked)
            unreadable += bad
            lost += [f"'{name}' in {split}" for name in gone]
    too_long = _too_long(backbone, wording, source.classes, bank) if backbone is not None else None
    counts = {split: [0] * len(source.classes) for split in source.splits}
    for split, items in source.splits.items():
        for item in items:
            counts[split][item.label] += 1
    document: dict[str, Any] = {
        "data": source.name,
        "benchmark": source.benchmark,
        "own_split": source.own_split,
        "template": wording,
        "classes": {
            name: {
                **{split: counts[split][label] for split in counts},
                "main": len(bank.main.get(name, ())),
                "noise": len(bank.noise.get(name, ())),
            }
            for label, name in enumerate(source.classes)
        },
        "fewer_than_shots": short_classes(source.splits["train"], shots),
        "unreadable": unreadable,
        "without_readable_photo": lost,
        "too_long": too_long,
    }
    wrong = len(unreadable) + (too_long is not None)
    if json:
        console.print_json(document)
        return 2 if wrong else 0
    columns = ["class", *counts, *(("main texts", "noise texts") if bank.main or bank.noise else ())]
    rows = [(name, *row.values())[: len(columns)] for name, row in document["classes"].items()]
    photos = sum(map(sum, counts.values()))
    console.table(f"{source.name}: {len(source.classes)} classes, {photos} photos", columns, rows, columns[1:])
    if source.own_split:
        console.say("No test split was given: a fixed 30 % of each class is held out, and results say so.")
    if short := document["fewer_than_shots"]:
        shown = listed([f"{name} ({count})" for name, count in short.items()])
        console.say(f"{len(short)} of {len(source.classes)} classes have fewer than {shots} training photos and would "
                    f"give all: {shown}")  # fmt: skip
    if (bank.main or bank.noise) and (missing := [name for name in source.classes if name not in bank.main]):
        console.say(f"{len(missing)} of {len(source.classes)} classes have no descriptions and would use the template: "
                    f"{listed(missing)}")  # fmt: skip
    for problem in unreadable:
        console.say(f"unreadable: {problem}")
    if lost:
        console.say(f"No photo can be read of {listed(lost)}: this stops a run even with --bad-images skip.")
    if too_long is not None:
        console.say(too_long)
    many = "1 photo" if len(unreadable) == 1 else f"{len(unreadable)} photos"
    if unreadable:
        console.say(f"{many} cannot be used: mend or remove, or run with --bad-images skip.")
    elif not wrong:
        console.say("Nothing is wrong.")
    return 2 if wrong else 0


def _unreadable(source: DataSource, split: str, progress: Callable[[int, int], None]) -> tuple[list[str], list[str]]:
    """Messages of all unreadable photos of a split, and the classes that have no other."""
    from concurrent.futures import ThreadPoolExecutor

    from anprompt.data import BadImage

    def problem(item: Item) -> str | None:
        try:
            source.open(item)
        except BadImage as error:
            return str(error)
        return None

    items = source.splits[split]
    bad: list[str] = []
    readable: set[str] = set()
    with ThreadPoolExecutor(max_workers=2) as pool:
        for done, (item, found) in enumerate(zip(items, pool.map(problem, items), strict=True), start=1):
            if found is None:
                readable.add(item.name)
            else:
                bad.append(found)
            progress(done, len(items))
    return bad, sorted({item.name for item in items} - readable)


def _too_long(backbone: str, template: str, classes: Sequence[str], bank: DescriptionBank) -> str | None:
    """What the backbone's context is too short for, in words."""
    from anprompt.clip import load_backbone
    from anprompt.text import fill

    described = [s for part in (bank.main, bank.noise) for own in part.values() for s in own]
    tokenizer = load_backbone(backbone).tokenizer
    try:
        tokenizer([*fill(template, classes), *described])
    except UserError as error:
        return str(error)
    return None


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
        flat += [(f"{key} {name}".strip().replace("_", " "), _short(key, entry)) for name, entry in inner]
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
    from anprompt.methods import available, find
    from anprompt.methods.count import learnable_numbers
    from anprompt.report import console

    rows: list[dict[str, Any]] = [
        {
            "name": method.name,
            "paper": method.paper,
            "link": method.link,
            "year": method.year,
            "parameters": learnable_numbers(method.name),
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
            f"{row['parameters']:,}",
            ", ".join(row["needs"]) or "–",
            "yes" if row["supports_new_classes"] else "no",
            ", ".join(row["presets"]),
        )
        for row in rows
    ]
    columns = ("method", "year", "parameters", "needs", "new classes", "presets")
    console.table("", columns, table, ("year", "parameters"))
    for row in rows:
        console.say(f"{row['name']}: {row['paper']}, {row['link']}")
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
    console.say(f"{about['parameters']:,} learnable numbers on ViT-B/16 with the first preset\n")
    columns = ("", "default", "takes", "meaning")
    parts = [("Options, --options.NAME VALUE", options)]
    if about["parameters"]:
        parts.append(("Recipe, --recipe.NAME VALUE", recipe))
    for heading, entries in parts:
        shown = [(entry["name"], _plain(entry["default"]), entry["takes"], entry["help"]) for entry in entries]
        console.table(heading, columns, shown, ("default",))
    console.say("Presets, --preset NAME")
    for name, changed in changes.items():
        console.say(f"  {name}: {about['presets'][name]}")
        if changed:
            console.say("    " + ", ".join(f"{key} {_plain(value)}" for key, value in changed.items()))
    return 0


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
