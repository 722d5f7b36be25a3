"""Commands about benchmarks: bench, recipes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

from anprompt.commands.lists import cores_each, names_in, numbers_in
from anprompt.commands.packaged import backbone_for
from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.clip import Backbone
    from anprompt.protocols.benchmark import Failures, Machines
    from anprompt.protocols.declare import Asked
    from anprompt.protocols.execute import Done
    from anprompt.protocols.plan import Plan
    from anprompt.protocols.runs import Bench, Task

Values = Optional[dict[str, Any]]  # noqa: UP045 - jsonargparse resolves it at run time
GIB, MIB = 2**30, 2**20


def bench(
    protocol: str = "base-to-new",
    methods: str = "zero-shot,anprompt",
    datasets: str | None = None,
    source: str | None = None,
    seeds: str = "1,2,3",
    shots: str | None = None,
    recipe: str = "published",
    vary: Values = None,
    ablation: str | None = None,
    backbone: str | None = None,
    data_root: str | None = None,
    texts: str | None = None,
    out: str = "results",
    jobs: int = 1,
    threads: int | None = None,
    executor: Literal["local", "ray"] = "local",
    address: str = "auto",
    gpus: float | None = None,
    shared: bool = False,
    discard: bool = False,
    cache: str | None = None,
    cache_limit: float | None = None,
    device: str = "auto",
    unchecked: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Run a protocol of the field: methods × data sets × seeds, one record each, and the table of it.

    What has a record is skipped, and an interrupted training goes on where it was: repeat the command after any
    interruption. Before anything is trained, all names, data and combinations are checked.

    Args:
        protocol: base-to-new, cross-dataset, domain-generalisation, few-shot or ablation; see docs/reproduce.md.
        methods: names from 'anprompt methods', separated by commas.
        datasets: to learn on, or targets of a transfer; each as for fit, separated by commas; default: the paper's.
        source: where cross-dataset and domain-generalisation learn; default: imagenet.
        seeds: separated by commas.
        shots: photos per class, separated by commas; default: those of the recipe.
        recipe: 'published' (each method's own), 'matched' (one budget for all), 'small' (the same for a few hundred
            photos; not for base-to-new), or a YAML file; 'anprompt recipes' lists them with their protocols.
        vary: values for an ablation, e.g. --vary.alpha 0.001,0.01 or --vary.recipe.lr 0.001,0.01; all combinations run.
        ablation: what tables call the ablation, e.g. VI for the paper's; default: the names of what is varied.
        backbone: as for fit.
        data_root: folder that holds the benchmark data sets.
        texts: file with descriptions of the classes (JSON, YAML, CSV or TXT), or folder of such files.
        out: folder for records and adapters.
        jobs: runs at the same time on this machine, each in a process of its own.
        threads: processor cores of one run; default: all, shared by the jobs, and one on Ray.
        executor: this machine, or a Ray cluster.
        address: of the Ray cluster, host:port or ray://host:port; auto: the one that this machine belongs to.
        gpus: GPUs of one run on the cluster, e.g. 1 or 0.5; default: 1 with --device cuda, else 0.
        shared: all machines of the cluster see --out under the same path, so an interrupted training goes on elsewhere.
        discard: remove each adapter as soon as its evaluations are done.
        cache: folder where activations of the frozen lower blocks are kept for runs that show the same batches.
        cache_limit: largest size of the cache in GiB; default: 10.
        device: auto, cpu, cuda (cuda:N where there are several) or mps.
        unchecked: go on where zero-shot accuracy differs from the published one.
        dry_run: only say what would be run, how long it takes and how much disk it needs.
        json: print one JSON document.

    Examples:
        anprompt bench --datasets toyworld:night --seeds 1
        anprompt bench --protocol few-shot --datasets eurosat,dtd --data-root DATA --backbone ViT-B-16.pt
        anprompt bench --protocol domain-generalisation --source toyworld:photo --datasets toyworld:sketch
        anprompt bench --protocol ablation --methods anprompt --vary.alpha 0,0.1 --ablation mine --datasets toyworld
    """
    from anprompt.files import check_writable
    from anprompt.protocols.benchmark import Machines
    from anprompt.protocols.declare import Asked, declare
    from anprompt.protocols.execute import backbone_of
    from anprompt.protocols.plan import make_plan, opened_benchmark
    from anprompt.protocols.runs import Bench
    from anprompt.protocols.sanity import check_zero_shot, zero_shot_runs
    from anprompt.report import console
    from anprompt.settings import find_device

    cores = cores_each(jobs, threads)
    if datasets is None and data_root is None:
        raise UserError("Name the data with --datasets, or say with --data-root where the paper's data sets are.")
    if executor == "ray" and jobs != 1:
        raise UserError("--jobs is for this machine; on a Ray cluster as many runs go on as it has room for.")
    varied = _values(vary)
    asked = Asked(
        protocol, names_in(methods), names_in(datasets), source, numbers_in("seeds", seeds),
        numbers_in("shots", shots), recipe, varied, ablation or " × ".join(varied) or None,
    )  # fmt: skip
    runs = declare(asked, partial(opened_benchmark, data_root=data_root))
    check_writable(Path(out))
    backbone = backbone_for(backbone, names_in(datasets) or ["all published"])
    setting = Bench(backbone, out, data_root, texts, device, cache, cache_limit, discard, cores)
    place, loaded = find_device(device), backbone_of(backbone)
    plan = make_plan(runs, setting, loaded.weights_hash)
    first = make_plan(zero_shot_runs(asked, loaded.source, plan.sources), setting, loaded.weights_hash)
    for difference in dict.fromkeys(text for data in plan.sources.values() for text in data.differs):
        console.note(f"{difference}: results do not compare with published ones.")
    if dry_run:
        return _say_estimate(plan, loaded.in_precision("fp32", place), setting, jobs, json)
    done = len(plan.records)
    console.note(f"{len(plan.evaluations)} evaluations, {done} of them done already; {len(plan.tasks)} runs to do.")
    if executor == "ray":
        machines = Machines(
            address=address, cpus=threads or 1, gpus=float(device == "cuda") if gpus is None else gpus, shared=shared
        )
    else:
        machines = Machines(jobs=jobs)
    if not unchecked and first.evaluations:
        console.note("zero-shot first: its accuracy is compared with the published one.")
        failures = carry_out_with_bars(first, setting, machines)
        if failures:
            return _say_results(asked, plan, setting, failures, json)
        check_zero_shot(first.evaluations, Path(out))
        plan = make_plan(runs, setting, loaded.weights_hash)  # some of it may be done now
    return _say_results(asked, plan, setting, carry_out_with_bars(plan, setting, machines), json)


def _values(vary: dict[str, Any] | None, prefix: str = "") -> dict[str, list[Any]]:
    """Values by dotted name, from lists (YAML) or from text with commas (the command line)."""
    flat: dict[str, list[Any]] = {}
    for key, value in (vary or {}).items():
        if isinstance(value, dict):
            flat |= _values(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            flat[f"{prefix}{key}"] = [_plain(part) for part in names_in(value)]
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, list) else [value]
    return flat


def _plain(text: str) -> Any:
    """``0.01``, ``true`` and ``5`` as what they say, anything else as text."""
    import yaml

    value = yaml.safe_load(text)
    return value if isinstance(value, bool | int | float) else text


def carry_out_with_bars(plan: Plan, setting: Bench, machines: Machines) -> Failures:
    """Do everything with progress bars, a line for each finished run, and every note once."""
    from anprompt.protocols.benchmark import Failures, carry_out
    from anprompt.report import console

    if not plan.tasks:
        return Failures()
    finished, said = 0, set[str]()
    with console.progress_bars() as progress:
        progress("runs", 0, len(plan.tasks), {})

        def report(task: Task, done: Done) -> None:
            nonlocal finished
            finished += 1
            for text in done.notes:
                if text not in said:
                    console.note(f"{task.title}: {text}")
                said.add(text)
            scores = ", ".join(_score(record, task) for record in done.records.values())
            console.note(f"done {finished}/{len(plan.tasks)}: {task.title}: {scores}")
            progress("runs", finished, len(plan.tasks), {})

        return carry_out(plan, setting, machines, report, progress)


def _score(record: dict[str, Any], task: Task) -> str:
    """``eurosat base 81.0``; of several decisions of one training, also which."""
    config = record["config"]
    own = [f"{name} {value}" for name, value in config["variant"].items() if name not in task.run.variant]
    return " ".join([config["target"], config["target_subset"], *own, f"{record['accuracy']:.1f}"])


def _say_estimate(plan: Plan, backbone: Backbone, setting: Bench, jobs: int, json: bool) -> int:
    from dataclasses import asdict

    from anprompt.protocols.estimate import estimate
    from anprompt.report import console

    with console.progress_bars() as progress:

        def timed(done: int, total: int) -> None:
            progress("timing training steps", done, total, {})

        found = estimate(plan.tasks, plan.sources, backbone, setting.texts, jobs, setting.discard, timed)
    if json:
        document = {**asdict(found), "done": len(plan.records), "runs_to_do": [task.title for task in plan.tasks]}
        console.print_json(document)
        return 0
    rows = [(name, f"{seconds / 60:,.1f}") for name, seconds in found.by_method.items()]
    console.table("", ("method", "minutes"), rows, ("minutes",))
    console.facts([
        ("runs to do", found.runs),
        ("evaluations to do", f"{found.evaluations} ({len(plan.records)} are done)"),
        ("time", f"about {found.seconds / 60:,.0f} minutes one after the other on this machine"),
        ("disk, kept", _size(found.bytes_kept)),
        ("disk, meanwhile", _size(found.bytes_passing)),
    ])  # fmt: skip
    console.say("\nTimes are from a few training steps, image and text passes timed just now; nothing was written.")
    return 0


def _size(count: int) -> str:
    return f"{count / GIB:,.1f} GiB" if count > GIB else f"{count / MIB:,.1f} MiB"


def _say_results(asked: Asked, plan: Plan, setting: Bench, failures: Failures, json: bool) -> int:
    """Print the table of the protocol, then what failed."""
    from anprompt.report import console
    from anprompt.results.collect import read_results
    from anprompt.results.render import render
    from anprompt.results.select import find_table, select
    from anprompt.results.tables import build_table

    files = [Path(setting.out) / evaluation.file for evaluation in plan.evaluations]
    there = [file for file in files if file.exists()]
    if json:
        console.print_json({"records": [str(file) for file in there], "failed": failures.all})
    elif there:
        collected = read_results(*there)
        scope = find_table(asked.ablation or asked.protocol, collected.results)
        scope, chosen = select(scope, collected.results, Path(setting.out))
        made = build_table(asked.ablation or asked.protocol, scope, chosen, collected.notes)
        console.say(render(made, "terminal", *console.width_and_style()).rstrip("\n"))
    return say_failures(failures)


def say_failures(failures: Failures) -> int:
    """Say which runs failed; return the exit code."""
    from anprompt.report import console

    for text in failures.all:
        console.note(f"failed: {text}")
    return 1 if failures.faults else 2 if failures.wrong else 0


def recipes(name: str | None = None, json: bool = False) -> int:
    """List the training recipes: each method's published one per protocol, and those for any method. Or show one.

    Args:
        name: a method, 'matched' or 'small', to see its numbers.
        json: print one JSON document.

    Examples:
        anprompt recipes
        anprompt recipes anprompt
    """
    from dataclasses import asdict

    from anprompt.errors import unknown_name
    from anprompt.protocols.recipes import read_recipes, shipped
    from anprompt.report import console

    files = {file.stem: file for file in shipped()}
    if name is not None and name not in files:
        raise unknown_name("recipe", name, files)
    read = {stem: read_recipes(file) for stem, file in files.items() if name in (None, stem)}
    if json:
        console.print_json({
            stem: {"from": r.source, "protocols": {key: asdict(entry) for key, entry in r.protocols.items()}}
            for stem, r in read.items()
        })  # fmt: skip
        return 0
    if name is None:
        rows = [(stem, ", ".join(r.protocols), r.source) for stem, r in read.items()]
        console.table("", ("recipe", "protocols", "from"), rows)
        console.say("'anprompt recipes NAME' shows the numbers; 'bench --recipe matched' or 'small': one budget.")
        return 0
    console.say(files[name or ""].read_text(encoding="utf-8").rstrip())
    return 0
