"""The command that says which method suits somebody's own data."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anprompt.results.bakeoff import Entrant

QUICK = "zero-shot,linear-probe,anprompt"
MIB, KIB = 2**20, 2**10


def compare(
    data: str,
    methods: str = QUICK,
    shots: int = 16,
    seeds: str = "1,2,3",
    recipe: str = "matched",
    backbone: str | None = None,
    texts: str | None = None,
    data_root: str | None = None,
    out: str = "compare",
    jobs: int = 1,
    threads: int | None = None,
    device: str = "auto",
    json: bool = False,
) -> int:
    """A bake-off on your own data: accuracy on all classes, base, new and HM, and what each method costs.

    All methods get the same photos, seeds and, with the matched recipe, the same budget. Those that can be asked about
    new classes are also trained on one half of the classes and tested on the other. Repeat the command to go on.

    Args:
        data: as for fit.
        methods: names from 'anprompt methods', separated by commas.
        shots: photos drawn per class.
        seeds: separated by commas; six or more are needed to tell methods apart with any confidence.
        recipe: 'matched' (one budget for all), 'published' (each method's own), or a YAML file.
        backbone: as for fit.
        texts: file with descriptions of the classes (JSON, YAML, CSV or TXT), or folder of such files.
        data_root: folder that holds the benchmark data sets.
        out: folder for records and adapters.
        jobs: runs at the same time, each in a process of its own.
        threads: processor cores of one run; default: all, shared by the jobs.
        device: auto, cpu, cuda (cuda:N where there are several) or mps.
        json: print one JSON document.

    Examples:
        anprompt compare photos
        anprompt compare photos --methods zero-shot,linear-probe,anprompt --shots 4 --seeds 1,2,3,4,5,6
    """
    from functools import partial

    from anprompt import methods as known
    from anprompt.commands.bench import carry_out_with_bars, say_failures
    from anprompt.commands.lists import cores_each, counted, names_in, numbers_in
    from anprompt.commands.packaged import backbone_for
    from anprompt.files import check_writable
    from anprompt.protocols.benchmark import Machines
    from anprompt.protocols.declare import Asked, declare
    from anprompt.protocols.execute import backbone_of
    from anprompt.protocols.plan import make_plan, opened_benchmark
    from anprompt.protocols.runs import Bench
    from anprompt.report import console
    from anprompt.results.bakeoff import advice, bake_off, photos_tested
    from anprompt.settings import find_device

    cores = cores_each(jobs, threads)
    entered = names_in(methods)
    open_methods = [name for name in entered if known.find(name).supports_new_classes]
    benchmark_of = partial(opened_benchmark, data_root=data_root)
    drawn = numbers_in("seeds", seeds)
    runs = declare(Asked("few-shot", entered, [data], None, drawn, [shots], recipe), benchmark_of)
    halves = bool(open_methods) and _has_halves(data, data_root)
    if halves:
        runs += declare(Asked("base-to-new", open_methods, [data], None, drawn, [shots], recipe), benchmark_of)
    check_writable(Path(out))
    backbone = backbone_for(backbone, [data])
    setting = Bench(backbone, out, data_root, texts, device, threads=cores)
    find_device(device)  # before anything is loaded
    plan = make_plan(runs, setting, backbone_of(backbone).weights_hash)
    failures = carry_out_with_bars(plan, setting, Machines(jobs=jobs))
    files = [Path(out) / evaluation.file for evaluation in plan.evaluations]
    records = [json_format.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
    entrants = bake_off(records, open_methods)
    said, tested = advice(entrants), photos_tested(records)
    if json:
        listed = [entrant.to_json() for entrant in entrants]
        console.print_json({"entrants": listed, **tested, "advice": said, "failed": failures.all})
        return say_failures(failures)
    rows = [_row(entrant) for entrant in sorted(entrants, key=lambda e: entered.index(e.method))]
    columns = ("method", "all %", "base %", "new %", "HM", "training", "memory MiB", "adapter KiB", "learnable")
    heading = f"{data}: at most {counted(shots, 'photo')} of each class, {counted(len(drawn), 'seed')}, recipe {recipe}"
    console.table(heading, columns, rows, columns[1:], spare=("adapter KiB", "memory MiB", "learnable", "training"))
    rest = "base, new: trained on the base half" if halves else "halves, base and new, need 4 classes or more"
    own = ", held out by anprompt: no test split was given" if tested["own_split"] else ""
    all_of = f"all: trained and tested on all classes, {counted(tested['test_photos'], 'test photo')}{own}"
    for sentence in (*said, f"{all_of}; {rest}; ± over seeds."):
        console.say(console.prose(f"- {sentence}", 2))
    return say_failures(failures)


def _has_halves(data: str, data_root: str | None) -> bool:
    """Whether the classes can be split into base and new ones of at least two each."""
    from anprompt.data import base_new_split
    from anprompt.errors import UserError
    from anprompt.protocols.plan import open_source

    try:
        classes = open_source(data, data_root).classes
    except UserError:
        return True  # make_plan says what is wrong
    return min(map(len, base_new_split(range(len(classes))))) >= 2


def _row(entrant: Entrant) -> tuple[str, ...]:
    scores = []
    for measure in ("all", "base", "new", "hm"):
        value = entrant.value(measure)
        spread = "" if value is None or value.sd is None else f" ± {value.sd:.1f}"
        scores.append("–" if value is None else f"{value.mean:.1f}{spread}")
    return (
        entrant.method,
        *scores,
        f"{entrant.seconds:,.0f} s" if entrant.parameters else "–",
        f"{entrant.memory / MIB:,.0f}" if entrant.memory else "–",
        f"{entrant.adapter / KIB:,.0f}" if entrant.adapter else "–",
        f"{entrant.parameters:,}",
    )
