"""What users hand over: data to learn from, and pictures to predict."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anprompt.batches import list_pictures
from anprompt.data import DataSource, Item, decode, open_data
from anprompt.data.assemble import check_class_names
from anprompt.data.listing import list_files
from anprompt.errors import Problems, UserError, did_you_mean
from anprompt.files import sha256_file
from anprompt.labels import Labels, name_of, read_labels
from anprompt.pictures import is_image_name
from anprompt.settings import note


def as_source(
    data: Any,
    labels: Sequence[Any] | None = None,
    data_root: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    known: Labels | None = None,
) -> DataSource:
    """Turn ``data`` into a source: a specification as in ``anprompt fit DATA``, a source, or (pictures, labels).

    Pictures are paths, PIL images, arrays or tensors, as in :func:`anprompt.batches.list_pictures`; labels are text,
    whole numbers or truth values.
    classes: that the labels are taken from; by default those that occur. known: what the user calls these classes.
    Raises :class:`UserError` for data that cannot be used, missing labels, and labels that are none of ``classes``.
    """
    if isinstance(data, DataSource | str | Path):
        if labels is not None:
            raise UserError("Labels go with a list of pictures; a folder, table or data source has its own.")
        if isinstance(data, DataSource):
            return data
        source = open_data(data, data_root=data_root)
        for difference in source.differs:
            note(f"{difference}: results do not compare with published ones.")
        return source
    if labels is None:
        raise UserError("Pictures given as a list need labels: give these as the second argument.")
    pictures, (given, _) = list_pictures(data), read_labels(labels)
    if len(pictures) != len(given):
        raise UserError(f"{len(pictures)} pictures but {len(given)} labels: each picture needs one.")
    there = sorted(set(given))
    problems = Problems("The labels cannot be used:")
    check_class_names([(name_of(label), f"label '{label}'") for label in there], problems)
    problems.raise_if_any()
    name_by_label = (
        {label: name_of(label) for label in there} if classes is None else (known or Labels()).names(classes)
    )
    if len(name_by_label) < 2:
        raise UserError(f"A classifier needs at least 2 classes; the labels have {len(name_by_label)}.")
    for label in there:
        if label not in name_by_label:
            near = did_you_mean(str(label), [other for other in name_by_label if isinstance(other, str)])
            problems.add(f"{label!r} is none of the {len(name_by_label)} classes.{near}")
    problems.raise_if_any()
    known_names = tuple(name_by_label.values()) if classes is None else tuple(classes)
    label_of = {name: i for i, name in reversed([*enumerate(known_names)])}  # of two of one name, the first
    names = [name_by_label[label] for label in given]
    items = [Item(str(i), label_of[name], name) for i, name in enumerate(names)]
    return DataSource(
        name="pictures in memory",
        classes=known_names,
        splits={"train": items},
        opener=lambda item: decode(pictures[int(item.path)]),
        held=lambda item: _digest(pictures[int(item.path)]),
    )


def _digest(picture: Any) -> str:
    """Hash of a picture's file or pixels, so that runs on different pictures can be told apart."""
    if isinstance(picture, str | Path) and Path(picture).is_file():
        return sha256_file(Path(picture))
    if isinstance(picture, str | Path):
        return str(picture)  # absent: reported with all other unreadable pictures when they are opened
    try:
        pixels = np.asarray(picture)
    except Exception:  # a damaged picture that PIL opened lazily: reported with all others when they are decoded
        return "unreadable"
    return hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def as_pictures(inputs: Any) -> list[Any]:
    """Flatten files, folders (searched for pictures), glob patterns, PIL images and arrays into a list of pictures.

    What counts as one picture and what as many: :func:`anprompt.batches.list_pictures`.
    Raises :class:`UserError` for what holds no pictures, and naming every path that does not exist and every folder or
    pattern without pictures.
    """
    found: list[Any] = []
    missing: list[str] = []
    for entry in list_pictures(inputs):
        if not isinstance(entry, str | Path):
            found.append(entry)
            continue
        path = Path(entry)
        if path.is_dir():
            inside = [path / name for name in list_files(path) if is_image_name(Path(name).name)]
        elif path.exists():
            inside = [path]
        else:
            inside = sorted(Path(p) for p in glob.glob(str(entry), recursive=True) if is_image_name(Path(p).name))
        found.extend(inside)
        if not inside:
            missing.append(str(entry))
    if missing:
        shown = ", ".join(f"'{name}'" for name in missing[:5])
        raise UserError(
            f"No picture found at {shown}{' …' if len(missing) > 5 else ''}: give files, folders or patterns."
        )
    return found
