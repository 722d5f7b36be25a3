"""Commands that learn: fit, demo. Heavy imports happen inside, so that ``--help`` stays fast."""

from __future__ import annotations

import shlex
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, Optional

from anprompt.commands.packaged import MINIATURE, backbone_for
from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.data import DataSource

Options = Optional[dict[str, Any]]  # noqa: UP045 - jsonargparse resolves it at run time

CONFIG, RECORD, TRAINING = "config.yaml", "record.json", "training"
# Options of "fit" that decide nothing about the adapter.
NOT_SETTINGS = ("cache", "cache_limit", "memory_gb", "resume", "json")
CONFIG_HEADING = """\
# Everything that decided this run, defaults and preset included. It is repeated by
#     anprompt fit --config THIS_FILE --out ELSEWHERE
# What stands under options and recipe wins over a preset: remove it to try another preset.
"""


def fit(
    data: str,
    out: str = "adapter",
    backbone: str | None = None,
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
    cache: str | None = None,
    cache_limit: float | None = None,
    memory_gb: float | None = None,
    device: str = "auto",
    bake: bool = False,
    resume: bool = False,
    json: bool = False,
) -> int:
    """Learn classes from a few photos each and write an adapter.

    Args:
        data: folder with one sub-folder per class, CSV/JSONL file, CoOp-layout folder, toyworld[:domain], or benchmark.
        out: folder for the adapter, the record, the log and the resolved configuration.
        backbone: a hub id such as openai/clip-vit-base-patch16, a folder, an OpenAI .pt file; default: 'miniature'.
        method: one of those that 'anprompt methods' lists.
        preset: named settings of the method; default: its first.
        shots: photos drawn per class.
        seed: decides the draw, initial values and augmentation.
        subset: all classes, the base half or the new half.
        texts: file with descriptions of the classes (JSON, YAML, CSV or TXT), or folder of such files.
        template: sentence with {} for the class name; default: the data's own, or 'a photo of a {}.'
        options: options of the method, e.g. --options.alpha 0.01; 'anprompt methods NAME' lists them.
        recipe: entries of the training recipe, e.g. --recipe.epochs 20; 'anprompt methods NAME' lists them.
        data_root: folder that holds the benchmark data sets.
        bad_images: what to do with unreadable photos.
        storage: number format of the learned tensors in the adapter.
        cache: folder where activations of the frozen lower blocks are kept for other runs that show the same batches.
        cache_limit: largest size of the cache in GiB; default: 10.
        memory_gb: GiB of memory that training may use in all; default: 80 % of what is free.
        device: auto, cpu, cuda (cuda:N where there are several) or mps.
        bake: save the smallest form, for prediction only.
        resume: continue an interrupted run in the same folder.
        json: print the run's record as one JSON document.

    Examples:
        anprompt fit photos --backbone openai/clip-vit-base-patch16 --out my-adapter
        anprompt fit photos --shots 4 --recipe.epochs 20 --out four-shots
        anprompt fit --config my-adapter/config.yaml --seed 2 --out again
    """
    given = {name: value for name, value in locals().items() if name not in NOT_SETTINGS}
    given["backbone"] = backbone or MINIATURE

    from anprompt.classifier import PromptClassifier
    from anprompt.commands.lists import counted
    from anprompt.files import check_writable, remove_parts, write_text
    from anprompt.inputs import as_source
    from anprompt.protocols.declare import learns
    from anprompt.report import console
    from anprompt.results import write_record
    from anprompt.settings import cache_for
    from anprompt.text.lint import lint_names
    from anprompt.training import check_limit
    from anprompt.training.checkpoint import FILE

    folder = Path(out)
    _resolve(given, None)  # mistakes in names and values first: they need no data
    check_limit(memory_gb)
    opened = cache_for(cache, cache_limit)
    check_writable(folder)
    _check_foreign(folder)
    if (folder / "adapter.json").exists() and not resume:
        raise UserError(f"'{folder}' already holds an adapter: give another --out, or remove it first.")
    source = as_source(data, data_root=data_root)
    _check_apart(folder, data, source)
    config = _resolve(given, source.benchmark)
    if source.benchmark is None:  # published names stay as they are
        for finding in lint_names(source.classes):
            console.note(finding.line())
    if (folder / RECORD).exists() and resume:
        return _finished(folder, config, json)
    interrupted = (folder / TRAINING / FILE).exists()
    if interrupted != resume:
        console.note(f"'{folder}' holds no interrupted run: this one starts at the beginning." if resume else
                     f"the interrupted run in '{folder}' is started anew; --resume would continue it.")  # fmt: skip
    estimator = PromptClassifier(
        backbone_for(backbone, [data]), method, preset=preset, shots=shots, subset=subset, texts=texts,
        template=template, options=options, recipe=recipe, bad_images=bad_images, storage=storage, cache=opened,
        memory_gb=memory_gb, device=device, random_state=seed,
    )  # fmt: skip

    kept = resume and (folder / CONFIG).exists()

    def keep_config() -> None:
        nonlocal kept
        if not kept:
            write_text(folder / CONFIG, _to_yaml(config))
            kept = True

    with console.progress_bars() as progress:

        def show(stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
            if stage == "training":
                keep_config()  # all input is checked by now: nothing is written for a run that cannot start
            progress(stage, done, total, numbers)

        remove_parts(folder / CONFIG)
        estimator.fit(source, folder=folder / TRAINING, resume=resume, progress=show)
    if bake:
        estimator.bake()
    keep_config()
    estimator.save(folder)
    record = {**estimator.record_, "adapter_bytes": (folder / "adapter.safetensors").stat().st_size}
    write_record(folder / RECORD, record)
    (folder / TRAINING / FILE).unlink(missing_ok=True)  # many times the adapter's size, and of no use any more
    if json:
        console.print_json(record)
        return 0
    seconds = sum(record["timings"].values())
    number = len(estimator.classes_)
    done = f"Learned {number} classes from {counted(record['data']['images'], 'photo')}"
    if not learns(method):
        done = f"Nothing had to be learned to tell {number} classes apart: done"
    console.say(f"{done} in {seconds:.0f} s ({method}, preset {config['preset']}).")
    console.say(f"Adapter, {record['adapter_bytes'] / 1024:,.0f} KiB: {folder}")
    where = shlex.quote(data) + (f" --data-root {shlex.quote(data_root)}" if data_root else "")
    halves = ("base", "new") if subset == "base" and estimator.method_.supports_new_classes else (subset,)
    for number, chosen in enumerate(halves):
        end = "" if chosen == "all" else f" --subset {chosen}"
        console.say(f"{'' if number else 'Next:':5}  anprompt evaluate {shlex.quote(out)} {where}{end}")
    console.say(f"       anprompt predict {shlex.quote(out)} PHOTO…")
    return 0


def _check_foreign(folder: Path) -> None:
    """Refuse a folder with files that the run would replace and that no earlier run has written."""
    from anprompt import adapter, training
    from anprompt.outputs import check_foreign, is_marked, is_record

    heading = CONFIG_HEADING.partition("\n")[0]
    own = {CONFIG: lambda file: is_marked(file, heading), RECORD: is_record, **adapter.WRITTEN}
    check_foreign(folder, own | {f"{TRAINING}/{name}": is_ours for name, is_ours in training.WRITTEN.items()})


def _check_apart(folder: Path, data: str, source: DataSource) -> None:
    """Refuse a folder of the photos themselves: what a run writes there would be taken for a class or a split."""
    if not Path(data).is_dir():
        return
    classes = {Path(item.path).resolve().parent for item in source.items("all")}
    if folder.resolve() in {Path(data).resolve(), *classes, *(place.parent for place in classes)}:
        raise UserError(f"The photos lie in '{folder}': give another --out, such as '{folder / 'adapter'}'.")


def _resolve(given: dict[str, Any], benchmark: str | None) -> dict[str, Any]:
    """The settings with the names and values that preset and data stand for. :class:`UserError` for unknown ones."""
    from dataclasses import asdict

    from anprompt import methods
    from anprompt.settings import benchmark_options, check_settings
    from anprompt.training import resolve_recipe

    check_settings(given["shots"], given["seed"], given["storage"])
    method, kind = given["method"], methods.find(given["method"])
    preset = given["preset"] or next(iter(kind.presets))
    recipe = resolve_recipe(methods.find_preset(kind, preset).recipe, given["recipe"])
    conventions = benchmark_options(method, preset, benchmark)
    options = methods.resolve_options(method, preset, {**conventions, **(given["options"] or {})})
    return {**given, "preset": preset, "options": options, "recipe": asdict(recipe)}


def _to_yaml(config: dict[str, Any]) -> str:
    import yaml

    body: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return CONFIG_HEADING + body


def _finished(folder: Path, config: dict[str, Any], json: bool) -> int:
    """Say that the run in ``folder`` is complete; refuse if it was one with other settings."""
    import json as json_format

    import yaml

    from anprompt.report import console
    from anprompt.training.checkpoint import changes

    record = json_format.loads((folder / RECORD).read_text(encoding="utf-8"))
    saved = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")) if (folder / CONFIG).exists() else config
    compared = [key for key in config if key not in ("out", "device")]
    changed = changes({key: saved.get(key) for key in compared}, {key: config[key] for key in compared})
    if changed:
        raise UserError(f"'{folder}' holds a finished run with other settings ({changed}): give another --out.")
    if json:
        console.print_json(record)
    else:
        console.say(f"'{folder}' is finished: nothing was left to do.")
    return 0


def demo(out: str = "anprompt-demo", seeds: int = 1, data: str = "toyworld:night", json: bool = False) -> int:
    """Zero-shot and ANPrompt on a packaged toy world: nothing to download, about a minute.

    Args:
        out: folder for the adapter, the contact sheet and the record.
        seeds: number of runs, seeds 1, 2, …; the table shows their mean.
        data: toyworld[:photo|sketch|night|noisy].
        json: print the record as one JSON document.
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

    def row(name: str, scores: dict[str, Any], training: str) -> tuple[str, ...]:
        return (name, *(f"{scores[key]:.1f}" for key in ("base", "new", "hm")), training)

    rows = [row("zero-shot", record["zero_shot"], "–")]
    rows += [row(f"ANPrompt, seed {run['seed']}", run, f"{run['seconds']:.0f} s") for run in record["runs"]]
    if seeds > 1:
        rows.append(row("ANPrompt, mean", record["mean"], f"{record['mean']['seconds']:.0f} s"))
    columns = ("", "base %", "new %", "HM", "training")
    console.table(f"{data}: 16 pictures of each base class, none of the new ones", columns, rows, columns[1:])
    console.say("base: classes it was tuned on; new: classes it never saw; HM: harmonic mean\n")
    written = {**record["written"], "adapter": f"{record['written']['adapter']}  "
               f"({record['adapter_bytes'] / 1024:,.0f} KiB)"}  # fmt: skip
    console.facts((name, PurePath(place)) for name, place in written.items())
    console.say(f"all in         {record['seconds']:.0f} s")
    console.say("\nNow with your own photos, one folder per class, and a real CLIP:")
    console.say("  anprompt fit PHOTOS --backbone openai/clip-vit-base-patch16 --out my-adapter")
    return 0
