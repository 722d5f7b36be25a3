"""ImageNet and the data sets that share its classes: no split file, but class folders and a list of class names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from anprompt.data.assemble import canonical_name
from anprompt.data.benchmarks import CLASS_LIST, Benchmark, differences, find_benchmark, find_folder
from anprompt.data.listing import list_kept
from anprompt.data.matching import SHOWN_FILES, shortened
from anprompt.data.source import DataSource, Item, open_file
from anprompt.errors import Problems, UserError
from anprompt.pictures import IMAGE_SUFFIXES, is_image_name

CLASS_ID = re.compile(r"n\d{8}")


class ClassName(NamedTuple):
    """A line of the list: ``n01440764 tench``. Two pairs of classes share a name; the ids tell them apart."""

    id: str
    name: str


class Split(NamedTuple):
    """Pictures of one split by class: ``files[i]`` are those of the class with number ``i``, relative to ``folder``."""

    folder: str
    files: dict[int, list[str]]


def load_imagenet(benchmark: Benchmark, folder: Path) -> DataSource:
    """Load a data set of class folders from ``folder``. A split that is not there is left out, but one must be there.

    Class ids are in the order of the list's ids, as in the field. A data set of some of the classes has those that have
    a folder, numbered from 0.

    Raises:
        UserError: no list of class names, none of the splits, classes without a folder or a picture, folders of unknown
            classes, or another number of classes than the data set has.
    """
    listed = read_class_list(find_class_list(benchmark, folder))
    splits: dict[str, Split] = {}
    problems = Problems(f"{benchmark.title} in {folder} cannot be used:")
    for name, places in benchmark.class_folders.items():
        there = next((place for place in places if _has_classes(benchmark, folder / place)), None)
        if there is not None:
            splits[name] = read_split(benchmark, folder / there, listed)
        for place in (place for place in places if there is None and (folder / place).is_dir()):
            if loose := sum(is_image_name(path.name) for path in (folder / place).iterdir()):
                problems.add(f"{loose} pictures lie in {folder / place} itself: sort them into class folders")
    if not splits:
        looked = ", ".join(str(folder / place) for places in benchmark.class_folders.values() for place in places)
        problems.add(f"there are no class folders such as n01440764 in {looked}")
    problems.raise_if_any()
    numbers = list(range(len(listed)))
    if benchmark.only_some:
        numbers = sorted({number for split in splits.values() for number in split.files})
        if len(numbers) != benchmark.classes:
            raise UserError(
                f"{benchmark.title} has {benchmark.classes} of ImageNet's classes, but {len(numbers)} have pictures in "
                f"{folder}. Another number of classes is another task: complete the copy."
            )
    problems = Problems(f"{benchmark.title} in {folder} is not complete:")
    for name, split in splits.items():
        absent = [f"{listed[number].id} ({listed[number].name})" for number in numbers if number not in split.files]
        if absent:
            problems.add(
                f"{len(absent)} of {len(numbers)} classes have no picture in {split.folder} ({name}): "
                f"{shortened(absent, SHOWN_FILES)}"
            )
    problems.raise_if_any()
    label = {number: i for i, number in enumerate(numbers)}
    classes = tuple(listed[number].name for number in numbers)
    items = {
        name: [
            Item(f"{split.folder}/{file}", label[number], listed[number].name)
            for number in numbers
            for file in split.files[number]
        ]
        for name, split in splits.items()
    }
    return DataSource(
        name=benchmark.title,
        classes=classes,
        splits=items,
        opener=open_file,
        template=benchmark.template,
        benchmark=benchmark.name,
        root=folder,
        differs=differences(benchmark, classes, items, own_split=False),
    )


def find_class_list(benchmark: Benchmark, folder: Path) -> Path:
    """``classnames.txt`` in the data set's folder, else in ImageNet's beside it; :class:`UserError` without one."""
    imagenet = find_folder(find_benchmark("imagenet"), folder.parent)
    places = [folder, *([imagenet] if imagenet is not None and imagenet != folder else [])]
    for place in places:
        if (file := place / CLASS_LIST).is_file():
            return file
    raise UserError(
        f"{benchmark.title} needs {folder / CLASS_LIST}, the names of ImageNet's 1000 classes: put CoOp's file of that "
        "name there (or into ImageNet's folder beside it)."
    )


def read_class_list(file: Path) -> list[ClassName]:
    """Read ``n01440764 tench`` lines, sorted by id. Names may be shared, ids may not.

    Raises:
        UserError: an unreadable file, or (all together) other lines, repeated ids, another number of classes.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the class names in {file}: {error}.") from error
    problems = Problems(f"The class names in {file} cannot be used:")
    found: dict[str, ClassName] = {}
    for number, line in enumerate(lines, start=1):
        class_id, _, name = line.strip().partition(" ")
        if not line.strip():
            continue
        if not CLASS_ID.fullmatch(class_id) or not name.strip():
            problems.add(f"line {number} is '{line.strip()}', expected an id and a name: 'n01440764 tench'")
        elif class_id in found:
            problems.add(f"line {number}: {class_id} is there twice")
        else:
            found[class_id] = ClassName(class_id, canonical_name(name))
    wanted = find_benchmark("imagenet").classes
    if not problems and len(found) != wanted:
        problems.add(f"it names {len(found)} classes, but ImageNet has {wanted}")
    problems.raise_if_any()
    return sorted(found.values())


def read_split(benchmark: Benchmark, folder: Path, listed: list[ClassName]) -> Split:
    """List the pictures of the class folders in ``folder``, by class number, sorted by name.

    Raises:
        UserError: folders of classes that ImageNet does not have.
    """
    numbers = {entry.id: i for i, entry in enumerate(listed)}
    if benchmark.numbered:
        numbers |= {str(i): i for i in range(len(listed))}
    suffixes = tuple(IMAGE_SUFFIXES)
    files: dict[int, list[str]] = {}
    unknown: set[str] = set()
    for path in list_kept(folder):
        name = path.partition("/")[0]
        if name in numbers:
            if path.lower().endswith(suffixes):  # a million paths: no function call for each
                files.setdefault(numbers[name], []).append(path)
        elif CLASS_ID.fullmatch(name) and name != path:
            unknown.add(name)
    if unknown:
        raise UserError(f"{len(unknown)} folders in {folder} are none of ImageNet's 1000 classes: "
                        f"{shortened(sorted(unknown), SHOWN_FILES)}.")  # fmt: skip
    return Split(str(folder), files)


def _has_classes(benchmark: Benchmark, folder: Path) -> bool:
    """Whether ``folder`` holds class folders."""
    return folder.is_dir() and any(
        (CLASS_ID.fullmatch(path.name) or (benchmark.numbered and path.name.isdigit())) and path.is_dir()
        for path in folder.iterdir()
    )
