"""The command that makes tables and the paper's figures of results from a benchmark's records."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

from anprompt.commands.lists import names_in
from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.results.grid import Scope
    from anprompt.results.tables import Table

Format = Literal["terminal", "markdown", "csv", "latex"]
# How a table begins in each form: with its title, in CSV with the columns that every table has.
TABLE = re.compile(
    r"(\*\*|\\begin\{table\}\n\\centering\n\\caption\{)?(Table|Figure|Ablation) [^|]*?\(accuracy\s+in\s+\\?%\)"
    r"|data_set,[^\n]*,\w+,\w+_sd\b"
)
BY_SUFFIX = {".md": "markdown", ".csv": "csv", ".tex": "latex"}


def table(
    name: str,
    results: str = "results",
    format: Optional[Format] = None,  # noqa: UP045 - for jsonargparse
    methods: str | None = None,
    datasets: str | None = None,
    backbone: str | None = None,
    source: str | None = None,
    compare: str | None = None,
    figure: str | None = None,
    out: str | None = None,
    json: bool = False,
) -> int:
    """A table of the paper from benchmark results: means and spreads, the best marked, the paper's values beside them.

    Args:
        name: I, II, III, IV to XI, 1 (kinds of noise, and DAPT), 6 (few-shot), the name of a protocol, or of an
            ablation of your own.
        results: folder that 'anprompt bench' wrote.
        format: terminal, markdown, csv or latex; default: what the suffix of --out says, else terminal.
        methods: only these methods, separated by commas.
        datasets: only these data sets, separated by commas; the source of a transfer always stays.
        backbone: which backbone, where the results are of several: its name or the start of its hash.
        source: where methods were trained, where cross-dataset or domain generalisation results have several sources.
        compare: two rows, as in 'anprompt,coop': mean difference, sign test and bootstrap interval over all pairs.
        figure: with 6, also draw the few-shot curves, with 1 or X the bars; written as PNG and SVG under this name.
        out: write the table to this file instead of printing it.
        json: print one JSON document with all digits.

    Examples:
        anprompt table I
        anprompt table I --methods zero-shot,anprompt --compare anprompt,zero-shot
        anprompt table II --format latex --out table2.tex
        anprompt table 6 --figure figure6.png
    """
    from anprompt.files import check_file_writable, check_replaceable, write_text
    from anprompt.outputs import check_outputs
    from anprompt.report import console
    from anprompt.results.collect import Collected, read_results
    from anprompt.results.compare import compare as compare_rows
    from anprompt.results.render import render
    from anprompt.results.select import find_table, select
    from anprompt.results.tables import build_table

    pair = _names(compare, "--compare")
    if compare is not None and len(pair) != 2:
        raise UserError(f"--compare takes two rows, as in 'anprompt,coop' (got '{compare}').")
    where = Path(results)
    collected = read_results(where) if where.exists() else Collected(())
    scope = find_table(name, collected.results)
    files = _figure_files(figure, scope)
    for file in files:
        check_file_writable(file)
        check_outputs(file.parent, [file.name], option="--figure")
    if out is not None:
        check_replaceable(Path(out), "--out", "a table", "table.md", lambda text: TABLE.match(text) is not None)
    wanted = _names(methods, "--methods"), _names(datasets, "--datasets")
    scope, chosen = select(scope, collected.results, where, *wanted, backbone, source)
    made = build_table(name, scope, chosen, collected.notes)
    comparison = compare_rows(made, *pair) if pair else None
    if comparison is not None:
        made = made.with_notes(comparison.in_words)
    if files:
        _draw(made, files)
    shape = format or (BY_SUFFIX.get(Path(out).suffix, "terminal") if out is not None else "terminal")
    if out is not None:
        write_text(Path(out), render(made, shape))
    if json:
        document: dict[str, Any] = {**made.to_json(), "comparison": comparison and comparison.to_json()}
        console.print_json({**document, "files": [str(file) for file in (*([out] if out else []), *files)]})
        return 0
    if out is None:
        console.say(render(made, shape, *console.width_and_style()).rstrip("\n"))
    if shape == "csv":
        for note in made.notes:
            console.note(note)
    for file in (*([Path(out)] if out is not None else []), *files):
        console.note(f"wrote '{file}'")
    return 0


def _names(text: str | None, option: str) -> list[str]:
    """The entries of a list with commas."""
    names = names_in(text)
    if text is not None and not names:
        raise UserError(f"{option} needs at least one name.")
    return names


def _figure_files(figure: str | None, scope: Scope) -> tuple[Path, ...]:
    from anprompt.report.few_shot_figure import figure_files

    if figure is None:
        return ()
    if scope.protocol != "few-shot" and scope.ablation != "X":
        raise UserError("--figure draws few-shot curves or kinds of noise: use it with 'anprompt table 6', '1' or 'X'.")
    return figure_files(Path(figure))


def _draw(made: Table, files: tuple[Path, ...]) -> None:
    from anprompt.report.few_shot_figure import save_few_shot_figure
    from anprompt.report.noise_figure import save_noise_figure

    draw = save_few_shot_figure if made.scope.protocol == "few-shot" else save_noise_figure
    draw(made, files[0])
