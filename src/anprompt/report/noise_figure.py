"""Figure 1: what kinds of noise in the prompts do, as bars, and beside them a method that filters noise."""

from __future__ import annotations

from pathlib import Path

from anprompt.errors import UserError
from anprompt.files import atomic_paths
from anprompt.outputs import SIGNED
from anprompt.report.few_shot_figure import PLAIN, figure_files
from anprompt.results.grid import Value
from anprompt.results.notes import missing_runs
from anprompt.results.tables import Row, Table

OWN, OTHER, BESIDE = "#0072B2", "#56B4E9", "#999999"  # told apart by colour-blind people, and in grey
NAMES = {"bank": "weak semantic noise", "synonym": "synonyms", "mask": "mask", "shuffle": "shuffle", "drop": "drop"}


def save_noise_figure(table: Table, path: Path) -> tuple[Path, Path]:
    """Draw the first block of Table X (the average, or the only data set) and write it as PNG and SVG; return both.

    Bars are harmonic means over base and new classes (or accuracies), lines on them one standard deviation over seeds
    to each side; in brackets the paper's values, which are means over its eleven data sets.

    Raises:
        UserError: no seed has both base and new yet.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    files = figure_files(path)
    measure = table.measures[-1]
    drawn = [(row, cell) for row in _first_block(table) if isinstance(cell := row.cells.get(measure), Value)]
    if not drawn:
        missing = missing_runs(table.grid)
        raise UserError(f"No bar can be drawn before a seed has both base and new; these runs are missing: {missing}.")
    drawn.sort(key=lambda pair: pair[1].mean)
    with rc_context(PLAIN):
        figure = Figure(figsize=(6.4, 0.9 + 0.42 * len(drawn)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for place, (row, cell) in enumerate(drawn):
            kind = row.label.rpartition(": ")[2]
            colour = OWN if kind == "bank" else OTHER if kind in NAMES else BESIDE
            axes.barh(place, cell.mean, xerr=cell.sd, color=colour, height=0.68, error_kw={"linewidth": 1.0})
            printed = row.cells.get(f"paper_{measure}")
            text = f" {cell.mean:.2f}" + (f"  (paper {printed:.2f})" if isinstance(printed, float) else "")
            axes.text(cell.mean + (cell.sd or 0.0), place, text, va="center", fontsize=8)
        axes.set_yticks(range(len(drawn)), labels=[_name(row) for row, _ in drawn], fontsize=9)
        means = [cell.mean for _, cell in drawn]
        reach = [cell.mean + sign * (cell.sd or 0.0) for _, cell in drawn for sign in (-1, 1)]
        room = max(max(reach) - min(reach), 2.0)  # points: small differences must look small
        axes.set_xlim(max(0.0, min([*reach, *means]) - 0.6 * room), max(reach) + 0.9 * room)
        head = "harmonic mean of base and new (%)" if measure == "hm" else "accuracy (%)"
        axes.set_xlabel(f"{head}, {drawn[0][0].group}; the axis does not start at 0", fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        with atomic_paths(*files) as (png, svg):
            figure.savefig(png, format="png", dpi=200, metadata=SIGNED["png"])
            figure.savefig(svg, format="svg", metadata=SIGNED["svg"])
    return files


def _first_block(table: Table) -> list[Row]:
    return [row for row in table.rows if row.block == table.rows[0].block]


def _name(row: Row) -> str:
    kind = row.label.rpartition(": ")[2]
    return NAMES.get(kind, kind)
