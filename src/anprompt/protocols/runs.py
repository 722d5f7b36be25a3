"""What a benchmark consists of: trainings, and the evaluations that share each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt.files import sha256_json
from anprompt.results.collect import PROTOCOLS

if TYPE_CHECKING:
    from anprompt.training.capacity import Share

__all__ = ["PROTOCOLS", "Bench", "Evaluation", "Run", "Target", "Task", "data_of"]


@dataclass(frozen=True)
class Target:
    """Labelled photos to evaluate on. data: as for ``anprompt fit``. subset: base, new or all classes."""

    data: str
    subset: str
    split: str = "test"


@dataclass(frozen=True)
class Run:
    """One training and its evaluations, as declared by a protocol, before any data has been looked at.

    recipe: name of the recipe, such as ``"anprompt/base-to-new"``. options, training: what the recipe and the variant
    change of the preset. shots, seed: ``0`` and ``None`` for methods that learn nothing from the photos.
    variant: what an ablation varies, by name. ablation: its name.
    """

    protocol: str
    method: str
    recipe: str
    source: str
    subset: str
    shots: int
    seed: int | None
    targets: tuple[Target, ...]
    preset: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    variant: Mapping[str, Any] = field(default_factory=dict)
    ablation: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run with all that decides its result. ``config`` is what its record holds."""

    target: Target
    config: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        """Equal for evaluations that must give the same result: what makes a record findable."""
        return sha256_json(self.config)

    @property
    def file(self) -> Path:
        """Where its record lies below the results folder."""
        c = self.config
        drawn = [] if c["seed"] is None else [f"{c['shots']}shots", f"seed{c['seed']}"]
        parts = [c["source"], *([c["target"]] if c["target"] != c["source"] else []), c["target_subset"], *drawn]
        name = "-".join(map(str, [*parts, self.sha256[:8]]))
        return Path("records", c["protocol"], c["method"], f"{_as_name(name)}.json")


@dataclass(frozen=True)
class Task:
    """A run that is ready: everything is resolved and checked, and only what is not done yet is listed.

    Plain data, so that any process on any machine can do it. source: what records call the training data. settings:
    what decides the training. evaluations: those without a record.
    """

    run: Run
    source: str
    settings: Mapping[str, Any]
    evaluations: tuple[Evaluation, ...]

    def together(self, other: Task) -> Task:
        """This task and the evaluations of another one with the same training, each once."""
        known = {evaluation.sha256 for evaluation in self.evaluations}
        more = [evaluation for evaluation in other.evaluations if evaluation.sha256 not in known]
        if not more:  # a variant that is the recipe itself, for example
            return self
        theirs = other.run.variant
        variant = {name: value for name, value in self.run.variant.items() if theirs.get(name, ...) == value}
        return replace(self, run=replace(self.run, variant=variant), evaluations=(*self.evaluations, *more))

    @property
    def title(self) -> str:
        """In words, for people: ``eurosat, anprompt, 16 shots, seed 1``."""
        r = self.run
        varied = [f"{name} {value}" for name, value in r.variant.items()]
        drawn = [] if r.seed is None else [f"{r.shots} shots", f"seed {r.seed}"]
        return ", ".join([self.source, r.method, *varied, *drawn])

    @property
    def adapter(self) -> Path:
        """Where the adapter lies below the results folder; runs with the same training share it."""
        r = self.run
        identity = [self.settings, self.source, r.method, r.subset, r.shots, r.seed]
        name = "-".join([self.source, r.subset, r.method, f"{r.shots}shots", f"seed{r.seed}"])
        return Path("adapters", f"{_as_name(name)}-{sha256_json(identity)[:10]}")


@dataclass(frozen=True)
class Bench:
    """What all runs of a benchmark share. Paths are as the user gave them.

    discard: remove adapters when all their evaluations are done. threads: of one run; ``None``: all of the machine's.
    memory: what one of several runs at the same time may take; ``None``: all that is free. It decides no result.
    """

    backbone: str
    out: str
    data_root: str | None = None
    texts: str | None = None
    device: str = "auto"
    cache: str | None = None
    cache_limit: float | None = None
    discard: bool = False
    threads: int | None = None
    memory: Share | None = None


def data_of(runs: Sequence[Run]) -> list[str]:
    """Every specification of data that the runs need, each once, in order."""
    return list(dict.fromkeys(spec for run in runs for spec in (run.source, *(t.data for t in run.targets))))


def _as_name(text: str) -> str:
    """``toyworld:night`` -> ``toyworld-night``: no letter that some file system refuses."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)
