"""The figure of an explanation: a picture, and maps of several methods and wordings over it, as in Figure 7."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from anprompt.files import atomic_paths
from anprompt.outputs import SIGNED

FORMATS = ("png", "svg")
MAP, WORDS = "inferno", "PuOr"  # both can be told apart by colour-blind people and in print
SIDE, LINE = 2.35, 0.44  # inches: a panel's side, and the height of a line of words
LETTERS = 16  # of a panel's caption per inch
TEXT: dict[Any, Any] = {"text.parse_math": False}  # a $ in a name or a sentence is a dollar
COVER = 0.72  # how much of the picture the map hides where it is strongest


def save_explanation(folder: Path, name: str, crop: npt.NDArray[np.uint8], row: dict[str, Any]) -> list[Path]:
    """Write ``name.png`` and ``name.svg``: the picture, a map for each panel, and what the words bring.

    crop: ``(H, W, 3)``, what the tower sees of the picture. row: from ``analysis.panels.explain_picture``.
    """
    from matplotlib import rc_context

    paths = [folder / f"{name}.{suffix}" for suffix in FORMATS]
    with rc_context(TEXT), atomic_paths(*paths) as parts:
        figure = _draw(crop, row)
        for part, kind in zip(parts, FORMATS, strict=True):
            figure.savefig(part, format=kind, dpi=150, metadata=SIGNED[kind])
    return paths


def _draw(crop: npt.NDArray[np.uint8], row: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    panels = row["panels"]
    columns = len(panels) + 1
    lines = _lines(row["words"]["sentences"], round(columns * SIDE * 10.5))
    captions = 0.2 + 0.17 * max(_caption(panel, row["class"]).count("\n") + 1 for panel in panels)
    text = 0.4 + LINE * len(lines) if lines else 0.1
    height = 0.75 + SIDE + captions + text
    figure = Figure(figsize=(columns * (SIDE + 0.15) + 0.75, height), facecolor="white")
    width = figure.get_size_inches()[0]
    against = f" and not {row['against']}" if row["against"] else ""
    figure.text(0.15 / width, 1 - 0.2 / height, f"Why {row['class']}{against}?", fontsize=13, weight="bold", va="top")
    bottom = (text + captions) / height
    grey = crop.astype(np.float64).mean(axis=2, keepdims=True).repeat(3, axis=2) / 255
    for i in range(columns):
        left = (0.15 + i * (SIDE + 0.15)) / width
        axes = figure.add_axes((left, bottom, SIDE / width, SIDE / height))
        axes.set_xticks([])
        axes.set_yticks([])
        if i == 0:
            axes.imshow(crop, interpolation="nearest")
            axes.set_title("picture", fontsize=10)
            continue
        panel = panels[i - 1]
        axes.imshow(_overlay(grey, np.array(panel["map"])))
        axes.set_title(_title(panel), fontsize=10)
        axes.set_xlabel(_caption(panel, row["class"]), fontsize=8.5, loc="left", linespacing=1.35)
    bar = figure.add_axes(((width - 0.6) / width, bottom, 0.12 / width, SIDE / height))
    bar.imshow(np.linspace(1, 0, 64)[:, None], aspect="auto", cmap=MAP)
    bar.set_xticks([])
    bar.set_yticks([0, 63], ["1", "0"], fontsize=8)
    bar.yaxis.tick_right()
    bar.set_title("relevance", fontsize=8)
    if lines:
        _draw_words(figure, lines, row["words"]["method"], text)
    return figure


def _overlay(grey: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The map ``(h, w)`` over a grey picture ``(H, W, 3)``: the stronger, the less of the picture is seen."""
    from matplotlib import colormaps

    small = torch.from_numpy(values)[None, None]
    smooth = F.interpolate(small, size=grey.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()  # (H, W)
    cover = COVER * np.sqrt(smooth)[..., None]
    return np.asarray((1 - cover) * grey + cover * colormaps[MAP](smooth)[..., :3])


def _title(panel: dict[str, Any]) -> str:
    noise = panel["noise"]
    return panel["method"] if noise is None else f"{panel['method']}, {noise['name']} {noise['strength']:g}"


def _caption(panel: dict[str, Any], explained: str) -> str:
    """Probability, deletion score or that there is none, the answer if it is another class, the sentence with noise."""
    likeness = "" if panel["likeness"] is None else f", map r = {panel['likeness']:.2f}"
    lines = [f"p = {100 * panel['probability']:.1f} %{likeness}"]
    if panel["peak"] is None:
        lines += ["empty: no patch speaks for it"]
    elif panel["deletion"]:
        score = panel["deletion"]
        won = round(score["beaten"] * score["orders"])
        lines += [f"deletion {score['area']:.3f}, random {score['random_area']:.3f}",
                  f"beats {won} of {score['orders']} random orders"]  # fmt: skip
    if panel["predicted"] != explained:
        lines += [_cut(f"says: {panel['predicted']}")]
    if panel["noise"] is not None and panel["noise"]["level"] == "text":
        lines += [_cut(f"“{panel['sentences'][0]}”")]
    return "\n".join(lines)


def _cut(line: str) -> str:
    """``line``, or as much of it as fits below a panel."""
    return textwrap.shorten(line, round(SIDE * LETTERS), placeholder=" …")


Line = list[tuple[str, float]]


def _lines(sentences: Sequence[dict[str, Any]], letters: int) -> list[Line]:
    """Words and their effects, broken into lines of at most so many letters; a sentence begins a line."""
    lines: list[Line] = []
    for sentence in sentences:
        used = letters + 1
        for word in sentence["words"]:
            size = max(len(word["word"]), 6) + 2
            if used + size > letters:
                lines.append([])
                used = 0
            lines[-1].append((word["word"], word["logit"]))
            used += size
    return lines


def _draw_words(figure: Any, lines: Sequence[Line], method: str, height: float) -> None:
    """Words in boxes, coloured by what they bring, with the number below."""
    from matplotlib import colormaps
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker

    most = max(abs(effect) for line in lines for _, effect in line) or 1.0
    width, whole = figure.get_size_inches()
    axes = figure.add_axes((0.15 / width, 0, 1 - 0.3 / width, height / whole))
    axes.axis("off")
    heading = TextArea(f"What each word brings to the class's logit ({method})", textprops={"fontsize": 10})
    rows: list[Any] = [heading]
    for line in lines:
        boxes: list[Any] = []
        for word, effect in line:
            colour = colormaps[WORDS](0.5 - 0.38 * effect / most)  # orange helps the class, violet speaks against it
            frame = {"facecolor": colour, "edgecolor": "none", "boxstyle": "round,pad=0.25"}
            light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 0.5  # luma, ITU-R BT.601
            ink = "black" if light else "white"
            upper = TextArea(word, textprops={"fontsize": 10, "bbox": frame, "color": ink})
            lower = TextArea(f"{effect:+.1f}", textprops={"fontsize": 7.5, "color": "#444444"})
            boxes.append(VPacker(children=[upper, lower], align="center", pad=0, sep=5))
        rows.append(HPacker(children=boxes, align="top", pad=0, sep=10))
    packed = VPacker(children=rows, align="left", pad=0, sep=8)
    axes.add_artist(AnchoredOffsetbox("upper left", child=packed, frameon=False, pad=0, borderpad=0.2))
