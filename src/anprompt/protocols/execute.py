"""Doing one task: train, unless that is done already, then evaluate and write the records."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from anprompt.adapter import DOCUMENT, TENSORS
from anprompt.classifier import PromptClassifier
from anprompt.clip import Backbone, load_backbone
from anprompt.clip.cache import ActivationCache
from anprompt.files import atomic_path, locked
from anprompt.protocols.declare import learns
from anprompt.protocols.plan import has_record, is_done, open_source
from anprompt.protocols.runs import Bench, Evaluation, Task
from anprompt.results import make_record, write_record
from anprompt.settings import Note, Progress, cache_for, note
from anprompt.training.capacity import sharing
from anprompt.training.checkpoint import FILE

FIT_RECORD, TRAINING = "record.json", "training"


@dataclass
class Done:
    """What a task came to. records: by place below the results folder. notes: what users should know, each once."""

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)  # of the adapter, where no folder is shared


@lru_cache(maxsize=1)
def backbone_of(name: str) -> Backbone:
    """The backbone of all runs, loaded once per process. It stays on the CPU: a run puts what it needs on its device,
    where fp32 weights would otherwise lie beside those in bf16."""
    return load_backbone(name)


@lru_cache(maxsize=1)
def _cache(folder: str | None, limit: float | None) -> ActivationCache | None:
    return cache_for(folder, limit)


def execute(task: Task, bench: Bench, progress: Progress | None = None) -> Done:
    """Do what is left of a task, in ``bench.out``; an interrupted training goes on where it was.

    Every record is written as soon as it is there. Raises :class:`UserError` if the run cannot be done, or if another
    process is at it.
    """
    if bench.threads is not None:
        torch.set_num_threads(bench.threads)
    out, done = Path(bench.out), Done()
    name = task.adapter.name
    lock = locked(out / "locks" / f"{name}.lock", f"'{name}'", note)
    heard = warnings.catch_warnings(record=True, action="always", category=Note)
    with heard as raised, lock, sharing(bench.memory):
        left = [e for e in task.evaluations if not is_done(out, e)]  # somebody else may have been faster
        trained: tuple[PromptClassifier, dict[str, Any]] | None = None
        for evaluation in left:
            trained = trained or _trained(task, bench, progress)
            record = _evaluate(evaluation, *trained, bench, progress)
            write_record(out / evaluation.file, record)
            done.records[str(evaluation.file)] = record
        if bench.discard:
            shutil.rmtree(out / task.adapter, ignore_errors=True)
    done.notes = list(dict.fromkeys(str(w.message) for w in raised if issubclass(w.category, Note)))
    for other in raised:
        if not issubclass(other.category, Note):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return done


def _trained(task: Task, bench: Bench, progress: Progress | None) -> tuple[PromptClassifier, dict[str, Any]]:
    """The trained classifier, from its adapter if there is one, and what its record should say of the training."""
    run, folder = task.run, Path(bench.out) / task.adapter
    backbone = backbone_of(bench.backbone)
    if (folder / DOCUMENT).exists() and (folder / FIT_RECORD).exists():
        fit = json.loads((folder / FIT_RECORD).read_text(encoding="utf-8"))
        cache = _cache(bench.cache, bench.cache_limit)
        classifier = PromptClassifier.load(folder, backbone, device=bench.device, texts=bench.texts, cache=cache)
        return classifier, _facts(fit, folder)
    classifier = PromptClassifier(
        backbone, run.method, preset=run.preset, shots=max(1, run.shots), subset=run.subset, texts=bench.texts,
        options=dict(run.options), recipe=dict(run.training), cache=_cache(bench.cache, bench.cache_limit),
        device=bench.device, random_state=run.seed or 0,
    )  # fmt: skip
    source = open_source(run.source, bench.data_root)
    keeps = learns(run.method)
    classifier.fit(source, folder=folder / TRAINING if keeps else None, resume=keeps, progress=progress)
    if keeps:
        classifier.save(folder)
        write_record(folder / FIT_RECORD, classifier.record_)
        (folder / TRAINING / FILE).unlink(missing_ok=True)
    return classifier, _facts(classifier.record_, folder)


def _facts(fit: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What an evaluation's record says of the training behind it."""
    file = folder / TENSORS
    return {
        "images": fit["data"]["images"],
        "data_sha256": fit["data"]["sha256"],
        "benchmark": fit["data"]["benchmark"],
        "parameters": fit["parameters"],
        "precision": fit["precision"],
        "seconds": fit["timings"]["train"],
        "memory": fit.get("memory", {}).get("estimated_peak"),
        "machine": fit["machine"],
        "adapter_bytes": file.stat().st_size if file.exists() else None,
    }


def _evaluate(
    evaluation: Evaluation, classifier: PromptClassifier, fit: dict[str, Any], bench: Bench, progress: Progress | None
) -> dict[str, Any]:
    target = evaluation.target
    source = open_source(target.data, bench.data_root)
    classifier.method_ = classifier.method_.deciding_by(evaluation.config["settings"]["options"])
    result = classifier.evaluate(source, split=target.split, subset=target.subset, progress=progress)
    kept = ("accuracy", "class_mean", "images", "per_class", "decision", "template", "data", "seconds")
    backbone = classifier.method_.backbone
    return make_record(
        "bench", dict(evaluation.config), **{key: result[key] for key in kept}, fit=fit,
        backbone={"source": _without_folders(backbone.source), "weights_sha256": backbone.weights_hash},
    )  # fmt: skip


def _without_folders(source: str) -> str:
    """A hub id as it is; of a path, only the last name: records name no place on a machine."""
    path = Path(source)
    return path.name if path.exists() else source


def in_temporary_folder(task: Task, bench: Bench) -> Done:
    """:func:`execute` where the results folder is not shared: everything comes back as data."""
    with tempfile.TemporaryDirectory() as folder:
        done = execute(task, replace(bench, out=folder))
        for path in sorted((Path(folder) / task.adapter).rglob("*")):
            if path.is_file():
                done.files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return done


def bring_back(done: Done, out: Path) -> None:
    """Write what came back from another machine, the records last; those that are there already stay."""
    for name, content in done.files.items():
        with atomic_path(out / name) as part:
            part.write_bytes(content)
    for name, record in done.records.items():
        if not has_record(out / name, record["config_sha256"]):
            write_record(out / name, record)
