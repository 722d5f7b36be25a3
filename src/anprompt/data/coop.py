"""CoOp's layout: a folder of pictures with a published split file, ``split_zhou_<name>.json``, beside them."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from anprompt.data.assemble import canonical_name, check_class_names
from anprompt.data.benchmarks import SPLIT_NAMES, VARIANTS_FILE, Benchmark, differences, match_benchmark
from anprompt.data.matching import SHOWN_FILES, MissingPictures, PictureFinder, shortened
from anprompt.data.source import DataSource, Item, open_file
from anprompt.errors import Problems, UserError
from anprompt.text.templates import DEFAULT_TEMPLATE


def split_files(root: Path) -> list[Path]:
    """Return the split files in ``root``: ``split_zhou_*.json``, or ``variants.txt`` of FGVC Aircraft."""
    found = sorted(root.glob("split_zhou_*.json"))
    if not found and (root / VARIANTS_FILE).is_file() and (root / "images_variant_train.txt").is_file():
        found = [root / VARIANTS_FILE]
    return found


def find_split_file(benchmark: Benchmark, folder: Path) -> Path | None:
    """The published split of ``benchmark``: in its folder, in ``data/`` of it, beside it, or in ``splits`` there."""
    places = (folder, folder / "data", folder.parent, folder.parent / "splits")
    return next((file for place in places if (file := place / benchmark.split_file).is_file()), None)


def load_coop(split_file: Path, root: Path | None = None, benchmark: Benchmark | None = None) -> DataSource:
    """Load the pictures that a split file names, from ``root`` or else the folder it lies in.

    The split file is ``{"train": [[path, label, class name], …], "val": […], "test": […]}`` (val may be absent). Its
    label ids are the order of the classes; ``_`` in a class name means a space. Its name, or else the folder's,
    identifies the benchmark, which gives the template; unknown names get "a photo of a {}.".

    Pictures lie under the benchmark's own picture folder, ``images/`` or the folder itself; other copies work too
    (:class:`anprompt.data.matching.PictureFinder`). Labels decide: two classes of one name stay two classes.

    Raises:
        UserError: a split file of another form, label ids or class names that contradict each other, a single class,
            or (:class:`anprompt.data.matching.MissingPictures`) pictures that are absent or could be several files.
    """
    root = split_file.parent if root is None else root
    benchmark = benchmark or match_benchmark(split_file.name) or match_benchmark(root.resolve().name)
    lists = _read_variants(split_file.parent) if split_file.name == VARIANTS_FILE else _read_split_file(split_file)
    classes = _check_classes(split_file, lists, published=benchmark is not None)

    def told(path: PurePosixPath) -> str | None:
        found = benchmark.class_of(path) if benchmark else (path.parent.name, path.parent.name)
        return found[1] if found else None

    finder = PictureFinder(
        root,
        benchmark.picture_folder if benchmark else "images",
        same_folders=benchmark.same_folders if benchmark else None,
        class_of=told,
    )
    matched = finder.find([item for items in lists.values() for item in items])
    missing = {split: [item for item in items if item.path not in matched.files] for split, items in lists.items()}
    if any(missing.values()):
        listed = {split: len(items) for split, items in lists.items()}
        raise MissingPictures(split_file, finder, missing, matched.ambiguous, listed)
    splits = {
        split: [Item(str(root / matched.files[item.path]), item.label, classes[item.label]) for item in items]
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
        differs=differences(benchmark, classes, splits, own_split=False) if benchmark else (),
    )


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
    for split in SPLIT_NAMES:
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
        lines = {split: (root / f"images_variant_{split}.txt").read_text(encoding="utf-8") for split in SPLIT_NAMES}
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


def _check_classes(split_file: Path, lists: dict[str, list[Item]], published: bool) -> list[str]:
    """Return the class names by label id, which must be 0..n-1, each with one name and a training picture.

    Two ids of one name are a mistake in somebody's own list; in a published one that is how the classes are called.
    """
    problems = Problems(f"The split file {split_file} cannot be used:")
    names: dict[int, str] = {}
    for split, items in lists.items():
        for item in items:
            if names.setdefault(item.label, item.name) != item.name:
                problems.add(f"{split}: {item.path} calls label {item.label} '{item.name}', not '{names[item.label]}'")
    if sorted(names) != list(range(len(names))):
        given = shortened([str(label) for label in sorted(names)], 2 * SHOWN_FILES)
        problems.add(f"the label ids must be 0 to {len(names) - 1}, but are {given}")
    trained = {item.label for item in lists.get("train", [])}
    for label in sorted(names.keys() - trained):
        problems.add(f"class '{names[label]}' (label {label}) has no picture in train")
    check_class_names([(name, f"label {label}") for label, name in sorted(names.items())], problems, published)
    if len(names) == 1:
        problems.add(f"there is only one class ('{next(iter(names.values()))}'), and at least two are needed")
    problems.raise_if_any()
    return [names[label] for label in range(len(names))]
