"""All measurements in one go, and one table of targets.

python -m benchmarks             # a subset of about five minutes on two cores: `make bench`
python -m benchmarks --full      # everything, into benchmarks/results, with the plot
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import common, decode, evaluate, machine, models, plot, step, targets

Piece = tuple[Callable[[Sequence[str] | None], None], str, list[str]]  # main, name of the file, arguments


def subset() -> list[Piece]:
    """What `make bench` runs. The plain side at 500 classes alone would take longer than all of it."""
    time = ["--quick", "--what", "time", "--classes", "50"]
    memory = ["--quick", "--what", "memory", "--no-plain", "--classes", "1000", "--images", "32"]
    return [
        (step.main, "step", [*time, "--images", "4"]),
        (step.main, "step-large-batch", [*time, "--images", "32", "--no-plain", "--rounds", "2"]),
        (step.main, "memory", [*memory, "--precisions", machine.precisions("cpu")[-1]]),
        (evaluate.main, "evaluate", ["--quick"]),
        (decode.main, "decode", ["--quick"]),
    ]


def everything(backbones: Sequence[str], device: str) -> list[Piece]:
    """All sizes on ViT-B/16 shapes and on further backbones."""
    pieces: list[Piece] = []
    for name in (models.RANDOM, *backbones):
        short = models.short_name(name)
        common_args = ["--backbone", name, "--device", device, "--resume"]
        pieces.append((step.main, f"step-{short}-{device}", common_args))
        pieces.append((evaluate.main, f"evaluate-{short}-{device}", common_args))
    return [*pieces, (decode.main, "decode-224-cpu", ["--resume"])]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="everything; continues after an interruption")
    parser.add_argument("--backbone", action="append", default=[], help="with --full: also this folder (repeatable)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="with --full: where to measure")
    parser.add_argument("--out", type=Path, help="folder for the JSON files (full: benchmarks/results)")
    args = parser.parse_args(argv)
    with contextlib.ExitStack() as stack:
        folder = args.out or (common.RESULTS if args.full else Path(stack.enter_context(tempfile.TemporaryDirectory())))
        files = []
        for run, name, arguments in everything(args.backbone, args.device) if args.full else subset():
            files.append(folder / f"{name}.json")
            with contextlib.redirect_stdout(sys.stderr):  # only the table of targets goes to stdout
                run([*arguments, "--out", str(files[-1])])
        if args.full:
            plot.main([*map(str, files), "--out", str(folder / f"speed-{args.device}.png")])
        targets.main([str(file) for file in files])


if __name__ == "__main__":
    common.run(main)
