"""Labels that the makers of a data set keep in files of their own, for copies without the published split.

A reader gets the data set's folder and the pictures in it (paths relative to it). It returns ``{picture: (key, class
name)}`` for those that its files label, or None where these files are not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from anprompt.data.class_rules import last_word_first
from anprompt.errors import UserError

LabelFile = Callable[[Path, Sequence[str]], dict[str, tuple[str, str]] | None]


def flower_labels(root: Path, pictures: Sequence[str]) -> dict[str, tuple[str, str]] | None:
    """102 Category Flowers: the class number of ``image_00001.jpg``, … in ``imagelabels.mat``, or the name of its
    folder; names in ``cat_to_name.json``. :class:`UserError` without readable names."""
    names_file, labels_file = root / "cat_to_name.json", root / "imagelabels.mat"
    if not names_file.is_file():
        raise UserError(
            f"Without its split file, Flowers102 needs {names_file} for the names of its 102 numbered classes: put the "
            "split file or this one there."
        )
    try:
        names = {int(number): str(name) for number, name in json.loads(names_file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"Cannot read the class names in {names_file}: {error}.") from error
    listed = [int(number) for number in _read_mat(labels_file)["labels"]] if labels_file.is_file() else []

    def number_of(picture: PurePosixPath) -> int:
        folder, index = picture.parent.name, picture.stem.removeprefix("image_")
        if index.isdigit() and 0 < int(index) <= len(listed):
            return listed[int(index) - 1]
        return int(folder) if folder.isdigit() else 0

    numbers = {picture: number_of(PurePosixPath(picture)) for picture in pictures}
    found = {picture: (f"{number:03}", names[number]) for picture, number in numbers.items() if number in names}
    return found or None


def car_annotations(root: Path, pictures: Sequence[str]) -> dict[str, tuple[str, str]] | None:
    """Stanford Cars: the class of ``cars_train/…`` and ``cars_test/…`` in the files of its development kit."""
    meta = root / "devkit" / "cars_meta.mat"
    lists = {
        "cars_train": root / "devkit" / "cars_train_annos.mat",
        "cars_test": root / "cars_test_annos_withlabels.mat",
    }
    if not all(file.is_file() for file in (meta, *lists.values())):
        return None
    # The year stands first in the names that everybody uses: "2012 Audi TTS Coupe".
    names = [last_word_first(" ".join(str(name).split())) for name in _read_mat(meta)["class_names"]]
    number = {
        (folder, str(row["fname"])): int(row["class"])
        for folder, file in lists.items()
        for row in _read_mat(file)["annotations"]
    }
    found: dict[str, tuple[str, str]] = {}
    for picture in pictures:
        path = PurePosixPath(picture)
        if label := number.get((path.parent.name, path.name)):
            found[picture] = (f"{label:03}", names[label - 1])
    return found


def _read_mat(file: Path) -> dict[str, Any]:
    """The variables of a MATLAB file; structures become dictionaries, arrays of them lists."""
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(file, simplify_cells=True)
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        raise UserError(f"Cannot read the labels in {file}: {error or type(error).__name__}.") from error
    return content
