"""What must be said of ``--texts``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anprompt.classifier import PromptClassifier
    from anprompt.data import DataSource


def say_if_not_needed(estimator: PromptClassifier, classes: Sequence[str], source: DataSource | None = None) -> None:
    """Note that the texts of a loaded adapter change nothing for ``classes``, because it knows them all.

    source: the data that these are the classes of.
    """
    from anprompt.report import console
    from anprompt.settings import known_bank

    method, texts = estimator.method_, estimator.texts
    if texts is None or not set(classes).issubset(method.class_names) or estimator.is_elsewhere(source):
        return
    if source is None or list(classes) != method.class_names:  # those of the data as they are keep their sentences
        banks = [known_bank(method, given, classes, source) for given in (texts, None)]
        own, other = ([bank.of(name, method.template) for name in classes] for bank in banks)
        if own != other:
            return
    console.note(f"--texts was not needed: the adapter knows all {len(classes)} classes.")
