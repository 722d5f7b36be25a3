"""How much memory training will need, known before it starts, and what to do when that is too much."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.errors import UserError
from anprompt.methods.base import Method
from anprompt.training.capacity import is_shared, memory_free, memory_in_use
from anprompt.training.recipe import Recipe
from anprompt.training.tracing import LiveBytes, Shape, untouched

GIB = 2**30
PROBES = (4, 8)  # photos a step that are followed; from there on memory grows very nearly in a straight line
SHARE = 0.8  # of the free memory that training may take when no limit is given
SMALLEST_CHUNK = 32  # classes at a time; fewer save next to nothing and cost time
WORTH_SAYING = 100 * 2**20  # bytes of activations; a run on a small model needs no word

# What a CPU process holds beyond the tensors that are alive: what libraries load and keep at the first steps, and holes
# that the C library leaves between blocks of changing size. Chosen for processes that train with ViT-B/16 shapes on
# Linux with glibc, between what two steps leave (nothing to 0.1 of the activations) and what some more do (0.6).
CPU_FIXED, CPU_HOLES = 80 * 2**20, 0.35
CUDA_HOLES = 0.1  # blocks that PyTorch's allocator keeps but cannot use; not measured


class NotFollowed(Exception):
    """The losses of a method cannot be followed without numbers."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes that training takes, on the device that it runs on.

    resident: in use already. state: what the optimiser keeps. activations: the most that is alive at once in a step.
    overhead: what the libraries take besides.
    """

    resident: int
    state: int
    activations: int
    overhead: int

    @property
    def peak(self) -> int:
        """The most that the process will hold."""
        return self.resident + self.state + self.activations + self.overhead


def estimate_step(method: Method, batch: int, recipe: Recipe | None = None) -> StepMemory:
    """What one training step of ``batch`` photos will take, without computing it.

    The method's own losses and their gradients are followed with tensors that have shapes only, so the estimate holds
    for any method, precision and ``backbone.class_chunk``. Nothing is changed: parameters, gradients, what is kept from
    step to step, random state.
    recipe: whose optimiser's state is counted, and whose heaviest epoch is taken.

    Raises :class:`NotFollowed` when the losses want numbers that only a real step has.
    """
    epoch = 0 if recipe is None else method.heaviest_epoch(recipe.epochs)
    if batch <= PROBES[-1]:
        forward, backward = _follow(method, batch, epoch)
    else:
        few, more = (_follow(method, n, epoch) for n in PROBES)
        steps = (batch - PROBES[0]) / (PROBES[1] - PROBES[0])
        forward, backward = (a + round(steps * (b - a)) for a, b in zip(few, more, strict=True))
    parameters = [p for p in method.parameters() if p.requires_grad]
    size = sum(p.numel() * p.element_size() for p in parameters)
    activations = max(forward + size, backward)  # the last step's gradients are there until the backward pass
    state = 0 if recipe is None else round(size * _state_per_byte(recipe))
    device = method.backbone.device
    overhead = CUDA_HOLES * activations if device.type == "cuda" else CPU_FIXED + CPU_HOLES * activations
    return StepMemory(memory_in_use(device), state, activations, round(overhead))


def _follow(method: Method, batch: int, epoch: int) -> tuple[int, int]:
    """The most bytes alive in the forward pass of a step, and from there to the end of the backward pass."""
    backbone = method.backbone
    live = LiveBytes(shapes_only=True, device=backbone.device)
    stand_ins = [(p, _parameter(p, backbone.device)) for p in method.parameters()]
    learnable = [new for old, new in stand_ins if old.requires_grad]
    with untouched(method, stand_ins):
        backbone.cache = None  # it would look at the pixels
        if epoch:
            method.start_epoch(epoch)
        try:
            forward = _run_step(method, batch, learnable, live)
        except UserError:
            raise
        except Exception as error:
            raise NotFollowed(str(error).strip().partition("\n")[0]) from error
    live.check_all_gone()
    return forward, live.peak


def blank_batch(method: Method, size: int, device: str | torch.device) -> dict[str, Tensor]:
    """A batch of ``size`` photos with all that the method asks for, its pixels on ``device`` and without values."""
    side = method.backbone.config.image_size
    labels = torch.arange(size, device=method.backbone.device) % len(method.class_names)
    batch = {"pixels": torch.empty(size, 3, side, side, device=device), "labels": labels}
    if method.views:
        batch["views"] = torch.empty(method.views, size, 3, side, side, device=device)
    if method.chance:
        batch["chance"] = torch.tensor(0.5)
    if method.plain:
        batch["plain"] = torch.empty(size, method.backbone.config.joint_width, device=labels.device)
    return batch


def _run_step(method: Method, batch: int, learnable: list[Tensor], live: LiveBytes) -> int:
    """Run losses and gradients under ``live``; the most bytes before the backward pass, whose own stays in ``live``."""
    with live, torch.enable_grad():
        loss = method.losses(blank_batch(method, batch, "meta"))["total"]
        forward, live.peak = live.peak, live.now
        torch.autograd.grad(loss, learnable, allow_unused=True)
    return forward


def _parameter(parameter: nn.Parameter, device: torch.device) -> Tensor:
    """What stands for a parameter."""
    shape = Shape.like(parameter.detach(), device).requires_grad_(parameter.requires_grad)
    vars(shape)["_is_param"] = True  # what isinstance asks for
    return shape


def _state_per_byte(recipe: Recipe) -> float:
    """Bytes that the optimiser keeps per byte of parameters, seen on a small one."""
    one = nn.Parameter(torch.zeros(1024))
    one.grad = torch.zeros_like(one)
    optimizer = recipe.make_optimizer([one])
    optimizer.step()
    kept = (value for value in optimizer.state[one].values() if isinstance(value, Tensor))
    return sum(t.numel() * t.element_size() for t in kept) / (one.numel() * one.element_size())


# ---- before training starts ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryPlan:
    """What training will take, and how it stays within what it may take.

    step: the estimate with that plan; ``None`` where none could be made, for the reason ``unknown``.
    limit: bytes that the process may hold; ``None``: nobody knows.
    class_chunk: how many classes' texts run at a time, or ``None`` for all of them together.
    """

    step: StepMemory | None
    limit: int | None
    class_chunk: int | None
    unknown: str = ""

    @property
    def worth_saying(self) -> bool:
        """Whether it is more than a small run in which all goes its usual way."""
        return self.step is None or self.step.activations > WORTH_SAYING or self.class_chunk is not None

    def summary(self) -> str:
        """One line for the user."""
        if self.step is None:
            return f"how much memory training needs cannot be told in advance ({self.unknown})"
        text = f"training will need about {_gib(self.step.peak)} of memory"
        if self.limit is not None:
            text += f" of the {_gib(self.limit)} that it may use"
        if self.class_chunk is not None:
            text += (
                f"; to stay within, the texts of {self.class_chunk} classes run at a time and again in the backward "
                "pass (class chunks), which takes longer"
            )
        return text

    def to_json(self) -> dict[str, int | None]:
        """For the record of a run, in bytes."""
        return {
            "estimated_peak": None if self.step is None else self.step.peak,
            "limit": self.limit,
            "class_chunk": self.class_chunk,
        }

    @contextlib.contextmanager
    def applied(self, backbone: Backbone) -> Iterator[None]:
        """Run ``backbone`` by this plan inside the block; afterwards as before."""
        before, backbone.class_chunk = backbone.class_chunk, self.class_chunk
        try:
            yield
        finally:
            backbone.class_chunk = before


def check_limit(memory_gb: Any) -> int | None:
    """A limit in GiB as bytes; :class:`UserError` if it is not a number above 0."""
    if memory_gb is None:
        return None
    if isinstance(memory_gb, bool) or not isinstance(memory_gb, int | float) or not 0 < memory_gb < math.inf:
        raise UserError(f"The memory limit must be a number of GiB above 0 (got {memory_gb!r}).")
    return int(memory_gb * GIB)


def plan_memory(
    method: Method, batch: int, limit: int | None = None, recipe: Recipe | None = None, kept: int | None = None
) -> MemoryPlan:
    """Find out how training in steps of ``batch`` photos stays within ``limit`` bytes.

    limit: of the whole process, or of what it holds on a CUDA device; ``None``: what it holds now and 80 % of what is
        free. When a step takes more, classes go through the text tower in chunks: half of them at a time, a quarter, …
        ``backbone.class_chunk``, if set, is where that starts.
    kept: how many classes ran at a time in the run that is continued, 0 for all of them: starts there instead, because
        results with other chunks agree up to rounding only.

    Raises :class:`UserError` if no chunk is small enough.
    """
    backbone = method.backbone
    if limit is None:
        free = memory_free(backbone.device)
        limit = None if free is None else memory_in_use(backbone.device) + int(SHARE * free)
    before, classes = backbone.class_chunk, len(method.class_names)
    first = before if kept is None else kept or None
    classes = min(first or classes, classes)
    halves = (-(-classes >> k) for k in range(1, classes.bit_length()))
    tried: dict[int, int] = {}  # classes at a time -> peak
    try:
        for chunk in (first, *(size for size in halves if size >= SMALLEST_CHUNK)):
            backbone.class_chunk = chunk
            step = estimate_step(method, batch, recipe)
            if limit is None or step.peak <= limit:
                return MemoryPlan(step, limit, chunk)
            tried[chunk or classes] = step.peak
    except NotFollowed as error:
        return MemoryPlan(None, limit, first, str(error))
    finally:
        backbone.class_chunk = before
    assert limit is not None  # without a limit the first plan is good
    raise _too_much(method, batch, tried, limit)


def _too_much(method: Method, batch: int, tried: dict[int, int], limit: int) -> UserError:
    helps = [f"fewer photos a step (--recipe.batch, now {batch})"] if batch > 1 else []
    if method.backbone.precision == "fp32":
        helps.append("--recipe.precision bf16")
    helps.append("fewer --jobs" if is_shared() else "a higher --memory-gb, if other programs can do with less")
    size, peak = min(tried.items(), key=lambda pair: pair[1])
    chunks = f", even with the texts of {size} classes at a time," if len(tried) > 1 else ""
    return UserError(
        f"Training needs about {_gib(peak)} of memory{chunks} but may use {_gib(limit)}. "
        f"What helps: {', '.join(helps)}."
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
