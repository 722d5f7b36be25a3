"""Training step (losses, backward, optimiser) of ANPrompt against the plain formulation, and its peak memory.

    python -m benchmarks.step                                    # ViT-B/16 shapes, random weights
    python -m benchmarks.step --backbone FOLDER --classes 50     # another backbone, fewer configurations

Each configuration is measured in a process of its own, all sides in turn; with ``--resume`` further ones are added to
the same file. Before a plain step runs, three small ones say what it will need; one that would not fit in memory or
take longer than ``--limit`` is not run and has no ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anprompt.methods import Method
from anprompt.training.compiled import compiled_blocks
from anprompt.training.memory import estimate_step
from anprompt.training.recipe import Recipe
from benchmarks import common, flops, machine, models
from benchmarks.common import GIB, Json, note
from benchmarks.plain import PlainANPrompt, PlainClip

PILOT = ((4, 1), (12, 1), (12, 3))  # (C, B); memory grows from each to the next, so one process can tell them apart
ROUNDS = 5
SLOW = 20  # seconds of a plain step from which on three rounds must do, without warming up, which is lost in so many


@dataclass(frozen=True)
class Work:
    """One configuration: ``sides`` among plain, fp32 and bf16."""

    backbone: str
    device: str
    seed: int
    classes: int
    images: int
    sides: tuple[str, ...]
    compile: str = "off"
    plain_precision: Literal["fp32", "bf16"] = "fp32"
    clock: str = "wall"
    rounds: int = ROUNDS
    warmup: int = 1  # of the plain side; ours are warm once their operations are counted


# ---- in the process of one configuration ---------------------------------------------------------------------------


def training_step(
    losses: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    parameters: Sequence[nn.Parameter],
    batch: dict[str, Tensor],
) -> Callable[[], None]:
    """One optimiser step, as the training loop does it."""
    optimizer = Recipe().make_optimizer(parameters)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses(batch)["total"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def make_sides(work: Work) -> tuple[dict[str, Callable[[], None]], dict[str, Method]]:
    """A step and the method of each side; plain and fp32 train the same parameters, each with its own optimiser."""
    batch: dict[str, Tensor] = {}
    steps: dict[str, Callable[[], None]] = {}
    built: dict[str, Method] = {}
    for side in work.sides:
        precision = "fp32" if side == "plain" else side
        if precision not in built:
            backbone = models.build_backbone(work.backbone, seed=work.seed, precision=precision, device=work.device)
            built[precision] = models.build_method(backbone, work.classes, work.seed)
            batch = batch or models.random_batch(backbone, work.classes, work.images, work.seed)
        method = built[precision]
        losses = method.losses
        if side == "plain":
            clip = PlainClip(method.backbone, machine.DTYPES[work.plain_precision])
            losses = PlainANPrompt(method, clip).losses
        steps[side] = training_step(losses, list(method.parameters()), batch)
    return steps, {side: built["fp32" if side == "plain" else side] for side in work.sides}


def time_steps(work: Work) -> Json:
    """Seconds of each round and side, and what our step computes."""
    steps, methods = make_sides(work)
    ours = [side for side in work.sides if side != "plain"]
    counted = {side: flops.count(steps[side]) for side in ours}  # which warms our sides up
    warmup = work.warmup if "plain" in work.sides or work.compile != "off" else 0
    with contextlib.ExitStack() as stack:
        began = time.perf_counter()
        for side in ours:
            begin_step = stack.enter_context(compiled_blocks(methods[side].backbone, work.compile))
            steps[side] = partial(in_order, begin_step, steps[side])
            if work.compile != "off":
                steps[side]()  # compiles
        compiling = time.perf_counter() - began
        seconds = common.alternate(steps, work.rounds, work.device, warmup, work.clock)
    return {
        "seconds": seconds,
        "compiling": compiling if work.compile != "off" else 0,
        "summary": {side: common.summary(s) for side, s in seconds.items()},
        "flop": counted,
        "gflops": {side: counted[side] / min(seconds[side]) / 1e9 for side in ours},
        "gflops_median": {side: counted[side] / common.summary(seconds[side])["median"] / 1e9 for side in ours},
        "ratio": {side: common.ratio(seconds, "plain", side) for side in ours} if "plain" in seconds else {},
    }


def in_order(*calls: Callable[[], None]) -> None:
    for call in calls:
        call()


def memory_of_step(work: Work) -> Json:
    """Peak memory of a process that does nothing but the steps of one side, in bytes."""
    cuda = work.device == "cuda"
    steps, methods = make_sides(work)
    (step,), (method,) = steps.values(), methods.values()
    estimate = estimate_step(method, work.images, Recipe())
    before = common.peak_memory()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):  # the optimiser's state exists from the first step on
        step()
    common.synchronise(work.device)
    gpu = {"gpu_allocated": torch.cuda.max_memory_allocated(), "gpu_reserved": torch.cuda.max_memory_reserved()}
    return {
        "before_steps": before, "peak": common.peak_memory(), **(gpu if cuda else {}),
        "estimate": estimate.peak, "estimated": asdict(estimate),
    }  # fmt: skip


def pilot(work: Work) -> Json:
    """Seconds and peak memory of small plain steps, and the straight lines through them.

    Both grow in proportion to C and to B: ``base + C · per_class + B · per_image``.
    """
    measured, now = [], machine.CLOCKS[work.clock]
    backbone = models.build_backbone(work.backbone, seed=work.seed, device=work.device)
    clip = PlainClip(backbone, machine.DTYPES[work.plain_precision])
    for classes, images in PILOT:
        method = models.build_method(backbone, classes, work.seed)
        batch = models.random_batch(backbone, classes, images, work.seed)
        step = training_step(PlainANPrompt(method, clip).losses, list(method.parameters()), batch)
        if work.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(2):
            began = now()
            step()
            common.synchronise(work.device)
            times.append(now() - began)
        peak = torch.cuda.max_memory_allocated() if work.device == "cuda" else common.peak_memory()
        measured.append({"classes": classes, "images": images, "seconds": min(times), "bytes": peak})
    return {"measured": measured, **{what: _plane(measured, what) for what in ("seconds", "bytes")}}


def _plane(measured: Sequence[Json], what: str) -> Json:
    (c0, b0), (c1, _), (_, b1) = PILOT
    first, second, third = (row[what] for row in measured)
    per_class, per_image = (second - first) / (c1 - c0), (third - second) / (b1 - b0)
    return {"base": first - c0 * per_class - b0 * per_image, "per_class": per_class, "per_image": per_image}


def predict(plane: Json, classes: int, images: int) -> float:
    """What the straight line of a pilot says for a configuration."""
    return float(plane["base"] + classes * plane["per_class"] + images * plane["per_image"])


# ---- in the process that reports -----------------------------------------------------------------------------------


def refusal(small: Json, classes: int, images: int, limit: float, extra: float, device: str) -> str:
    """Why a plain step should not be tried; empty if it should."""
    need = predict(small["bytes"], classes, images) + extra
    free = common.free_memory(device)
    seconds = predict(small["seconds"], classes, images)
    if need > free:
        return f"not run: about {need / GIB:.0f} GiB needed, {free / GIB:.0f} GiB free"
    if seconds > limit:
        return f"not run: about {seconds:.0f} s a step, more than --limit {limit:g}"
    return ""


def measure(args: argparse.Namespace, document: common.Document) -> None:
    """All configurations; what the document already has is not measured again."""
    content = document.content
    base = Work(args.backbone, args.device, args.seed, 1, 1, (), args.compile, args.plain_precision, args.clock)
    keys = [{"classes": classes, "images": images} for classes in args.classes for images in args.images]
    missing = [key for key in keys if document.find(key) is None]
    content.setdefault("peaks", [])

    def add_peak() -> None:
        note("matrix products")
        seconds = 0.1 if args.quick else 0.5
        content["peaks"].append(machine.measure_peak(args.device, args.precisions, seconds, args.clock))
        content["peak"] = machine.best_of(content["peaks"])

    if missing and args.what != "memory":
        add_peak()
    if missing and args.plain and "pilot" not in content:
        note("small plain steps")
        content["pilot"] = common.in_fresh_process(pilot, base)
    for key in missing:
        document.add({**key, **configuration(args, replace(base, **key), content.get("pilot"))})
    if missing and args.what != "memory" and not args.quick:
        add_peak()  # again: the machine may have been slower at the start
    document.write()


def configuration(args: argparse.Namespace, work: Work, small: Json | None) -> Json:
    """Timings and memory of one configuration."""
    ours = tuple(args.precisions)
    where = f"C = {work.classes}, B = {work.images}"
    entry: Json = {}
    if args.what != "time":
        for side in ours:
            note(f"{where}: memory of a step in {side}")
            alone = replace(work, sides=(side,))
            entry.setdefault("memory", {})[side] = common.in_fresh_process(common.guarded, memory_of_step, alone)
    if args.what == "memory":
        return entry
    sides = ours
    if small is not None:
        held = entry.get("memory", {})  # our own sides are in the same process
        extra = sum(held.get(side, {}).get("peak", 2 * GIB) for side in ours)
        entry["plain"] = refusal(small, work.classes, work.images, args.limit, extra, args.device) or "run"
        sides = ("plain", *ours) if entry["plain"] == "run" else ours
    seconds = predict(small["seconds"], work.classes, work.images) if "plain" in sides and small else 0
    slow = seconds > SLOW
    work = replace(work, rounds=args.rounds or (3 if args.quick or slow else ROUNDS), warmup=0 if slow else 1)
    note(f"{where}: {work.rounds} rounds of {', '.join(sides)}")
    timed = common.in_fresh_process(common.guarded, time_steps, replace(work, sides=sides))
    if "failed" in timed and sides != ours:
        entry["plain"] = timed["failed"]
        note(f"{where}: plain failed ({timed['failed']}); ours alone")
        timed = common.in_fresh_process(common.guarded, time_steps, replace(work, sides=ours))
    return {**entry, "rounds": work.rounds, "warmup": work.warmup, **timed}


def rows(content: Json) -> list[list[str]]:
    """A line per configuration for the terminal."""
    made = []
    for entry in content["entries"]:
        times = entry.get("summary", {})
        plain = f"{times['plain']['median']:.2f}" if "plain" in times else entry.get("plain", "–")
        line = [str(entry["classes"]), str(entry["images"]), plain]
        for side in content["settings"]["precisions"]:
            memory = entry.get("memory", {}).get(side, {})
            held = memory.get("gpu_allocated", memory.get("peak"))
            line += [
                f"{times[side]['median']:.3f}" if side in times else entry.get("failed", "–"),
                common.range_of(entry["ratio"][side]) if entry.get("ratio") else "–",
                f"{100 * entry['gflops_median'][side] / content['peak'][side]:.0f}" if side in times else "–",
                f"{held / GIB:.1f}" if held else memory.get("failed", "–"),
            ]
        made.append(line)
    return made


def columns(content: Json) -> list[str]:
    names = ["C", "B", f"plain {content['settings']['plain_precision']} s"]
    for side in content["settings"]["precisions"]:
        names += [f"{side} s", "plain/ours (range)", "% of peak", "GiB"]
    return names


def arguments() -> argparse.ArgumentParser:
    parser = common.parser("Training step of ANPrompt: ours against the plain formulation.")
    parser.add_argument(
        "--backbone", default=models.RANDOM, help="'vit-b-16' (random weights), 'miniature' or a folder"
    )
    parser.add_argument("--classes", type=common.integers, default=[50, 500, 1000], help="numbers of classes C")
    parser.add_argument("--images", type=common.integers, default=[4, 32], help="numbers of images B")
    parser.add_argument(
        "--precisions",
        type=lambda t: t.split(","),
        help="of our side (default: fp32, and bf16 where the machine has it)",
    )
    parser.add_argument("--plain-precision", choices=("fp32", "bf16"), default="fp32", help="of the plain side")
    parser.add_argument("--no-plain", dest="plain", action="store_false", help="leave the plain side out")
    parser.add_argument("--compile", choices=("off", "on", "graphs"), default="off", help="our blocks, as in training")
    parser.add_argument("--what", choices=("both", "time", "memory"), default="both", help="what to measure")
    parser.add_argument("--limit", type=float, default=240, help="seconds that a plain step may take")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments().parse_args(argv)
    if args.quick:
        args.classes = args.classes[:1]
    args.precisions = args.precisions or machine.precisions(args.device)
    name = models.short_name(args.backbone)
    settings: dict[str, Any] = {
        "backbone": name, "precisions": args.precisions, "plain": args.plain, "plain_precision": args.plain_precision,
        "what": args.what, "compile": args.compile,
    }  # fmt: skip
    out = args.out or common.default_out("step", name, args.device)
    document = common.Document("step", args, settings, out)
    measure(args, document)
    common.show(f"Training step, {name}, {args.device}", columns(document.content), rows(document.content), out)


if __name__ == "__main__":
    common.run(main)
