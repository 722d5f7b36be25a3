"""Evaluation per image: plain CLIP by our towers, the tuned adapter's prompted pass, and ``transformers``.

    python -m benchmarks.evaluate

All sides run on the same pixels and weights. Text: class features made once and kept, against made for every batch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.methods import Method
from benchmarks import common, machine, models
from benchmarks.common import Json, note

BATCHES, QUICK_BATCHES = [64, 8], [8]
TEXT_BATCH, QUICK_TEXT_BATCH = 8, 2
PREFIX = "transformers"


def agree(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of unit features."""
    return float((F.normalize(ours, dim=-1) - F.normalize(theirs, dim=-1)).abs().max())


def twin_features(twin: Any, pixels: Tensor) -> Tensor:
    """Image features ``(B, d)`` of ``transformers``, whose releases differ in what they return."""
    out = twin.get_image_features(pixel_values=pixels.to(twin.dtype))
    features: Tensor = getattr(out, "pooler_output", out)
    return features.float()


def forget(method: Method, pixels: Tensor) -> Tensor:
    """Logits with the class features made anew, as code does that keeps none."""
    for block in method.blocks:
        block.kept = None
    return method.logits(pixels)


def sides_of(method: Method, twin: Any, precision: str, pixels: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What is timed on images, in one precision."""
    sides: dict[str, Callable[[], Tensor]] = {
        f"clip {precision}": partial(method.backbone.encode_image, pixels),
        f"adapter {precision}": partial(method.logits, pixels),
    }
    if twin is not None:
        sides[f"{PREFIX} {precision}"] = partial(twin_features, twin, pixels)
    return sides


def ratios(seconds: common.Timings) -> Json:
    """How many times as fast as ``transformers`` in fp32 our towers are; what an adapter costs over plain CLIP."""
    made = {}
    for side in seconds:
        kind, precision = side.split()
        if kind == "clip" and f"{PREFIX} fp32" in seconds:
            made[f"transformers fp32 / ours {precision}"] = common.ratio(seconds, f"{PREFIX} fp32", side)
        if kind == "clip" and precision != "fp32" and f"{PREFIX} {precision}" in seconds:
            made[f"transformers {precision} / ours {precision}"] = common.ratio(seconds, f"{PREFIX} {precision}", side)
        if kind == "adapter":
            made[f"adapter / clip {precision}"] = common.ratio(seconds, side, f"clip {precision}")
    return made


@torch.no_grad()
def measure(
    backbone: str, device: str, seed: int, precisions: Sequence[str], batches: Sequence[int], text_batch: int,
    classes: int, rounds: int, clock: str,
) -> Json:  # fmt: skip
    """All sides of all batch sizes in one process; seconds a batch."""
    built: dict[str, tuple[Method, Any]] = {}
    differences = {}
    for precision in precisions:
        own = models.build_backbone(backbone, seed=seed, device=device)
        twin = None
        try:
            twin = models.transformers_twin(own)
        except ImportError:
            note("transformers is not installed; its side is left out")
        own = own.in_precision(precision)
        built[precision] = (models.build_method(own, classes, seed), twin and twin.to(machine.DTYPES[precision]))
        if twin is not None:
            few = models.random_batch(own, classes, 2, seed)["pixels"]
            differences[precision] = agree(own.encode_image(few), twin_features(twin, few))
    entries = []
    for batch in batches:
        pixels = models.random_batch(next(iter(built.values()))[0].backbone, classes, batch, seed)["pixels"]
        sides: dict[str, Callable[[], Tensor]] = {}
        for precision, (method, twin) in built.items():
            sides.update(sides_of(method, twin, precision, pixels))
        seconds = common.alternate(sides, rounds, device, clock=clock)
        entries.append({"what": "images", "batch": batch, "rounds": rounds, "seconds": seconds,
                        "summary": {side: common.summary(s) for side, s in seconds.items()},
                        "ratio": ratios(seconds)})  # fmt: skip
    for precision, (method, _) in built.items():
        pixels = models.random_batch(method.backbone, classes, text_batch, seed)["pixels"]
        text = {"kept": partial(method.logits, pixels), "every batch": partial(forget, method, pixels)}
        seconds = common.alternate(text, rounds, device, clock=clock)
        gain = {f"every batch / kept {precision}": common.ratio(seconds, "every batch", "kept")}
        entries.append({"what": "text", "precision": precision, "batch": text_batch, "classes": classes,
                        "rounds": rounds, "seconds": seconds, "ratio": gain})  # fmt: skip
    return {"entries": entries, "differences": differences, "peak_bytes": common.peak_memory()}


def rows(content: Json) -> list[list[str]]:
    made = []
    for entry in content["entries"]:
        for side, seconds in entry["seconds"].items():
            per_image = 1000 * common.summary(seconds)["median"] / entry["batch"]
            name = side if entry["what"] == "images" else f"{entry['precision']}, {entry['classes']} classes, {side}"
            made.append([entry["what"], str(entry["batch"]), name, f"{per_image:.1f}", f"{1000 / per_image:.1f}"])
    return made


def ratio_rows(content: Json) -> list[list[str]]:
    return [
        [entry["what"], str(entry["batch"]), name, common.range_of(value)]
        for entry in content["entries"]
        for name, value in entry["ratio"].items()
    ]


def arguments() -> argparse.ArgumentParser:
    parser = common.parser("Evaluation per image: plain CLIP, a tuned adapter, and transformers.")
    parser.add_argument(
        "--backbone", default=models.RANDOM, help="'vit-b-16' (random weights), 'miniature' or a folder"
    )
    parser.add_argument("--batches", type=common.integers, help="images per batch (default: 64,8; quick: 8)")
    parser.add_argument("--classes", type=int, default=500, help="classes of the text measurement")
    parser.add_argument(
        "--precisions",
        type=lambda t: t.split(","),
        help="of all sides (default: fp32, and bf16 where the machine has it)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments().parse_args(argv)
    args.precisions = args.precisions or machine.precisions(args.device)
    args.batches = args.batches or (QUICK_BATCHES if args.quick else BATCHES)
    text_batch = QUICK_TEXT_BATCH if args.quick else TEXT_BATCH
    if args.quick:
        args.classes = min(args.classes, 50)
    rounds = args.rounds or (3 if args.quick else 5)
    name = models.short_name(args.backbone)
    settings = {
        "backbone": name, "batches": args.batches, "text_batch": text_batch, "classes": args.classes,
        "precisions": args.precisions, "rounds": rounds, "transformers": _version(),
    }  # fmt: skip
    out = args.out or common.default_out("evaluate", name, args.device)
    document = common.Document("evaluate", args, settings, out)
    if not document.content["entries"]:
        note(f"evaluation, {name}: batches of {', '.join(map(str, args.batches))}")
        measured = common.in_fresh_process(
            measure,
            args.backbone,
            args.device,
            args.seed,
            args.precisions,
            args.batches,
            text_batch,
            args.classes,
            rounds,
            args.clock,
        )
        document.content.update(measured)
        document.write()
    title = f"Evaluation, {name}, {args.device}"
    common.show(title, ["what", "batch", "side", "ms per image", "images per s"], rows(document.content), out)
    common.show("Ratios", ["what", "batch", "ratio", "median (range)"], ratio_rows(document.content), out)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("transformers")
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    common.run(main)
