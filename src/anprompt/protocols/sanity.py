"""Sanity first: zero-shot accuracy must be the published one before anything is trained on top of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from anprompt.data import DataSource
from anprompt.errors import Problems
from anprompt.protocols.declare import Asked, declare
from anprompt.protocols.runs import Evaluation, Run
from anprompt.results.paper import PAPERS_SOURCE, is_papers_backbone, paper_cells

TOLERANCE = 1.0  # points; rounding of pictures and numbers explains less
METHOD = "zero-shot"
CAUSES = (
    "Likely causes: another template than the one above (each published data set has its own); photos that were "
    "resized before, or are resized in another way than the shorter side to the input size with bicubic filtering; "
    "classes that are called otherwise than in the published split. 'anprompt check NAME --data-root …' shows the "
    "classes. --unchecked goes on all the same."
)


def zero_shot_runs(asked: Asked, backbone: str, sources: Mapping[str, DataSource]) -> list[Run]:
    """Zero-shot runs that have published values to compare with: none for another backbone or for other data.

    backbone: what it was loaded from. sources: the data of the benchmark by specification.
    """
    if not is_papers_backbone(backbone):
        return []
    published = [spec for spec, source in sources.items() if source.benchmark and not source.differs]
    if asked.protocol == "domain-generalisation":
        if sources[asked.source or PAPERS_SOURCE].benchmark != PAPERS_SOURCE:
            return []
        asked = replace(asked, methods=[METHOD])
    else:
        known = paper_cells("base-to-new", METHOD)
        datasets = [spec for spec in published if sources[spec].benchmark in known]
        if not datasets:
            return []
        asked = Asked("base-to-new", [METHOD], datasets)
    runs = [replace(run, targets=tuple(t for t in run.targets if t.data in published)) for run in declare(asked)]
    return [run for run in runs if run.targets]


def check_zero_shot(evaluations: Sequence[Evaluation], out: Path) -> None:
    """Compare the records of zero-shot runs with the published values.

    Raises :class:`UserError` naming every one that is more than a point away, with the template, and likely causes.
    """
    problems = Problems(
        f"Zero-shot accuracy is more than {TOLERANCE:g} point away from the published one, so nothing that is trained "
        "here would compare:"
    )
    for evaluation in evaluations:
        config = evaluation.config
        cells = paper_cells(str(config["protocol"]), METHOD).get(str(config["target"]), {})
        published = cells.get("accuracy" if config["target_subset"] == "all" else str(config["target_subset"]))
        record = json.loads((out / evaluation.file).read_text(encoding="utf-8"))
        if published is not None and abs(record["accuracy"] - published) > TOLERANCE:
            problems.add(
                f"{config['target']}, {config['target_subset']} classes: {record['accuracy']:.2f} here, "
                f"{published:.2f} published (template '{record['template']}')"
            )
    if problems:
        problems.add(CAUSES)
    problems.raise_if_any()
