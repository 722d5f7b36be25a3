"""Commands that learn: fit, demo. Heavy imports happen inside, so that ``--help`` stays fast."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal, Optional

from anprompt.errors import UserError

Options = Optional[dict[str, Any]]  # noqa: UP045 - jsonargparse resolves it at run time


def fit(
    data: str,
    out: str = "adapter",
    backbone: str = "miniature",
    method: str = "anprompt",
    preset: str | None = None,
    shots: int = 16,
    seed: int = 1,
    subset: Literal["all", "base", "new"] = "all",
    texts: str | None = None,
    template: str | None = None,
    options: Options = None,
    recipe: Options = None,
    data_root: str | None = None,
    bad_images: Literal["stop", "skip"] = "stop",
    storage: Literal["fp16", "fp32"] = "fp16",
    device: str = "auto",
    bake: bool = False,
    resume: bool = False,
    json: bool = False,
) -> int:
    """Learn classes from a few photos each and write an adapter.

    Args:
        data: folder with one sub-folder per class, CSV/JSONL file, CoOp-layout folder, toyworld[:domain], or benchmark.
        out: folder for the adapter, the log and the resolved configuration.
        backbone: 'miniature', a hub id such as openai/clip-vit-base-patch16, a folder, or an OpenAI .pt file.
        method: one of those that 'anprompt methods' lists.
        preset: named settings of the method; default: its first.
        shots: photos drawn per class.
        seed: decides the draw, initial values and augmentation.
        subset: all classes, the base half or the new half.
        texts: file or folder with descriptions of the classes.
        template: sentence with {} for the class name.
        options: options of the method, e.g. --options.alpha 0.01.
        recipe: entries of the training recipe, e.g. --recipe.epochs 20.
        data_root: folder that holds the benchmark data sets.
        bad_images: what to do with unreadable photos.
        storage: number format of the learned tensors in the adapter.
        device: auto, cpu, cuda or mps.
        bake: save the smallest form, for prediction only.
        resume: continue an interrupted run in the same folder.
        json: print one JSON document.
    """
    from anprompt.classifier import PromptClassifier
    from anprompt.files import check_writable
    from anprompt.report import console
    from anprompt.results import write_record

    folder = Path(out)
    check_writable(folder)
    if (folder / "adapter.json").exists() and not resume:
        raise UserError(f"'{folder}' already holds an adapter: give another --out, or remove it first.")
    estimator = PromptClassifier(
        backbone, method, preset=preset, shots=shots, subset=subset, texts=texts, template=template, options=options,
        recipe=recipe, bad_images=bad_images, storage=storage, device=device, random_state=seed,
    )  # fmt: skip
    from anprompt.inputs import as_source

    with console.progress_bars() as progress:
        estimator.fit(
            as_source(data, data_root=data_root), folder=folder / "training", resume=resume, progress=progress
        )
    if bake:
        estimator.bake()
    estimator.save(folder)
    record = {**estimator.record_, "adapter_bytes": (folder / "adapter.safetensors").stat().st_size}
    write_record(folder / "record.json", record)
    if json:
        console.print_json(record)
    else:
        kib = record["adapter_bytes"] / 1024
        seconds = sum(record["timings"].values())
        console.out.print(
            f"{method}: {len(estimator.classes_)} classes, {record['data']['images']} photos, {seconds:.0f} s"
        )
        console.out.print(f"Adapter ({kib:,.0f} KiB): {folder}", soft_wrap=True)
        console.out.print(f"Next:  anprompt evaluate {shlex.quote(out)} {shlex.quote(data)}", soft_wrap=True)
        console.out.print(f"       anprompt predict {shlex.quote(out)} PHOTO…", soft_wrap=True)
    return 0


def demo(out: str = "anprompt-demo", seeds: int = 1, data: str = "toyworld:night", json: bool = False) -> int:
    """Zero-shot and ANPrompt on a packaged toy world: nothing to download, about a minute.

    Args:
        out: folder for the adapter, the contact sheet and the record.
        seeds: number of runs, seeds 1, 2, …; the table shows their mean.
        data: toyworld[:domain].
        json: print one JSON document.
    """
    from anprompt.demo import run_demo
    from anprompt.report import console

    if seeds < 1:
        raise UserError(f"--seeds must be at least 1 (got {seeds}).")
    with console.progress_bars() as progress:
        record = run_demo(Path(out), range(1, seeds + 1), data, progress)
    if json:
        console.print_json(record)
        return 0
    zero, mean = record["zero_shot"], record["mean"]
    rows = [("zero-shot", *(f"{zero[key]:.1f}" for key in ("base", "new", "hm")), "–")]
    rows += [
        (
            f"ANPrompt, seed {run['seed']}",
            *(f"{run[key]:.1f}" for key in ("base", "new", "hm")),
            f"{run['seconds']:.0f} s",
        )
        for run in record["runs"]
    ]
    if seeds > 1:
        means = (f"{mean[key]:.1f}" for key in ("base", "new", "hm"))
        rows.append(("ANPrompt, mean", *means, f"{mean['seconds']:.0f} s"))
    columns = ("", "base %", "new %", "HM", "training")
    console.table(f"{data}: 16 pictures for each base class; new classes were never shown", columns, rows, columns[1:])
    console.out.print(f"Adapter file: {record['adapter_bytes'] / 1024:,.0f} KiB.  All in {record['seconds']:.0f} s.")
    for what, path in record["written"].items():
        console.out.print(f"{what + ':':14} {path}", soft_wrap=True)
    console.out.print("Now with your own photos, one folder per class, and a real CLIP:")
    console.out.print("  anprompt fit PHOTOS --backbone openai/clip-vit-base-patch16 --out my-adapter", soft_wrap=True)
    return 0
