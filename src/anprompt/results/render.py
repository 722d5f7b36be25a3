"""Tables in four forms: for the terminal, Markdown, CSV and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anprompt.results.grid import Value
from anprompt.results.tables import Column, Row, Table
from anprompt.results.wide import wide

if TYPE_CHECKING:
    from rich.table import Table as RichTable

FORMATS = ("terminal", "markdown", "csv", "latex")
NOTHING = "–"
LABEL = 8  # characters that are left of a label in the narrowest terminal


def number(row: Row, column: Column, plus_minus: str = "±") -> str:
    """A cell as text, with two decimals; differences with their sign."""
    cell = row.cells.get(column.key)
    if cell is None:
        return NOTHING
    if isinstance(cell, Value):
        return f"{cell.mean:.2f}" + (f"{plus_minus}{cell.sd:.2f}" if cell.sd is not None else "")
    if isinstance(cell, str):
        return cell
    return f"{round(cell, 2) + 0.0:{'+' if (row.kind or column.kind) == 'difference' else ''}.2f}"  # + 0.0: no -0.00


def head(column: Column) -> str:
    return f"{column.over} {column.head}".strip()


def is_first(rows: Sequence[Row], i: int) -> bool:
    """Whether a row is the first of its group."""
    return i == 0 or rows[i].block != rows[i - 1].block


def terminal(table: Table, width: int = 100, styled: bool = False) -> str:
    """For people, at most ``width`` columns wide where labels allow. Best in bold, or with a star if not ``styled``."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=styled, no_color=not styled, highlight=False)
    unlimited = console.options.update(width=10_000)
    forms = [form for form in (wide(table), table, *_narrower(table)) if form is not None]
    grids = [_grid(form, styled) for form in forms]
    widths = [console.measure(grid, options=unlimited).maximum for grid in grids]
    fits = [i for i, needed in enumerate(widths) if needed <= width]
    chosen = fits[0] if fits else len(grids) - 1
    grid = grids[chosen]
    notes = [*table.notes]
    lost = len(_shown(table)) - len(_shown(forms[chosen]))
    if chosen >= len(forms) - len(_narrower(table)) and lost:
        needed = widths[forms.index(table)]
        notes.insert(0, f"{lost} columns are left out here: they need a terminal of {needed} columns, or --format csv.")
    labels = sum(max(len(label) for label in column) for column in (
        [table.heads[i], *((row.group, row.label)[i] for row in table.rows)] for i in (0, 1)
    ))  # fmt: skip
    console.width = max(width, widths[chosen] - labels + 2 * LABEL)  # or numbers would squeeze the labels away
    console.print(grid)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    if not styled and any(row.best for row in table.rows):
        notes.append("* marks the best.")
    wrapped = [
        textwrap.fill(note, width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False,
                      break_long_words=False) for note in notes
    ]  # fmt: skip
    return "\n".join([*textwrap.wrap(table.title, width), "", *lines, "", *wrapped]) + "\n"


def _shown(table: Table) -> list[Column]:
    """The columns that are shown where space is short."""
    return [column for column in table.columns if not column.extra]


def _narrower(table: Table) -> list[Table]:
    """The table without the paper's values but the last, and without any."""
    last = table.measures[-1]
    kept = [column for column in table.columns if column.kind != "paper" or column.key.endswith(f"_{last}")]
    ours = [column for column in table.columns if column.kind in ("count", "value")]
    return [table.with_layout(table.heads, tuple(columns), table.rows) for columns in (kept, ours)]


def _grid(table: Table, styled: bool) -> RichTable:
    """The cells, with an empty line between groups of several rows."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    columns = _shown(table)
    grid = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in table.heads:
        grid.add_column(Text(name), overflow="fold", vertical="bottom")
    for column in columns:
        above = f"{column.over}\n" if column.over else ""
        grid.add_column(Text(f"{above}{column.head}"), justify="right", no_wrap=True, overflow="fold")
    apart = len({row.group for row in table.rows}) < len(table.rows)
    starred = not styled and any(row.best for row in table.rows)
    for i, row in enumerate(table.rows):
        if i and apart and is_first(table.rows, i):
            grid.add_row()
        cells = []
        for column in columns:
            best = column.key in row.best
            star = "*" if best else " " if column.kind == "value" else ""
            cells.append(Text(number(row, column) + (star if starred else ""), style="bold" if best else ""))
        grid.add_row(Text(row.group if is_first(table.rows, i) else ""), Text(row.label), *cells)
    return grid


def markdown(table: Table) -> str:
    """A pipe table with the best in bold, and the notes as a list."""
    table = wide(table) or table

    def escaped(text: str) -> str:
        return text.replace("|", "\\|")

    heads = [*table.heads, *map(head, table.columns)]
    lines = [f"**{table.title}**", "", f"| {' | '.join(map(escaped, heads))} |"]
    lines.append("|" + "---|---|" + "---:|" * len(table.columns))
    for i, row in enumerate(table.rows):
        cells = [escaped(row.group) if is_first(table.rows, i) else "", escaped(row.label)]
        for column in table.columns:
            text = number(row, column, " ± ")
            cells.append(f"**{text}**" if column.key in row.best else text)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in table.notes)]) + "\n"


def comma_separated(table: Table) -> str:
    """CSV with plain numbers (four decimals), standard deviations in columns of their own, and no notes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [[column.key, f"{column.key}_sd"] if column.kind == "value" else [column.key] for column in table.columns]
    writer.writerow([name.replace(" ", "_") for name in (*table.heads, *(name for pair in heads for name in pair))])
    for row in table.rows:
        cells: list[str] = [row.group, row.label]
        for column in table.columns:
            cell = row.cells.get(column.key)
            pair = (cell.mean, cell.sd) if isinstance(cell, Value) else (cell, None)
            kept = pair if column.kind == "value" else pair[:1]
            cells += [_plain(part) for part in kept]
        writer.writerow(cells)
    return out.getvalue()


def _plain(part: float | str | None) -> str:
    return "" if part is None else part if isinstance(part, str) else f"{round(part, 4) + 0.0:.4f}"


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "Δ": r"$\Delta$", "–": "--",
    "α": r"$\alpha$", "γ": r"$\gamma$", "θ": r"$\theta$", "λ": r"$\lambda$", "ε": r"$\varepsilon$", "·": r"$\cdot$",
    "ℓ": r"$\ell$",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def latex(table: Table) -> str:
    """A ``table`` for ``\\usepackage{booktabs}``, the best in ``\\textbf``, the notes below in small print."""
    table = wide(table) or table
    columns = _shown(table)
    lines = [
        r"\begin{table}", r"\centering", f"\\caption{{{_tex(table.title)}}}",
        f"\\begin{{tabular}}{{ll{'r' * len(columns)}}}", r"\toprule",
    ]  # fmt: skip
    spans = _spans(columns)
    if any(over for over, _, _ in spans):
        above = ["", "", *(f"\\multicolumn{{{last - first + 1}}}{{c}}{{{_tex(over)}}}" for over, first, last in spans)]
        rules = [f"\\cmidrule(lr){{{first + 3}-{last + 3}}}" for over, first, last in spans if over]
        lines += [f"{' & '.join(above)} \\\\", " ".join(rules)]
    lines += [f"{' & '.join(map(_tex, [*table.heads, *(column.head for column in columns)]))} \\\\", r"\midrule"]
    for i, row in enumerate(table.rows):
        if i and is_first(table.rows, i):
            lines.append(r"\addlinespace")
        cells = [_tex(row.group) if is_first(table.rows, i) else "", _tex(row.label)]
        for column in columns:
            text = re.sub(r"^[+-]\d.*", r"$\g<0>$", _tex(number(row, column)))  # a minus, not a hyphen
            cells.append(f"\\textbf{{{text}}}" if column.key in row.best else text)
        lines.append(f"{' & '.join(cells)} \\\\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [f"\\par\\smallskip{{\\footnotesize {_tex(note)}}}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _spans(columns: Sequence[Column]) -> list[tuple[str, int, int]]:
    """(heading above, first, last) of columns that stand under the same heading."""
    spans: list[tuple[str, int, int]] = []
    for i, column in enumerate(columns):
        if spans and spans[-1][0] == column.over:
            spans[-1] = (column.over, spans[-1][1], i)
        else:
            spans.append((column.over, i, i))
    return spans


def render(table: Table, shape: str, width: int = 100, styled: bool = False) -> str:
    """The table in one of :data:`FORMATS`; ``width`` and ``styled`` are the terminal's."""
    if shape == "terminal":
        return terminal(table, width, styled)
    return {"markdown": markdown, "csv": comma_separated, "latex": latex}[shape](table)
