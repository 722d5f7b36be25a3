"""The command that makes, merges, converts and checks description banks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt.errors import Problems, UserError

if TYPE_CHECKING:
    from anprompt.text import BankReport, DescriptionBank

SHOWN = 3  # examples of each finding
COUNT = 10  # main sentences per class from a server, and as many noise sentences


def describe(
    classes: str,
    out: str = "descriptions.json",
    texts: str | None = None,
    noise_texts: str | None = None,
    split_seed: int | None = None,
    wordnet: str | None = None,
    server: str | None = None,
    model: str | None = None,
    count: int | None = None,
    rate: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    estimate: bool = False,
    backbone: str | None = None,
    data_root: str | None = None,
    json: bool = False,
) -> int:
    """Make a bank of sentences that describe classes: from your files, a language model, or templates and WordNet.

    Classes that --texts describes keep these sentences; the others get new ones. The key of a server is read from the
    environment (ANPROMPT_API_KEY or OPENAI_API_KEY). What the server gave is kept at once: after an interruption the
    same command goes on.

    Args:
        classes: file with one class name per line, data as for fit, or names separated by commas.
        out: file to write; .json, .yaml, .csv or .txt decides the format.
        texts: files of sentences to start from, separated by commas; they are merged.
        noise_texts: file whose sentences become the noise sentences.
        split_seed: draw the noise sentences from the main ones, half of each class, with this seed.
        wordnet: folder with WordNet's files; default: where it is usually installed.
        server: address of an OpenAI-compatible server, such as http://localhost:8000/v1.
        model: name of the server's model.
        count: main sentences per class, and as many noise sentences, that the server is asked for; default: 10.
        rate: most requests per minute.
        price_in: price of a million tokens that are sent, for the cost estimate.
        price_out: price of a million tokens that come back.
        estimate: only print what asking the server would take.
        backbone: also check that all sentences fit its context.
        data_root: folder that holds the benchmark data sets.
        json: print one JSON document.

    Examples:
        anprompt describe classes.txt --out descriptions.json
        anprompt describe photos --server http://localhost:8000/v1 --model llama --rate 30
        anprompt describe "red fox,grey wolf" --texts mine.csv,more.yaml --split-seed 1 --out bank.json
    """
    from anprompt.files import check_file_writable
    from anprompt.report import console
    from anprompt.text import check_bank, deduplicate, load_bank, merge_banks, pair_banks, split_bank, write_bank
    from anprompt.text.bank_files import check_format, named_as, of_classes
    from anprompt.text.server import part_of

    _check_options(locals())
    target = Path(out)
    check_format(target)
    if target.exists():
        raise UserError(f"'{target}' exists already: give another --out, or remove it first.")
    check_file_writable(target)
    names = class_names(classes, data_root)
    bank = merge_banks(*(load_bank(file.strip()) for file in texts.split(","))) if texts is not None else None
    bank = named_as(bank, names) if bank is not None else None
    noise = load_bank(noise_texts) if noise_texts is not None else None
    counter = _counter(backbone)
    missing = [name for name in names if bank is None or not bank.main.get(name)]
    document: dict[str, Any] = {"classes": len(names)}
    if server is not None:
        count = COUNT if count is None else count
        document["estimate"] = plan = _plan(missing, target, str(model), count, price_in, price_out)
        if estimate:
            console.print_json(document) if json else console.say(_in_words(plan))
            return 0
        console.note(_in_words(plan))
        made, document["used"] = _ask(server, str(model), rate, missing, count, target, price_in, price_out)
    else:
        made = _offline(missing, wordnet)
    bank = made if bank is None else merge_banks(bank, made) if missing else bank
    if noise is not None:
        bank = pair_banks(bank, named_as(noise, names))
    if split_seed is not None:
        bank = split_bank(bank, split_seed)
    report = check_bank(bank, names, *counter)
    written = deduplicate(of_classes(bank, names))
    write_bank(target, written)
    part_of(target).unlink(missing_ok=True)
    document |= {"out": str(target), "source": bank.source, "check": report.to_json()}
    if json:
        console.print_json(document)
        return 0
    if "used" in document:
        console.say(_used_in_words(document["used"]))
    say_report(report)
    console.say(f"Written: {target}, from {bank.source}")
    return 0


def _check_options(given: dict[str, Any]) -> None:
    """What can be wrong before anything is read."""
    problems = Problems("These options cannot be used:")
    if given["server"] is None:
        for name in ("model", "count", "rate", "price_in", "price_out", "estimate"):
            if given[name] not in (None, False):
                problems.add(f"--{name.replace('_', '-')} goes with --server")
    elif not given["model"]:
        problems.add("--server needs --model, the name of one of its models")
    elif given["wordnet"] is not None:
        problems.add("--wordnet has no use with --server")
    if given["noise_texts"] is not None and given["split_seed"] is not None:
        problems.add("the noise sentences come from --noise-texts or by --split-seed, not both")
    if given["count"] is not None and not 1 <= given["count"] <= 100:
        problems.add(f"--count must be 1 to 100 (got {given['count']})")
    if given["rate"] is not None and not 0 < given["rate"] < float("inf"):
        problems.add(f"--rate must be a number of requests per minute above 0 (got {given['rate']:g})")
    for name in ("price_in", "price_out"):
        if given[name] is not None and not 0 <= given[name] < float("inf"):
            problems.add(f"--{name.replace('_', '-')} must be 0 or more (got {given[name]:g})")
    problems.raise_if_any()


def class_names(classes: str, data_root: str | None) -> list[str]:
    """The names in a list of classes, in a class file, or of data. :class:`UserError` if it is none of these."""
    from anprompt.data.assemble import canonical_name, check_class_names
    from anprompt.data.table import TABLE_SUFFIXES
    from anprompt.inputs import as_source

    path = Path(classes)
    is_list = os.path.isfile(classes) and path.suffix.lower() not in (*TABLE_SUFFIXES, ".json")
    if not is_list and (os.path.exists(classes) or "," not in classes):  # unlike pathlib's, also of a very long list
        try:
            return list(dict.fromkeys(as_source(classes, data_root=data_root).classes))
        except UserError as error:
            if path.suffix.lower() not in TABLE_SUFFIXES or not path.is_file():
                raise
            raise UserError(f"{error}\nA list of class names is a text file (.txt) with one name per line.") from None
    if is_list:
        try:
            written = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"Cannot read the class list '{classes}': {error}.") from None
        places = [(name, f"line {number}") for number, name in enumerate(written, start=1) if name.strip()]
    else:
        places = [(name, f"name {number}") for number, name in enumerate(classes.split(","), start=1)]
    problems = Problems(f"The class names in '{classes}' cannot be used:")
    check_class_names(places, problems)
    if not places:
        problems.add("there are none")
    problems.raise_if_any()
    return [canonical_name(name) for name, _ in places]


def _counter(backbone: str | None) -> tuple[Any, ...]:
    """What counts tokens, and how many the backbone reads; nothing without a backbone."""
    if backbone is None:
        return ()
    from anprompt.clip import load_backbone

    tokenizer = load_backbone(backbone).tokenizer
    return tokenizer.count, tokenizer.context


def _offline(names: list[str], wordnet: str | None) -> DescriptionBank:
    from anprompt.text.describe import offline_bank
    from anprompt.text.wordnet import find_wordnet

    return offline_bank(names, find_wordnet(wordnet))


def _plan(
    names: list[str], out: Path, model: str, count: int, price_in: float | None, price_out: float | None
) -> dict[str, Any]:
    """What is left to ask, and what that takes."""
    from dataclasses import asdict

    from anprompt.text.server import estimate, received

    kept = received(out, model, count)
    left = [name for name in names if name not in kept]
    return {**asdict(estimate(left, count, price_in, price_out)), "kept": len(names) - len(left)}


def _in_words(plan: dict[str, Any]) -> str:
    price = "" if plan["price"] is None else f", price about {plan['price']:.4g}"
    kept = f"; {plan['kept']} classes are there from before" if plan["kept"] else ""
    return (
        f"{plan['requests']} requests, about {plan['tokens_in']:,} tokens to send and {plan['tokens_out']:,} to "
        f"receive{price}{kept}"
    )


def _used_in_words(used: dict[str, Any]) -> str:
    price = "" if used["price"] is None else f", price {used['price']:.4g}"
    return (
        f"{used['requests']} answers; the server counted {used['tokens_in']:,} tokens sent and {used['tokens_out']:,} "
        f"received{price}\n"
    )


def _ask(
    url: str, model: str, rate: float | None, names: list[str], count: int, out: Path, price_in: float | None,
    price_out: float | None,
) -> tuple[DescriptionBank, dict[str, Any]]:  # fmt: skip
    from anprompt.report import console
    from anprompt.text.server import Server, check_address, describe, key_from_environment, price_of

    server = Server(check_address(url), model, key_from_environment(), rate)
    if server.unprotected:
        console.note(f"the key goes to {server.url} unencrypted")
    with console.progress_bars() as progress:
        bank, used = describe(server, names, count, out, lambda done, total: progress("asking", done, total, {}))
    return bank, {**used, "price": price_of(used["tokens_in"], used["tokens_out"], price_in, price_out)}


def say_report(report: BankReport) -> None:
    """Print what a check of a bank found."""
    from anprompt.report import console
    from anprompt.settings import listed

    counts = " and ".join(f"{number} {kind}" for kind, number in report.sentences.items())
    console.say(f"{report.classes} classes, {counts} sentences")
    findings: list[tuple[str, list[str]]] = [
        ("classes have no main sentence", report.without),
        ("sentences are too long for the backbone",
         [f"{e['class']}: {e['sentence']} ({e['tokens']} tokens)" for e in report.too_long]),
        ("sentences do not name their class", [f"{e['class']}: {e['sentence']}" for e in report.unnamed]),
        ("sentences belong to several classes",
         [f"{e['sentence']} ({', '.join(e['classes'])})" for e in report.shared]),
        ("sentences are there twice and kept once", [f"{e['class']}: {e['sentence']}" for e in report.repeated]),
        ("keys are no class and left out", [f"{e['key']}" + (f" (near: {e['nearest']})" if e["nearest"] else "")
                                            for e in report.unknown]),
    ]  # fmt: skip
    for what, entries in findings:
        if entries:
            console.say(f"  {len(entries)} {what}: {listed(entries, SHOWN)}")
    if not any(entries for _, entries in findings):
        console.say("  Nothing is wrong with them.")
