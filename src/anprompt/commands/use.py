"""Commands that use a model: predict, evaluate, zeroshot."""

from __future__ import annotations

import csv as csv_format
import io
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

from anprompt.commands.lists import counted
from anprompt.commands.packaged import backbone_for
from anprompt.commands.tested import seen_by, split_to_use, trained_on
from anprompt.commands.texts import say_if_not_needed
from anprompt.errors import Problems, UserError, nearest

if TYPE_CHECKING:
    from anprompt.data import DataSource

CSV_HEADER = "path,rank,class,probability\n"
NEAR = 0.8  # likeness of two names from which one may be a slip of the other


def predict(
    adapter: str,
    inputs: list[str],
    classes: str | None = None,
    classes_file: str | None = None,
    top: int = 5,
    texts: str | None = None,
    csv: str | None = None,
    backbone: str | None = None,
    bad_images: Literal["stop", "skip"] = "stop",
    device: str = "auto",
    json: bool = False,
) -> int:
    """Classify photos: files, folders, or patterns. Prints the likeliest classes of each with their probabilities.

    Args:
        adapter: folder that 'anprompt fit' wrote.
        inputs: photos, folders of photos, or patterns such as 'pictures/*.jpg'.
        classes: other classes to choose from, separated by commas, instead of the adapter's own.
        classes_file: the same, one class per line.
        top: how many classes to show per photo.
        texts: file with descriptions of the other classes, or folder of such files.
        csv: also write all results to this CSV file.
        backbone: where the frozen model lies now, if it has moved.
        bad_images: what to do with unreadable photos.
        device: auto, cpu, cuda (cuda:N where there are several) or mps.
        json: print one JSON document.

    Examples:
        anprompt predict my-adapter photo.jpg
        anprompt predict my-adapter pictures 'more/*.png' --top 1 --csv answers.csv
        anprompt predict my-adapter photo.jpg --classes "red fox,grey wolf"
    """
    from anprompt.classifier import PromptClassifier
    from anprompt.data import BadImage, decode
    from anprompt.files import check_replaceable, write_text
    from anprompt.inference import refuse_bad, stream_logits
    from anprompt.inputs import as_pictures
    from anprompt.report import console

    if top < 1:
        raise UserError(f"--top must be at least 1 (got {top}).")
    names = class_list(classes, classes_file)
    if texts is not None and names is None:
        raise UserError("--texts describes other classes: name them with --classes or --classes-file.")
    if csv is not None:
        check_replaceable(Path(csv), "--csv", "a CSV file", "answers.csv", lambda text: text.startswith(CSV_HEADER))
    _check_order(adapter, inputs, "predict")
    entries = as_pictures(inputs)
    estimator = PromptClassifier.load(adapter, backbone, device=device, texts=texts, bad_images=bad_images)
    view = estimator if names is None else estimator.with_classes(names)
    say_if_not_needed(estimator, view.method_.class_names)
    labels = list(view.classes_)
    bad: list[BadImage] = []
    rows: list[dict[str, Any]] = []
    with console.progress_bars() as progress:
        for chunk, logits in stream_logits(view.method_, entries, decode, bad=bad, stop=bad_images == "stop"):
            best = logits.softmax(dim=1).topk(min(top, len(labels)), dim=1)
            for path, ids, values in zip(chunk, best.indices.tolist(), best.values.tolist(), strict=True):
                guesses = [{"class": str(labels[i]), "probability": p} for i, p in zip(ids, values, strict=True)]
                rows.append({"path": str(path), "predictions": guesses})
            progress("predicting", len(rows) + len(bad), len(entries), {})
    if bad_images == "stop" or not rows:
        refuse_bad(bad, len(entries))
    for error in bad:
        console.note(f"left out: {error}")
    if csv is not None:
        write_text(Path(csv), _as_csv(rows))
    if json:
        console.print_json({"adapter": adapter, "results": rows, "unreadable": [str(error) for error in bad]})
        return 0
    shown = [
        ("" if rank else row["path"], guess["class"], f"{100 * guess['probability']:.1f}")
        for row in rows
        for rank, guess in enumerate(row["predictions"])
    ]
    console.table("", ("photo", "class", "%"), shown, numeric=("%",))
    if csv is not None:
        console.say(f"{counted(len(rows), 'photo')}: {csv}")
    return 0


def _check_order(adapter: str, others: Sequence[str], command: str) -> None:
    """Refuse photos where the adapter belongs and an adapter where photos belong."""
    from anprompt.adapter import DOCUMENT

    swapped = [other for other in others if (Path(other) / DOCUMENT).is_file()]
    if swapped and Path(adapter).exists() and not (Path(adapter) / DOCUMENT).is_file():
        line = shlex.join(["anprompt", command, swapped[0], adapter])
        raise UserError(f"'{adapter}' is no adapter, but '{swapped[0]}' is one: the adapter comes first, as in {line}")


def class_list(classes: str | None, classes_file: str | None) -> list[str] | None:
    """The class names that were given, or ``None``; :class:`UserError` for too few, empty or repeated ones."""
    if classes is not None and classes_file is not None:
        raise UserError("Give --classes or --classes-file, not both.")
    if classes is not None:
        names = [name.strip() for name in classes.split(",")]
    elif classes_file is not None:
        try:
            lines = Path(classes_file).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"Cannot read the class list '{classes_file}': {error}.") from None
        names = [line.strip() for line in lines if line.strip()]
    else:
        return None
    where = "--classes" if classes_file is None else f"'{classes_file}'"
    if len(names) < 2:
        raise UserError(f"{where} must name at least 2 classes to choose from (got {len(names)}).")
    problems = Problems(f"The class names in {where} cannot be used:")
    for name, count in Counter(names).items():
        if not name:
            problems.add("one is empty")
        elif count > 1:
            problems.add(f"'{name}' is there {count} times")
    problems.raise_if_any()
    return names


def _as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv_format.writer(text, lineterminator="\n")
    text.write(CSV_HEADER)
    for row in rows:
        for rank, guess in enumerate(row["predictions"], start=1):
            writer.writerow([row["path"], rank, guess["class"], f"{guess['probability']:.6f}"])
    return text.getvalue()


def _print_evaluation(
    result: dict[str, Any], kind: str, json: bool, record: str | None, settings: dict[str, Any]
) -> int:
    from anprompt.report import console
    from anprompt.results import make_record, write_record

    kept = {
        key: result[key] for key in ("accuracy", "class_mean", "images", "per_class", "data", "decision", "seconds")
    }
    document = make_record(kind, settings, **kept)
    if record is not None:
        write_record(Path(record), document)
    if json:
        console.print_json(document)
        return 0
    per_class = result["per_class"]
    marked = not all(row.get("trained", True) for row in per_class.values())
    rows = [
        (name, row["images"], f"{row['accuracy']:.1f}", *(["trained" if row["trained"] else "new"] if marked else []))
        for name, row in per_class.items()
    ]
    columns = ("class", "photos", "right %", *(["to the adapter"] if marked else []))
    console.table("", columns, rows, numeric=("photos", "right %"))
    where = result["data"]
    own = ", held out by anprompt: no test split was given" if where["own_split"] and where["split"] == "test" else ""
    console.facts([
        ("accuracy", f"{result['accuracy']:.2f} %   (mean over classes {result['class_mean']:.2f} %)"),
        ("photos", f"{result['images']} of {where['name']}, split {where['split']}, subset {where['subset']}{own}"),
        ("chosen among", f"{len(result['classes'])} classes"),
        ("decided by", result["decision"]),
        *([("record", record)] if record is not None else []),
    ])  # fmt: skip
    return 0


def _prepared(data: str, data_root: str | None, split: str, record: str | None) -> DataSource:
    """Open the data and check what needs no model."""
    from anprompt.files import check_replaceable
    from anprompt.inputs import as_source
    from anprompt.results.record import RECORD_KEY

    if record is not None:
        check_replaceable(Path(record), "--record", "a record", "evaluation.json", lambda text: RECORD_KEY in text)
    source = as_source(data, data_root=data_root)
    source.items(split)
    return source


def _say_what_is_new(classes: Sequence[str], trained: Sequence[str], subset: str, among: str) -> None:
    """Notes about classes that the adapter was not trained on, and on those that could not be answered."""
    from anprompt.report import console
    from anprompt.settings import listed

    new = list(dict.fromkeys(name for name in classes if name not in trained))
    if subset == "new" and len(new) < len(classes):
        console.note(f"{len(classes) - len(new)} of the {len(classes)} classes of subset 'new', the second half of the "
                     "data's, were trained on: this is no accuracy on new classes.")  # fmt: skip
    if (subset, among) == ("all", "data") and not new and (left := len(set(trained) - set(classes))):
        console.note(f"the data have {len(classes)} classes, and only these were chosen among: {left} of the adapter's "
                     f"{len(set(trained))} are not among them. --among all chooses among these, too.")  # fmt: skip
    if new:
        near = {name: nearest(name, trained, NEAR) for name in new}
        named = [f"'{name}'" + (f" (near: '{near[name]}')" if near[name] else "") for name in new]
        many = "1 class is" if len(new) == 1 else f"{len(new)} classes are"
        console.note(f"{many} new to this adapter: {listed(named)}.")


def evaluate(
    adapter: str,
    data: str,
    split: str | None = None,
    subset: Literal["all", "base", "new"] = "all",
    among: Literal["data", "all"] = "data",
    texts: str | None = None,
    backbone: str | None = None,
    data_root: str | None = None,
    bad_images: Literal["stop", "skip"] = "stop",
    cache: str | None = None,
    cache_limit: float | None = None,
    device: str = "auto",
    record: str | None = None,
    json: bool = False,
) -> int:
    """Accuracy of an adapter on labelled photos.

    Args:
        adapter: folder that 'anprompt fit' wrote.
        data: as for fit.
        split: train, val, test or all; default: test, or all where the data have no splits and were not trained on.
        subset: photos of all classes, of the base half or of the new half.
        among: the classes to choose among: those of the photos (data), or those and the adapter's (all).
        texts: descriptions of classes that the adapter does not know.
        backbone: where the frozen model lies now, if it has moved.
        data_root: folder that holds the benchmark data sets.
        bad_images: what to do with unreadable photos.
        cache: folder where activations of the frozen lower blocks are kept, for adapters evaluated on the same photos.
        cache_limit: largest size of the cache in GiB; default: 10.
        device: auto, cpu, cuda (cuda:N where there are several) or mps.
        record: also write the result as a JSON record to this file.
        json: print one JSON document.

    Examples:
        anprompt evaluate my-adapter photos
        anprompt evaluate my-adapter photos --split val --record evaluation.json
    """
    from anprompt.classifier import PromptClassifier
    from anprompt.data.names import distinct_names
    from anprompt.report import console
    from anprompt.settings import cache_for

    opened = cache_for(cache, cache_limit)
    _check_order(adapter, [data], "evaluate")
    source = _prepared(data, data_root, split or "test", record)
    estimator = PromptClassifier.load(
        adapter, backbone, device=device, texts=texts, bad_images=bad_images, cache=opened
    )
    fitted = estimator.record_
    trained = estimator.method_.learned
    seen = seen_by(estimator.about_)
    split = split or split_to_use(source, seen)
    if sentence := trained_on(source, split, subset, seen):
        console.note(sentence)
    chosen = source.subset(subset)
    _say_what_is_new(chosen.classes, trained, subset, among)
    say_if_not_needed(estimator, chosen.classes, chosen)
    with console.progress_bars() as progress:
        result = estimator.evaluate(source, split=split, subset=subset, among=among, progress=progress)
    for shown, name in zip(distinct_names(result["classes"]), result["classes"], strict=True):
        if shown in result["per_class"]:
            result["per_class"][shown]["trained"] = name in trained
    settings = {"adapter": fitted["sha256"], "method": fitted["method"], "seed": fitted["seed"], "subset": subset,
                "among": among, "split": split, "data": result["data"]["sha256"]}  # fmt: skip
    return _print_evaluation(result, "evaluate", json, record, settings)


def zeroshot(
    data: str,
    backbone: str | None = None,
    text: Optional[Literal["template", "ensemble", "descriptions"]] = None,  # noqa: UP045 - for jsonargparse
    split: str | None = None,
    subset: Literal["all", "base", "new"] = "all",
    texts: str | None = None,
    template: str | None = None,
    data_root: str | None = None,
    bad_images: Literal["stop", "skip"] = "stop",
    device: str = "auto",
    record: str | None = None,
    json: bool = False,
) -> int:
    """Accuracy of the frozen model without any training: the first thing to look at.

    Args:
        data: as for fit.
        backbone: as for fit.
        text: class features from one template, from several, or from descriptions; default: --texts if given.
        split: train, val, test or all; default: test.
        subset: all classes, the base half or the new half.
        texts: file with descriptions of the classes (JSON, YAML, CSV or TXT), or folder of such files.
        template: sentence with {} for the class name.
        data_root: folder that holds the benchmark data sets.
        bad_images: what to do with unreadable photos.
        device: auto, cpu, cuda (cuda:N where there are several) or mps.
        record: also write the result as a JSON record to this file.
        json: print one JSON document.

    Examples:
        anprompt zeroshot photos --backbone openai/clip-vit-base-patch16
        anprompt zeroshot photos --texts descriptions.json
    """
    from anprompt.classifier import PromptClassifier
    from anprompt.report import console
    from anprompt.settings import bank_for

    source = _prepared(data, data_root, split or "test", record)
    if text is None:
        text = "template" if texts is None else "descriptions"
    elif texts is not None and text != "descriptions":
        raise UserError(f"--texts has no use with --text {text}: leave one of them out.")
    if text == "descriptions" and not bank_for(texts, source).main:
        raise UserError("--text descriptions needs --texts: the data bring no descriptions of their own.")
    split = split or split_to_use(source, None)  # the photos that an adapter of these data is tested on
    estimator = PromptClassifier(
        backbone_for(backbone, [data]), "zero-shot", subset=subset, texts=texts, template=template,
        options={"text": text}, bad_images=bad_images, device=device, shots=1,
    ).fit(source)  # fmt: skip
    with console.progress_bars() as progress:
        result = estimator.evaluate(source, split=split, subset=subset, progress=progress)
    return _print_evaluation(result, "zeroshot", json, record, estimator.record_["config"])
