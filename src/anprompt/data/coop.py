"""CoOp's layout: a folder of pictures with a published split file, ``split_zhou_<name>.json``, beside them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from anprompt.data.assemble import canonical_name, check_class_names, list_files
from anprompt.data.benchmarks import VARIANTS_FILE, match_benchmark
from anprompt.data.decode import open_file
from anprompt.data.source import DEFAULT_TEMPLATE, DataSource, Item
from anprompt.errors import Problems, UserError

SPLITS = ("train", "val", "test")
SHOWN_FILES = 5


def split_files(root: Path) -> list[Path]:
    """Return the split files in ``root``: ``split_zhou_*.json``, or ``variants.txt`` of FGVC Aircraft."""
    found = sorted(root.glob("split_zhou_*.json"))
    if not found and (root / VARIANTS_FILE).is_file() and (root / "images_variant_train.txt").is_file():
        found = [root / VARIANTS_FILE]
    return found


def load_coop(split_file: Path) -> DataSource:
    """Load the pictures that a split file names, from the folder it lies in.

    The split file is ``{"train": [[path, label, class name], …], "val": […], "test": […]}`` (val may be absent). Its
    label ids are the order of the classes; ``_`` in a class name means a space. Its name, or else the folder's,
    identifies the benchmark, which gives the template; unknown names get "a photo of a {}.".

    Pictures lie under the benchmark's own picture folder, ``images/`` or the folder itself. Other copies work too: a
    picture is also found by its relative path anywhere below the folder and, where no two pictures of the split file
    share a file name, by its file name.

    Raises:
        UserError: a split file of another form, label ids or class names that contradict each other, a single class,
            or pictures that are absent (their number and the first five).
    """
    root = split_file.parent
    benchmark = match_benchmark(split_file.name) or match_benchmark(root.resolve().name)
    lists = _read_variants(root) if split_file.name == VARIANTS_FILE else _read_split_file(split_file)
    classes = _check_classes(split_file, lists)
    finder = PictureFinder(root, benchmark.picture_folder if benchmark else "images")
    found = finder.find([item.path for items in lists.values() for item in items])
    absent = [item.path for items in lists.values() for item in items if item.path not in found]
    if absent:
        shown = ", ".join(absent[:SHOWN_FILES]) + (", …" if len(absent) > SHOWN_FILES else "")
        total = sum(map(len, lists.values()))
        raise UserError(
            f"{len(absent)} of the {total} pictures that {split_file} names are absent below {root}: {shown} "
            f"(looked in {', '.join(str(root / prefix) for prefix in finder.prefixes)} and by file name)."
        )
    splits = {
        split: [Item(str(root / found[item.path]), item.label, classes[item.label]) for item in items]
        for split, items in lists.items()
    }
    return DataSource(
        name=benchmark.title if benchmark else root.resolve().name,
        classes=tuple(classes),
        splits=splits,
        opener=open_file,
        template=benchmark.template if benchmark else DEFAULT_TEMPLATE,
        benchmark=benchmark.name if benchmark else None,
        root=root,
    )


class PictureFinder:
    """Finds the pictures of a split file among the files that are really there, whatever the copy's layout."""

    def __init__(self, root: Path, picture_folder: str) -> None:
        self.prefixes = tuple(dict.fromkeys((picture_folder, "images", ".")))
        self.files = set(list_files(root))
        self.by_name: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            self.by_name[PurePosixPath(file).name].append(file)

    def find(self, paths: Iterable[str]) -> dict[str, str]:
        """Return ``{path in the split file: path below the root}`` for those that exist."""
        wanted = list(dict.fromkeys(paths))
        # Where names repeat (image_0001.jpg in every class), a file name alone could fetch another class's picture.
        name_is_enough = len({PurePosixPath(path).name for path in wanted}) == len(wanted)
        found = {path: self._find(path, name_is_enough) for path in wanted}
        return {path: file for path, file in found.items() if file is not None}

    def _find(self, path: str, name_is_enough: bool) -> str | None:
        for prefix in self.prefixes:
            if (file := (PurePosixPath(prefix) / path).as_posix()) in self.files:
                return file
        same_name = self.by_name.get(PurePosixPath(path).name, [])
        nested = [file for file in same_name if file.endswith("/" + path)]
        candidates = nested or (same_name if name_is_enough else [])
        return candidates[0] if len(candidates) == 1 else None


def _read_split_file(file: Path) -> dict[str, list[Item]]:
    form = '{"train": [[path, label, class name], …], "val": […], "test": […]}'
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"Cannot read the split file {file}: {error}.") from error
    if not isinstance(content, dict) or not content.keys() >= {"train", "test"}:
        raise UserError(f"The split file {file} is not of the form {form}.")
    problems = Problems(f"The split file {file} is not of the form {form}:")
    lists: dict[str, list[Item]] = {}
    for split in SPLITS:
        entries = content.get(split, [])
        if not isinstance(entries, list):
            raise UserError(f'"{split}" in the split file {file} is not a list; expected {form}.')
        lists[split] = []
        for i, entry in enumerate(entries):
            match entry:
                case [str(path), int(label), str(name)]:
                    lists[split].append(Item(path, label, canonical_name(name)))
                case _:
                    problems.add(f"{split}[{i}] is {json.dumps(entry)}")
    problems.raise_if_any()
    return {split: items for split, items in lists.items() if items}


def _read_variants(root: Path) -> dict[str, list[Item]]:
    """Read FGVC Aircraft's own lists: ``variants.txt`` (classes) and ``images_variant_<split>.txt``."""
    try:
        names = (root / VARIANTS_FILE).read_text(encoding="utf-8").splitlines()
        lines = {split: (root / f"images_variant_{split}.txt").read_text(encoding="utf-8") for split in SPLITS}
    except OSError as error:
        raise UserError(f"Cannot read {error.filename}: {error.strerror}.") from error
    label = {name.strip(): i for i, name in enumerate(names)}
    problems = Problems(f"The split files in {root} cannot be used:")
    lists: dict[str, list[Item]] = {}
    for split, text in lines.items():
        lists[split] = []
        for number, line in enumerate(text.splitlines(), start=1):
            picture, _, name = line.strip().partition(" ")
            if name in label:
                lists[split].append(Item(f"{picture}.jpg", label[name], canonical_name(name)))
            else:
                problems.add(f"images_variant_{split}.txt, line {number}: class '{name}' is not in {VARIANTS_FILE}")
    problems.raise_if_any()
    return lists


def _check_classes(split_file: Path, lists: dict[str, list[Item]]) -> list[str]:
    """Return the class names by label id, which must be 0..n-1, each with one name and a training picture."""
    problems = Problems(f"The split file {split_file} cannot be used:")
    names: dict[int, str] = {}
    for split, items in lists.items():
        for item in items:
            if names.setdefault(item.label, item.name) != item.name:
                problems.add(f"{split}: {item.path} calls label {item.label} '{item.name}', not '{names[item.label]}'")
    if sorted(names) != list(range(len(names))):
        problems.add(f"the label ids must be 0 to {len(names) - 1}, but are {sorted(names)[:10]} …")
    trained = {item.label for item in lists.get("train", [])}
    for label in sorted(names.keys() - trained):
        problems.add(f"class '{names[label]}' (label {label}) has no picture in train")
    check_class_names([(name, f"label {label}") for label, name in sorted(names.items())], problems)
    if len(names) == 1:
        problems.add(f"there is only one class ('{next(iter(names.values()))}'), and at least two are needed")
    problems.raise_if_any()
    return [names[label] for label in range(len(names))]
