"""What a folder and a table have in common: class names, checks before training, and a test split of our own."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from anprompt.data.source import DataSource, Item, open_file
from anprompt.errors import Problems, did_you_mean

SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
OWN_SPLIT_SEED = 1  # never changes: the same pictures are held out on every machine and for every training seed


def canonical_name(raw: str) -> str:
    """Return the class name written ``raw`` in a folder, table or list: ``_`` becomes a space, ends are stripped.

    Accented letters are single characters, as CLIP's tokenizer reads them; names of files from a Mac have them in two.
    """
    return unicodedata.normalize("NFC", raw.replace("_", " ").strip())


def _garbles(letter: str) -> bool:
    """Whether what is printed after a letter is garbled: control characters, and those that turn the writing round."""
    turns = unicodedata.bidirectional(letter) in {"LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return turns or unicodedata.category(letter) in {"Cc", "Zl", "Zp"}


def same_to_clip(name: str) -> str:
    """What CLIP's tokenizer sees of a name: not case, the number of spaces, or how accents are stored."""
    return " ".join(unicodedata.normalize("NFC", name).split()).casefold()


def check_class_names(written: Iterable[tuple[str, str]], problems: Problems, published: bool = False) -> None:
    """Add empty class names, and names that several places share, to ``problems``.

    Names that differ only in case or in the number of spaces count as one: CLIP's tokenizer cannot tell them apart.

    Args:
        written: pairs of (name as written, where it is written).
        problems: collects one line per mistake.
        published: several places may share a name, as two pairs of ImageNet's classes do.
    """
    places: dict[str, list[tuple[str, str]]] = {}
    for raw, where in written:
        name = canonical_name(raw)
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # bytes of a file name that are no UTF-8
            problems.add(f"{where} has a class name that is not UTF-8: rename it")
        elif control := next(filter(_garbles, name), None):
            problems.add(f"{where!r} has a class name with the control character U+{ord(control):04X}: rename it")
        elif name:
            places.setdefault(same_to_clip(name), []).append((name, where))
        else:
            problems.add(f"{where} has an empty class name")
    for same in places.values():
        if len(same) > 1 and not published:
            problems.add(f"{' and '.join(where for _, where in same)} are one class name to CLIP: '{same[0][0]}'")


def check_class_sets(splits: Mapping[str, Iterable[str]], problems: Problems) -> None:
    """Add classes that some splits lack: test must have exactly the classes of train, val none besides them."""
    train = set(splits["train"])
    for split in ("val", "test"):
        names = set(splits.get(split, train))
        for name in sorted(names - train):
            problems.add(f"class '{name}' is in {split} but not in train.{did_you_mean(name, sorted(train))}")
        if split == "test":
            for name in sorted(train - names):
                problems.add(f"class '{name}' is in train but not in test")


def build_source(
    name: str, root: Path, classes: Sequence[str], rows: Mapping[str, Sequence[tuple[str, str]]]
) -> DataSource:
    """Make the source from checked rows; without test rows, hold some of the training rows out.

    Args:
        name: what to call the data.
        root: folder that paths are shown relative to.
        classes: class names in label order.
        rows: (path, class name) by split; ``"train"`` or ``"test"`` is there.
    """
    label = {class_name: i for i, class_name in enumerate(classes)}
    splits = {
        split: [Item(path, label[class_name], class_name) for path, class_name in entries]
        for split, entries in rows.items()
    }
    own_split = "test" not in splits
    if own_split:
        splits["train"], splits["test"] = hold_out_test(splits["train"])
    return DataSource(
        name=name, classes=tuple(classes), splits=splits, opener=open_file, own_split=own_split, root=root
    )


def hold_out_test(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Split items into train and test, class by class, always in the same way; both keep the order of ``items``.

    Of a class with n >= 2 pictures, max(1, floor(0.3 n)) go to test; a single picture stays in train. The choice in one
    class depends on its name and its pictures only, so adding a class leaves the others as they were.
    """
    held_out: set[Item] = set()
    for group, generator in _by_class(items):
        if len(group) > 1:
            held_out.update(generator.sample(group, max(1, len(group) * 3 // 10)))
    return [item for item in items if item not in held_out], [item for item in items if item in held_out]


def split_in_three(items: Sequence[Item], shares: tuple[float, float]) -> dict[str, list[Item]]:
    """Split items into train, val and test, class by class, always in the same way; all keep the order of ``items``.

    Of a class with n pictures, round(shares[0] n) go to train and round(shares[1] n) to val, but train gets at least
    one, and so does test where there are two. As above, a class does not depend on the others.
    """
    chosen: dict[Item, str] = {}
    for group, generator in _by_class(items):
        train = min(max(1, round(shares[0] * len(group))), max(1, len(group) - 1))
        val = min(round(shares[1] * len(group)), max(0, len(group) - train - 1))
        names = ["train"] * train + ["val"] * val + ["test"] * (len(group) - train - val)
        chosen.update(zip(generator.sample(group, len(group)), names, strict=True))
    return {split: [item for item in items if chosen[item] == split] for split in ("train", "val", "test")}


def _by_class(items: Sequence[Item]) -> Iterator[tuple[list[Item], random.Random]]:
    """The items of each class, and the generator of its split."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.name, []).append(item)
    for name, group in groups.items():
        yield group, random.Random(f"{OWN_SPLIT_SEED}/{name}")
