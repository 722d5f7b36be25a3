"""Plots of many methods, noises and odd names: text is drawn as it is, and no two lines look the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from anprompt.report.explain_figure import save_explanation
from anprompt.report.few_shot_figure import save_few_shot_figure, style
from anprompt.report.noise_figure import save_noise_figure
from anprompt.report.page.charts import point
from anprompt.report.robustness_plots import _curves, _panels, save_curves, save_panels
from helpers_records import halves, read_back, record, table_of

MONEY = r"a $\frac$ bill"  # as mathematics, this cannot be drawn at all


def measured(method: str, noise: str) -> dict[str, Any]:
    found = {"value": 0.5, "interval": (0.4, 0.6)}
    return {"method": method, "noise": noise, "strength": 0.5, "text_shift": found, "logit_preservation": found,
            "accuracy_shift": found}  # fmt: skip


def curve(method: str, noise: str) -> dict[str, Any]:
    return {"method": method, "noise": noise, "strengths": [0.0, 1.0], "accuracy": [80.0, 70.0]}


def explanation() -> dict[str, Any]:
    noise = {"name": "drop", "strength": 0.5, "level": "text"}
    panel = {"map": [[0.0, 1.0], [1.0, 0.0]], "method": MONEY, "noise": noise, "likeness": None, "probability": 0.5,
             "peak": 1.0, "deletion": None, "predicted": f"no {MONEY}", "sentences": [MONEY]}  # fmt: skip
    words = {"method": MONEY, "sentences": [{"words": [{"word": MONEY, "logit": 1.0}]}]}
    return {"class": MONEY, "against": MONEY, "panels": [panel], "words": words}


def test_a_dollar_in_an_explanation(tmp_path: Path) -> None:
    save_explanation(tmp_path, "why", np.zeros((8, 8, 3), np.uint8), explanation())
    assert (tmp_path / "why.png").stat().st_size > 1000


def test_a_dollar_in_plots_of_robustness(tmp_path: Path) -> None:
    written = save_panels(tmp_path, MONEY, [measured(MONEY, "drop")])
    written += save_curves(tmp_path, MONEY, [curve(MONEY, "drop")])
    assert all(path.stat().st_size > 1000 for path in written)


def test_numbers_are_no_formulas() -> None:
    figure = _panels("t", [measured("zero-shot", "drop")])
    figure.canvas.draw()
    shown = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels(which="both")]
    assert "5e\N{MINUS SIGN}01" in shown
    assert not [text for text in shown if "$" in text]


def test_a_dollar_in_figures_of_tables(tmp_path: Path) -> None:
    few = [record("few-shot", "coop", MONEY, "all", 1, 50 + shots, shots=shots) for shots in (1, 4)]
    save_few_shot_figure(table_of("6", read_back(tmp_path / "few", few)), tmp_path / "six")
    assert MONEY in (tmp_path / "six.svg").read_text(encoding="utf-8")
    kinds = halves("anprompt", MONEY, 1, 70, 60, protocol="ablation", ablation="X", variant={"noise_source": "mask"})
    save_noise_figure(table_of("X", read_back(tmp_path / "kinds", kinds)), tmp_path / "ten")
    assert MONEY in (tmp_path / "ten.svg").read_text(encoding="utf-8")


def test_no_two_curves_of_many_look_the_same() -> None:
    assert len({style(i) for i in range(35)}) == 35
    (axes,) = _curves("t", [curve("zero-shot", f"noise {i}") for i in range(24)]).axes
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}) == 24


def test_no_two_methods_of_many_look_the_same() -> None:
    assert len({point(i) for i in range(16)}) == 16
    figure = _panels("t", [measured(f"method {i}", "drop") for i in range(14)])
    (legend,) = figure.legends
    bars = [(bar.get_facecolor(), bar.get_hatch()) for bar in legend.get_patches()]
    assert len(bars) == len(set(bars)) == 14
