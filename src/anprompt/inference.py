"""Streaming pictures through a method: decoded in parallel with the forward pass, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from anprompt.clip.precision import suitable_threads
from anprompt.data import BadImage, decoding_threads
from anprompt.errors import Problems
from anprompt.pictures import SKIP
from anprompt.training.capacity import memory_free
from anprompt.training.tracing import LiveBytes

if TYPE_CHECKING:
    from anprompt.methods import Method

FEW = 8  # pictures in the first batches, by whose memory the size of the others is chosen
MOST = {"cpu": 32, "cuda": 256}  # on a CPU larger batches were no faster (ViT-B/16; 8: 12 % slower, 64 and 128: equal)
SHARE = 0.5  # of the free memory that a batch may take
T = TypeVar("T")


def batch_size(bytes_per_picture: float, device: torch.device) -> int:
    """How many pictures go through together: a power of two that fits into half of the free memory, at least 8."""
    most, free = MOST.get(device.type, MOST["cpu"]), memory_free(device)
    if free is not None and bytes_per_picture > 0:
        most = int(min(most, SHARE * free / bytes_per_picture))
    return FEW if most < FEW else 1 << (most.bit_length() - 1)


def stream_logits(
    method: Method,
    items: Iterable[T],
    open_item: Callable[[T], Any],
    *,
    bad: list[BadImage],
    stop: bool = False,
    batch: int | None = None,
    compute: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[list[T], Tensor]]:
    """Yield (items, logits ``(B, C)`` on the CPU) batch by batch, in order.

    open_item: gives a picture for an item, or raises ``BadImage``; such items are left out and appended to ``bad``.
    stop: after the first bad picture compute nothing more and only look for further ones, to report all at once.
    batch: pictures that go through together; ``None``: two batches of eight, and then as many as the memory that the
        second of them took allows. Logits do not depend on it but for rounding.
    compute: what is made of normalised pixels ``(B, 3, H, W)`` instead of logits, such as ``method.image_features``.
    """
    transform = method.backbone.transform

    def load(item: T) -> Tensor | BadImage:
        try:
            return transform.pixels_uint8(open_item(item))
        except BadImage as error:
            return error

    def forward(loaded: list[Tensor]) -> Tensor:
        with suitable_threads(method.backbone):
            pixels = transform.normalise(torch.stack(loaded).to(method.backbone.device))  # bytes travel, not floats
            return (compute or method.logits)(pixels).float().cpu()

    size, done = batch or FEW, 0  # done: batches
    iterator = iter(items)
    with ThreadPoolExecutor(max_workers=decoding_threads()) as pool:

        def start_loading() -> tuple[list[T], list[Future[Tensor | BadImage]]]:
            chunk = list(islice(iterator, size))
            return chunk, [pool.submit(load, item) for item in chunk]

        ahead = start_loading()
        while ahead[0]:
            (chunk, futures), ahead = ahead, start_loading()  # one batch is decoded during the forward pass of another
            loaded = [future.result() for future in futures]
            bad.extend(result for result in loaded if isinstance(result, BadImage))
            good = [(item, result) for item, result in zip(chunk, loaded, strict=True) if isinstance(result, Tensor)]
            if not good or (stop and bad):
                continue
            pixels = [pixels for _, pixels in good]
            if batch is None and done == 1:  # the first one also makes what is kept, such as text features
                with LiveBytes() as live:
                    logits = forward(pixels)
                size = batch_size(live.peak / len(good), method.backbone.device)
            else:
                logits = forward(pixels)
            done += 1
            yield [item for item, _ in good], logits


def refuse_bad(bad: Sequence[BadImage], total: int) -> None:
    """Raise one :class:`UserError` that lists all unreadable pictures, if there are any."""
    problems = Problems(f"{len(bad)} of {total} pictures cannot be used ({SKIP} leaves them out):")
    for error in bad:
        problems.add(str(error))
    problems.raise_if_any()
