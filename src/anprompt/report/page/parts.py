"""The parts of the page: each gives what its template shows, or says in one sentence why it is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from anprompt.analysis.calibration import calibration
from anprompt.analysis.robustness import parse_noises
from anprompt.data import DataSource
from anprompt.data.draw import spread
from anprompt.errors import UserError
from anprompt.report.page import charts
from anprompt.report.page.answers import (
    Answers,
    class_rows,
    confused_pairs,
    headline,
    shown_path,
    worst_mistakes,
)
from anprompt.report.page.given import Given, Missing, losses
from anprompt.report.page.pictures import LARGE, THUMB, data_uri, overlay
from anprompt.report.page.wording import robustness, summary
from anprompt.settings import Progress, bank_for

MATRIX = 40  # classes: with more, confusion is a list only
THUMBS, MOST_THUMBS = 3, 120  # of a class, and in all: with more classes fewer each, then not of all classes
PAIRS, MISTAKES = 20, 12
SHADES = 5  # of the confusion matrix
HOW = "HiResCAM on the tokens that the last vision block attends to"
QUICK = "left out by --quick."

Made = dict[str, Any]


@dataclass
class Page:
    """All that parts are made from.

    source: the data as opened, all classes. answers: ``None`` if there were none to be had, with the reason in
    ``unanswered``. split, subset: what is evaluated. doubt: why the accuracy is too high, a sentence or nothing.
    failed: parts that could not be made by a fault of ours.
    """

    given: Given
    source: DataSource | None
    answers: Answers | None
    unanswered: str
    split: str
    subset: str
    noises: str
    texts: str | None
    quick: bool
    progress: Progress
    doubt: str = ""
    failed: list[str] = field(default_factory=list)

    def need_answers(self) -> Answers:
        if self.answers is None:
            raise Missing(self.unanswered)
        return self.answers

    @property
    def recorded(self) -> Made:
        """The record of a run, if that was given, else nothing."""
        return self.given.record or {}

    @property
    def seed(self) -> int:
        return int((self.given.document or {}).get("seed", 1))


def results(page: Page) -> Made:
    """All evaluations of a benchmark."""
    if not page.given.results:
        raise Missing("")
    rows = sorted(page.given.results, key=lambda r: (r.protocol, r.target, r.target_subset, r.method, r.seed or 0))
    return {"rows": rows, "folder": str(page.given.path)}


def data(page: Page) -> Made:
    """Numbers of classes and photos, and thumbnails."""
    source, answers, recorded = page.source, page.answers, page.recorded.get("data", {})
    trained = (page.given.document or {}).get("data") or (recorded if page.recorded.get("kind") == "fit" else {})
    if source is None and not recorded and not trained:
        raise Missing(page.unanswered)
    made: Made = {
        "name": source.name if source else recorded.get("name") or trained.get("name"),
        "splits": {name: len(items) for name, items in source.splits.items()} if source else {},
        "classes": len(source.classes) if source else len(page.recorded.get("per_class", {})) or None,
        "trained": trained, "trained_on": trained.get("name"),
        "tested": answers.result["data"] if answers else recorded, "images": len(answers.items) if answers else None,
        "no_thumbs": "" if source else page.unanswered, "thumbs": [],
    }  # fmt: skip
    made["held_out"] = page.split == "test" and made["tested"].get("own_split", False)
    if source is not None:
        made |= {"thumbs": list(_thumbs(page, source)), "of": len(source.subset(page.subset).classes)}
    return made


def _thumbs(page: Page, source: DataSource) -> Iterator[Made]:
    """A few of the photos of every class, or of some of many."""
    chosen = page.answers.source if page.answers else source.subset(page.subset)
    items = page.answers.items if page.answers else chosen.items(page.split)
    count = len(chosen.classes)
    each = max(1, min(THUMBS, MOST_THUMBS // count))
    kept = spread(items, each)
    for label in (i * count // min(count, MOST_THUMBS) for i in range(min(count, MOST_THUMBS))):
        own = []
        for item in (item for item in kept if item.label == label):
            try:
                own.append({**data_uri(chosen.open(item), THUMB), "path": chosen.relative(item)})
            except UserError:  # an unreadable photo: counted elsewhere
                continue
        if own:
            yield {"name": chosen.classes[label], "pictures": own}


def classes(page: Page) -> Made:
    """Accuracy of each class."""
    if page.answers is not None:
        return {"rows": class_rows(page.answers), "full": True, "beside": page.answers.untuned is not None}
    recorded = page.recorded.get("per_class")
    if not isinstance(recorded, dict):
        raise Missing(page.unanswered)
    rows = [{"name": name, "images": row["images"], "right": row["accuracy"]} for name, row in recorded.items()]
    return {"rows": sorted(rows, key=lambda row: (row["right"], row["name"])), "full": False, "beside": False}


def confusion(page: Page) -> Made:
    """Which classes are taken for which."""
    answers = page.need_answers()
    matrix: list[Made] = []
    if len(answers.names) <= MATRIX:
        for i, name in enumerate(answers.names):
            counts = answers.confusion[i].tolist()
            total = max(1, sum(counts))
            matrix.append({"name": name, "cells": [(n, -(-SHADES * n // total)) for n in counts]})
    wrong = int((~answers.right).sum())
    return {"pairs": confused_pairs(answers, PAIRS), "matrix": matrix, "names": answers.names, "wrong": wrong,
            "most": MATRIX}  # fmt: skip


def calibrated(page: Page) -> Made:
    """Whether probabilities can be trusted."""
    answers = page.need_answers()
    found = calibration(answers.right, answers.confidence)
    return {"found": found, "curve": charts.reliability(found), "counts": charts.confidence_counts(found),
            "few": charts.FEW}  # fmt: skip


def mistakes(page: Page) -> Made:
    """The wrong answers that were given with the highest probability, and what in the photo speaks for them."""
    answers = page.need_answers()
    rows = worst_mistakes(answers, MISTAKES)
    cards: list[Made] = []
    crops = []
    for row in rows:
        item, guess = answers.items[row], int(answers.guesses[row])
        image = answers.source.open(item)
        crops.append(answers.method.backbone.transform.pixels_uint8(image))  # (3, H, W)
        cards.append({
            "photo": data_uri(image, LARGE), "path": shown_path(answers, item), "label": answers.names[item.label],
            "prediction": answers.names[guess], "sure": 100 * float(answers.confidence[row]),
            "true": 100 * float(answers.probabilities[row, item.label]), "map": None,
        })  # fmt: skip
    made: Made = {"cards": cards, "no_maps": QUICK if page.quick else "", "how": ""}
    if cards and not page.quick:
        try:
            made["how"] = _add_maps(page, answers, rows, torch.stack(crops), cards)
        except (Missing, UserError) as error:
            made["no_maps"] = str(error)
    return made


def _add_maps(page: Page, answers: Answers, rows: list[int], crops: torch.Tensor, cards: list[Made]) -> str:
    """Put a map on every card. crops: uint8 ``(B, 3, H, W)``, what the model sees. Returns how maps were made."""
    from anprompt.analysis.explain import maps_for

    pixels = answers.method.backbone.transform.normalise(crops)
    predicted, true = torch.from_numpy(answers.guesses[rows]), torch.from_numpy(answers.labels[rows])
    for i, card in enumerate(cards):  # one by one: a dozen large photos at once may not fit into memory
        chosen = slice(i, i + 1)
        found = maps_for(answers.method, pixels[chosen], predicted[chosen], true[chosen])[0].numpy()  # (h, w)
        card["map"] = data_uri(overlay(crops[i].permute(1, 2, 0).numpy(), found), LARGE)
        page.progress("relevance maps", i + 1, len(cards), {})
    return HOW


def wording(page: Page) -> Made:
    """How far answers depend on the wording."""
    record = page.recorded
    if page.answers is None and record.get("kind") == "robustness":
        config = record["config"]
        found = {**summary(record["rows"]), "images": record["data"]["images"], "wordings": config["wordings"],
                 "left_out": [], "synonyms": config["synonyms"]}  # fmt: skip
    else:
        answers = page.need_answers()
        if page.quick:
            raise Missing(QUICK)
        bank = bank_for(page.texts, answers.source)
        found = robustness(answers, bank, parse_noises(page.noises), page.seed, page.progress)
    return {**found, "chart": charts.kept_answers(found["rows"])}


def learning(page: Page) -> Made:
    """Loss terms over epochs."""
    rows = losses(page.given)
    names = [name for name in rows[0] if name != "lr"]
    curves = [
        {"name": name.replace("_", " "), "svg": charts.learning_curve(name, [row[name] for row in rows], i % 2)}
        for i, name in enumerate(names)
    ]
    table = [{**row, "epoch": epoch} for epoch, row in enumerate(rows, start=1)]
    return {"curves": curves, "names": [*names, *(["lr"] if "lr" in rows[0] else [])], "rows": table}


def settings(page: Page) -> Made:
    """The resolved settings as YAML, and where the run was made."""
    import yaml

    given, about = page.given, page.given.document or {}
    if given.config is not None:
        config, of = given.config, "config.yaml beside the adapter"
    elif given.record is not None:
        config, of = given.record["config"], "the record"
    elif given.fit is not None and isinstance(given.fit.get("config"), dict):
        config, of = given.fit["config"], "the record of the training"
    elif about:
        keys = ("method", "preset", "options", "recipe", "seed", "template", "storage", "data")
        config, of = {key: about[key] for key in keys if key in about}, "the adapter"
    else:
        raise Missing("each evaluation has its own settings: make a page of its record.")
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    machine = (given.record or given.fit or {}).get("machine", {})
    return {"text": text, "of": of, "machine": {key: value for key, value in machine.items() if value is not None}}


PARTS: tuple[tuple[str, str, Callable[[Page], Made]], ...] = (
    ("results", "All evaluations", results),
    ("data", "Data", data),
    ("classes", "Accuracy of each class", classes),
    ("confusion", "What is taken for what", confusion),
    ("calibration", "Can the probabilities be trusted?", calibrated),
    ("mistakes", "Worst mistakes", mistakes),
    ("wording", "How far answers depend on the wording", wording),
    ("learning", "Learning curves", learning),
    ("settings", "Settings", settings),
)


def overview(page: Page) -> Made:
    """What stands on top: the main numbers and what was evaluated."""
    given, answers, about, record = page.given, page.answers, page.given.document or {}, page.recorded
    made: Made = {
        "method": about.get("method") or record.get("config", {}).get("method"),
        "data": page.source.name if page.source else given.data, "numbers": None, "ece": None, "measured": True,
        "decision": answers.result["decision"] if answers else about.get("decision") or record.get("decision"),
        "backbone": about.get("backbone") or record.get("backbone") or {}, "about": about, "record": record,
        "subset": page.subset, "split": page.split, "count": len(given.results), "doubt": page.doubt,
    }  # fmt: skip
    if answers is not None:
        made["numbers"] = {**headline(answers), "classes": len(answers.names)}
        made["ece"] = 100 * calibration(answers.right, answers.confidence).ece
    elif isinstance(record.get("accuracy"), float) and isinstance(record.get("per_class"), dict):
        made["measured"] = False
        made["numbers"] = {
            "accuracy": record["accuracy"], "class_mean": record.get("class_mean"), "top": None, "interval": None,
            "zero_shot": None, "images": record["images"], "classes": len(record["per_class"]),
        }  # fmt: skip
    return made
