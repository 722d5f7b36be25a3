"""Reading the records of a benchmark: every file is checked, and every evaluation counts once."""

from __future__ import annotations

import datetime
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anprompt.data.benchmarks import match_benchmark
from anprompt.errors import Problems, UserError
from anprompt.files import sha256_json
from anprompt.results.record import RECORD_VERSION

PROTOCOLS = ("base-to-new", "cross-dataset", "domain-generalisation", "few-shot", "ablation")
SUBSETS = ("base", "new", "all")
RECORDS = "records"  # the runner's folder below the results folder
OWN = " (own data)"  # ends the name of the user's own data that are called like a published data set


@dataclass(frozen=True)
class Result:
    """One evaluation, as its record tells it. Benchmarks, and only they, have the benchmark's name as data set."""

    path: Path
    created: datetime.datetime
    protocol: str
    method: str
    recipe: str | None
    variant: Mapping[str, Any]  # what an ablation changes against its recipe
    ablation: str | None
    source: str
    shots: int | None
    seed: int | None  # None: nothing was drawn or trained
    target: str
    target_subset: str
    split: str
    accuracy: float  # per cent
    backbone: str
    weights: str  # SHA-256 of the backbone's weights
    decision: str
    differs: tuple[str, ...]  # why the number does not compare with published ones, in sentences
    identity: str  # equal for two records of the same evaluation
    held_out: int = 0  # test photos, where anprompt held them out because no test split was given


@dataclass(frozen=True)
class Collected:
    """The results below a folder, in an order that depends on what they are only, and notes about leaving out."""

    results: tuple[Result, ...]
    notes: tuple[str, ...] = ()


class _Damaged(ValueError):
    """What is wrong with a record."""


def _take(document: Any, name: str, *kinds: type) -> Any:
    """``document[name]``, which must be of one of ``kinds``; ``a.b`` looks one level down."""
    value = document
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise _Damaged(f"'{name}' is missing")
        value = value[part]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise _Damaged(f"'{name}' is {json.dumps(value)[:60]}")
    return value


def _choice(document: Any, name: str, allowed: Sequence[str]) -> str:
    value: str = _take(document, name, str)
    if value not in allowed:
        raise _Damaged(f"'{name}' is '{value}', not one of {', '.join(allowed)}")
    return value


def data_set_name(name: str, *, own: bool = False) -> str:
    """A benchmark's own name for any of its names; other data as the user calls them.

    own: it is no benchmark, whatever its name; :data:`OWN` marks one that could be taken for one.
    """
    benchmark = match_benchmark(name)
    if benchmark is None:
        return name
    return f"{name}{OWN}" if own else benchmark.name


def meant(name: str, there: Collection[str]) -> str:
    """Which data set among ``there`` a user calls ``name``: the published one, else their own of that name."""
    published, own = data_set_name(name), data_set_name(name, own=True)
    return own if own in there and published not in there else published


def _name_in(record: Mapping[str, Any], name: str, part: str) -> str:
    """The data set called ``name`` in a record, of which ``part`` says whether it is published.

    Records that were written before they said so go by the name.
    """
    says = "benchmark" in _take({part: {}, **record}, part, dict)
    own = says and _take(record, f"{part}.benchmark", str, type(None)) is None
    return data_set_name(_take(record, name, str), own=own)


def _result(path: Path, record: Mapping[str, Any]) -> Result:
    if record.get("record_version") != RECORD_VERSION:
        raise _Damaged(f"record version {record.get('record_version')} is not {RECORD_VERSION}")
    none = type(None)
    accuracy = float(_take(record, "accuracy", int, float))
    if not 0 <= accuracy <= 100:
        raise _Damaged(f"'accuracy' is {accuracy}, not a per cent")
    created = datetime.datetime.fromisoformat(_take(record, "created", str))
    if created.tzinfo is None:
        created = created.replace(tzinfo=datetime.UTC)
    config = _take(record, "config", dict)
    differs = [str(sentence) for sentence in _take(record, "data.differs", list)]
    if _take(record, "data.own_split", bool) and not differs:
        differs = [f"{_take(record, 'config.target', str)} is split by anprompt, not as published"]
    protocol = _choice(record, "config.protocol", PROTOCOLS)
    shots, seed = _take(record, "config.shots", int, none), _take(record, "config.seed", int, none)
    if protocol == "few-shot" and seed is not None and shots is None:
        raise _Damaged("'config.shots' is null although there is a seed")
    weights = _take(record, "backbone.weights_sha256", str)
    source, target = _name_in(record, "config.source", "fit"), _name_in(record, "config.target", "data")
    unsettled = {name: value for name, value in config.items() if name != "settings"}
    return Result(
        path=path,
        created=created,
        protocol=protocol,
        method=_take(record, "config.method", str),
        recipe=_take(record, "config.recipe", str, none),
        variant=_take(record, "config.variant", dict),
        ablation=_take(record, "config.ablation", str, none),
        source=source,
        shots=shots,
        seed=seed,
        target=target,
        target_subset=_choice(record, "config.target_subset", SUBSETS),
        split=_take(record, "config.split", str),
        accuracy=accuracy,
        backbone=_take(record, "backbone.source", str),
        weights=weights,
        decision=_take(record, "decision", str),
        differs=tuple(differs),
        identity=sha256_json([{**unsettled, "source": source, "target": target}, weights]),
        held_out=_take(record, "images", int) if record["data"]["own_split"] and config["split"] == "test" else 0,
    )


def _files(places: Iterable[Path]) -> list[Path]:
    """All JSON files at or below ``places``, each once; of a results folder, those of its ``records``."""
    found: dict[Path, None] = {}
    for place in places:
        if not place.exists():
            raise UserError(f"There are no results at '{place}'; 'anprompt bench … --out {place}' makes them.")
        inside = place / RECORDS
        folder = inside if inside.is_dir() else place
        found |= dict.fromkeys(sorted(folder.rglob("*.json")) if folder.is_dir() else [folder])
    return list(found)


def read_results(*places: Path) -> Collected:
    """Read every benchmark record at or below ``places`` (results folders, folders, files).

    Records of other kinds are left alone. Of two records of the same evaluation (the same backbone and configuration,
    whatever their settings) the newer one counts, and a note says so.

    Raises:
        UserError: a place is not there, or files are damaged (all are listed).
    """
    problems = Problems("These records cannot be read; remove them and run the benchmark again, which fills the gaps:")
    found: dict[str, list[Result]] = defaultdict(list)
    for path in _files(places):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(record, dict) and record.get("kind") == "bench":
                result = _result(path, record)
                found[result.identity].append(result)
        except (ValueError, OSError) as error:  # no JSON, no text, no date, or as _Damaged says
            problems.add(f"'{path}': {'not JSON' if isinstance(error, json.JSONDecodeError) else error}.")
    problems.raise_if_any()
    newest, notes = [], []
    for _, same in sorted(found.items()):
        same.sort(key=lambda result: (result.created, str(result.path)))
        newest.append(same[-1])
        if len(same) > 1:
            files = " and ".join(f"'{result.path}'" for result in same)
            notes.append(f"{files} are of the same evaluation; the newest counts, '{same[-1].path}'.")
    return Collected(tuple(newest), tuple(sorted(notes)))
