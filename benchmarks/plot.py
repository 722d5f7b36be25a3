"""One picture of the measurements, drawn from their JSON files.

python -m benchmarks.plot benchmarks/results/*.json --out benchmarks/results/speed.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from anprompt.errors import UserError
from anprompt.files import atomic_path
from benchmarks import common
from benchmarks.common import GIB, RESULTS, Json
from benchmarks.targets import MEMORY_AT, MEMORY_GIB, timed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"plain": "#9a9a9a", "fp32": "#0072b2", "bf16": "#e69f00"}  # told apart by colour-blind readers too
KINDS = {"transformers": "#9a9a9a", "clip": "#56b4e9", "adapter": "#0072b2"}
WIDTH = 0.26


def draw_step(ax: Axes, document: Json) -> None:
    """Seconds of a step by configuration, logarithmic, with the ratio to plain beside ours."""
    entries = [e for e in document["entries"] if "summary" in e]
    sides = ["plain", *document["settings"]["precisions"]]
    for i, entry in enumerate(entries):
        for j, side in enumerate(sides):
            x = i + (j - (len(sides) - 1) / 2) * WIDTH
            if side in entry["summary"]:
                ratio = entry["ratio"].get(side)
                label = f"{ratio['median']:.1f}×" if ratio else ""
                _dot(ax, x, entry["summary"][side], 1, COLOURS[side], label, above=j > 1)  # or neighbours overlap
            else:
                lowest = min(seconds["min"] for seconds in entry["summary"].values())
                ax.text(x, lowest, "not run", rotation=90, fontsize=7, ha="center", va="bottom", color="#666666")
    _logarithmic(ax)
    _categories(ax, [f"{e['classes']}, {e['images']}" for e in entries])
    ax.set_xlabel("classes, images per step")
    ax.set_ylabel("seconds")
    ax.set_title("Training step (ratio: plain / ours)", fontsize=10)
    _legend(ax, sides, COLOURS)


def draw_memory(ax: Axes, document: Json) -> None:
    """Peak memory of a process that trains, by configuration."""
    entries = [e for e in document["entries"] if "memory" in e]
    sides = document["settings"]["precisions"]
    for i, entry in enumerate(entries):
        for j, side in enumerate(sides):
            memory = entry["memory"].get(side, {})
            x = i + (j - (len(sides) - 1) / 2) * WIDTH
            if "peak" in memory:
                ax.bar(x, memory.get("gpu_allocated", memory["peak"]) / GIB, WIDTH, color=COLOURS[side])
            if "estimate" in memory:
                ax.plot([x - WIDTH / 2, x + WIDTH / 2], [memory["estimate"] / GIB] * 2, color="black", linewidth=1.5)
    if any((e["classes"], e["images"]) == MEMORY_AT for e in entries):
        ax.axhline(MEMORY_GIB, color="#cc3311", linewidth=1, linestyle="--")
    _categories(ax, [f"{e['classes']}, {e['images']}" for e in entries])
    ax.set_xlabel("classes, images per step")
    ax.set_ylabel("GiB")
    ax.set_title("Peak memory of training (black: estimate before the start)", fontsize=10)
    _legend(ax, sides, COLOURS)


def draw_evaluation(ax: Axes, document: Json) -> None:
    """Milliseconds per image of every side, at the largest batch."""
    entry = max((e for e in document["entries"] if e["what"] == "images"), key=lambda e: e["batch"])
    precisions = document["settings"]["precisions"]
    for i, precision in enumerate(precisions):
        for j, kind in enumerate(KINDS):
            if (seconds := entry["summary"].get(f"{kind} {precision}")) is None:
                continue
            median, low, high = (1000 * seconds[key] / entry["batch"] for key in ("median", "min", "max"))
            x = i + (j - 1) * WIDTH
            ax.bar(x, median, WIDTH, color=KINDS[kind])
            ax.vlines(x, low, high, color="black", linewidth=1)
            ax.text(x, high, f"{median:.0f}" if median >= 10 else f"{median:.2g}", ha="center", va="bottom", fontsize=8)
    ax.margins(y=0.15)
    _categories(ax, precisions)
    ax.set_ylabel("ms per image")
    ax.set_title(f"Evaluation, batch {entry['batch']}", fontsize=10)
    _legend(ax, list(KINDS), KINDS, {"clip": "our towers, no prompts", "adapter": "our towers, tuned adapter"})


def draw_decode(ax: Axes, document: Json) -> None:
    """Milliseconds per picture by group, logarithmic."""
    colours = {"pillow": COLOURS["plain"], "ours": COLOURS["fp32"]}
    for i, entry in enumerate(document["entries"]):
        for j, side in enumerate(colours):
            ratio = f"{entry['ratio']['median']:.1f}×" if side == "ours" else ""
            _dot(ax, i + (j - 0.5) * WIDTH, entry["summary"][side], 1000 / entry["files"], colours[side], ratio)
    _logarithmic(ax)
    _categories(ax, [e["group"].replace("drawn ", "drawn\n") for e in document["entries"]])
    ax.set_ylabel("ms per picture")
    ax.set_title("Decode, resize and crop, one thread (ratio: Pillow / ours)", fontsize=10)
    _legend(ax, list(colours), colours, {"pillow": "Pillow alone"})


def _dot(ax: Axes, x: float, seconds: Json, factor: float, colour: str, label: str, above: bool = False) -> None:
    """Median with the range over rounds; dots, because a bar on a logarithmic axis has no true foot."""
    median, low, high = (factor * seconds[key] for key in ("median", "min", "max"))
    ax.vlines(x, low, high, color=colour, linewidth=3, alpha=0.5)
    ax.plot(x, median, "o", color=colour, markersize=7)
    at, shift, align = (high, 6, "bottom") if above else (low, -7, "top")
    ax.annotate(label, (x, at), xytext=(0, shift), textcoords="offset points", ha="center", va=align, fontsize=8)


def _logarithmic(ax: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set_yscale("log")
    ax.margins(x=0.08, y=0.2)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _categories(ax: Axes, names: Sequence[str]) -> None:
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.grid(axis="y", alpha=0.25)
    ax.set_axisbelow(True)


def _legend(ax: Axes, keys: Sequence[str], colours: dict[str, str], names: dict[str, str] | None = None) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colours[key], label=(names or {}).get(key, key)) for key in keys]
    place: Literal["upper left", "best"] = (
        "upper left" if ax.get_yscale() == "log" else "best"
    )  # where the smallest sizes are
    ax.legend(handles=handles, fontsize=8, frameon=False, loc=place)


DRAWERS = {"step": draw_step, "memory": draw_memory, "evaluate": draw_evaluation, "decode": draw_decode}


def pieces(documents: Sequence[Json]) -> list[tuple[str, Json]]:
    """What can be drawn: kind of panel and its document. A backbone's memory is one panel, from however many files."""
    found: list[tuple[str, Json]] = []
    memory: dict[str, Json] = {}
    for document in documents:
        kind, entries = document["benchmark"], document["entries"]
        if kind != "step":
            found += [(kind, document)] if entries else []
            continue
        if any("summary" in e for e in entries):
            found.append(("step", document))
        if held := [e for e in entries if "memory" in e]:
            name = document["settings"]["backbone"]
            if name not in memory:
                memory[name] = {**document, "entries": []}
                found.append(("memory", memory[name]))
            memory[name]["entries"] += held
            memory[name]["entries"].sort(key=lambda e: (e["classes"], e["images"]))
    order = list(DRAWERS)
    return sorted(found, key=lambda piece: order.index(piece[0]))


def draw(documents: Sequence[Json], out: Path) -> None:
    """One panel per kind of measurement and document, two in a row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = pieces(documents)
    if not panels:
        raise UserError("Nothing to draw: the files hold no entries.")
    rows = (len(panels) + 1) // 2
    figure, axes = plt.subplots(rows, 2, figsize=(12, 3.8 * rows), squeeze=False, layout="constrained")
    for ax, (kind, document) in zip(axes.flat, panels, strict=False):
        DRAWERS[kind](ax, document)
        model = document["settings"].get("backbone")
        if model is not None:
            ax.set_title(f"{ax.get_title()} – {model}", fontsize=10)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    m = documents[0]["machine"]
    where = m["gpu"] if documents[0]["settings"]["device"] == "cuda" else f"{m['processor']}, {timed(documents[0])}"
    figure.suptitle(f"{where}; torch {m['torch']}", fontsize=9, color="#444444")
    with atomic_path(out) as part:
        figure.savefig(part, dpi=140, format="png")
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the measurements.")
    parser.add_argument("files", nargs="+", type=Path, help="JSON files in benchmarks/results")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed.png", help="PNG file")
    args = parser.parse_args(argv)
    draw(common.load(args.files), args.out)


if __name__ == "__main__":
    common.run(main)
