"""A split of our own for a published data set whose split file is not there; results on it are labelled so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from anprompt.data.assemble import canonical_name, check_class_names, split_in_three
from anprompt.data.benchmarks import Benchmark, differences
from anprompt.data.listing import list_kept
from anprompt.data.matching import SHOWN_FILES, shortened
from anprompt.data.source import DataSource, Item, open_file
from anprompt.errors import Problems, UserError
from anprompt.pictures import is_image_name


def load_own_split(benchmark: Benchmark, folder: Path) -> DataSource:
    """Load a published data set without its split file, and split it: the same pictures fall into the same parts on
    every machine, however the copy is laid out.

    Classes come from a file of labels of the makers, or from the folders or names of the pictures, and are worded and
    ordered as in the published split.

    Raises:
        UserError: the pictures do not show as many classes as the data set has.
    """
    pictures = [file for file in list_kept(folder) if is_image_name(file.rpartition("/")[2])]
    if not pictures:
        raise UserError(f"There are no pictures of {benchmark.title} below {folder}.")
    labels = benchmark.label_file(folder, pictures) if benchmark.label_file else None
    labels = labels or _by_place(benchmark, pictures)
    names = dict(sorted(set(labels.values()), key=lambda entry: benchmark.order(entry[0])))
    if len(names) != benchmark.classes:
        raise UserError(_wrong_number(benchmark, folder, names))
    problems = Problems(f"The pictures of {benchmark.title} below {folder} cannot be used:")
    classes = [canonical_name(name) for name in names.values()]
    check_class_names(zip(classes, names, strict=True), problems, published=True)
    problems.raise_if_any()
    number = {key: i for i, key in enumerate(names)}
    # By file name first: where the pictures lie must not decide which ones are test pictures.
    order = sorted(labels, key=lambda file: (number[labels[file][0]], file.rpartition("/")[2], file))
    items = [
        Item(str(folder / file), label, classes[label]) for file in order for label in (number[labels[file][0]],)
    ]  # fmt: skip
    splits = split_in_three(items, benchmark.own_shares)
    return DataSource(
        name=f"{benchmark.title} (own split)",
        classes=tuple(classes),
        splits=splits,
        opener=open_file,
        template=benchmark.template,
        benchmark=benchmark.name,
        own_split=True,
        root=folder,
        differs=differences(benchmark, classes, splits, own_split=True),
    )


def _by_place(benchmark: Benchmark, pictures: Sequence[str]) -> dict[str, tuple[str, str]]:
    """(key, class name) of each picture by its place. Of several folders, CoOp's counts if it holds all classes."""
    found: dict[str, tuple[str, str]] = {}
    for top in dict.fromkeys((f"{benchmark.picture_folder}/", "images/", "")):
        found = {
            file: told
            for file in pictures
            if file.startswith(top) and (told := benchmark.class_of(PurePosixPath(file))) is not None
        }
        if len({key for key, _ in found.values()}) == benchmark.classes:
            break
    return found


def _wrong_number(benchmark: Benchmark, folder: Path, names: dict[str, str]) -> str:
    missing = [f"{key} ({name})" for key, name in benchmark.worded.items() if names and name not in names.values()]
    hint = f" Not there: {shortened(missing, SHOWN_FILES)}." if missing else ""
    return (
        f"The split file {folder / benchmark.split_file} is not there, and the pictures cannot be split by anprompt: "
        f"{benchmark.title} has {benchmark.classes} classes, but the pictures below {folder} tell {len(names)} "
        f"({shortened(sorted(names.values()), SHOWN_FILES) or 'none'}).{hint} Put the split file there."
    )
