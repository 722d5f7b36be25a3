"""Made-up benchmark records, as the runner writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anprompt.files import sha256_json
from anprompt.results.collect import Result, read_results
from anprompt.results.select import find_table, select
from anprompt.results.tables import Row, Table, build_table

PAPERS = "openai/clip-vit-base-patch16"
Record = dict[str, Any]


def record(
    protocol: str, method: str, target: str, target_subset: str, seed: int | None, accuracy: float, **changes: Any
) -> Record:
    """One record. ``changes`` are entries of its configuration, or ``backbone``, ``weights``, ``differs``, … .

    ``benchmarks``: which published data sets source and target are; left out, as in records that did not say so yet.
    """
    config = {
        "protocol": protocol, "method": method, "recipe": f"{method}/{protocol}", "variant": {}, "ablation": None,
        "source": target, "subset": "all" if target_subset == "all" else "base", "shots": None if seed is None else 16,
        "seed": seed, "target": target, "target_subset": target_subset, "split": "test",
        "settings": {"precision": "fp32"},
    }  # fmt: skip
    config |= {name: changes.pop(name) for name in list(changes) if name in config}
    backbone = {"source": changes.pop("backbone", PAPERS), "weights_sha256": changes.pop("weights", "a" * 64)}
    data = {"name": target, "own_split": changes.pop("own_split", False), "differs": changes.pop("differs", [])}
    told = [{"benchmark": name} for name in changes.pop("benchmarks", ())] or [{}, {}]
    return {
        "record_version": 1, "kind": "bench", "config": config, "config_sha256": sha256_json(config),
        "created": "2026-11-24T10:00:00+00:00", "machine": {}, "backbone": backbone, "accuracy": accuracy,
        "class_mean": accuracy, "images": 100, "per_class": {}, "decision": "cosine of both features",
        "data": {**data, **told[1]}, "fit": told[0], "seconds": 1.0, **changes,
    }  # fmt: skip


def halves(method: str, data: str, seed: int | None, base: float, new: float, **changes: Any) -> list[Record]:
    """The two records of a base-to-new run."""
    protocol = changes.pop("protocol", "base-to-new")
    pairs = (("base", base), ("new", new))
    return [record(protocol, method, data, half, seed, value, **changes) for half, value in pairs]


def write_records(folder: Path, records: Iterable[Record]) -> Path:
    """Write records into a results folder."""
    for i, entry in enumerate(records):
        file = folder / "records" / entry["config"]["protocol"] / f"{i}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(entry), encoding="utf-8")
    return folder


def read_back(folder: Path, records: Iterable[Record]) -> list[Result]:
    return list(read_results(write_records(folder, records)).results)


def table_of(name: str, results: list[Result], **wishes: Any) -> Table:
    """The table called ``name`` of ``results``."""
    scope, chosen = select(find_table(name, results), results, Path("results"), **wishes)
    return build_table(name, scope, chosen)


def rows_of(table: Table) -> dict[tuple[str, str], Row]:
    return {(row.group, row.label): row for row in table.rows}
