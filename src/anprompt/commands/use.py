"""Commands that use a model: predict, evaluate, zeroshot."""

from __future__ import annotations

import csv as csv_format
import io
from pathlib import Path
from typing import Any, Literal

from anprompt.errors import UserError


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
    """Classify photos: files, folders, or patterns.

    Args:
        adapter: folder that 'anprompt fit' wrote.
        inputs: photos, folders of photos, or patterns such as 'pictures/*.jpg'.
        classes: other classes to choose from, separated by commas, instead of the adapter's own.
        classes_file: the same, one class per line.
        top: how many classes to show per photo.
        texts: file or folder with descriptions of other classes.
        csv: also write all results to this CSV file.
        backbone: where the frozen model lies now, if it has moved.
        bad_images: what to do with unreadable photos.
        device: auto, cpu, cuda or mps.
        json: print one JSON document.
    """
    from anprompt.classifier import PromptClassifier
    from anprompt.data import BadImage, decode
    from anprompt.files import write_text
    from anprompt.inference import refuse_bad, stream_logits
    from anprompt.inputs import as_pictures
    from anprompt.report import console

    if top < 1:
        raise UserError(f"--top must be at least 1 (got {top}).")
    entries = as_pictures(inputs)
    names = _class_list(classes, classes_file)
    estimator = PromptClassifier.load(adapter, backbone, device=device, texts=texts, bad_images=bad_images)
    view = estimator.with_classes(names) if names else estimator
    labels = list(view.classes_)
    bad: list[BadImage] = []
    rows: list[dict[str, Any]] = []
    with console.progress_bars() as progress:
        for chunk, logits in stream_logits(view.method_, entries, decode, bad=bad):
            best = logits.softmax(dim=1).topk(min(top, len(labels)), dim=1)
            for path, ids, values in zip(chunk, best.indices.tolist(), best.values.tolist(), strict=True):
                guesses = [{"class": str(labels[i]), "probability": p} for i, p in zip(ids, values, strict=True)]
                rows.append({"path": str(path), "predictions": guesses})
            progress("predicting", len(rows) + len(bad), len(entries), {})
    if bad_images == "stop":
        refuse_bad(bad, len(entries))
    for error in bad:
        console.err.print(f"left out: {error}", soft_wrap=True)
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
    return 0


def _class_list(classes: str | None, classes_file: str | None) -> list[str]:
    if classes is not None and classes_file is not None:
        raise UserError("Give --classes or --classes-file, not both.")
    if classes_file is not None:
        try:
            lines = Path(classes_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"Cannot read the class list '{classes_file}': {error}.") from error
        return [line.strip() for line in lines if line.strip()]
    return [name.strip() for name in classes.split(",")] if classes is not None else []


def _as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv_format.writer(text, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "probability"])
    for row in rows:
        for rank, guess in enumerate(row["predictions"], start=1):
            writer.writerow([row["path"], rank, guess["class"], f"{guess['probability']:.6f}"])
    return text.getvalue()


def _print_evaluation(
    result: dict[str, Any], heading: str, json: bool, record: str | None, settings: dict[str, Any]
) -> int:
    from anprompt.report import console
    from anprompt.results import make_record, write_record

    kept = {
        key: result[key] for key in ("accuracy", "class_mean", "images", "per_class", "data", "decision", "seconds")
    }
    document = make_record(heading, settings, **kept)
    if record is not None:
        write_record(Path(record), document)
    if json:
        console.print_json(document)
        return 0
    rows = [(name, row["images"], f"{row['accuracy']:.1f}") for name, row in result["per_class"].items()]
    console.table("", ("class", "photos", "right %"), rows, numeric=("photos", "right %"))
    where = result["data"]
    label = " (own split: no published or given test split)" if where["own_split"] else ""
    console.out.print(
        f"accuracy {result['accuracy']:.2f} %  over {result['images']} {where['split']} photos of {where['name']}, "
        f"subset {where['subset']}{label}; decided by {result['decision']}",
        soft_wrap=True,
    )
    return 0


def evaluate(
    adapter: str,
    data: str,
    split: str = "test",
    subset: Literal["all", "base", "new"] = "all",
    texts: str | None = None,
    backbone: str | None = None,
    data_root: str | None = None,
    bad_images: Literal["stop", "skip"] = "stop",
    device: str = "auto",
    record: str | None = None,
    json: bool = False,
) -> int:
    """Accuracy of an adapter on labelled photos.

    Args:
        adapter: folder that 'anprompt fit' wrote.
        data: as for fit.
        split: train, val or test.
        subset: all classes, the base half or the new half.
        texts: descriptions of classes that the adapter does not know.
        backbone: where the frozen model lies now, if it has moved.
        data_root: folder that holds the benchmark data sets.
        bad_images: what to do with unreadable photos.
        device: auto, cpu, cuda or mps.
        record: also write the result as a JSON record to this file.
        json: print one JSON document.
    """
    from anprompt.classifier import PromptClassifier
    from anprompt.inputs import as_source
    from anprompt.report import console

    source = as_source(data, data_root=data_root)
    estimator = PromptClassifier.load(adapter, backbone, device=device, texts=texts, bad_images=bad_images)
    with console.progress_bars() as progress:
        result = estimator.evaluate(source, split=split, subset=subset, progress=progress)
    fitted = estimator.record_
    settings = {"adapter": fitted["sha256"], "method": fitted["method"], "seed": fitted["seed"], "subset": subset,
                "split": split, "data": result["data"]["sha256"]}  # fmt: skip
    return _print_evaluation(result, "evaluate", json, record, settings)


def zeroshot(
    data: str,
    backbone: str = "miniature",
    text: Literal["template", "ensemble", "descriptions"] = "template",
    split: str = "test",
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
        text: class features from one template, several templates, or the descriptions in --texts.
        split: train, val or test.
        subset: all classes, the base half or the new half.
        texts: file or folder with descriptions of the classes.
        template: sentence with {} for the class name.
        data_root: folder that holds the benchmark data sets.
        bad_images: what to do with unreadable photos.
        device: auto, cpu, cuda or mps.
        record: also write the result as a JSON record to this file.
        json: print one JSON document.
    """
    from anprompt.classifier import PromptClassifier
    from anprompt.inputs import as_source
    from anprompt.report import console

    if texts is not None and text == "template":
        text = "descriptions"
    source = as_source(data, data_root=data_root)
    estimator = PromptClassifier(
        backbone, "zero-shot", subset=subset, texts=texts, template=template, options={"text": text},
        bad_images=bad_images, device=device, shots=1,
    ).fit(source)  # fmt: skip
    with console.progress_bars() as progress:
        result = estimator.evaluate(source, split=split, subset=subset, progress=progress)
    return _print_evaluation(result, "zeroshot", json, record, estimator.record_["config"])
