"""``anprompt demo``: zero-shot and ANPrompt on the toy world, with nothing to download."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anprompt.adapter import DOCUMENT, TENSORS, WRITTEN
from anprompt.classifier import PromptClassifier
from anprompt.clip import load_backbone
from anprompt.data import open_data
from anprompt.errors import UserError
from anprompt.files import check_writable
from anprompt.outputs import check_foreign, check_outputs
from anprompt.report.contact_sheet import Tile, save_contact_sheet
from anprompt.results import harmonic_mean, make_record, write_record
from anprompt.settings import Progress

DATA = "toyworld:night"
RECORD, SHEET = "demo.json", "predictions.png"
RECIPE = {"epochs": 5, "batch": 8}  # half the epochs and twice the batch of the paper: about half a minute a seed


def _both_halves(
    classifier: PromptClassifier, source: Any, name: str, progress: Progress | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Accuracy on base and new classes and their harmonic mean, in per cent, and the base evaluation itself."""

    def staged(half: str) -> Progress | None:
        return progress and (lambda _, done, total, numbers: progress(f"{name}, {half} classes", done, total, numbers))

    base = classifier.evaluate(source, subset="base", progress=staged("base"))
    new = classifier.evaluate(source, subset="new", progress=staged("new"))
    scores = {"base": base["accuracy"], "new": new["accuracy"]}
    return {**scores, "hm": harmonic_mean(scores["base"], scores["new"])}, base


def _tiles(evaluation: dict[str, Any], source: Any, right: bool, limit: int = 16) -> list[Tile]:
    rows = [row for row in evaluation["predictions"] if (row["label"] == row["prediction"]) == right]
    spread = rows[:: max(1, len(rows) // limit)][:limit]
    return [Tile(source.open(row["item"]), row["label"], row["prediction"], row["probability"]) for row in spread]


def run_demo(out: Path, seeds: Sequence[int], data: str = DATA, progress: Progress | None = None) -> dict[str, Any]:
    """Train on the base half of the toy world's classes, test on both halves, and write everything into ``out``.

    Returns a record with ``zero_shot``, ``runs`` (one per seed), ``mean`` and the paths written.
    Raises :class:`UserError` when ``out`` cannot be written or holds files that no demo wrote.
    """
    check_writable(out)
    check_outputs(out, [SHEET], RECORD)
    adapter = out / "adapter"
    found = [name for name in WRITTEN if (adapter / name).exists()]
    if found and not (out / RECORD).exists():
        raise UserError(f"'{adapter}' holds files that no demo wrote ({', '.join(found)}): give another --out.")
    check_foreign(adapter, WRITTEN)
    began = time.perf_counter()
    source = open_data(data)
    backbone = load_backbone("miniature")
    zero = PromptClassifier(backbone, "zero-shot").fit(source)
    zero_scores, _ = _both_halves(zero, source, "zero-shot", progress)
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        started = time.perf_counter()

        def staged(stage: str, done: int, total: int, numbers: dict[str, float], seed: int = seed) -> None:
            if progress is not None and stage == "training":
                progress(f"training, seed {seed}", done, total, numbers)

        tuned = PromptClassifier(backbone, subset="base", recipe=RECIPE, random_state=seed).fit(source, progress=staged)
        trained = time.perf_counter() - started
        scores, base = _both_halves(tuned, source, f"testing, seed {seed}", progress)
        runs.append({"seed": seed, **scores, "seconds": trained})
        if seed == seeds[0]:
            tuned.about_["metrics"] = {f"{name} accuracy": value for name, value in scores.items() if name != "hm"}
            shown, answers = tuned, base
    # only now: a demo that is stopped leaves no adapter without a record, which the next one would refuse to replace
    shown.save(adapter)
    sheet, view = out / SHEET, source.subset("base")
    sections = [
        ("right, with the probability of the answer", _tiles(answers, view, True)),
        ("wrong: the answer in red, what it is in black", _tiles(answers, view, False)),
    ]
    save_contact_sheet(sheet, f"ANPrompt on {source.name}: test pictures of the base classes", sections)
    mean = {key: statistics.fmean(run[key] for run in runs) for key in ("base", "new", "hm", "seconds")}
    size = sum((adapter / name).stat().st_size for name in (TENSORS, DOCUMENT))
    record = make_record(
        "demo", {"data": data, "seeds": list(seeds), "recipe": RECIPE},
        zero_shot=zero_scores, runs=runs, mean=mean, adapter_bytes=size, seconds=time.perf_counter() - began,
        written={"adapter": str(adapter), "contact sheet": str(sheet), "record": str(out / RECORD)},
    )  # fmt: skip
    write_record(out / RECORD, record)
    return record
