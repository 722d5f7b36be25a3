"""What was handed over: an adapter, the record of a run, or a benchmark's results; and where its parts lie."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anprompt.adapter import DOCUMENT, read_document
from anprompt.errors import UserError, did_you_mean
from anprompt.results.collect import RECORDS, Result, read_results

CONFIG, RECORD, LOG = "config.yaml", "record.json", "training/log.jsonl"  # beside an adapter
ADAPTERS = "adapters"  # of a benchmark, in its results folder


class Missing(Exception):
    """Why a part of the page cannot be made, in one sentence for the reader."""


@dataclass
class Given:
    """What there is to show. ``None``: not there.

    path: as it was given. adapter: its folder; document: its ``adapter.json``. record: of an evaluation or, beside an
    adapter, of its training. config: settings as YAML text. results: evaluations of a benchmark.
    """

    path: Path
    adapter: Path | None = None
    document: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    fit: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    results: tuple[Result, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def data(self) -> str | None:
        """What to open the data with, as the run was given it, or as its record calls it."""
        if self.config is not None and "data" in self.config:
            return str(self.config["data"])
        if self.record is not None:
            name = self.record.get("config", {}).get("target") or self.record.get("data", {}).get("name")
            return None if name is None else str(name)
        name = (self.document or {}).get("data", {}).get("name")
        return None if name is None else str(name)

    @property
    def subset(self) -> str:
        """The classes it was evaluated on, else trained on."""
        config = (self.record or {}).get("config", {})
        trained = (self.document or {}).get("data", {}).get("subset", "all")
        return str(config.get("target_subset") or config.get("subset") or trained)

    @property
    def split(self) -> str | None:
        """The split that it was evaluated on, if it says so."""
        record = self.record or {}
        found = record.get("config", {}).get("split") or record.get("data", {}).get("split")
        return None if found is None else str(found)


def look_at(path: Path) -> Given:
    """Find what ``path`` is. :class:`UserError` if there is nothing, or something that no page can be made of."""
    if not path.exists():
        near = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"There is no adapter or run '{path}'.{did_you_mean(path.name, near)}")
    if path.is_dir():
        if (path / DOCUMENT).exists():
            return _of_adapter(path, path)
        if (path / RECORDS).is_dir():
            return _of_results(path)
        inside = sorted(other.name for other in path.iterdir() if (other / DOCUMENT).is_file())
        hint = f" It holds '{inside[0]}', which is one: give '{path / inside[0]}'." if inside else ""
        raise UserError(
            f"'{path}' is neither an adapter (no {DOCUMENT}) nor the results of a benchmark (no folder '{RECORDS}')."
            f"{hint}"
        )
    document = _read_json(path)
    beside = path.parent / DOCUMENT
    if path.name == DOCUMENT or (document.get("kind") == "fit" and beside.exists()):
        return _of_adapter(path, path.parent)
    if "record_version" not in document or not isinstance(document.get("config"), dict):
        raise UserError(
            f"'{path}' is not the record of a run: give an adapter's folder, or a JSON file that a run wrote."
        )
    given = Given(path, record=document)
    adapter = _adapter_behind(path, document)
    if adapter is not None:
        given.adapter, given.document, given.fit = adapter, read_document(adapter), _optional_json(adapter / RECORD)
    return given


def _of_adapter(path: Path, folder: Path) -> Given:
    given = Given(path, folder, read_document(folder), fit=_optional_json(folder / RECORD))
    if (folder / CONFIG).exists():
        import yaml

        try:
            read = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            read = None
        if isinstance(read, dict):
            given.config = read
        else:
            given.notes.append(f"'{folder / CONFIG}' cannot be read: the settings shown are those in the adapter.")
    return given


def _of_results(path: Path) -> Given:
    collected = read_results(path)
    if not collected.results:
        raise UserError(f"'{path / RECORDS}' holds no evaluation of a benchmark: run 'anprompt bench' again.")
    if len(collected.results) == 1:
        return look_at(collected.results[0].path)
    return Given(path, results=collected.results, notes=list(collected.notes))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        document = None
    if not isinstance(document, dict):
        raise UserError(
            f"'{path}' is not the record of a run: give an adapter's folder, or a JSON file that a run wrote."
        )
    return document


def _optional_json(path: Path) -> dict[str, Any] | None:
    try:
        return _read_json(path)
    except UserError:
        return None


def _adapter_behind(path: Path, record: dict[str, Any]) -> Path | None:
    """The adapter that a benchmark's record was measured with, if it still lies in the same results folder."""
    config, places = record["config"], [folder for folder in path.resolve().parents if folder.name == RECORDS]
    if record.get("kind") != "bench" or not places:
        return None
    settings = config.get("settings", {})
    wanted = {
        "method": config.get("method"), "seed": config.get("seed"), "preset": settings.get("preset"),
        "options": settings.get("options"), "recipe": settings.get("recipe"),
    }  # fmt: skip
    for file in sorted((places[0].parent / ADAPTERS).glob(f"*/{DOCUMENT}")):
        document = _optional_json(file) or {}
        trained_on = record.get("fit", {}).get("data_sha256"), config.get("subset")
        found = document.get("data", {}).get("sha256"), document.get("data", {}).get("subset")
        if found == trained_on and all(document.get(key) == value for key, value in wanted.items()):
            return file.parent
    return None


def losses(given: Given) -> list[dict[str, float]]:
    """Mean loss terms of each epoch, from the log beside the adapter, else from the record of the training.

    The log also knows the epochs before an interruption. Raises :class:`Missing` if there is neither.
    """
    rows: dict[int, list[dict[str, float]]] = {}
    log = given.adapter / LOG if given.adapter is not None else None
    if log is not None and log.exists():
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                rows.setdefault(int(row["epoch"]), []).append(row)
            except (ValueError, KeyError, TypeError):  # the end of a line that a kill has cut off
                continue
    if rows:
        known = ("epoch", "step", "seconds")
        return [
            {name: sum(row[name] for row in own) / len(own) for name in own[0] if name not in known}
            for _, own in sorted(rows.items())
        ]
    fit = given.fit if given.fit is not None else given.record
    if fit is not None and fit.get("kind") == "fit" and fit.get("loss"):
        return list(fit["loss"])
    if fit is not None and fit.get("kind") == "fit" and not fit.get("steps"):
        raise Missing("this method is not trained in steps, so there is no curve.")
    raise Missing("neither the log nor the record of the training lies beside the adapter.")
