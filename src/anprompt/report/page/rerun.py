"""The commands that repeat what a page shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from anprompt import methods
from anprompt.protocols.recipes import FOR_ALL
from anprompt.report.page.given import CONFIG, Given
from anprompt.report.page.parts import Page
from anprompt.training import resolve_recipe

DRAWN = ("shots", "seed", "subset")
USUAL = {"bad_images": "stop", "device": "auto"}


def commands(page: Page, asked: Mapping[str, Any], own: str) -> list[dict[str, str]]:
    """What to type, in order, each with what it does. asked: the options of the page. own: what made the page."""
    found: list[dict[str, str]] = []
    given, split, subset = page.given, page.split, page.subset
    record = given.record or {}
    if record.get("kind") == "bench":
        line, but = _bench(record, asked), _places(record, asked)
        found.append({"does": "Train and evaluate again", "line": line, "but": but})
    elif given.results:
        pass  # many runs: each record's own page says how
    elif given.adapter is not None:
        found.append({"does": "Learn it again, to the bit on the same machine", **_fit(given, asked)})
    elif record:
        found += _of_record(record)
    if given.adapter is not None:
        root = asked.get("data_root") or (given.config or {}).get("data_root")
        words = ["anprompt", "evaluate", str(given.adapter), asked.get("data") or given.data or "DATA"]
        words += ["--split", split, *(["--subset", subset] if subset != "all" else [])]
        words += _options({**asked, "data_root": root}, "texts", "backbone", "data_root", "bad_images", "device")
        found.append({"does": "Measure its accuracy again", "line": shlex.join(words)})
    found.append({"does": "Make this page again", "line": own})
    return found


def _options(asked: Mapping[str, Any], *names: str) -> list[str]:
    """Those of the options ``names`` that were asked for, as on a command line."""
    chosen = {name: asked[name] for name in names if asked.get(name) not in (None, USUAL.get(name))}
    return [word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def _fit(given: Given, asked: Mapping[str, Any]) -> dict[str, str]:
    assert given.adapter is not None
    assert given.document is not None
    if given.config is not None:
        moved = ("backbone",) if "data" in asked else ("backbone", "data_root")  # other data may lie elsewhere
        line = ["anprompt", "fit", "--config", str(given.adapter / CONFIG), *_options(asked, *moved)]
        return {"line": shlex.join([*line, "--out", "again"])}
    about, method = given.document, given.document["method"]
    preset = about.get("preset")
    backbone = asked.get("backbone") or about["backbone"]["source"]
    line = ["anprompt", "fit", asked.get("data") or given.data or "DATA", *_options(asked, "data_root", "bad_images")]
    line += ["--backbone", backbone, "--method", method]
    line += ["--preset", str(preset)] if preset else []
    drawn = {"seed": about["seed"], **{key: about.get("data", {}).get(key) for key in DRAWN if key != "seed"}}
    for key, value in drawn.items():
        line += [f"--{key}", str(value)] if value is not None else []
    usual = methods.resolve_options(method, preset, None)
    line += _changes("options", about["options"], usual)
    if about.get("recipe"):
        line += _changes("recipe", about["recipe"], asdict(resolve_recipe(methods.find_preset(
            methods.find(method), preset).recipe, None)))  # fmt: skip
    texts = about["texts"].get("source", "")
    but = f"Its descriptions came from '{texts}': give that file with --texts." if about["texts"].get("main") else ""
    return {"line": shlex.join([*line, "--out", "again"]), "but": but}


def _changes(prefix: str, chosen: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """``--recipe.epochs 3`` for every value that is not the preset's."""
    line = []
    for key, value in chosen.items():
        if key not in usual or usual[key] != value:
            line += [f"--{prefix}.{key}", str(value).lower() if isinstance(value, bool) else str(value)]
    return line


def _bench(record: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    config = record["config"]
    line = ["anprompt", "bench", "--protocol", config["protocol"], "--methods", config["method"]]
    transfers = config["protocol"] in ("cross-dataset", "domain-generalisation")
    line += ["--source", config["source"]] if transfers else []
    line += ["--datasets", config["target"] if transfers else config["source"]]
    for option in ("seed", "shots"):
        line += [f"--{option.rstrip('s')}s", str(config[option])] if config.get(option) is not None else []
    name = str(config.get("recipe") or "").partition("/")[0]
    if name and name != config["method"]:  # of the method's own name: the published one
        line += ["--recipe", name if name in FOR_ALL else f"{name}.yaml"]
    for key, value in (config.get("variant") or {}).items():
        line += [f"--vary.{key}", str(value)]
    line += ["--ablation", config["ablation"]] if config.get("ablation") else []
    backbone = asked.get("backbone") or record.get("backbone", {}).get("source", "MODEL")
    return shlex.join([*line, *_options(asked, "data_root"), "--backbone", backbone])


def _places(record: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    if str(record["config"]["target"]).startswith("toyworld"):
        return ""
    root = "" if asked.get("data_root") else "--data-root, and "
    return f"A record names no place on a machine: add {root}--texts if it had any."


def _of_record(record: Mapping[str, Any]) -> list[dict[str, str]]:
    config, name = record["config"], record.get("data", {}).get("name", "DATA")
    chosen = ["--split", config.get("split", "test"), "--subset", config.get("subset", "all")]
    but = "A record names no place on a machine: put your own in place of what is in capitals."
    if record.get("kind") == "evaluate":
        among = ["--among", config["among"]] if config.get("among", "data") != "data" else []
        line = ["anprompt", "evaluate", "ADAPTER", name, *chosen, *among]
        return [{"does": "Measure it again", "line": shlex.join(line), "but": but}]
    if record.get("kind") == "zeroshot":
        text = config.get("options", {}).get("text", "template")
        split = record.get("data", {}).get("split", "test")
        line = ["anprompt", "zeroshot", name, "--text", text, "--template", config.get("template", "")]
        line += ["--split", split, "--subset", config.get("subset", "all"), "--backbone", "MODEL"]
        return [{"does": "Measure it again", "line": shlex.join(line), "but": but}]
    return []
