"""Plots as inline SVG whose colours and fonts are the page's, in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anprompt.analysis.calibration import Calibration

# Okabe and Ito's colours, told apart by all kinds of colour vision; the page's style sheet says what they are.
COLOURS = {"#0072b2": "--c1", "#d55e00": "--c2", "#009e73": "--c3", "#cc79a7": "--c4"}
INK, SOFT = "#010203", "#818283"  # become the page's colours of text and of fine lines
FONT = 10
FEW = 10  # answers: a bin that holds fewer is drawn hollow
STYLE: Any = {
    "text.parse_math": False,
    "svg.fonttype": "none", "font.size": FONT, "axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": SOFT, "ytick.color": SOFT, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": SOFT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.35,
    "grid.linewidth": 0.6, "axes.axisbelow": True,
}  # fmt: skip


def _svg(name: str, alt: str, size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """Draw on axes and return ``<svg …>``. name: keeps ids apart. alt: what the plot says, in words."""
    import html

    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "svg.hashsalt": name, "svg.id": f"plot-{name}"}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: (?:\w+ )*([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", text)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    text = text.replace(INK, "currentColor").replace(SOFT, "var(--line)")
    start, end = text.split(">", 1)
    start = re.sub(r' (?:width|height)="[^"]*"', "", start)  # the style sheet says how large; viewBox keeps the shape
    return f'{start} role="img" aria-label="{html.escape(alt)}">{end}'


def reliability(found: Calibration) -> str:
    """Share of right answers over the probability that they were given with."""
    colours = list(COLOURS)

    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=(0, (4, 3)))
        width = 100 * (found.bins[0].high - found.bins[0].low)
        for entry in found.bins:
            x, y = 100 * (entry.low + entry.high) / 2, 100 * entry.right
            fill = "none" if entry.count < FEW else colours[0]
            axes.bar(x, y, 0.9 * width, color=fill, edgecolor=colours[0], linewidth=1, alpha=0.75)
            axes.plot([x, x], [100 * end for end in entry.interval], color=INK, linewidth=1)
            axes.plot(100 * entry.confidence, y, "D", color=colours[1], markersize=4)
        axes.set(xlim=(0, 100), ylim=(0, 102), xlabel="probability of the answer, %", ylabel="right, %")
        axes.set_aspect("equal")

    alt = f"Calibration curve in {len(found.bins)} bins; the expected calibration error is {100 * found.ece:.1f} %."
    return _svg("calibration", alt, (4.2, 4.2), draw)


def confidence_counts(found: Calibration) -> str:
    """How many answers each bin holds."""

    def draw(axes: Any) -> None:
        for entry in found.bins:
            width = 100 * (entry.high - entry.low)
            axes.bar(
                100 * (entry.low + entry.high) / 2, entry.count, 0.9 * width, color=next(iter(COLOURS)), alpha=0.75
            )
        axes.set(xlim=(0, 100), xlabel="probability of the answer, %", ylabel="answers")
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)

    return _svg("confidence", "How many answers were given with which probability.", (4.2, 1.7), draw)


def learning_curve(name: str, values: Sequence[float], colour: int = 0) -> str:
    """One loss term over epochs."""

    def draw(axes: Any) -> None:
        epochs = range(1, len(values) + 1)
        axes.plot(epochs, values, color=list(COLOURS)[colour], marker="o", markersize=3.5, linewidth=1.6)
        axes.set(xlabel="epoch", xlim=(0.7, len(values) + 0.3))
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        axes.yaxis.get_major_locator().set_params(nbins=5)
        low, high = min(values), max(values)
        if high - low < 1e-3 * abs(high):  # nothing but rounding: shown as the flat line that it is
            axes.set_ylim(low - 0.1 * abs(low) - 1e-9, high + 0.1 * abs(high) + 1e-9)

    return _svg(f"loss-{name}", f"{name} over {len(values)} epochs: {_ends(values)}.", (3.2, 2.1), draw)


def _ends(values: Sequence[float]) -> str:
    return f"{values[0]:.3g} at first, {values[-1]:.3g} at the end"


def point(i: int) -> tuple[str, str]:
    """Colour and mark of method ``i``; each further round of the colours has other marks."""
    count = len(COLOURS)
    return list(COLOURS)[i % count], "osD^"[(i + i // count) % count]


def kept_answers(rows: Sequence[Mapping[str, Any]]) -> str:
    """Share of answers that stay under each noise, of every method, with intervals.

    rows: results of :func:`anprompt.analysis.robustness.measure`.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    noises = list(dict.fromkeys(row["noise"] for row in rows))
    step = 0.7 / len(methods)

    def draw(axes: Any) -> None:
        for i, method in enumerate(methods):
            colour, mark = point(i)
            for row in (row for row in rows if row["method"] == method):
                y, found = noises.index(row["noise"]) - 0.35 + step * (i + 0.5), row["logit_preservation"]
                low, high = found["interval"] or (found["value"],) * 2
                axes.plot([100 * low, 100 * high], [y, y], color=colour, linewidth=2, alpha=0.6)
                axes.plot(100 * found["value"], y, mark, color=colour, markersize=6)
            axes.plot([], [], mark, color=colour, label=method)
        axes.set_yticks(range(len(noises)), noises)
        axes.set_ylim(len(noises) - 0.5, -0.5)
        axes.set_xlim(right=100.5)
        axes.set_xlabel("answers that stay, %")
        axes.figure.legend(loc="outside upper left", ncols=min(3, len(methods)), frameon=False, fontsize=FONT)

    alt = "Answers that stay under each noise, of every method; the table below holds the numbers."
    return _svg("wording", alt, (4.6, 1.1 + 0.5 * len(noises)), draw)
