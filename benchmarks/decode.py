"""Decode, resize and centre-crop one picture on one thread: our image transform against Pillow alone.

    python -m benchmarks.decode                        # photos of sizes that phones make, drawn by code
    python -m benchmarks.decode --files FOLDER         # and every picture below FOLDER

Both sides start from the file and end with uint8 pixels of the tower's input size. They alternate file by file.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from anprompt.clip import ImageTransform
from anprompt.errors import UserError
from anprompt.pictures import is_image_name
from benchmarks import common, machine
from benchmarks.common import Json, note

REAL = Path(__file__).resolve().parents[2] / "shared" / "real" / "coop-data"
SIZES = {"drawn 640x480": (640, 480), "drawn 1600x1200": (1600, 1200), "drawn 4032x3024": (4032, 3024)}
Pixels = npt.NDArray[np.uint8]


def with_pillow(path: Path, side: int) -> Pixels:
    """The field's pipeline: shorter side to ``side``, bicubic, centre crop; ``(side, side, 3)``."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    scaled = int(side * max(width, height) / min(width, height))
    size = (side, scaled) if width <= height else (scaled, side)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def draw_photo(path: Path, width: int, height: int, rng: np.random.Generator) -> None:
    """A JPEG with what makes photos cost what they cost: smooth areas, edges, fine texture and sensor noise."""
    coarse = rng.uniform(0, 255, (9, 12, 3)).astype(np.uint8)
    image = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float32) / min(width, height)
    for _ in range(12):  # discs with a striped texture
        cx, cy, r, f = rng.uniform(0, width / height), rng.uniform(0, 1), rng.uniform(0.03, 0.25), rng.uniform(20, 200)
        inside = (x - cx) ** 2 + (y - cy) ** 2 < r * r
        stripes = 25 * np.sin(f * (x + rng.uniform(-1, 1) * y))
        image[inside] = rng.uniform(0, 255, 3) + stripes[inside, None]
    image += rng.normal(0, 3, image.shape[:2]).astype(np.float32)[..., None]
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def groups_of(folder: Path | None, count: int, seed: int, scratch: Path, largest: int) -> dict[str, list[Path]]:
    """Files by group: real photos where there are any, and drawn ones of ``largest`` width at most."""
    rng = np.random.default_rng(seed)
    groups: dict[str, list[Path]] = {}
    for place in [folder] if folder is not None else sorted(REAL.iterdir()) if REAL.is_dir() else []:
        found = sorted(p for p in place.rglob("*") if is_image_name(p.name) and p.is_file())
        if not found and folder is not None:
            raise UserError(f"--files: no pictures below '{folder}'.")
        if found:
            chosen = rng.choice(len(found), size=min(10 * count, len(found)), replace=False)
            groups[place.name] = [found[i] for i in sorted(chosen)]
    for name, (width, height) in SIZES.items():
        if width <= largest:
            groups[name] = [scratch / f"{width}-{i}.jpg" for i in range(count)]
            for path in groups[name]:
                draw_photo(path, width, height, rng)
    return groups


def compare(paths: Sequence[Path], side: int, rounds: int, clock: str) -> Json:
    """Seconds of each round over all files, and the largest difference of a pixel."""
    transform = ImageTransform(side, side)
    sides: dict[str, Callable[[Path], Any]] = {
        "pillow": lambda path: with_pillow(path, side),
        "ours": transform.pixels_uint8,
    }
    difference, now = 0, machine.CLOCKS[clock]
    for path in paths:  # also the warm-up: the files are in the system's cache from here on
        theirs = with_pillow(path, side).transpose(2, 0, 1).astype(int)
        difference = max(difference, int(np.abs(transform.pixels_uint8(path).numpy() - theirs).max()))
    seconds: common.Timings = {name: [] for name in sides}
    for _ in range(rounds):
        total = dict.fromkeys(sides, 0.0)
        for path in paths:
            for name, load in sides.items():
                began = now()
                load(path)
                total[name] += now() - began
        for name, spent in total.items():
            seconds[name].append(spent)
    return {
        "files": len(paths), "megabytes": round(sum(p.stat().st_size for p in paths) / 1e6, 2),
        "largest_difference": difference, "seconds": seconds,
        "summary": {name: common.summary(s) for name, s in seconds.items()},
        "ratio": common.ratio(seconds, "pillow", "ours"),
    }  # fmt: skip


def rows(content: Json) -> list[list[str]]:
    made = []
    for entry in content["entries"]:
        times = [f"{1000 * statistics.median(entry['seconds'][s]) / entry['files']:.2f}" for s in ("pillow", "ours")]
        ratio, difference = common.range_of(entry["ratio"]), str(entry["largest_difference"])
        made.append([entry["group"], str(entry["files"]), *times, ratio, difference])
    return made


def arguments() -> argparse.ArgumentParser:
    parser = common.parser("Decode, resize and crop on one thread: ours against Pillow alone.")
    parser.add_argument("--files", type=Path, help="folder of pictures (default: the real photos beside the checkout)")
    parser.add_argument("--size", type=int, default=224, help="pixels of the tower's input")
    parser.add_argument("--count", type=int, help="drawn photos per size; ten times as many real ones")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments().parse_args(argv)
    count, rounds = args.count or (3 if args.quick else 10), args.rounds or (3 if args.quick else 9)
    torch.set_num_threads(1)
    settings = {"size": args.size, "count": count, "rounds": rounds, "files": args.files and args.files.name}
    out = args.out or common.default_out("decode", str(args.size), args.device)
    document = common.Document("decode", args, settings, out)
    with tempfile.TemporaryDirectory() as scratch:
        largest = 1600 if args.quick else max(width for width, _ in SIZES.values())
        for group, paths in groups_of(args.files, count, args.seed, Path(scratch), largest).items():
            if document.find({"group": group}) is None:
                note(f"{group}: {len(paths)} files, {rounds} rounds")
                document.add({"group": group, **compare(paths, args.size, rounds, args.clock)})
    columns = ["group", "files", "pillow ms", "ours ms", "pillow/ours (range)", "largest difference"]
    common.show("Decode, resize and crop, one thread", columns, rows(document.content), out)


if __name__ == "__main__":
    common.run(main)
