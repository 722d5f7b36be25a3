"""What the paper's tables say, beside which our results stand."""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from anprompt.results.metrics import harmonic_mean

TABLES = Path(__file__).parents[1] / "assets" / "paper_tables.json"
AVERAGE = "average"
# Names of the paper's backbone, OpenAI's CLIP ViT-B/16: the hub id and its short form, and OpenAI's own file
HUB_ID, ALIAS, OPENAI_FILE = "openai/clip-vit-base-patch16", "ViT-B/16", "ViT-B-16.pt"
LARGEST_EFFECT = "eurosat"  # averages are also shown without it: it alone decides many rankings
PAPERS_SOURCE = "imagenet"  # of its transfers
SHOTS = 16  # CoOp's set-up, which the paper follows in all tables; Figure 6 varies them

Cells = Mapping[str, Mapping[str, float]]  # data set or AVERAGE -> measure -> per cent


@functools.cache
def paper_tables() -> dict[str, Any]:
    """The packaged document: ``accuracy`` by protocol, method and data set, ``ablations`` by table."""
    document: dict[str, Any] = json.loads(TABLES.read_text(encoding="utf-8"))
    return document


def is_papers_backbone(source: str) -> bool:
    """Whether a backbone is called like the one behind the paper's numbers: by a name of it, or by its folder or file.

    source: as the user gives it, or as a record has it, without folders.
    """
    path = Path(source).expanduser()
    if path.name == Path(HUB_ID).name:  # the hub's name of somebody else's model may end in the same way
        return source == HUB_ID or path.is_absolute() or len(path.parts) != 2 or path.is_dir()
    return source == ALIAS or path.name == OPENAI_FILE


def eleven() -> set[str]:
    """The data sets of the paper's Table I and of its ablations."""
    return set(paper_cells("base-to-new", "anprompt")) - {AVERAGE}


def paper_cells(protocol: str, method: str) -> Cells:
    """All cells of a method's row; empty if the paper has no such row."""
    cells: Cells = paper_tables()["accuracy"].get(protocol, {}).get(method, {})
    return cells


def ablation_values(name: str | None, variant: Mapping[str, Any]) -> dict[str, Any]:
    """``variant`` in full: options that it leaves out have the paper's own value, and values have the paper's names."""
    table = paper_tables()["ablations"].get(name)
    if table is None:
        return dict(variant)
    same = table.get("same", {})
    return {option: same.get(value, value) for option, value in {**table["own"], **variant}.items()}


def ablation_row(name: str | None, variant: Mapping[str, Any]) -> int | None:
    """Which row of the paper's ablation table a variant is, or None."""
    wanted = ablation_values(name, variant)
    rows = paper_tables()["ablations"].get(name, {"rows": ()})["rows"]
    return next((i for i, row in enumerate(rows) if row["variant"] == wanted), None)


def ablation_cells(name: str | None, variant: Mapping[str, Any]) -> Cells:
    """As :func:`paper_cells`, for a row of an ablation table: the paper only has the average."""
    row = ablation_row(name, variant)
    if row is None:
        return {}
    numbers = dict(paper_tables()["ablations"][name]["rows"][row])
    del numbers["variant"]
    return {AVERAGE: numbers}


def beside_cells(name: str | None, method: str) -> Cells:
    """As :func:`ablation_cells`, for a method that the paper sets beside an ablation."""
    numbers = paper_tables()["ablations"].get(name, {}).get("beside", {}).get(method)
    return {} if numbers is None else {AVERAGE: numbers}


def paper_average(cells: Cells, data_sets: Collection[str], source: str | None = None) -> dict[str, float]:
    """The paper's average over ``data_sets``: as printed if they are all of its own, else computed from its cells.

    The harmonic mean is that of the averages, as everywhere in the field. Empty if the paper lacks one of them.
    """
    own = set(cells) - {AVERAGE, source}
    if AVERAGE in cells and own == set(data_sets):
        return dict(cells[AVERAGE])
    if not data_sets or not own >= set(data_sets):
        return {}
    measures = [measure for measure in cells[next(iter(data_sets))] if measure != "hm"]
    means = {name: statistics.fmean(cells[data_set][name] for data_set in data_sets) for name in measures}
    if {"base", "new"} <= means.keys():
        means["hm"] = harmonic_mean(means["base"], means["new"])
    return means
