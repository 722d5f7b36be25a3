"""What there is of a published data set, what is missing, and how to obtain it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anprompt.data.benchmarks import Benchmark, find_folder, match_benchmark
from anprompt.data.coop import find_split_file
from anprompt.data.matching import MissingPictures
from anprompt.data.open import load_benchmark
from anprompt.data.source import DataSource
from anprompt.errors import UserError

FIRST = 3  # file names that stand for the missing pictures of a class


@dataclass(frozen=True)
class Survey:
    """What :func:`survey` found. ``source`` is None where ``problem`` says why the data cannot be used."""

    benchmark: Benchmark
    folder: Path | None  # where it lies
    split_file: Path | None  # the published split
    source: DataSource | None
    problem: str | None
    missing: MissingPictures | None

    @property
    def split(self) -> str:
        """Where the split comes from, in words."""
        if self.benchmark.class_folders:
            return "as its makers split it, by folders"
        if self.split_file is not None:
            return f"as published, {self.split_file}"
        return "own: made by anprompt, because the published one is not there" if self.source else "not there"

    def counts(self) -> dict[str, dict[str, int | None]]:
        """Pictures by split: ``there``, ``listed`` in the split file (None without one) and ``published``."""
        there: Counter[str] = Counter()
        listed: Counter[str] = Counter()
        if self.source is not None:
            there.update({split: len(items) for split, items in self.source.splits.items()})
            listed = there
        elif self.missing is not None:
            listed.update(self.missing.listed)
            there = Counter(listed)
            there.subtract({split: len(items) for split, items in self.missing.missing.items()})
        return {
            split: {
                "there": there[split],
                "listed": listed[split] if self.split_file is not None and listed else None,
                "published": self.benchmark.counts.get(split),
            }
            for split in dict.fromkeys((*self.benchmark.counts, *listed))
        }

    def missing_by_class(self) -> dict[str, dict[str, Any]]:
        """``{class: {"count": number of its missing pictures, "first": the first of them}}`` in the list's order."""
        found: dict[str, dict[str, Any]] = {}
        for items in self.missing.missing.values() if self.missing else ():
            for item in items:
                entry = found.setdefault(item.name, {"count": 0, "first": []})
                entry["count"] += 1
                if len(entry["first"]) < FIRST:
                    entry["first"].append(item.path)
        return found

    def to_json(self) -> dict[str, Any]:
        """All of it as one document; ``missing`` lists every picture."""
        missing = self.missing.missing if self.missing else {}
        return {
            "name": self.benchmark.name,
            "title": self.benchmark.title,
            "ready": self.source is not None,
            "folder": None if self.folder is None else str(self.folder),
            "split": self.split,
            "counts": self.counts(),
            "classes": {
                "there": len(self.source.classes) if self.source else None,
                "published": self.benchmark.classes,
            },
            "differs": list(self.source.differs) if self.source else [],
            "problem": self.problem,
            "missing_by_class": self.missing_by_class(),
            "missing": {split: [item.path for item in items] for split, items in missing.items()},
            "ambiguous": self.missing.ambiguous if self.missing else {},
            "obtain": self.benchmark.obtain,
            "layout": layout(self.benchmark),
        }


def survey(benchmark: Benchmark, data_root: Path | None) -> Survey:
    """Look for ``benchmark`` below ``data_root``, and load it if it can be loaded.

    Raises:
        UserError: there is no such folder as ``data_root``.
    """
    if data_root is None:
        problem = (
            "No folder of data sets was given: add --data-root, the folder that holds the folders of the data sets."
        )
        return Survey(benchmark, None, None, None, problem, None)
    if not data_root.is_dir():
        raise UserError(f"There is no folder {data_root}: give --data-root, the folder of the data sets' folders.")
    folder = find_folder(benchmark, data_root)
    if folder is None:
        problem = f"There is no folder '{benchmark.folder}' in {data_root}."
        if match_benchmark(data_root.resolve().name) is benchmark:
            problem += f" {data_root} looks like the data set itself: give the folder above it as --data-root."
        return Survey(benchmark, None, None, None, problem, None)
    split_file = None if benchmark.class_folders else find_split_file(benchmark, folder)
    try:
        return Survey(benchmark, folder, split_file, load_benchmark(benchmark, folder), None, None)
    except MissingPictures as error:
        return Survey(benchmark, folder, split_file, None, str(error), error)
    except UserError as error:
        return Survey(benchmark, folder, split_file, None, str(error), None)


def layout(benchmark: Benchmark) -> list[str]:
    """The tree of folders and files that is expected below the data root, one line each."""
    return [f"{benchmark.folder}/", *(f"    {entry}" for entry in benchmark.tree)]
