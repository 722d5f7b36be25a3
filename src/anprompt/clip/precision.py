"""The number format of the frozen towers' matrix products: fp32, or bf16 where this machine is clearly faster at it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from anprompt.clip.backbone import Backbone
from anprompt.clip.config import ClipConfig, TowerConfig
from anprompt.clip.kernels import Packing
from anprompt.clip.towers import Block

PRECISIONS = ("auto", "fp32", "bf16")
# For towers of at least NARROW, CPUs with bf16 instructions measured 2.0 to 3.5 on ViT-B/16 and 1.6 to 2.0 on widths of
# 384 and 256, one told not to use them 0.8 and less. The margin lies in the gap: a machine chooses alike in every run.
CLEARLY = 1.25
NARROW = 256  # width below which a step's time goes into small operations rather than into matrix products
SECONDS = 0.25  # that the comparison may take, warming up not counted
FEW, ROWS = 8, 128  # rows per tower at first, and in the comparison; with more rows the ratio hardly changes
_SWITCHING = threading.Lock()


@dataclass(frozen=True)
class Choice:
    """A precision, ``"fp32"`` or ``"bf16"``, and how it came about.

    speedup: measured time in fp32 over that in bf16; ``None`` when nothing was measured.
    why: a sentence for the user, empty when there was nothing to choose.
    """

    precision: str
    speedup: float | None = None
    why: str = ""


def choose_precision(
    asked: str, backbone: Backbone, kept: str | None = None, device: torch.device | None = None
) -> Choice:
    """Resolve ``asked``, ``"fp32"``, ``"bf16"`` or ``"auto"``, for ``backbone`` on ``device`` or where it is.

    ``"auto"`` is fp32 for towers narrower than 256; otherwise bf16 on CUDA devices that have it, and on other devices
    if it was measured to be at least 1.25 times faster. It is the same again in every run on the same machine.
    kept: what ``"auto"`` was in the part of the run that is being continued.
    """
    if asked != "auto":
        return Choice(asked)
    if kept is not None:
        return Choice(kept)
    device, config = device or backbone.device, backbone.config
    if is_narrow(backbone):
        return Choice("fp32")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("bf16", why="the towers run in bf16, which this GPU has (--recipe.precision fp32 overrides)")
        return Choice("fp32")
    speedup = round(bf16_speedup(device, config), 2)
    if speedup >= CLEARLY:
        why = f"the towers run in bf16: {speedup:.1f} times faster here than fp32 (--recipe.precision fp32 overrides)"
        return Choice("bf16", speedup, why)
    why = f"the towers run in fp32: bf16 is {speedup:.1f} times as fast here (--recipe.precision bf16 overrides)"
    return Choice("fp32", speedup, why)


def precision_of_adapter(trained: str, asked: str, backbone: Backbone, device: torch.device | None = None) -> Choice:
    """The precision for predicting with an adapter: the one it was ``trained`` in, so that its answers stay the same.

    asked: what its recipe asked for. device: where it will predict; ``None``: where the backbone is. bf16 that
    ``"auto"`` picked on another machine is not kept where it is slower than fp32.
    """
    device = device or backbone.device
    if trained == "bf16" and asked == "auto" and device.type != "cuda":
        speedup = round(bf16_speedup(device, backbone.config), 2)
        if speedup < 1:
            why = f"trained in bf16, which is {speedup:.1f} times as fast here as fp32: the towers run in fp32 instead"
            return Choice("fp32", speedup, why)
    return Choice(trained)


@lru_cache
def bf16_speedup(device: torch.device, config: ClipConfig) -> float:
    """Time in fp32 over time in bf16 of one block of each tower, forwards and backwards; 0 without any bf16.

    Takes about half a second, once per process. On a CPU one thread's own time is taken: it hardly depends on what
    else runs on the machine, as waiting for other threads would, and nor does the choice then.
    """
    try:
        exact, rough = (_workload(config, device, dtype) for dtype in (torch.float32, torch.bfloat16))

        def times(rows: int) -> tuple[float, float]:
            return _seconds(exact, rows, device), _seconds(rough, rows, device)

        with _one_thread():
            times(FEW)  # the first run with so many rows prepares the products
            slow, fast = times(FEW)
            if fast > 2 * slow:  # bf16 is imitated: do not wait for it with more rows
                return slow / fast
            times(ROWS)
            began, pairs = time.perf_counter(), [times(ROWS)]
            while len(pairs) < 2 or time.perf_counter() - began < SECONDS:
                pairs.append(times(ROWS))
        return min(slow for slow, _ in pairs) / min(fast for _, fast in pairs)
    except (RuntimeError, TypeError):  # a device that does not know the format
        return 0.0


def _seconds(run: Callable[[int], None], rows: int, device: torch.device) -> float:
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    began = clock()
    run(rows)
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return clock() - began


def _workload(config: ClipConfig, device: torch.device, dtype: torch.dtype) -> Callable[[int], None]:
    """A function that runs so many rows through one block of each tower, forwards and backwards."""
    parts: list[tuple[Block, int, bool]] = [  # block, rows of a sequence, whether causal
        (_block(config.vision, device, dtype), 64, False),
        (_block(config.text, device, dtype), 16, True),
    ]

    def run(rows: int) -> None:
        for block, length, causal in parts:
            length = min(length, rows)
            x = torch.ones(rows, block.ln_1.normalized_shape[0], device=device).requires_grad_()
            out: Tensor = block.packed(x, Packing.equal(rows // length, length), causal)
            torch.autograd.grad(out, x, torch.ones_like(out))

    return run


def _block(config: TowerConfig, device: torch.device, dtype: torch.dtype) -> Block:
    """A frozen block whose weights are any numbers, made without drawing any."""
    with torch.device("meta"):
        block = Block(config).requires_grad_(False)
    block.to_empty(device=device)
    for parameter in block.parameters():
        parameter.fill_(0.01)
    for linear in block.linears:
        linear.to(dtype)
    return block


def is_narrow(backbone: Backbone) -> bool:
    """Whether both towers are so narrow that the size of single operations, not of products, decides the time."""
    return max(backbone.config.vision.width, backbone.config.text.width) < NARROW


def suitable_threads(backbone: Backbone) -> contextlib.AbstractContextManager[None]:
    """One thread for narrow towers on a CPU: more were no faster on an idle machine, and many times slower on one whose
    cores other programs use as well."""
    narrow = backbone.device.type == "cpu" and is_narrow(backbone)
    return _one_thread() if narrow else contextlib.nullcontext()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Torch computes with one thread for the Python thread that is in this block; all others keep what they have."""
    with _SWITCHING:
        before = torch.get_num_threads()
        if before > 1:
            torch.set_num_threads(1)
            # The number is each Python thread's own, but a new one begins with what any other has set last.
            other = threading.Thread(target=torch.set_num_threads, args=(before,))
            other.start()
            other.join()
    try:
        yield
    finally:
        if before > 1:
            torch.set_num_threads(before)
