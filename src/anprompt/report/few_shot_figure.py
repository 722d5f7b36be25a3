"""Figure 6: accuracy over shots, one panel per data set and one for their average."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt.errors import UserError
from anprompt.files import atomic_paths
from anprompt.outputs import SIGNED
from anprompt.results.grid import Value
from anprompt.results.tables import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind people tell apart, from dark to light; with markers and dashes for grey.
STYLES = [
    ("#000000", "o", "-"), ("#0072B2", "s", "--"), ("#D55E00", "^", "-."), ("#009E73", "D", ":"),
    ("#CC79A7", "v", "-"), ("#E69F00", "P", "--"), ("#56B4E9", "X", "-."),
]  # fmt: skip
UNTRAINED = ("#777777", "*", "--")
COLUMNS, PANEL = 4, (2.9, 2.5)  # panels in a row, and the size of one in inches
SUFFIXES = (".png", ".svg")
PLAIN: dict[Any, Any] = {
    "svg.hashsalt": "anprompt",
    "svg.fonttype": "none",
    "text.parse_math": False,
}  # the same table gives the same file; text stays text, and a $ in a name is a dollar


def figure_files(path: Path) -> tuple[Path, Path]:
    """The PNG and the SVG that belong to ``path``, which names either, or both by having no suffix.

    Raises:
        UserError: another suffix.
    """
    if path.suffix and path.suffix not in SUFFIXES:
        raise UserError(f"A figure is written as PNG and SVG: '{path}' should end in .png, .svg or neither.")
    png, svg = (path.with_suffix(suffix) for suffix in SUFFIXES)
    return png, svg


def save_few_shot_figure(table: Table, path: Path) -> tuple[Path, Path]:
    """Draw a few-shot table and write it as PNG and SVG; return both files.

    Lines are means over seeds, bands are one standard deviation to each side. Rows that need no shots, such as
    zero-shot, are a point at 0 and a thin dashed line across.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    files = figure_files(path)
    panels = list(dict.fromkeys(row.block for row in table.rows if row.of != "without"))
    across = min(COLUMNS, len(panels))
    down = math.ceil(len(panels) / across)
    styles = _styles(table)
    with rc_context(PLAIN):
        figure = Figure(figsize=(max(PANEL[0] * across, 4.5), PANEL[1] * down + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        for i, panel in enumerate(panels):
            axes = figure.add_subplot(down, across, i + 1)
            for row in (row for row in table.rows if row.block == panel):
                _draw(axes, row, styles[row.label])
            of, title = panel
            axes.set_title(title, fontsize=10, fontweight="bold" if of == "average" else "normal")
            _dress(axes, table)
            if i % across == 0:
                axes.set_ylabel("accuracy (%)", fontsize=9)
            if i + across >= len(panels):
                axes.set_xlabel("training photos per class", fontsize=9)
        handles = {str(line.get_label()): line for axes in figure.axes for line in axes.lines if line.get_gid()}
        legend = [handles[label] for label in styles if label in handles]
        figure.legend(
            handles=legend,
            loc="outside lower center",
            ncols=min(len(legend), 2 * across + 1),
            frameon=False,
            fontsize=9,
        )
        with atomic_paths(*files) as (png, svg):
            figure.savefig(png, format="png", dpi=200, metadata=SIGNED["png"])
            figure.savefig(svg, format="svg", metadata=SIGNED["svg"])
    return files


def _styles(table: Table) -> dict[str, tuple[str, str, str]]:
    """A style for each line; the last one, in the paper's order ANPrompt, is the most visible."""
    trained = {row.label for row in table.rows for shots in row.cells if shots in table.measures and shots != "0"}
    labels = [line.label for line in reversed(table.grid.lines)]
    drawn = [label for label in labels if label in trained]
    return {label: style(drawn.index(label)) if label in trained else UNTRAINED for label in labels}


def style(i: int) -> tuple[str, str, str]:
    """Colour, marker and dashes of line ``i``; each further round of the colours has other markers and dashes."""
    _, marker, dashes = STYLES[(i + i // len(STYLES)) % len(STYLES)]
    return STYLES[i % len(STYLES)][0], marker, dashes


def place(shots: str) -> float:
    """Where a number of shots stands: doubling is one step, and 0 is one and a half before 1."""
    return math.log2(int(shots)) if int(shots) else -1.5


def _draw(axes: Axes, row: Row, style: tuple[str, str, str]) -> None:
    colour, marker, dashes = style
    points = [(int(key), place(key), cell) for key, cell in row.cells.items() if isinstance(cell, Value)]
    points.sort(key=lambda point: point[0])
    xs, means = [x for _, x, _ in points], [cell.mean for _, _, cell in points]
    (line,) = axes.plot(xs, means, color=colour, marker=marker, linestyle=dashes, linewidth=1.6, markersize=5,
                        label=row.label)  # fmt: skip
    line.set_gid(row.label)
    for shots, _, cell in points:
        if shots == 0:
            axes.axhline(cell.mean, color=colour, linestyle=dashes, linewidth=0.8, zorder=0)
    spreads = [cell.sd or 0.0 for _, _, cell in points]
    if any(spreads):
        low, high = ([mean + sign * sd for mean, sd in zip(means, spreads, strict=True)] for sign in (-1, 1))
        axes.fill_between(xs, low, high, color=colour, alpha=0.18, linewidth=0)


def _dress(axes: Axes, table: Table) -> None:
    axes.set_xticks([place(shots) for shots in table.measures], labels=list(table.measures))
    axes.tick_params(labelsize=8)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
