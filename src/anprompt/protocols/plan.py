"""From declared runs to tasks: everything is resolved and checked, and what has a record already is left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from anprompt import methods
from anprompt.data import DataSource, open_data
from anprompt.errors import Problems, UserError
from anprompt.files import sha256_json
from anprompt.protocols.declare import learns
from anprompt.protocols.naming import labels_of, names_hash
from anprompt.protocols.runs import Bench, Evaluation, Run, Target, Task, data_of
from anprompt.settings import bank_for, benchmark_options
from anprompt.text import DescriptionBank
from anprompt.training import resolve_recipe


@dataclass
class Plan:
    """What is to be done and what is done. tasks: only those with something left. records: of finished evaluations.

    sources: the opened data by specification.
    """

    tasks: list[Task] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    records: list[Path] = field(default_factory=list)
    sources: dict[str, DataSource] = field(default_factory=dict)


@lru_cache(maxsize=64)
def open_source(spec: str, data_root: str | None) -> DataSource:
    """The data of a specification, opened once per process."""
    return open_data(spec, data_root=data_root)


def opened_benchmark(spec: str, data_root: str | None) -> str | None:
    """The published data set that a specification turns out to be; ``None`` for other data and for none at all."""
    try:
        return open_source(spec, data_root).benchmark
    except UserError:
        return None  # make_plan reports it, with all others


def make_plan(runs: Sequence[Run], bench: Bench, weights_hash: str) -> Plan:
    """Open all data, resolve all settings, and find what is left to do.

    weights_hash: of the backbone. Runs that differ in nothing that decides their training become one task.
    Raises :class:`UserError` that lists everything that keeps any of the runs from being done.
    """
    problems = Problems("The benchmark cannot be run:")
    made = Plan()
    for spec in data_of(runs):
        try:
            made.sources[spec] = open_source(spec, bench.data_root)
        except UserError as error:
            problems.add(str(error))
    problems.raise_if_any()
    known = _Known(made.sources, bench.texts)
    said: set[str] = set()  # many runs may have the same problem
    tasks: dict[Path, Task] = {}
    for run in runs:
        try:
            task = _resolve(run, known, weights_hash)
        except UserError as error:
            if str(error) not in said:
                problems.add(str(error))
            said.add(str(error))
            continue
        same = tasks.get(task.adapter)
        tasks[task.adapter] = task if same is None else same.together(task)
    problems.raise_if_any()
    for task in tasks.values():
        made.evaluations += task.evaluations
        left = [e for e in task.evaluations if not is_done(Path(bench.out), e)]
        made.records += [Path(bench.out) / e.file for e in task.evaluations if e not in left]
        if left:
            made.tasks.append(replace(task, evaluations=tuple(left)))
    return made


def is_done(out: Path, evaluation: Evaluation) -> bool:
    """Whether the record of an evaluation is there."""
    return has_record(out / evaluation.file, evaluation.sha256)


def has_record(file: Path, sha256: str) -> bool:
    """Whether a file is the record of the configuration with this hash. A damaged one counts as absent."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return bool(record["config_sha256"] == sha256 and "accuracy" in record)
    except (OSError, ValueError, KeyError, TypeError):
        return False


class _Known:
    """Opened data and what is computed from them once: their names in records, listings and texts."""

    def __init__(self, sources: Mapping[str, DataSource], texts: str | None) -> None:
        self.sources = sources
        self.labels = labels_of(sources)
        self.texts = texts
        self._listings: dict[tuple[str, str], str] = {}
        self._banks: dict[str, str] = {}

    def listing(self, spec: str, split: str) -> str:
        """What the photos of a split are, as SHA-256; :class:`UserError` if one of the user's own cannot be read.

        Published photos and those of the toy world are known by their names: nobody changes them, they may be a million
        and lie on many machines. The user's own may be replaced by others of the same names, so what they hold counts.
        """
        if (spec, split) not in self._listings:
            source = self.sources[spec]
            own = source.benchmark is None and source.root is not None
            self._listings[spec, split] = (
                source.content_hash(source.splits[split], keep=True) if own else names_hash(source, split)
            )
        return self._listings[spec, split]

    def bank(self, spec: str) -> str:
        """SHA-256 of the sentences about the classes of a data set."""
        if spec not in self._banks:
            bank: DescriptionBank = bank_for(self.texts, self.sources[spec])
            self._banks[spec] = sha256_json(bank.to_json())
        return self._banks[spec]


def _resolve(run: Run, known: _Known, weights_hash: str) -> Task:
    """Everything that decides the results of a run, checked. :class:`UserError` where it cannot be done."""
    source = known.sources[run.source]
    _check_data(run, known.sources)
    kind = methods.find(run.method)
    preset = next(name for name, p in kind.presets.items() if p is methods.find_preset(kind, run.preset))
    conventions = benchmark_options(run.method, preset, source.benchmark)
    options = methods.resolve_options(run.method, preset, {**conventions, **run.options})
    usual = methods.resolve_options(run.method, preset, conventions)
    training = {**options, **{name: usual[name] for name in kind.deciding_options(options)}}
    recipe = resolve_recipe(kind.presets[preset].recipe, run.training)
    settings: dict[str, Any] = {
        "preset": preset,
        "options": options,
        "template": source.template,
        "backbone": weights_hash,
        "texts": known.bank(run.source),
        "classes": sha256_json(source.classes),
    }
    if learns(run.method):
        settings |= {"recipe": asdict(recipe), "train": known.listing(run.source, "train")}
    label = known.labels[run.source]
    evaluations = tuple(_evaluation(run, target, label, settings, known) for target in run.targets)
    # The estimator sees the conventions of published data again, so the run carries the final options.
    return Task(replace(run, preset=preset, options=training), label, {**settings, "options": training}, evaluations)


def _evaluation(run: Run, target: Target, source: str, settings: Mapping[str, Any], known: _Known) -> Evaluation:
    data = known.sources[target.data]
    template = data.template if data.keeps_wording(known.sources[run.source].benchmark) else settings["template"]
    return Evaluation(target, {
        "protocol": run.protocol, "method": run.method, "recipe": run.recipe, "variant": dict(run.variant),
        "ablation": run.ablation, "source": source, "subset": run.subset, "shots": run.shots, "seed": run.seed,
        "target": known.labels[target.data], "target_subset": target.subset,
        "split": target.split,
        "settings": {
            **settings, "target": known.listing(target.data, target.split), "target_texts": known.bank(target.data),
            "target_template": template,
        },
    })  # fmt: skip


def _check_data(run: Run, sources: Mapping[str, DataSource]) -> None:
    """Refuse combinations of data that the protocol makes no sense of."""
    source = sources[run.source]
    if learns(run.method) and not source.splits.get("train"):
        raise UserError(f"{source.name} has no training photos: learn on other data, and name it as a target.")
    source.subset(run.subset)
    for target in run.targets:
        data = sources[target.data]
        if not data.subset(target.subset).splits.get(target.split):
            raise data.nothing_to_test(target.split)
        if run.protocol == "domain-generalisation" and (other := _unknown(data.classes, source.classes)):
            raise UserError(
                f"{data.name} has classes that {source.name} does not have ({', '.join(other[:3])}"
                f"{', …' if len(other) > 3 else ''}): domain-generalisation tests the same classes in other pictures; "
                "take cross-dataset."
            )


def _unknown(names: Iterable[str], known: Sequence[str]) -> list[str]:
    there = set(known)
    return [name for name in names if name not in there]
