"""Plots of the wording report: Figure 4's three panels, and accuracy over strength."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anprompt.files import atomic_path
from anprompt.outputs import SIGNED

FORMATS = ("png", "svg")
COLOURS = ("#8a8a8a", "#c0562f", "#2f6fb0", "#3a8f5b", "#8a5fb0", "#b08a2f")
HATCHES, POINTS = ("", "///", "...", "xx"), "osD^"  # of each further round of the colours
MARKERS, DASHES = "osD^vPX*hd", ("-", "--", ":", "-.")
PANELS = (
    ("text_shift", "text shift TS (of pictures: image shift)", "log"),
    ("logit_preservation", "answers that stay, LPR", "linear"),
    ("accuracy_shift", "accuracy shift AS, points", "linear"),
)
NARROWEST = 10  # points: the least height of a plot of accuracies, so that small differences look small
TEXT: dict[Any, Any] = {"text.parse_math": False}  # a $ in a name is a dollar
LOWEST = 1e-9  # where a shift of exactly 0 stands on the logarithmic axis


def _save(figure: Any, folder: Path, name: str) -> list[Path]:
    paths = [folder / f"{name}.{suffix}" for suffix in FORMATS]
    for kind, path in zip(FORMATS, paths, strict=True):
        with atomic_path(path) as part:
            figure.savefig(part, format=kind, dpi=150, bbox_inches="tight", metadata=SIGNED[kind])
    return paths


def save_panels(folder: Path, title: str, rows: Sequence[dict[str, Any]]) -> list[Path]:
    """Write ``noise.png`` and ``noise.svg``: TS, LPR and AS of every method, noise by noise, with intervals.

    rows: results of :func:`anprompt.analysis.robustness.measure`.
    """
    from matplotlib import rc_context

    with rc_context(TEXT):
        return _save(_panels(title, rows), folder, "noise")


def _panels(title: str, rows: Sequence[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    methods = list(dict.fromkeys(row["method"] for row in rows))
    noises = list(dict.fromkeys(f"{row['noise']} {row['strength']:g}" for row in rows))
    figure = Figure(figsize=(4.2 * len(PANELS), 1.4 + 0.22 * (len(methods) + 1) * len(noises)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    height = 0.8 / len(methods)
    for axes, (key, label, scale) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS, strict=True):
        for i, method in enumerate(methods):
            for row in (row for row in rows if row["method"] == method):
                found = row.get(key) or row["image_shift"]
                y = noises.index(f"{row['noise']} {row['strength']:g}") - 0.4 + height * (i + 0.5)
                value = max(found["value"], LOWEST) if scale == "log" else found["value"]
                low, high = found["interval"] or (value, value)
                colour, again = COLOURS[i % len(COLOURS)], i // len(COLOURS) % len(HATCHES)
                if scale == "log":  # without a zero there is nothing that a bar could start at
                    axes.plot([max(low, LOWEST), high], [y, y], color=colour, linewidth=1.4)
                    axes.plot(value, y, POINTS[again], color=colour, markersize=4.5)
                else:
                    axes.barh(y, value, 0.9 * height, color=colour, hatch=HATCHES[again])
                    axes.plot([low, high], [y, y], color="black", linewidth=0.9)
        axes.set_xscale(scale)
        if scale == "log":  # its usual numbers are written as mathematics
            axes.xaxis.set_major_formatter(LogFormatter())
            axes.xaxis.set_minor_formatter(LogFormatter())
        axes.set_xlabel(label)
        axes.grid(axis="x", linewidth=0.4, alpha=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    first = figure.axes[0]
    first.set_yticks(range(len(noises)), noises)
    first.invert_yaxis()
    figure.axes[1].set_xlim(0, 1.02)
    handles = [
        first.barh(0, 0, color=COLOURS[i % len(COLOURS)], hatch=HATCHES[i // len(COLOURS) % len(HATCHES)], label=name)
        for i, name in enumerate(methods)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(methods), frameon=False, fontsize=9)
    return figure


def save_curves(folder: Path, title: str, curves: Sequence[dict[str, Any]]) -> list[Path]:
    """Write ``strength.png`` and ``strength.svg``: accuracy over the strength of each noise, one panel per method.

    curves: results of :func:`anprompt.analysis.robustness.curve`.
    """
    from matplotlib import rc_context

    with rc_context(TEXT):
        return _save(_curves(title, curves), folder, "strength")


def _curves(title: str, curves: Sequence[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(entry["method"] for entry in curves))
    noises = list(dict.fromkeys(entry["noise"] for entry in curves))
    figure = Figure(figsize=(4.2 * len(methods) + 1.2, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axes, method in zip(panels, methods, strict=True):
        for entry in (entry for entry in curves if entry["method"] == method):
            i = noises.index(entry["noise"])
            again = i // len(MARKERS)  # there are as many colours, C0 to C9
            axes.plot(
                entry["strengths"], entry["accuracy"], label=entry["noise"], color=f"C{i % len(MARKERS)}",
                marker=MARKERS[(i + again) % len(MARKERS)], linestyle=DASHES[again % len(DASHES)], markersize=4,
                linewidth=1.3,
            )  # fmt: skip
        axes.set_title(method, fontsize=10)
        axes.set_xlabel("strength")
        axes.grid(linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("right, %")
    reached = [value for entry in curves for value in entry["accuracy"]]
    middle, half = (max(reached) + min(reached)) / 2, max(NARROWEST, 1.1 * (max(reached) - min(reached))) / 2
    panels[0].set_ylim(middle - half, middle + half)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    return figure
