"""Explanations side by side: one picture through several methods and wordings, as one document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anprompt.analysis.explain import Kind, deletion, maps_for, word_attribution
from anprompt.analysis.robustness import Noise
from anprompt.methods import Method

DIGITS = 4  # of maps and curves in documents
EMPTY = "the map is empty: no patch speaks for the class"


class Panel(NamedTuple):
    """What is shown beside the picture: a method, and the noise in its wording, if there is any."""

    name: str
    noise: Noise | None
    method: Method


def explain_picture(
    panels: Sequence[Panel], pixels: Tensor, label: int, against: int | None = None, *, kind: Kind = "cam",
    orders: int = 10, seed: int = 1, words: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """One picture ``(3, H, W)``, normalised, through all ``panels``, whose methods have the same classes.

    A panel with noise follows the one of the same method without. orders: of the deletion score; 0: none.
    words: whether those of the last method without noise are left out one by one.
    Returns ``class``, ``against``, ``panels`` (``method``, ``noise``, ``sentences`` of the class, ``predicted``,
    ``probability`` of the class, ``map`` ``(h, w)``, ``peak`` (row and column of its maximum, ``None`` for an empty
    map), ``likeness`` to the map without noise, −1 to 1, ``deletion``) and ``words`` (``method`` and ``sentences``).
    """
    names, shown = panels[0].method.class_names, list[dict[str, Any]]()
    clean = torch.zeros(0)
    for panel in panels:
        method = panel.method
        batch = pixels[None].to(method.backbone.device)
        found = maps_for(method, batch, [label], None if against is None else [against], kind=kind)
        logits = method.logits(batch).float().cpu()
        score = deletion(method, batch, [label], found, orders=orders, seed=seed)[0] if orders else None
        row, column = divmod(int(found.argmax()), found.shape[2])
        empty = not found.any()
        shown.append({
            "method": panel.name, "noise": None if panel.noise is None else panel.noise._asdict(),
            "sentences": list(method.wording(names[label])), "predicted": names[int(logits.argmax())],
            "probability": float(logits.softmax(dim=1)[0, label]), "map": rounded(found[0]),
            "peak": None if empty else [row, column],
            "likeness": None if panel.noise is None else _correlation(clean, found),
            "deletion": None if score is None else {
                "area": score.area, "random_area": score.random_area, "beaten": score.beaten, "orders": orders,
                "words": EMPTY if empty else score.words(),
                "curve": rounded(score.curve), "random": rounded(score.random),
            },
        })  # fmt: skip
        clean = found if panel.noise is None else clean
    last = [panel for panel in panels if panel.noise is None][-1]
    sentences = word_attribution(last.method, pixels[None], label) if words else {}
    return {
        "class": names[label], "against": None if against is None else names[against], "panels": shown,
        "words": {
            "method": last.name,
            "sentences": [{"sentence": sentence, "words": [asdict(word) for word in own]}
                          for sentence, own in sentences.items()],
        },
    }  # fmt: skip


def rounded(values: Any) -> Any:
    """Nested lists of numbers, short enough for a document."""
    return np.asarray(values, dtype=np.float64).round(DIGITS).tolist()


def _correlation(map_: Tensor, other: Tensor) -> float | None:
    """Of two maps, −1 to 1; ``None`` where one is the same everywhere."""
    pair = torch.stack([map_.flatten(), other.flatten()]).double()
    return None if float(pair.std(dim=1).min()) == 0 else float(torch.corrcoef(pair)[0, 1])
