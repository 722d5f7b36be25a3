"""How far answers depend on the wording, on a sample that is small enough for a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anprompt.analysis.robustness import Noise, Subject, encode, has_class_weights, measure, noise_sentences
from anprompt.data import BadImage
from anprompt.data.draw import spread
from anprompt.errors import UserError
from anprompt.report.page.answers import Answers, without_tuning
from anprompt.report.page.given import Missing
from anprompt.settings import Progress
from anprompt.text import DescriptionBank
from anprompt.text.noise import Material, find_synonyms

WORDINGS = 2  # draws of each noise
PHOTOS, EACH = 480, 10  # most photos in all (but one of each class), and of a class
HURTING = 5  # sentences shown


def robustness(
    answers: Answers, bank: DescriptionBank, noises: Sequence[Noise], seed: int, progress: Progress
) -> dict[str, Any]:
    """Rows as ``anprompt robustness`` gives them, of zero-shot and the adapter, and what they were measured on.

    noises: of text or features. Raises :class:`Missing` for an adapter that keeps vectors instead of sentences.
    """
    method, source = answers.method, answers.source
    if method.baked is not None:
        raise Missing("the adapter is baked: it keeps class vectors instead of sentences, so no wording matters.")
    classes = list(source.classes)
    subjects = [(method.name, method)]
    if method.name != "zero-shot":
        subjects.insert(0, ("zero-shot", without_tuning(method)))
    items = spread(answers.items, max(1, min(EACH, PHOTOS // len(classes))))
    bad: list[BadImage] = []
    read, features = encode(
        [each for _, each in subjects], source, items, bad=bad, stop=False,
        report=lambda done: progress("photos for the wording", done, len(items), {}),
    )  # fmt: skip
    found = find_synonyms(None)
    material = Material(found, noise_sentences(bank, classes, method.template))
    labels = [item.label for item in read]
    tested = [Subject(name, each, own) for (name, each), own in zip(subjects, features, strict=True)]
    pairs = [(noise, subject) for noise in noises for subject in tested]
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for done, (noise, subject) in enumerate(pairs, start=1):
        try:
            if noise.level == "feature" and not has_class_weights(subject.method):
                raise UserError("its logits come from no class weights.")
            rows.append(measure(subject, labels, noise, material, wordings=WORDINGS, seed=seed))
        except UserError as error:
            left_out.append(f"{subject.name} is left out of noise '{noise.name}': {error}")
        progress("wording", done, len(pairs), {})
    if not rows:
        raise Missing(" ".join(left_out))
    return {**summary(rows), "images": len(read), "wordings": WORDINGS, "left_out": left_out, "synonyms": found.source}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of ``measure``, and of these the sentences that hurt most."""
    hurting = [
        {**entry, "method": row["method"], "noise": row["noise"]}
        for row in rows for entry in row["per_class"] if entry["harm"] > 0
    ]  # fmt: skip
    return {"rows": list(rows), "hurting": sorted(hurting, key=lambda entry: -entry["harm"])[:HURTING]}
