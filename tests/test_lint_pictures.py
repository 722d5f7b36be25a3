"""Warnings about pictures that occur twice, and ``anprompt check`` and ``fit`` with warnings."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from anprompt.data import duplicates as module
from anprompt.data import open_data
from anprompt.data.duplicates import close_pairs, difference_hashes, fingerprint, lint_pictures, near_pairs
from anprompt.data.source import DataSource, Item
from anprompt.inputs import as_source
from helpers_cli import Cli, write_photos


def picture(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Blurred patches of colour: as smooth as a photo."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return patches.resize(size, Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def pairs_of(pictures: list[Image.Image]) -> list[list[int]]:
    """Near pairs, where every picture is a class of its own."""
    small = [fingerprint(image).small for image in pictures]
    return near_pairs(small, np.arange(len(small)), np.zeros(len(small), dtype=np.int64)).tolist()


HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=6)
FLIPS = st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 63), max_size=9)), max_size=12)


@given(HASHES, FLIPS, st.integers(0, 9))
def test_bands_find_what_comparing_all_finds(own: list[int], flips: list[tuple[int, set[int]]], distance: int) -> None:
    """Random hashes are never close, so some are made from others by flipping bits."""
    made = own + [own[base % len(own)] ^ sum(1 << bit for bit in bits) for base, bits in flips if own]
    hashes = np.array(made, dtype=np.uint64)
    found = [tuple(pair) for chunk in close_pairs(hashes, distance) for pair in chunk.tolist()]
    assert len(found) == len(set(found))
    assert set(found) == {
        (i, j) for j in range(len(made)) for i in range(j) if (made[i] ^ made[j]).bit_count() <= distance
    }


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_the_hash_says_where_it_gets_brighter(seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 8, 9, 3), dtype=np.uint8)
    grey = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    expected = [sum(int(row[i + 1] > row[i]) for row in one for i in range(8)) for one in grey]
    assert np.bitwise_count(difference_hashes(pixels)).tolist() == expected


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: jpeg(image, 50),
        lambda image: image.resize((60, 45)),
        lambda image: image.resize((400, 300)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.9),
        lambda image: ImageEnhance.Contrast(image).enhance(0.85),
        lambda image: image.crop((1, 1, 119, 89)),
    ],
    ids=["jpeg", "smaller", "larger", "darker", "paler", "cropped"],
)
def test_near_copies_are_found_among_others(edit: object) -> None:
    originals = [picture(seed) for seed in range(12)]
    copies = [edit(image) for image in originals]  # type: ignore[operator]
    assert pairs_of(originals + copies) == [[i, i + 12] for i in range(12)]


def test_other_pictures_are_no_copies() -> None:
    assert pairs_of([picture(seed) for seed in range(300)]) == []
    one = picture(1)
    assert pairs_of([one, one.transpose(Image.Transpose.FLIP_LEFT_RIGHT), one.rotate(180)]) == []
    reds = [Image.new("RGB", (50, 40), (shade, 20, 20)) for shade in range(0, 250, 10)]
    assert pairs_of(reds) == []  # there is nothing in them to compare


def source_of(rows: list[tuple[str, str, int]]) -> tuple[DataSource, list[tuple[str, Item, module.Print]]]:
    """From (split, class, seed of the picture)."""
    classes = tuple(sorted({name for _, name, _ in rows}))
    items = [(split, Item(f"{i}.png", classes.index(name), name)) for i, (split, name, _) in enumerate(rows)]
    splits = {split: [item for own, item in items if own == split] for split, _, _ in rows}
    source = DataSource("here", classes, splits, lambda item: picture(rows[int(item.path[:-4])][2]))
    return source, [(split, item, fingerprint(source.open(item))) for split, item in items]


def test_where_copies_matter() -> None:
    source, seen = source_of(
        [("train", "a", 1), ("train", "a", 1), ("train", "b", 1), ("test", "a", 1), ("test", "b", 2), ("test", "b", 3)]
    )
    classes, splits = lint_pictures(source, seen)
    assert (classes.kind, splits.kind) == ("exact-copy-across-classes", "exact-copy-across-splits")
    first = {"file": "0.png", "class": "a", "split": "train"}
    assert classes.examples == [[first, {"file": "2.png", "class": "b", "split": "train"}]]
    assert splits.examples == [[first, {"file": "3.png", "class": "a", "split": "test"}]]
    assert splits.what == "1 pair of the same photo in different splits"
    assert "0.png (a, train) = 3.png (a, test)" in splits.line()
    assert lint_pictures(source, []) == []


def test_many_near_copies_are_not_listed_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 5)
    image = picture(4)
    copies = [image.resize((100 + i, 80)) for i in range(8)]  # 28 pairs
    assert len(pairs_of(copies)) == 5


def doubled(folder: Path) -> Path:
    """Three classes; one photo lies in two classes, one in two splits, and one smaller in another split."""
    for split, shift in (("train", 0), ("test", 100)):
        for number, name in enumerate(("cat", "Cats", "IMG_0012")):
            (folder / split / name).mkdir(parents=True)
            for i in range(4):
                picture(shift + 10 * number + i).save(folder / split / name / f"{i}.png")
    shutil.copy(folder / "train/cat/0.png", folder / "train/Cats/0.png")
    shutil.copy(folder / "train/cat/1.png", folder / "test/cat/1.png")
    picture(2, (64, 48)).save(folder / "test/cat/2.png")
    return folder


def test_check_warns_without_failing(tmp_path: Path, cli: Cli) -> None:
    folder = doubled(tmp_path / "photos")
    code, out, _ = cli("check", folder)
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert [line.partition(":")[2].partition(":")[0].strip() for line in lines] == [
        "1 group of classes differs only in case, plural, punctuation or spaces",
        "1 name is a code rather than words",
        "1 pair of the same photo in different classes",
        "1 pair of the same photo in different splits",
        "1 pair of nearly the same photo in different splits",
    ]
    assert "train/Cats/0.png (Cats, train)" in lines[2]
    assert "train/cat/2.png (cat, train) = test/cat/2.png (cat, test)" in lines[4]
    assert out.endswith("Nothing stops a run, but see the 5 warnings above.\n")
    outcome = cli("check", folder, "--json")
    assert outcome.code == 0
    warnings = outcome.document["warnings"]
    assert [(w["kind"], w["count"]) for w in warnings] == [
        ("same-name", 1), ("identifier", 1), ("exact-copy-across-classes", 1), ("exact-copy-across-splits", 1),
        ("near-copy-across-splits", 1),
    ]  # fmt: skip
    assert all(w["why"] and w["do"] and len(w["examples"]) == w["count"] for w in warnings)
    (folder / "train" / "cat" / "3.png").write_bytes(b"no picture")
    code, out, _ = cli("check", folder)
    assert (code, "Nothing" in out, out.count("warning: ")) == (2, False, 5)


def test_without_reading_photos_only_names_are_judged(tmp_path: Path, cli: Cli) -> None:
    folder = doubled(tmp_path / "photos")
    code, out, _ = cli("check", folder, "--photos", "none")
    assert (code, out.count("warning: ")) == (0, 2)
    assert "Nothing stops a run as far as looked, but see the 2 warnings above: no photo was read" in out


def test_check_compares_the_texts_on_the_backbone(tmp_path: Path, cli: Cli) -> None:
    folder = write_photos(tmp_path / "photos", ["red star", "red star!", "blue circle"])
    outcome = cli("check", folder, "--backbone", "miniature", "--json")
    assert outcome.code == 0
    kinds = {w["kind"]: w for w in outcome.document["warnings"]}
    assert "similar-text" not in {w["kind"] for w in cli("check", folder, "--json").document["warnings"]}
    assert next(iter(kinds)) == "same-name"
    assert {"classes": ["red star", "red star!"]} in kinds["similar-text"]["examples"]


def test_fit_notes_the_names(tmp_path: Path, small_clip: Path, cli: Cli) -> None:
    folder = write_photos(tmp_path / "photos", ["cat", "cat food", "dog"], 2)
    code, out, err = cli("fit", folder, "--backbone", small_clip, "--method", "zero-shot", "--out", tmp_path / "out")
    assert code == 0
    notes = [line for line in err.splitlines() if line.startswith("note: 1 name stands with all words in another")]
    assert len(notes) == 1
    assert "'cat' / 'cat food'" in notes[0]
    assert "stands with" not in out


def test_toy_world_has_no_copies() -> None:
    source = open_data("toyworld:photo")
    seen = [
        (split, item, fingerprint(source.open(item))) for split, items in source.splits.items() for item in items[::12]
    ]
    assert len(seen) > 150
    assert lint_pictures(source, seen) == []


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [("eurosat", {}), ("caltech-101", {"near-copy-across-splits": 6})])
def test_real_photos_give_no_false_alarm(real: Path, name: str, expected: dict[str, int]) -> None:
    with pytest.warns(UserWarning, match="differs in size"):
        source = as_source(str(real / "coop-data" / name))
    seen = [(split, item, fingerprint(source.open(item))) for split, items in source.splits.items() for item in items]
    assert {f.kind: len(f.examples) for f in lint_pictures(source, seen)} == expected
