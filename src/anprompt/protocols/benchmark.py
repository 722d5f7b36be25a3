"""From tasks to records: on this machine or on many, and what to say when some of them failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from anprompt.protocols.execute import Done, bring_back, execute, in_temporary_folder
from anprompt.protocols.executors import Outcome, run_processes, run_serial
from anprompt.protocols.plan import Plan
from anprompt.protocols.runs import Bench, Task
from anprompt.settings import Progress, find_device
from anprompt.training.capacity import Share


@dataclass(frozen=True)
class Machines:
    """Where runs go. jobs: at the same time on this machine. address: of a Ray cluster, ``None``: this machine.

    cpus, gpus: of one run on the cluster. shared: all its machines see the results folder under the same path.
    """

    jobs: int = 1
    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0
    shared: bool = False


@dataclass
class Failures:
    """Runs that did not come to an end. wrong: because of the input, in a sentence each. faults: tracebacks of ours."""

    wrong: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        return self.wrong + self.faults

    def __bool__(self) -> bool:
        return bool(self.all)

    def add(self, task: Task, outcome: Outcome) -> None:
        (self.wrong if outcome.wrong_input else self.faults).append(f"{task.title}: {outcome.error}")


def carry_out(
    plan: Plan, bench: Bench, machines: Machines, report: Callable[[Task, Done], None], progress: Progress | None = None
) -> Failures:
    """Do all tasks of a plan. A task that fails does not stop the others.

    report: called with each task that is done. progress: of the run in work, if runs are done one by one.
    """
    failures = Failures()
    for outcome in _outcomes(plan.tasks, bench, machines, progress):
        task = plan.tasks[outcome.index]
        if outcome.error is not None:
            failures.add(task, outcome)
            continue
        done: Done = outcome.result
        bring_back(done, Path(bench.out))
        report(task, done)
    return failures


def _outcomes(tasks: list[Task], bench: Bench, machines: Machines, progress: Progress | None) -> Iterator[Outcome]:
    if machines.address is not None:
        from anprompt.protocols.on_ray import run_on_ray

        work = partial(execute if machines.shared else in_temporary_folder, bench=bench)
        return run_on_ray(work, tasks, address=machines.address, cpus=machines.cpus, gpus=machines.gpus)
    if machines.jobs == 1:
        return run_serial(partial(execute, bench=bench, progress=progress), tasks)
    jobs = max(1, min(machines.jobs, len(tasks)))
    bench = replace(bench, memory=Share.of(jobs, find_device(bench.device)))  # now, while no run holds any
    return run_processes(partial(execute, bench=bench), tasks, jobs, bench.threads or 1)
