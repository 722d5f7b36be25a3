"""Toy world: a labelled data set that is drawn on the fly, so that demos and tests need no files.

Classes are compositions of pattern, colour and shape ("striped red star"). None of them was seen in the pretraining of
the packaged miniature CLIP, which knows their parts from other compositions only.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from anprompt.data.source import DataSource, Item
from anprompt.data.toyworld_draw import DOMAINS, SIZE, check_domain, draw, generator, place
from anprompt.data.toyworld_words import (
    VOCABULARIES,
    Kind,
    check_vocabulary,
    class_names,
    descriptions,
    kinds,
    parse_name,
    pretraining_kinds,
)
from anprompt.errors import unknown_name

__all__ = [
    "DOMAINS",
    "SIZE",
    "SPLITS",
    "VOCABULARIES",
    "Kind",
    "class_names",
    "descriptions",
    "export",
    "kinds",
    "load",
    "mask",
    "parse_name",
    "parse_spec",
    "pretraining_kinds",
    "render",
]

SPLITS = ("train", "val", "test")
_SPECS = {"toyworld": "shapes", "toyworld-signs": "signs"}


def parse_spec(spec: str) -> tuple[str, str]:
    """Split ``"toyworld[:domain]"`` or ``"toyworld-signs[:domain]"`` into domain (default photo) and vocabulary.

    Raises :class:`UserError` for unknown names.
    """
    world, colon, domain = spec.partition(":")
    if world not in _SPECS:
        raise unknown_name("toy world", world, _SPECS)
    if not colon:
        domain = "photo"
    check_domain(domain)
    return domain, _SPECS[world]


def render(name: str, domain: str = "photo", split: str = "train", index: int = 0, seed: int = 0) -> Image.Image:
    """Draw picture ``index`` of a class: RGB, ``SIZE`` × ``SIZE`` pixels; the same for the same arguments, anywhere.

    name: pattern, colour and shape, any synonyms (``"striped red star"``). Raises :class:`UserError` for a name, domain
    or split that does not exist.
    """
    kind, rng = _source(name, domain, split, index, seed)
    return draw(kind, domain, rng)


def mask(
    name: str, domain: str = "photo", split: str = "train", index: int = 0, seed: int = 0
) -> npt.NDArray[np.bool_]:
    """Where the object stands in the picture that :func:`render` draws for the same arguments: ``(SIZE, SIZE)``."""
    kind, rng = _source(name, domain, split, index, seed)
    return place(kind, rng)


def _source(name: str, domain: str, split: str, index: int, seed: int) -> tuple[Kind, np.random.Generator]:
    """What is drawn, and the generator that decides all about one picture of it."""
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    kind = parse_name(name)
    check_domain(domain)
    return kind, generator("toyworld", seed, domain, split, *kind, index)


def _open(item: Item, seed: int) -> Image.Image:
    _, domain, split, folder, file = item.path.split("/")
    return render(folder, domain, split, int(Path(file).stem), seed)


def load(
    domain: str = "photo",
    vocabulary: str = "shapes",
    *,
    train: int = 24,
    val: int = 4,
    test: int = 20,
    seed: int = 0,
) -> DataSource:
    """The toy world as a data source: 48 classes for ``"shapes"``, 24 for ``"signs"``.

    domain: one of ``DOMAINS``. train, val, test: pictures per class. Item paths are virtual, such as
    ``"toyworld/night/train/striped_red_star/0003.png"``; pictures are drawn when opened.
    Raises :class:`UserError` for an unknown domain or vocabulary.
    """
    check_domain(domain)
    check_vocabulary(vocabulary)
    world = next(spec for spec, words in _SPECS.items() if words == vocabulary)
    names = class_names(vocabulary)
    splits = {
        split: [
            Item(f"{world}/{domain}/{split}/{name.replace(' ', '_')}/{index:04d}.png", label, name)
            for label, name in enumerate(names)
            for index in range(count)
        ]
        for split, count in zip(SPLITS, (train, val, test), strict=True)
    }
    return DataSource(
        name=f"{world}:{domain}",
        classes=names,
        splits=splits,
        opener=partial(_open, seed=seed),
        descriptions=descriptions(names),
    )


def export(
    folder: str | Path,
    domain: str = "photo",
    vocabulary: str = "shapes",
    *,
    train: int = 16,
    test: int = 4,
    seed: int = 0,
    classes: int | None = None,
) -> Path:
    """Write real PNG files ``folder/{train,test}/<class>/0000.png`` … and return the folder.

    classes: only the first so many. Raises :class:`UserError` for an unknown domain or vocabulary.
    """
    source = load(domain, vocabulary, train=train, val=0, test=test, seed=seed)
    root = Path(folder)
    for split in ("train", "test"):
        for item in source.splits[split]:
            if classes is None or item.label < classes:
                path = root / split / Path(item.path).parent.name / Path(item.path).name
                path.parent.mkdir(parents=True, exist_ok=True)
                source.open(item).save(path)
    return root
