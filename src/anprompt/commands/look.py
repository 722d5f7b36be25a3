"""Commands that look before you start: check, info, methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal


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
        texts: file or folder with descriptions, to see which classes they cover.
        backbone: also check that all names and sentences fit its context.
        template: sentence with {} for the class name.
        data_root: folder that holds the benchmark data sets.
        json: print one JSON document.
    """
    from anprompt.classifier import bank_for
    from anprompt.data import short_classes, verify_images
    from anprompt.inputs import as_source
    from anprompt.report import console
    from anprompt.text import fill

    source = as_source(data, data_root=data_root)
    bank = bank_for(texts, source)
    unreadable: list[str] = []
    with console.progress_bars() as progress:
        for split, items in source.splits.items():

            def checked(done: int, total: int, split: str = split) -> None:
                progress(f"reading {split}", done, total, {})

            verified = verify_images(items, source.open, "skip", checked, threads=2)
            unreadable += [str(error) for error in verified.bad]
    if backbone is not None:
        from anprompt.clip import load_backbone

        sentences = fill(template or source.template, source.classes)
        described = [s for bank_part in (bank.main, bank.noise) for own in bank_part.values() for s in own]
        load_backbone(backbone).tokenizer([*sentences, *described])  # refuses all that are too long, by name
    counts = {split: [0] * len(source.classes) for split in source.splits}
    for split, items in source.splits.items():
        for item in items:
            counts[split][item.label] += 1
    document: dict[str, Any] = {
        "data": source.name,
        "benchmark": source.benchmark,
        "own_split": source.own_split,
        "template": template or source.template,
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
    }
    if json:
        console.print_json(document)
        return 2 if unreadable else 0
    columns = ["class", *counts, "main texts", "noise texts"]
    rows = [(name, *row.values()) for name, row in document["classes"].items()]
    console.table(f"{source.name}: {len(source.classes)} classes", columns, rows, columns[1:])
    if source.own_split:
        console.out.print("No test split was given: a fixed 30 % of each class is held out, and results say so.")
    for name, count in document["fewer_than_shots"].items():
        console.out.print(f"fewer than {shots} photos: {name} has {count}, all would be used")
    for problem in unreadable:
        console.out.print(f"unreadable: {problem}", soft_wrap=True)
    console.out.print("Fine." if not unreadable else f"{len(unreadable)} photos cannot be used.")
    return 2 if unreadable else 0


def info(path: str | None = None, json: bool = False) -> int:
    """Versions and machine, or what an adapter or a backbone is.

    Args:
        path: an adapter folder, or a backbone as for fit; without it: this installation.
        json: print one JSON document.
    """
    from anprompt.adapter import DOCUMENT, read_document
    from anprompt.report import console
    from anprompt.results import describe_machine

    document: dict[str, Any]
    if path is None:
        document = describe_machine()
    elif (Path(path) / DOCUMENT).exists() or not _looks_like_backbone(path):
        full = read_document(path)
        names = [name for block in full["class_blocks"] for name in block["names"]]
        keys = ("method", "preset", "baked", "decision", "template", "seed", "package_version", "format_version")
        document = {key: full.get(key) for key in keys}
        document |= {"backbone": full["backbone"]["source"], "classes": names, "data": full.get("data")}
        document |= {"bytes": sum(entry["bytes"] for entry in full["files"].values()), "metrics": full.get("metrics")}
    else:
        from anprompt.clip import load_backbone

        backbone = load_backbone(path)
        document = {
            "backbone": backbone.source,
            "weights_sha256": backbone.weights_hash,
            "parameters": sum(p.numel() for p in backbone.parameters()),
            **vars(backbone.config),
        }
    if json:
        console.print_json({key: vars(v) if hasattr(v, "__dict__") else v for key, v in document.items()})
        return 0
    console.table("", ("", ""), list(document.items()))
    return 0


def _looks_like_backbone(path: str) -> bool:
    folder = Path(path)
    return path == "miniature" or (folder / "config.json").exists() or folder.suffix == ".pt" or not folder.exists()


def methods(backbone_shape: Literal["ViT-B/16"] = "ViT-B/16", json: bool = False) -> int:
    """List the methods: paper, year, learnable numbers, needs, and whether new classes can be added.

    Args:
        backbone_shape: for which the learnable numbers are counted (without any weights).
        json: print one JSON document.
    """
    from anprompt.methods import available
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
        for method in available()
    ]
    if json:
        console.print_json({"backbone": backbone_shape, "methods": rows})
        return 0
    table = [
        (
            row["name"],
            f"{row['parameters']:,}",
            ", ".join(row["needs"]) or "–",
            "yes" if row["supports_new_classes"] else "no",
            ", ".join(row["presets"]),
        )
        for row in rows
    ]
    columns = ("name", "parameters", "needs", "new classes", "presets")
    console.table(f"Methods; parameters counted on {backbone_shape}", columns, table, ("parameters",))
    for row in rows:
        console.out.print(f"{row['name']}: {row['paper']} ({row['year']}), {row['link']}", soft_wrap=True)
    return 0
