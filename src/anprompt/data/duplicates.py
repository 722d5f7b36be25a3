"""Pictures that occur twice: found by what they look like, while they are read anyway.

A picture of two classes has a wrong label in one of them. A picture of two splits was trained on and is tested on.

Near copies (another size, format or brightness) are found in two steps. Step 1: 64 bits that say where the picture,
made 9 x 8, gets brighter to the right (dHash) differ in at most ``DISTANCE`` places. Step 2: the 9 x 8 colours, without
their mean, correlate by at least ``CORRELATION``. Step 1 alone is wrong for smooth pictures: of 9,040 satellite photos
of EuroSAT 30,863 pairs pass step 1, and none passes both; see docs/datasets.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from anprompt.data.source import DataSource, Item
from anprompt.errors import Finding

DISTANCE = 6  # of 64 bits
CORRELATION = 0.97
FLAT = 1.0  # deviation, in steps of 0..255: below it a small picture holds nothing but rounding
MOST = 100_000  # near pairs; data with more of them consist of copies
SIZE = (9, 8)  # width, height
SPREAD = np.arange(64) * 27 % 64  # bits of neighbouring pixels go far apart: they tend to agree, and bands shall not

Pairs = npt.NDArray[np.int64]  # (P, 2), the smaller index first


class Print(NamedTuple):
    """What is kept of a picture: hash of its pixels, and itself in 9 x 8 RGB, 216 bytes."""

    digest: bytes
    small: bytes


def fingerprint(image: Image.Image) -> Print:
    """What is needed to recognise an RGB picture."""
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    digest.update(image.tobytes())
    # reducing_gap: averages whole blocks of large pictures first, many times as fast and hardly less exact
    return Print(digest.digest(), image.resize(SIZE, Image.Resampling.BILINEAR, reducing_gap=3.0).tobytes())


def lint_pictures(source: DataSource, seen: Sequence[tuple[str, Item, Print]]) -> list[Finding]:
    """Pictures that several classes or several splits have.

    seen: (split, item, fingerprint) of the pictures that were looked at.
    """
    labels = np.array([item.label for _, item, _ in seen])
    splits = np.unique([split for split, _, _ in seen], return_inverse=True)[1] if seen else labels
    same, first = exact_pairs([own.digest for _, _, own in seen])
    near = first[near_pairs([seen[i][2].small for i in first], labels[first], splits[first])] if len(first) else same
    found = []
    for pairs, how in ((same, "exact"), (near, "near")):
        two_classes = labels[pairs[:, 0]] != labels[pairs[:, 1]]
        two_splits = ~two_classes & (splits[pairs[:, 0]] != splits[pairs[:, 1]])
        for where, chosen in (("classes", two_classes), ("splits", two_splits)):
            if chosen.any():
                found.append(_finding(source, seen, pairs[chosen], how, where))
    return found


def exact_pairs(digests: Sequence[bytes]) -> tuple[Pairs, npt.NDArray[np.int64]]:
    """Pictures with the pixels of an earlier one, as pairs (first, later), and the first ones of each kind."""
    first: dict[bytes, int] = {}
    pairs = [(start, i) for i, own in enumerate(digests) if (start := first.setdefault(own, i)) != i]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(list(first.values()), dtype=np.int64)


def near_pairs(small: Sequence[bytes], labels: npt.NDArray[np.int64], splits: npt.NDArray[np.int64]) -> Pairs:
    """Pairs of near copies that differ in class or split, in the order of their first picture; at most ``MOST``.

    small: N small pictures. labels, splits: ``(N,)``.
    """
    pixels = np.frombuffer(b"".join(small), dtype=np.uint8).reshape(-1, SIZE[1], SIZE[0], 3)  # (N, 8, 9, 3)
    colours = pixels.reshape(len(pixels), -1, 3).astype(np.float32)  # (N, 72, 3)
    colours = (colours - colours.mean(axis=1, keepdims=True)).reshape(len(pixels), -1)  # (N, 216)
    deviation = colours.std(axis=1, keepdims=True)
    usable = np.flatnonzero(deviation[:, 0] >= FLAT)
    colours, labels, splits = colours[usable] / deviation[usable], labels[usable], splits[usable]
    hashes = difference_hashes(pixels[usable])
    found: list[Pairs] = []
    for pairs in close_pairs(hashes, DISTANCE):
        i, j = pairs.T
        pairs = pairs[(labels[i] != labels[j]) | (splits[i] != splits[j])]
        alike = np.einsum("pk,pk->p", colours[pairs[:, 0]], colours[pairs[:, 1]]) / colours.shape[1]
        found.append(pairs[alike >= CORRELATION])
        if sum(map(len, found)) > MOST:
            break
    together = np.concatenate([np.empty((0, 2), dtype=np.int64), *found])[:MOST]
    in_order: Pairs = usable[together[np.lexsort(together.T[::-1])]]
    return in_order


def difference_hashes(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """``(N,)`` hashes of small pictures ``(N, 8, 9, 3)``: a bit for each pixel darker than the one to its right."""
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # (N, 8, 9)
    brighter = (grey[:, :, 1:] > grey[:, :, :-1]).reshape(len(grey), 64)
    packed = np.packbits(brighter[:, SPREAD], axis=1)  # (N, 8) bytes
    return np.ascontiguousarray(packed).view(np.uint64)[:, 0]


def close_pairs(hashes: npt.NDArray[np.uint64], distance: int) -> Iterator[Pairs]:
    """All pairs whose hashes differ in at most ``distance`` bits, each once, in chunks.

    The 64 bits are cut into ``distance + 1`` bands; two hashes that differ in no more bits have a band in common. So
    only pictures that share a band are compared: sorted by it, each with the next, with the one after the next, ….
    """
    edges = np.linspace(0, 64, distance + 2).astype(int)
    masks = [np.uint64(((1 << int(high - low)) - 1) << int(low)) for low, high in pairwise(edges)]
    for number, mask in enumerate(masks):
        order = np.argsort(hashes & mask, kind="stable")
        ordered = hashes[order]
        band = ordered & mask
        left = np.arange(len(band))  # places whose band goes on
        for step in range(1, len(band)):
            left = left[left < len(band) - step]
            left = left[band[left] == band[left + step]]
            if not len(left):
                break
            different = ordered[left] ^ ordered[left + step]
            close = np.bitwise_count(different) <= distance
            for earlier in masks[:number]:
                close &= (different & earlier) != 0  # those that share an earlier band are known
            if close.any():
                yield np.sort(np.stack([order[left[close]], order[left[close] + step]], axis=1), axis=1)


def _finding(
    source: DataSource, seen: Sequence[tuple[str, Item, Print]], pairs: Pairs, how: str, where: str
) -> Finding:
    examples = [
        [{"file": source.relative(item), "class": item.name, "split": split} for split, item, _ in (seen[i], seen[j])]
        for i, j in pairs
    ]
    shown = [
        " = ".join(f"{photo['file']} ({photo['class']}, {photo['split']})" for photo in example) for example in examples
    ]
    count = f"at least {MOST:,}" if how == "near" and len(pairs) >= MOST else f"{len(pairs):,}"
    pair = "pair" if len(pairs) == 1 else "pairs"
    alike = "the same photo" if how == "exact" else "nearly the same photo"
    why, do = {
        "classes": (
            "One of the two labels is wrong, or both are right and one answer cannot be",
            "keep the photo in one class",
        ),
        "splits": (
            "A photo that is trained on and tested on makes accuracy look better than it is",
            "remove it from one split; photos of one moment belong into one split",
        ),
    }[where]
    return Finding(
        f"{how}-copy-across-{where}", f"{count} {pair} of {alike} in different {where}", why, do, shown, examples
    )
