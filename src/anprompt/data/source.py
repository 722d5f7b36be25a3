"""What every kind of data looks like to the rest of the package: items in splits, and a way to open them."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from anprompt.data.digests import Digest, digest, kept_digests
from anprompt.data.draw import base_new_split
from anprompt.errors import UserError, unknown_name
from anprompt.pictures import decode
from anprompt.text.templates import DEFAULT_TEMPLATE

SUBSETS = ("all", "base", "new")


class Item(NamedTuple):
    """One labelled picture."""

    path: str  # a file, or the virtual path of a picture that is made on the fly
    label: int  # index into DataSource.classes
    name: str  # the class name, DataSource.classes[label]


def open_file(item: Item) -> Image.Image:
    """Decode the file of an item (the opener of every source that reads files)."""
    return decode(item.path)


@dataclass(frozen=True)
class DataSource:
    """Labelled pictures from a folder, a table, a CoOp layout or the toy world.

    Every picture is opened through :meth:`open`; nobody else needs to know where pictures come from.
    """

    name: str  # for people: the folder's or the benchmark's name
    classes: tuple[str, ...]  # class names by label
    splits: dict[str, list[Item]]  # keys among "train", "val", "test"
    opener: Callable[[Item], Image.Image]  # item -> RGB picture
    template: str = DEFAULT_TEMPLATE  # wording of a class without descriptions; {} is the class name
    benchmark: str | None = None  # name of the published data set, see data/benchmarks.py
    own_split: bool = False  # True: no test split was given, so "test" was held out by us (label results as such)
    differs: tuple[str, ...] = ()  # what keeps results from comparing with published ones, one sentence each
    descriptions: dict[str, dict[str, list[str]]] | None = None  # {"main" | "noise": {class name: sentences}}
    root: Path | None = None  # folder that paths are shown and hashed relative to; None: paths are virtual
    held: Callable[[Item], str] | None = None  # hash of a picture whose virtual path does not stand for it

    def open(self, item: Item) -> Image.Image:
        """Return the item's picture in mode RGB.

        Raises:
            BadImage: the file is missing, truncated, not a picture, or far too large.
        """
        return self.opener(item)

    def items(self, split: str) -> list[Item]:
        """The items of a split, or of all splits (``"all"``).

        Raises:
            UserError: there is no such split.
        """
        if split == "all":
            return [item for items in self.splits.values() for item in items]
        if split not in self.splits:
            raise unknown_name(f"split of '{self.name}'", split, [*self.splits, "all"])
        return self.splits[split]

    def nothing_to_test(self, split: str) -> UserError:
        """The error for a split without photos: an accuracy of none would be no number."""
        return UserError(f"{self.name} has no {split} photos, so nothing can be tested on it.")

    def keeps_wording(self, trained_on: str | None) -> bool:
        """Whether classes are worded as here, not as in the training: in published data other than ``trained_on``."""
        return self.benchmark not in (None, trained_on)

    def relative(self, item: Item) -> str:
        """Return the item's path relative to ``root`` (on Windows whole if on another drive), with forward slashes."""
        if self.root is None:
            return item.path
        try:
            return Path(os.path.relpath(item.path, self.root)).as_posix()
        except ValueError:  # on another drive of Windows, from which no path leads here
            return Path(item.path).as_posix()

    def subset(self, which: str) -> DataSource:
        """Return the ``"all"``, ``"base"`` or ``"new"`` classes as a source of their own, relabelled from 0.

        Base is the first ceil(n / 2) of the n classes, new the rest. Every split keeps the order of its items.

        Raises:
            UserError: unknown subset, or a subset of fewer than two classes.
        """
        if which not in SUBSETS:
            raise unknown_name("subset", which, SUBSETS)
        if which == "all":
            return self
        base, new = base_new_split(range(len(self.classes)))
        kept = base if which == "base" else new
        if len(kept) < 2:
            raise UserError(
                f"The subset '{which}' of '{self.name}' would hold {len(kept)} of its {len(self.classes)} classes; "
                "a subset needs at least 2, so use subset 'all' or data with 4 classes or more."
            )
        relabelled = {old: label for label, old in enumerate(kept)}
        splits = {
            split: [item._replace(label=relabelled[item.label]) for item in items if item.label in relabelled]
            for split, items in self.splits.items()
        }
        return replace(self, classes=tuple(self.classes[label] for label in kept), splits=splits)

    def among(self, names: Iterable[str]) -> DataSource:
        """Return this source with the classes ``names`` to choose among, before those of its own that they lack.

        Raises:
            UserError: two classes share a name, as in ImageNet, so a name does not say which is meant.
        """
        names = list(names)
        for known in (names, self.classes):
            if len(set(known)) < len(known):
                raise UserError(f"Two classes of '{self.name}' share a name: choose among those of the data only.")
        classes = list(dict.fromkeys([*names, *self.classes]))
        label = {name: i for i, name in enumerate(classes)}
        splits = {
            split: [item._replace(label=label[item.name]) for item in items] for split, items in self.splits.items()
        }
        return replace(self, classes=tuple(classes), splits=splits)

    def content_hash(self, items: Iterable[Item], *, keep: bool = False) -> str:
        """Return a SHA-256 (hex) over the items in their order: relative path, class, file size and file contents.

        A virtual path stands for its picture, or ``held`` does. Moving the whole folder does not change the hash.
        keep: of many files, keep what they hold (:func:`anprompt.data.digests.kept_digests`): the next time is quick.

        Raises:
            UserError: a file cannot be read.
        """
        total, items = hashlib.sha256(), list(items)
        digests: Iterable[tuple[()] | Digest] = itertools.repeat(())
        if self.root is not None:
            paths = [item.path for item in items]
            digests = kept_digests(self.root, paths) if keep else map(digest, paths)
        # digests first: only when asked for one more than there are do they write down what they found
        for held, item in zip(digests, items, strict=False):
            path = self.relative(item) if self.held is None else f"{item.path}:{self.held(item)}"
            total.update(json.dumps([path, item.name, *held]).encode() + b"\n")
        return total.hexdigest()
