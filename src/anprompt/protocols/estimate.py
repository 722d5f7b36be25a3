"""How long a benchmark will take and how much disk it will use, before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from anprompt import methods
from anprompt.clip import Backbone
from anprompt.clip.precision import choose_precision
from anprompt.data import DataSource
from anprompt.data.draw import draw_few_shot
from anprompt.protocols.declare import learns
from anprompt.protocols.runs import Run, Task
from anprompt.settings import bank_for
from anprompt.text import DescriptionBank
from anprompt.training import Recipe, resolve_recipe
from anprompt.training.batches import steps_in_epoch
from anprompt.training.memory import blank_batch

PICTURES = 8  # in the timed image pass
SENTENCES = 32  # in the timed text pass
RECORD_BYTES = 4_000, 90  # of an evaluation's record: fixed, and per class
ADAPTER_TEXT_BYTES = 250  # of an adapter's document, per class
STATE_FACTOR = 3  # a training state holds every learnable and two numbers of the optimiser


@dataclass
class Estimate:
    """What is left of a benchmark. seconds: on this machine, one run after the other. bytes_kept: records and adapters.

    bytes_passing: training states of all runs in work at once. by_method: seconds of each.
    """

    runs: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    bytes_kept: int = 0
    bytes_passing: int = 0
    by_method: dict[str, float] = field(default_factory=dict)


def estimate(
    tasks: Sequence[Task], sources: Mapping[str, DataSource], backbone: Backbone, texts: str | None, jobs: int,
    discard: bool, progress: Callable[[int, int], None] | None = None,
) -> Estimate:  # fmt: skip
    """Time one training step of every kind of run on this machine, and one image and text pass, and add all up.

    Every method is timed with random pixels, its real class names and their descriptions, in its heaviest epoch.
    Decoding photos is not in the estimate: it runs beside the forward pass.
    """
    sizes = _Sizes(sources, texts)
    passes: dict[str, tuple[float, float]] = {}  # by precision
    steps: dict[str, float] = {}
    kinds = {_kind(task.run): task for task in tasks if learns(task.run.method)}
    for done, (kind, task) in enumerate(kinds.items()):
        source = sources[task.run.source]
        steps[kind] = _time_step(task, source.subset(task.run.subset), bank_for(texts, source), backbone)
        if progress is not None:
            progress(done + 1, len(kinds))
    total = Estimate(runs=len(tasks), evaluations=sum(len(task.evaluations) for task in tasks))
    states = []
    for task in tasks:
        run, seconds = task.run, 0.0
        precision = _precision(run, backbone)
        if precision not in passes:
            passes[precision] = _time_passes(backbone.in_precision(precision))
        per_picture, per_sentence = passes[precision]
        classes = len(sources[run.source].subset(run.subset).classes)
        if learns(run.method):
            recipe = _recipe(run)
            photos = sizes.drawn(run)
            seconds += steps[_kind(run)] * recipe.epochs * steps_in_epoch(photos, recipe.batch)
            learnable = _learnable(task, backbone, classes, photos)
            states.append(4 * STATE_FACTOR * learnable)
            total.bytes_kept += 0 if discard else 2 * learnable + ADAPTER_TEXT_BYTES * classes
        for evaluation in task.evaluations:
            target = sources[evaluation.target.data].subset(evaluation.target.subset)
            seconds += per_picture * len(target.splits[evaluation.target.split])
            seconds += per_sentence * sizes.sentences(evaluation.target.data, target.classes)
            total.bytes_kept += RECORD_BYTES[0] + RECORD_BYTES[1] * len(target.classes)
        total.seconds += seconds
        total.by_method[run.method] = total.by_method.get(run.method, 0.0) + seconds
    total.bytes_passing = sum(sorted(states)[-jobs:])
    return total


def _kind(run: Run) -> str:
    """Runs of equal kind take equally long for a step."""
    changes = [run.method, run.source, run.subset, sorted(run.options.items()), sorted(run.training.items())]
    return repr(changes)


def _recipe(run: Run) -> Recipe:
    return resolve_recipe(methods.find_preset(methods.find(run.method), run.preset).recipe, run.training)


def _learnable(task: Task, backbone: Backbone, classes: int, photos: int) -> int:
    method = methods.build(task.run.method, backbone, preset=task.run.preset, **dict(task.run.options))
    method.make_room({"class": classes, "photo": photos})
    return sum(p.numel() for p in method.parameters())


class _Sizes:
    """Counts that many runs share."""

    def __init__(self, sources: Mapping[str, DataSource], texts: str | None) -> None:
        self.sources, self.texts = sources, texts
        self._drawn: dict[tuple[str, str, int], int] = {}
        self._sentences: dict[str, Mapping[str, Any]] = {}

    def drawn(self, run: Run) -> int:
        key = run.source, run.subset, run.shots
        if key not in self._drawn:
            train = self.sources[run.source].subset(run.subset).splits["train"]
            self._drawn[key] = len(draw_few_shot(train, run.shots, 1))
        return self._drawn[key]

    def sentences(self, spec: str, classes: Iterable[str]) -> int:
        if spec not in self._sentences:
            bank = bank_for(self.texts, self.sources[spec])
            self._sentences[spec] = {n: len(s) for n, s in bank.main.items()}
        return sum(1 + self._sentences[spec].get(name, 0) for name in classes)


@torch.no_grad()
def _time_passes(backbone: Backbone) -> tuple[float, float]:
    """Seconds per picture and per sentence, after a first pass that does not count."""
    side = backbone.config.image_size
    pixels = torch.randn(PICTURES, 3, side, side, device=backbone.device)
    sentences = ["a photo of a thing that has a name."] * SENTENCES

    def seconds(work: Callable[[], torch.Tensor]) -> float:
        work()
        began = time.perf_counter()
        float(work().sum())  # reading a number waits for a GPU
        return time.perf_counter() - began

    pictures = seconds(lambda: backbone.encode_image(pixels)) / PICTURES
    return pictures, seconds(lambda: backbone.encode_text(sentences)) / SENTENCES


class _AnyPhotos:
    """What stands for the training photos of a method that looks at them first: their number is all that matters."""

    def __init__(self, backbone: Backbone, classes: int, shots: int) -> None:
        self.labels = torch.arange(classes * shots, device=backbone.device) % classes
        self._width = backbone.config.joint_width

    def features(self, views: int = 0) -> torch.Tensor:
        return F.normalize(torch.randn(len(self.labels), self._width, device=self.labels.device), dim=-1)


def _precision(run: Run, backbone: Backbone) -> str:
    return choose_precision(_recipe(run).precision, backbone).precision


def _time_step(task: Task, source: DataSource, texts: DescriptionBank, backbone: Backbone) -> float:
    """Seconds of a training step, the faster of two after a first one; 0 for methods without learnables."""
    run, recipe = task.run, _recipe(task.run)
    backbone = backbone.in_precision(_precision(run, backbone))
    method = methods.create(
        run.method, backbone, source.classes, preset=run.preset, template=task.settings["template"], texts=texts,
        photos=_AnyPhotos(backbone, len(source.classes), run.shots), **dict(run.options),
    )  # fmt: skip
    if not method.trainable:
        return 0.0
    method.start_epoch(method.heaviest_epoch(recipe.epochs))
    optimizer = recipe.make_optimizer(list(method.parameters()))
    batch = blank_batch(method, min(recipe.batch, len(source.splits["train"])), backbone.device)
    for name in batch.keys() & {"pixels", "views", "plain"}:
        batch[name].normal_()
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        losses = method.losses(batch)
        method.backward(losses)
        optimizer.step()
        float(losses["total"])
        spent.append(time.perf_counter() - began)
    return min(spent[1:])
