"""The command that looks through data before training."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Optional

from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.clip import Backbone
    from anprompt.data import DataSource, Item
    from anprompt.data.duplicates import Print
    from anprompt.data.survey import Survey
    from anprompt.errors import Finding
    from anprompt.text import DescriptionBank

Photos = Literal["all", "sample", "none"]
MANY = 100_000  # photos; of more, a sample is read
SAMPLE = 8  # photos per class and split


def check(
    data: str,
    shots: int = 16,
    texts: str | None = None,
    backbone: str | None = None,
    template: str | None = None,
    data_root: str | None = None,
    photos: Optional[Photos] = None,  # noqa: UP045 - for jsonargparse
    json: bool = False,
) -> int:
    """Look through data before training: classes, counts, unreadable photos, texts. Exit code 2 if something is wrong.

    Also warns of what stops no run but costs accuracy or makes it look better than it is: names that are alike or no
    words, photos that occur in several classes or splits. For the name of a published data set: what of it is there,
    what is missing, and how to obtain it.

    Args:
        data: as for fit.
        shots: photos that a run would draw per class.
        texts: file with descriptions, or folder of such files, to see which classes they cover.
        backbone: also check that all names and sentences fit its context, and that it can tell the names apart.
        template: sentence with {} for the class name.
        data_root: folder that holds the benchmark data sets.
        photos: read all photos, a sample of 8 per class and split, or none; default: all of up to 100,000.
        json: print one JSON document.

    Examples:
        anprompt check photos
        anprompt check photos --texts descriptions.json --backbone openai/clip-vit-base-patch16
        anprompt check eurosat --data-root /data
    """
    from anprompt.analysis.lint import lint_class_texts
    from anprompt.clip import load_backbone
    from anprompt.data.duplicates import lint_pictures
    from anprompt.data.open import named_benchmark
    from anprompt.data.survey import survey
    from anprompt.files import expanded
    from anprompt.inputs import as_source
    from anprompt.report import console
    from anprompt.settings import bank_for
    from anprompt.text import check_template
    from anprompt.text.lint import lint_names

    benchmark = named_benchmark(data)
    if data_root is None and os.path.exists(data):
        benchmark = None  # a folder that happens to be called so
    published = None
    source: DataSource | None = None
    if benchmark is not None:
        published = survey(benchmark, None if data_root is None else expanded(data_root))
        source = published.source
        if source is None:
            if json:
                console.print_json({"published": published.to_json()})
            else:
                _say_unusable(published)
            return 2
    source = source or as_source(data, data_root=data_root)
    wording = check_template(template or source.template)
    bank = bank_for(texts, source)
    model = None if backbone is None else load_backbone(backbone)
    total = sum(map(len, source.splits.values()))
    chosen = photos or ("all" if total <= MANY else "sample")
    unreadable: list[str] = []
    lost: list[str] = []  # classes of which no photo of a split can be read
    seen: list[tuple[str, Item, Print]] = []
    with console.progress_bars() as progress:
        for split, items in _to_read(source, chosen).items():

            def checked(done: int, total: int, split: str = split) -> None:
                progress(f"reading {split}", done, total, {})

            bad, good = _read(source, items, checked)
            unreadable += bad
            readable = {item.label for item, _ in good}
            gone = sorted({item.name for item in items if item.label not in readable})
            lost += [f"'{name}' in {split}" for name in gone]
            seen += [(split, *read) for read in good]
    findings = [*lint_names(source.classes), *lint_pictures(source, seen), *_untested(source)]
    findings += _unmatched(texts, source)
    too_long = None if model is None else _too_long(model, wording, source.classes, bank)
    if model is not None and too_long is None:
        findings += lint_class_texts(model, wording, source.classes)
    document = _document(source, shots, wording, bank)
    document |= {
        "photos_read": chosen,
        "unreadable": unreadable,
        "without_readable_photo": lost,
        "too_long": too_long,
        "warnings": [finding.to_json() for finding in findings],
        "published": None if published is None else published.to_json(),
    }
    wrong = bool(unreadable) or too_long is not None
    if json:
        console.print_json(document)
        return 2 if wrong else 0
    if published is not None:
        _say_published(published)
    _say_counts(source, document, bank, shots)
    _say_wrong(document)
    _say_end(wrong, findings, chosen)
    return 2 if wrong else 0


def _document(source: DataSource, shots: int, wording: str, bank: DescriptionBank) -> dict[str, Any]:
    """Classes and counts."""
    from anprompt.data import short_classes
    from anprompt.data.names import distinct_names

    counts = {split: [0] * len(source.classes) for split in _splits(source)}
    for split, items in source.splits.items():
        for item in items:
            counts[split][item.label] += 1
    return {
        "data": source.name,
        "benchmark": source.benchmark,
        "own_split": source.own_split,
        "template": wording,
        "classes": {
            shown: {
                **{split: counts[split][label] for split in counts},
                "main": len(bank.main.get(name, ())),
                "noise": len(bank.noise.get(name, ())),
            }
            for label, (name, shown) in enumerate(zip(source.classes, distinct_names(source.classes), strict=True))
        },
        "fewer_than_shots": short_classes(source.splits.get("train", []), shots),
    }


def _splits(source: DataSource) -> list[str]:
    """In the usual order, whatever the order of the files was."""
    return sorted(source.splits, key=["train", "val", "test"].index)


def _say_counts(source: DataSource, document: dict[str, Any], bank: DescriptionBank, shots: int) -> None:
    from anprompt.commands.lists import counted
    from anprompt.report import console
    from anprompt.settings import listed

    described = bool(bank.main or bank.noise)
    columns = ["class", *_splits(source), *(("main texts", "noise texts") if described else ())]
    rows = [(name, *row.values())[: len(columns)] for name, row in document["classes"].items()]
    photos = sum(map(len, source.splits.values()))
    title = f"{source.name}: {len(source.classes)} classes, {counted(photos, 'photo')}"
    console.table(title, columns, rows, columns[1:])
    if source.own_split and source.benchmark is None:
        console.say("No test split was given: a fixed 30 % of each class is held out, and results say so.")
    if short := document["fewer_than_shots"]:
        shown = listed([f"{name} ({count})" for name, count in short.items()])
        console.say(f"{len(short)} of {len(source.classes)} classes have fewer than {shots} training photos and would "
                    f"give all: {shown}")  # fmt: skip
    if described and (missing := [name for name in source.classes if name not in bank.main]):
        console.say(f"{len(missing)} of {len(source.classes)} classes have no descriptions and would use the template: "
                    f"{listed(missing)}; 'anprompt describe' makes some")  # fmt: skip


def _say_wrong(document: dict[str, Any]) -> None:
    from anprompt.report import console
    from anprompt.settings import listed

    for problem in document["unreadable"]:
        console.say(f"unreadable: {problem}")
    if lost := document["without_readable_photo"]:
        console.say(f"No photo can be read of {listed(lost)}: this stops a run even with --bad-images skip.")
    if document["too_long"] is not None:
        console.say(document["too_long"])
    if count := len(document["unreadable"]):
        many = "1 photo" if count == 1 else f"{count} photos"
        console.say(f"{many} cannot be used: mend or remove, or run with --bad-images skip.")


def _say_end(wrong: bool, findings: list[Finding], chosen: Photos) -> None:
    """The warnings, and whether a run can start."""
    from anprompt.report import console

    for finding in findings:
        console.say(f"warning: {finding.line()}")
    if wrong:
        return
    looked = {"all": "", "sample": f": a sample of {SAMPLE} photos per class and split was read",
              "none": ": no photo was read"}[chosen]  # fmt: skip
    more = f"{looked} (--photos all reads every one)" if looked else ""
    if findings:
        count = "1 warning" if len(findings) == 1 else f"{len(findings)} warnings"
        console.say(f"Nothing stops a run{' as far as looked' if looked else ''}, but see the {count} above{more}.")
    else:
        console.say(f"Nothing is wrong{' as far as looked' if looked else ''}{more}.")


def _say_published(found: Survey) -> None:
    """What there is of a published data set, against what was published."""
    from anprompt.report import console

    console.say(f"{found.benchmark.title} ({found.benchmark.name}) in {found.folder}; split: {found.split}\n")
    _say_split_counts(found)
    for sentence in found.source.differs if found.source else ():
        console.say(f"Results do not compare with published ones: {sentence}.")
    if found.source is not None and found.source.differs:
        console.say()


def _say_unusable(found: Survey) -> None:
    """Why a published data set cannot be used, what is missing of it, and how to obtain it."""
    from anprompt.data.survey import layout
    from anprompt.report import console

    benchmark = found.benchmark
    console.say(f"{benchmark.title} ({benchmark.name}) cannot be used.\n\n{found.problem}\n")
    if found.missing is not None:
        _say_split_counts(found)
        rows = [
            (name, entry["count"], ", ".join(entry["first"]) + (", …" if entry["count"] > len(entry["first"]) else ""))
            for name, entry in found.missing_by_class().items()
        ]
        console.table("Missing, by class", ("class", "photos", "first"), rows, ("photos",))
    console.say(f"Photos: {benchmark.obtain}.")
    if benchmark.split_file.startswith("split_zhou"):
        console.say(f"Split: {benchmark.split_file} is linked in DATASETS.md of the repository KaiyangZhou/CoOp; "
                    "without it the photos are split by anprompt, and results say so.")  # fmt: skip
    elif benchmark.class_folders:
        console.say("Class names: classnames.txt is linked in DATASETS.md of the repository KaiyangZhou/CoOp.")
    console.say("Expected in the folder that --data-root names (other layouts of the same files work too):\n")
    for line in layout(benchmark):
        console.say(f"    {line}")


def _say_split_counts(found: Survey) -> None:
    from anprompt.report import console

    rows = [
        (split, *("–" if row[key] is None else f"{row[key]:,}" for key in ("there", "listed", "published")))
        for split, row in found.counts().items()
    ]
    columns = ("split", "photos", "listed", "published")
    console.table("", columns, rows, columns[1:])


def _untested(source: DataSource) -> list[Finding]:
    """A warning about classes that no accuracy will tell of."""
    from anprompt.errors import Finding

    tested = {item.label for item in source.splits.get("test", ())}
    names = [name for label, name in enumerate(source.classes) if label not in tested]
    if not names:
        return []
    what = "class has no test photo" if len(names) == 1 else "classes have no test photo"
    why, do = "Accuracy says nothing about them", "add some, or more photos from which some are held out"
    return [Finding("untested", f"{len(names)} {what}", why, do, [f"'{name}'" for name in names], names)]


def _unmatched(texts: str | None, source: DataSource) -> list[Finding]:
    """A warning about sentences that nothing will read; of a folder only what matches is looked at."""
    from anprompt.errors import Finding
    from anprompt.text import check_bank, load_bank
    from anprompt.text.bank_files import named_as

    if texts is None or os.path.isdir(texts):
        return []
    unknown = check_bank(named_as(load_bank(texts), source.classes), source.classes).unknown
    if not unknown:
        return []
    what = "key of the texts is no class" if len(unknown) == 1 else "keys of the texts are no class"
    shown = [f"'{entry['key']}'" + (f" (near: {entry['nearest']})" if entry["nearest"] else "") for entry in unknown]
    why, do = "Their sentences are not used", "rename those that are meant"
    return [Finding("unmatched-text", f"{len(unknown)} {what}", why, do, shown, [entry["key"] for entry in unknown])]


def _to_read(source: DataSource, photos: Photos) -> dict[str, list[Item]]:
    """The photos to decode, by split: all, evenly spaced ones of every class, or none."""
    from anprompt.data.draw import spread

    if photos == "all":
        return source.splits
    if photos == "none":
        return {}
    return {split: spread(items, SAMPLE) for split, items in source.splits.items()}


def _read(
    source: DataSource, items: Sequence[Item], progress: Callable[[int, int], None]
) -> tuple[list[str], list[tuple[Item, Print]]]:
    """Messages of all unreadable photos among ``items``, and the fingerprints of the others."""
    from concurrent.futures import ThreadPoolExecutor

    from anprompt.data import BadImage
    from anprompt.data.duplicates import fingerprint

    def read(item: Item) -> Print | str:
        try:
            return fingerprint(source.open(item))
        except BadImage as error:
            return str(error)

    bad: list[str] = []
    good: list[tuple[Item, Print]] = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for done, (item, found) in enumerate(zip(items, pool.map(read, items), strict=True), start=1):
            if isinstance(found, str):
                bad.append(found)
            else:
                good.append((item, found))
            progress(done, len(items))
    return bad, good


def _too_long(backbone: Backbone, template: str, classes: Sequence[str], bank: DescriptionBank) -> str | None:
    """What the backbone's context is too short for, in words."""
    from anprompt.text import fill

    described = [s for part in (bank.main, bank.noise) for own in part.values() for s in own]
    try:
        backbone.tokenizer([*fill(template, classes), *described])
    except UserError as error:
        return str(error)
    return None
