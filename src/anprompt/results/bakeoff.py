"""Which method suits somebody's own data: what each of them reaches and what it costs, from benchmark records."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anprompt.results.compare import Comparison, differences, from_differences
from anprompt.results.grid import Seed, Value, summary
from anprompt.results.metrics import harmonic_mean

MEASURES = {"all": "accuracy on all classes", "base": "base", "new": "new", "hm": "HM"}


@dataclass
class Entrant:
    """One method in a bake-off. scores: per cent by measure (``all``, ``base``, ``new``, ``hm``) and seed.

    seconds: of training on all classes, mean over seeds. memory, adapter: bytes of that run, ``None`` where nothing is
    trained. parameters: learnable numbers. new_classes: whether it can be asked about classes it was not trained on.
    """

    method: str
    new_classes: bool
    scores: dict[str, dict[Seed, float]] = field(default_factory=dict)
    seconds: float = 0.0
    memory: int | None = None
    adapter: int | None = None
    parameters: int = 0

    def value(self, measure: str) -> Value | None:
        """Mean and standard deviation over seeds."""
        return summary(self.scores.get(measure, {}))

    def to_json(self) -> dict[str, Any]:
        shown = {name: value for name in MEASURES if (value := self.value(name)) is not None}
        return {
            "method": self.method, "new_classes": self.new_classes, "seconds": self.seconds, "memory": self.memory,
            "adapter_bytes": self.adapter, "parameters": self.parameters,
            **{name: {"mean": value.mean, "sd": value.sd} for name, value in shown.items()},
        }  # fmt: skip


def bake_off(records: Iterable[Mapping[str, Any]], open_methods: Sequence[str]) -> list[Entrant]:
    """Collect the records of one data set by method, in the order in which methods appear.

    records: of the protocols few-shot and base-to-new. open_methods: those that can be asked about new classes.
    """
    entrants: dict[str, Entrant] = {}
    costs: dict[str, list[float]] = {}
    for record in records:
        config, fit = record["config"], record["fit"]
        name = config["method"]
        entrant = entrants.setdefault(name, Entrant(name, name in open_methods))
        entrant.scores.setdefault(config["target_subset"], {})[config["seed"]] = record["accuracy"]
        if config["protocol"] == "few-shot":
            costs.setdefault(name, []).append(fit["seconds"])
            entrant.memory, entrant.adapter = fit["memory"], fit["adapter_bytes"]
            entrant.parameters = fit["parameters"]
    for entrant in entrants.values():
        base, new = entrant.scores.get("base", {}), entrant.scores.get("new", {})
        entrant.scores["hm"] = {seed: harmonic_mean(base[seed], new[seed]) for seed in base if seed in new}
        entrant.seconds = statistics.fmean(costs.get(entrant.method, [0.0]))
    return list(entrants.values())


def photos_tested(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How many photos the accuracy on all classes is of, and whether anprompt held them out."""
    whole = [record for record in records if record["config"]["target_subset"] == "all"]
    return {
        "test_photos": max((record["images"] for record in whole), default=0),
        "own_split": any(record["data"]["own_split"] for record in whole),
    }


def advice(entrants: Sequence[Entrant]) -> list[str]:
    """When to take which method, in sentences that say no more than the numbers do."""
    said = []
    for measure, what in (("all", "For the classes at hand"), ("hm", "If classes are to be added later")):
        means = {e.method: value.mean for e in entrants if (value := e.value(measure)) is not None}
        ranked = sorted((e for e in entrants if e.method in means), key=lambda e: -means[e.method])
        if len(ranked) < 2:
            continue
        first, second = ranked[0], ranked[1]
        best, next_best = means[first.method], means[second.method]
        if f"{best:.1f}" == f"{next_best:.1f}":
            said.append(f"{what}, {first.method} and {second.method} are equal ({MEASURES[measure]} {best:.1f} %).")
        else:
            lead = (
                f"{what}, {first.method} is ahead ({MEASURES[measure]} {best:.1f} %, {second.method} {next_best:.1f} %)"
            )
            said.append(f"{lead}. {versus(first, second, measure).verdict}")
        cheap = [e for e in ranked[1:] if e.seconds < first.seconds / 2 and _close(first, e, measure)]
        if cheap:
            quick = min(cheap, key=lambda e: e.seconds)
            times = first.seconds / max(quick.seconds, 0.1)
            said.append(f"{quick.method} comes within a standard deviation of it in {times:.0f} times less training.")
    closed = [e.method for e in entrants if not e.new_classes]
    if closed:
        said.append(f"{', '.join(closed)}: no answer for classes that were not in the training.")
    return said


def versus(first: Entrant, second: Entrant, measure: str) -> Comparison:
    """The two compared, paired by seed."""
    found = differences(first.scores[measure], second.scores[measure])
    return from_differences(first.method, second.method, MEASURES[measure], found)


def _close(first: Entrant, other: Entrant, measure: str) -> bool:
    best, value = first.value(measure), other.value(measure)
    return best is not None and value is not None and best.mean - value.mean <= (best.sd or 0.0)
