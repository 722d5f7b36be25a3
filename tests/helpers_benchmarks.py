"""Small copies of the published data sets in CoOp's layout: every class, one 8 x 8 picture per entry."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from PIL import Image

from anprompt.data.benchmarks import BENCHMARKS, EUROSAT_WORDS, SPLIT_NAMES, VARIANTS_FILE, Benchmark, find_benchmark

EUROSAT_KEYS = sorted({*EUROSAT_WORDS, "Forest", "River"})
SHARED_NAMES = {657: "missile", 744: "missile", 836: "sunglasses", 837: "sunglasses"}  # of two classes each
PER_CLASS = {"train": 3, "val": 1, "test": 2}


def picture() -> bytes:
    """An 8 x 8 JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 120, 60)).save(buffer, "JPEG")
    return buffer.getvalue()


JPEG = picture()


def write(path: Path, content: bytes | str = JPEG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def listed_path(name: str, label: int, split: str, n: int) -> str:
    """Path of picture ``n`` (from 1, counted through all splits of a class) as the split file writes it."""
    serial = 6 * label + n
    pair = chr(65 + label // 26) + chr(97 + label % 26)  # Aa, Ab, …
    return {
        "caltech101": f"class_{label:03}/image_{n:04}.jpg",
        "oxford_pets": f"Breed_{pair}_{n}.jpg",
        "stanford_cars": f"cars_{'test' if split == 'test' else 'train'}/{serial:05}.jpg",
        "oxford_flowers": f"image_{serial:05}.jpg",
        "food101": f"food_{label:03}/{serial}.jpg",
        "fgvc_aircraft": f"{serial:07}.jpg",
        "sun397": f"{pair[0].lower()}/{pair.lower()}_scene/indoor/sun_{serial}.jpg",
        "dtd": f"texture{label:02}/texture{label:02}_{n:04}.jpg",
        "eurosat": f"{EUROSAT_KEYS[label % 10]}/{EUROSAT_KEYS[label % 10]}_{n}.jpg",
        "ucf101": f"Act_Of_{pair}/v_ActOf{pair}_g01_c{n:02}.jpg",
    }[name]


def entries(benchmark: Benchmark) -> Iterator[tuple[str, str, int, str]]:
    """(split, listed path, label, class name) of every picture."""
    for label in range(benchmark.classes):
        n = 0
        for split, count in PER_CLASS.items():
            for _ in range(count):
                n += 1
                path = listed_path(benchmark.name, label, split, n)
                told = (
                    benchmark.class_of(PurePosixPath(path)) if "/" in path or benchmark.name == "oxford_pets" else None
                )
                by_name = told is not None and benchmark.name != "stanford_cars"
                yield split, path, label, told[1] if by_name and told else f"20{label % 90 + 10} model-{label:03}"


def make_copy(root: Path, name: str) -> Path:
    """Write the copy of one data set below ``root``; returns its folder."""
    benchmark = find_benchmark(name)
    folder = root / benchmark.folder
    if benchmark.class_folders:
        return make_imagenet(folder, benchmark)
    lists: dict[str, list[list[str | int]]] = {split: [] for split in SPLIT_NAMES}
    for split, path, label, class_name in entries(benchmark):
        lists[split].append([path, label, class_name])
        write(folder / benchmark.picture_folder / path)
    if benchmark.split_file != VARIANTS_FILE:
        write(folder / benchmark.split_file, json.dumps(lists))
        return folder
    write(folder / VARIANTS_FILE, "".join(f"{name}\n" for name in dict.fromkeys(str(e[2]) for e in lists["train"])))
    for split, rows in lists.items():
        text = "".join(f"{str(path).removesuffix('.jpg')} {class_name}\n" for path, _, class_name in rows)
        write(folder / f"images_variant_{split}.txt", text)
    return folder


def class_names() -> list[tuple[str, str]]:
    """ImageNet's list with made-up ids: (id, name), two pairs of classes of one name."""
    return [(f"n{1000 + i:08}", SHARED_NAMES.get(i, f"thing_{i:03}")) for i in range(1000)]


def make_imagenet(folder: Path, benchmark: Benchmark) -> Path:
    names = class_names()
    write(folder / "classnames.txt", "".join(f"{class_id} {name}\n" for class_id, name in names))
    for split, places in benchmark.class_folders.items():
        for number in range(0, 1000, 5) if benchmark.only_some else range(1000):
            class_folder = str(number) if benchmark.numbered else names[number][0]
            write(folder / places[0] / class_folder / f"{split}_{number}.JPEG")
    return folder


def make_all(root: Path) -> Path:
    for benchmark in BENCHMARKS:
        make_copy(root, benchmark.name)
    return root
