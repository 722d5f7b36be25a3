"""From what a user types to a data source."""

from __future__ import annotations

import os
from pathlib import Path

from anprompt.data import benchmarks
from anprompt.data.benchmarks import CLASS_LIST, Benchmark, find_benchmark, find_folder, match_benchmark
from anprompt.data.coop import find_split_file, load_coop, split_files
from anprompt.data.folder import load_folder
from anprompt.data.imagenet import load_imagenet
from anprompt.data.own_split import load_own_split
from anprompt.data.source import DataSource
from anprompt.data.table import TABLE_SUFFIXES, load_table
from anprompt.errors import UserError, did_you_mean
from anprompt.files import expanded


def open_data(spec: str | Path, *, data_root: str | Path | None = None) -> DataSource:
    """Open the data that ``spec`` names; everything that can be wrong without decoding a picture is found here.

    Args:
        spec: one of

            - a folder with one sub-folder per class (:func:`anprompt.data.folder.load_folder`);
            - a ``.csv``, ``.tsv`` or ``.jsonl`` file (:func:`anprompt.data.table.load_table`);
            - a folder in CoOp's layout, known by its ``split_zhou_*.json``, or that file itself
              (:func:`anprompt.data.coop.load_coop`);
            - the folder of ImageNet or one of its variants, known by its name and its ``classnames.txt``
              (:func:`anprompt.data.imagenet.load_imagenet`);
            - ``toyworld`` or ``toyworld-signs``, perhaps with ``:domain``; write ``./toyworld`` for a folder of that
              name;
            - with ``data_root``, the name of a benchmark, such as ``eurosat``; write ``./eurosat`` for a folder of that
              name. Without its published split file, a split of our own is made
              (:func:`anprompt.data.own_split.load_own_split`), and the source says so.
        data_root: the folder that holds the folders of the benchmarks.

    Raises:
        UserError: nothing there (with the nearest name that is), or what the loaders report.
    """
    text = str(spec)
    if isinstance(spec, str) and (text == "toyworld" or text.startswith(("toyworld:", "toyworld-"))):
        return _open_toyworld(text)
    path = expanded(spec)
    if data_root is not None and (named_benchmark(text) is not None or not os.path.exists(path)):
        return _open_benchmark(text, expanded(data_root))
    if not os.path.exists(path):  # False also for names that are too long, at which pathlib's fails
        raise _missing(path)
    if path.is_dir():
        found = split_files(path)
        if found:
            return load_coop(_choose_split_file(path, found))
        imagenet = match_benchmark(path.resolve().name)
        if imagenet is not None and imagenet.class_folders and (path / CLASS_LIST).is_file():
            return load_imagenet(imagenet, path)
        return load_folder(path)
    if path.suffix.lower() in TABLE_SUFFIXES:
        return load_table(path)
    if path.name.startswith("split_zhou_") and path.suffix == ".json":
        return load_coop(path)
    raise UserError(
        f"{path} is neither a folder nor a table; a table is called {', '.join(sorted(TABLE_SUFFIXES))} "
        "and a split file split_zhou_….json."
    )


def named_benchmark(spec: str) -> Benchmark | None:
    """The benchmark that ``spec`` names; None for other names and for everything that is written as a path."""
    return match_benchmark(spec) if Path(spec).name == spec else None


def _open_toyworld(spec: str) -> DataSource:
    from anprompt.data import toyworld  # drawing code that only the toy world needs

    domain, vocabulary = toyworld.parse_spec(spec)
    return toyworld.load(domain, vocabulary)


def _open_benchmark(name: str, data_root: Path) -> DataSource:
    if not data_root.is_dir():
        raise _missing(data_root)
    benchmark = find_benchmark(name)
    folder = find_folder(benchmark, data_root)
    if folder is None:
        there = {other.folder for other in benchmarks.BENCHMARKS if find_folder(other, data_root) is not None}
        held = f"it holds {', '.join(sorted(there))}" if there else "it holds no benchmark"
        raise UserError(
            f"The benchmark '{benchmark.name}' is expected in {data_root / benchmark.folder}, which is not there; "
            f"{held}. 'anprompt check {benchmark.name} --data-root …' says what is needed."
        )
    return load_benchmark(benchmark, folder)


def load_benchmark(benchmark: Benchmark, folder: Path) -> DataSource:
    """Load a published data set from its folder, with the published split or else one of our own.

    Raises:
        UserError: what the loaders report.
    """
    if benchmark.class_folders:
        return load_imagenet(benchmark, folder)
    split_file = find_split_file(benchmark, folder)
    return load_own_split(benchmark, folder) if split_file is None else load_coop(split_file, folder, benchmark)


def _choose_split_file(root: Path, found: list[Path]) -> Path:
    if len(found) == 1:
        return found[0]
    benchmark: Benchmark | None = match_benchmark(root.resolve().name)
    for file in found:
        if benchmark is not None and file.name == benchmark.split_file:
            return file
    names = ", ".join(file.name for file in found)
    raise UserError(f"The folder {root} holds {len(found)} split files ({names}); give one of them as data.")


def _missing(path: Path) -> UserError:
    """Name the part of the path that is not there, and the nearest name that is."""
    parent, name = path.parent, path.name
    while not os.path.exists(parent) and parent != parent.parent:  # a drive that is not there has nothing above it
        parent, name = parent.parent, parent.name
    siblings = sorted(sibling.name for sibling in parent.iterdir()) if parent.is_dir() else []
    wanted = "" if name == str(path) else f" (wanted: {path})"
    message = f"There is no '{name}' in {parent.resolve()}{wanted}.{did_you_mean(name, siblings)}"
    if match_benchmark(str(path)) is not None:
        message += f" To use the benchmark '{path}', give the folder of the data sets as data root (--data-root)."
    return UserError(message)
