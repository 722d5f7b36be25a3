"""What records call the data of a benchmark: one name for each."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from anprompt.data import DataSource
from anprompt.errors import UserError


def labels_of(sources: Mapping[str, DataSource]) -> dict[str, str]:
    """What records call the data of each specification: the same only for the same photos.

    Own data of one name are told apart by the shortest ends of their paths that differ, as in ``north/birds``.

    Raises:
        UserError: copies of a published data set, which has one name, that are not the same.
    """
    labels = {spec: label_of(spec, source) for spec, source in sources.items()}
    alike: dict[str, list[str]] = defaultdict(list)
    for spec, label in labels.items():
        alike[label].append(spec)
    for label, specs in alike.items():
        different = _different({spec: sources[spec] for spec in specs}) if len(specs) > 1 else []
        own = [same for same in different if sources[same[0]].benchmark is None and sources[same[0]].root is not None]
        if len(different) - len(own) > 1:
            copies = " and ".join(f"'{same[0]}'" for same in different if same not in own)
            raise UserError(f"{copies} are both the published data set '{label}' but hold different photos: name one.")
        if len(different) > 1:
            ends = _ends([same[0] for same in own], set(labels.values()))
            labels |= {spec: end for same, end in zip(own, ends, strict=True) for spec in same}
    return labels


def label_of(spec: str, source: DataSource) -> str:
    """The benchmark's name, or the specification without its folders."""
    return source.benchmark or (spec if source.root is None else source.name)


def names_hash(source: DataSource, split: str) -> str:
    """SHA-256 over relative path, label and class of every photo of a split."""
    total = hashlib.sha256()
    for item in source.splits[split]:
        total.update(json.dumps([source.relative(item), item.label, item.name]).encode())
    return total.hexdigest()


def _different(sources: Mapping[str, DataSource]) -> list[list[str]]:
    """The specifications, those of the same photos together. Published photos are the same wherever they lie."""
    found: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for spec, source in sources.items():
        place = None if source.benchmark or source.root is None else os.path.realpath(source.root)
        found[source.benchmark, place, *((split, names_hash(source, split)) for split in source.splits)].append(spec)
    return list(found.values())


def _ends(specs: Sequence[str], taken: set[str]) -> list[str]:
    """For each of different paths its last parts, as few as tell all of them apart."""
    paths = [Path(os.path.abspath(Path(spec).expanduser())) for spec in specs]
    ends: list[str] = []
    for count in range(2, max(len(path.parts) for path in paths) + 1):
        ends = [Path(*path.parts[-count:]).as_posix() for path in paths]
        if len(set(ends) - taken) == len(paths):
            break
    return ends
