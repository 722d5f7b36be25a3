"""What a classifier answers on labelled photos, computed once, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anprompt import methods
from anprompt.analysis.calibration import share_interval
from anprompt.classifier import PromptClassifier
from anprompt.data import DataSource, Item
from anprompt.data.names import distinct_names
from anprompt.inference import stream_logits
from anprompt.methods import Method
from anprompt.settings import Progress

TOP = 5  # a second measure of accuracy, where there are more than twice as many classes


@dataclass(frozen=True)
class Answers:
    """n photos, C classes.

    source: of these classes only. items: photos that could be read, ``n``. probabilities: ``(n, C)``. result: what
    ``PromptClassifier.evaluate`` gives. untuned: class ids of zero-shot's answers, ``(n,)``, or ``None``.
    """

    method: Method
    source: DataSource
    items: list[Item]
    probabilities: Tensor
    result: dict[str, Any]
    untuned: npt.NDArray[np.int64] | None = None

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """``(n,)``."""
        return np.array([item.label for item in self.items])

    @cached_property
    def _best(self) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.int64]]:
        top = self.probabilities.max(dim=1)  # as evaluate decides, also between equals
        return top.values.numpy(), top.indices.numpy()

    @property
    def confidence(self) -> npt.NDArray[np.floating]:
        """Probability of the answer, ``(n,)``."""
        return self._best[0]

    @property
    def guesses(self) -> npt.NDArray[np.int64]:
        """Class ids of the answers, ``(n,)``."""
        return self._best[1]

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = self.guesses == self.labels
        return found

    @cached_property
    def names(self) -> list[str]:
        """Class names, told apart where two classes share one."""
        return distinct_names(self.source.classes)

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Photos of each class (row) that were taken for each class (column), ``(C, C)``."""
        from sklearn.metrics import confusion_matrix

        found: npt.NDArray[np.int64] = confusion_matrix(self.labels, self.guesses, labels=range(len(self.names)))
        return found


def answer(
    estimator: PromptClassifier, source: DataSource, split: str, subset: str, progress: Progress, *, beside: bool
) -> Answers:
    """Classify all photos of a split, with ``beside`` by zero-shot too.

    Raises :class:`UserError` as ``PromptClassifier.evaluate`` does.
    """
    chosen = source.subset(subset)
    view = estimator.facing(chosen)
    items: list[Item] = []
    rows: list[Tensor] = []

    def keep(chunk: Sequence[Item], logits: Tensor) -> None:
        items.extend(chunk)
        rows.append(logits.softmax(dim=1))

    result = view.evaluate(chosen, split=split, progress=progress, each=keep)
    result["data"]["subset"] = subset
    untuned = None
    if beside and view.method_.name != "zero-shot":
        untuned = _zero_shot_guesses(without_tuning(view.method_), chosen, items, progress)
    return Answers(view.method_, chosen, items, torch.cat(rows), result, untuned)


def without_tuning(method: Method) -> Method:
    """Zero-shot on the same backbone, with the same classes and template."""
    return methods.create("zero-shot", method.backbone, method.class_names, template=method.template)


def _zero_shot_guesses(
    frozen: Method, source: DataSource, items: Sequence[Item], progress: Progress
) -> npt.NDArray[np.int64]:
    """Class ids, ``(n,)``; ``items`` are known to be readable."""
    guesses: list[Tensor] = []
    for _, logits in stream_logits(frozen, items, source.open, bad=[]):
        guesses.append(logits.softmax(dim=1).max(dim=1).indices)  # (B,), as evaluate decides
        progress("zero-shot", sum(map(len, guesses)), len(items), {})
    found: npt.NDArray[np.int64] = torch.cat(guesses).numpy()
    return found


def headline(answers: Answers) -> dict[str, Any]:
    """Accuracy with its interval, the mean over classes, and accuracy within the first five answers (per cent)."""
    from sklearn.metrics import top_k_accuracy_score

    n, classes = len(answers.items), len(answers.names)
    low, high = share_interval(int(answers.right.sum()), n)
    top = None
    if classes > 2 * TOP:
        top = 100 * float(
            top_k_accuracy_score(answers.labels, answers.probabilities.numpy(), k=TOP, labels=range(classes))
        )
    untuned = None if answers.untuned is None else 100 * float((answers.untuned == answers.labels).mean())
    return {
        "accuracy": answers.result["accuracy"], "interval": (100 * low, 100 * high), "zero_shot": untuned,
        "class_mean": answers.result["class_mean"], "top": top, "images": n,
    }  # fmt: skip


def class_rows(answers: Answers) -> list[dict[str, Any]]:
    """One row for each class that has photos, the worst first: photos, shares of right answers, usual mistake."""
    rows = []
    untuned = None if answers.untuned is None else answers.untuned == answers.labels
    for i, name in enumerate(answers.names):
        total, said = int(answers.confusion[i].sum()), int(answers.confusion[:, i].sum())
        if not total:
            continue
        wrong = answers.confusion[i].copy()
        wrong[i] = 0
        rows.append({
            "name": name, "images": total, "right": 100 * int(answers.confusion[i, i]) / total, "said": said,
            "precision": 100 * int(answers.confusion[i, i]) / said if said else None,
            "zero_shot": None if untuned is None else 100 * float(untuned[answers.labels == i].mean()),
            "taken_for": answers.names[int(wrong.argmax())] if wrong.any() else None, "times": int(wrong.max()),
        })  # fmt: skip
    return sorted(rows, key=lambda row: (row["right"], row["name"]))


def confused_pairs(answers: Answers, most: int) -> list[dict[str, Any]]:
    """Classes that are taken for others, the most frequent pairs first."""
    wrong = answers.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(answers.names)) for place in order]
    return [
        {
            "label": answers.names[i], "prediction": answers.names[j], "count": int(wrong[i, j]),
            "share": 100 * int(wrong[i, j]) / int(answers.confusion[i].sum()),
        }
        for i, j in pairs if wrong[i, j]
    ]  # fmt: skip


def worst_mistakes(answers: Answers, most: int) -> list[int]:
    """Rows of wrong answers, those given with the highest probability first."""
    wrong = np.flatnonzero(~answers.right)
    return [int(row) for row in wrong[np.argsort(-answers.confidence[wrong], kind="stable")][:most]]


def shown_path(answers: Answers, item: Item) -> str:
    """A photo's path below its folder, its end if it is long."""
    path = answers.source.relative(item)
    return path if len(path) <= 60 else f"…/{Path(path).name[-56:]}"
