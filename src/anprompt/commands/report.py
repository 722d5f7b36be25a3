"""The command that makes one web page about an adapter or a run."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anprompt.commands.tested import seen_by, split_to_use, trained_on
from anprompt.commands.texts import say_if_not_needed
from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.data import DataSource
    from anprompt.report.page.given import Given

NOISES = "weak,drop,typo,paraphrase"


def report(
    run: str,
    data: str | None = None,
    out: str = "report.html",
    split: str | None = None,
    subset: Literal["all", "base", "new"] | None = None,
    noises: str = NOISES,
    quick: bool = False,
    texts: str | None = None,
    backbone: str | None = None,
    data_root: str | None = None,
    bad_images: Literal["stop", "skip"] = "stop",
    device: str = "auto",
    json: bool = False,
) -> int:
    """One web page about an adapter or a run: accuracy, confusion, calibration, worst mistakes, wording, settings.

    The page is a single file and needs no network. What cannot be made is left out, and the page says why.

    Args:
        run: an adapter, a results folder of 'anprompt bench', or the JSON record of a run.
        data: as for fit; default: the data that the run names.
        out: the page; -o is short for it.
        split: train, val, test or all; default: the run's own, else as for evaluate.
        subset: all classes, the base half or the new half; default: those of the run.
        noises: kinds of text noise, as for 'anprompt robustness'.
        quick: leave out zero-shot beside it, robustness to wording and relevance maps, which cost most.
        texts: file or folder with descriptions, for classes that the adapter does not know and for paraphrases.
        backbone: where the frozen model lies now, if it has moved.
        data_root: folder that holds the benchmark data sets.
        bad_images: what to do with unreadable photos.
        device: auto, cpu, cuda (cuda:N where there are several) or mps.
        json: print one JSON document.

    Examples:
        anprompt report my-adapter -o report.html
        anprompt report my-adapter photos --subset new
        anprompt report runs/records/base-to-new/anprompt/toyworld-night-base-16shots-seed1-0123abcd.json
    """
    asked = {name: value for name, value in locals().items() if value not in (None, False)}

    from anprompt.analysis.robustness import parse_noises
    from anprompt.classifier import PromptClassifier
    from anprompt.files import check_replaceable, write_text
    from anprompt.report import console
    from anprompt.report.page.answers import answer
    from anprompt.report.page.given import look_at
    from anprompt.report.page.parts import Page, overview
    from anprompt.report.page.render import make_parts, render
    from anprompt.report.page.rerun import commands
    from anprompt.settings import given_bank

    began = time.perf_counter()
    for noise in parse_noises(noises):
        if noise.level == "image":
            raise UserError(f"--noises takes noise of texts, and '{noise.name}' is one of pictures.")
    check_replaceable(Path(out), "--out", "a page", "report.html", _is_page)
    given = look_at(Path(run))
    source, reason = _source(given, data, data_root)
    if texts is not None:  # faults are told also where the page has no use for them
        given_bank(texts, () if source is None else source.classes, needed=False)
    seen = seen_by(given.document or {})
    chosen_split, chosen_subset = split or given.split, subset or given.subset
    if chosen_split is None:  # as evaluate, so that both give the same accuracy
        chosen_split = split_to_use(source, seen) if source is not None and given.adapter is not None else "test"
    if source is not None:
        source.items(chosen_split)  # refuses an unknown split
    with console.progress_bars() as progress:
        answers, doubt = None, ""
        if source is not None and given.adapter is not None:
            try:
                loaded = PromptClassifier.load(
                    given.adapter, backbone, device=device, texts=texts, bad_images=bad_images
                )
                answers = answer(loaded, source, chosen_split, chosen_subset, progress, beside=not quick)
                doubt = trained_on(source, chosen_split, chosen_subset, seen)
                if quick or loaded.method_.baked is not None:  # else they are noise for the wording
                    say_if_not_needed(loaded, source.subset(chosen_subset).classes, source.subset(chosen_subset))
            except UserError as error:
                if given.record is None:
                    raise
                reason = str(error)
        page = Page(given, source, answers, reason, chosen_split, chosen_subset, noises, texts, quick, progress, doubt)
        parts = make_parts(page)
    top = overview(page)
    write_text(Path(out), render(page, top, parts, commands(page, asked, _line(dict(asked)))))
    document: dict[str, Any] = {
        "page": out, "bytes": Path(out).stat().st_size, "numbers": top["numbers"], "ece": top["ece"],
        "missing": {part["id"]: part["missing"] for part in parts if part["missing"]},
        "seconds": time.perf_counter() - began,
    }  # fmt: skip
    if doubt:
        console.note(doubt)
    if json:
        console.print_json(document)
    else:
        reasons: dict[str, list[str]] = {}
        for part in parts:
            if part["missing"]:
                reasons.setdefault(part["missing"].rstrip("."), []).append(part["title"])
        if reasons:
            listed = "; ".join(f"{', '.join(titles)} ({reason})" for reason, titles in reasons.items())
            console.note(f"not in the page: {listed}")
        console.say(f"{out}: {document['bytes'] / 1024:,.0f} KiB, made in {document['seconds']:.0f} s")
    return 1 if page.failed else 0


def _is_page(text: str) -> bool:
    """Whether a file is one of these pages: each says how to make it again."""
    return text.startswith("<!DOCTYPE html>") and "anprompt report " in text


def _source(given: Given, data: str | None, data_root: str | None) -> tuple[DataSource | None, str]:
    """The data, or ``None`` and why nothing can be evaluated.

    Raises :class:`UserError` where the user named data that is not there, or an adapter whose data cannot be found:
    then there would be next to nothing to show.
    """
    from anprompt.inputs import as_source

    if given.results:
        return None, "this page is about many evaluations: make one of a single record or adapter for it."
    kept = data_root or (given.config or {}).get("data_root")
    name = data or given.data
    asked_for_adapter = given.adapter is not None and given.record is None
    try:
        source = None if name is None else as_source(name, data_root=kept)
    except UserError as error:
        if data is not None:
            raise
        if asked_for_adapter:
            raise UserError(
                f"The data of '{given.path}' are not found: {error}\nSay where they are now: anprompt report "
                f"{shlex.quote(str(given.path))} DATA"
            ) from None
        source = None
    if given.adapter is None:
        return source, "only the record of this run is there, and no adapter to answer anew."
    if source is None and asked_for_adapter:
        raise UserError(f"'{given.path}' does not say what its data are: anprompt report {given.path} DATA")
    if source is None:
        return None, f"the data '{name}' are not found here: give them after the record, or their --data-root."
    return source, ""


def _line(asked: dict[str, Any]) -> str:
    """The command line that makes this page again."""
    words = ["anprompt", "report", asked.pop("run"), *([asked.pop("data")] if "data" in asked else [])]
    usual = {"noises": NOISES, "bad_images": "stop", "device": "auto"}
    for name, value in asked.items():
        if name != "json" and value != usual.get(name):
            option = f"--{name.replace('_', '-')}"
            words += [option] if value is True else [option, str(value)]
    return shlex.join(words)
