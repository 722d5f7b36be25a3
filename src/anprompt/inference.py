"""Streaming pictures through a method: decoded in parallel with the forward pass, in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from anprompt.data import BadImage
from anprompt.errors import Problems

if TYPE_CHECKING:
    from anprompt.methods import Method

BATCH = 32
T = TypeVar("T")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut ``items`` into lists of ``size``; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def stream_logits(
    method: Method,
    items: Iterable[T],
    open_item: Callable[[T], Any],
    *,
    bad: list[BadImage],
    stop: bool = False,
    batch: int = BATCH,
    threads: int = 2,
) -> Iterator[tuple[list[T], Tensor]]:
    """Yield (items, logits ``(B, C)`` on the CPU) batch by batch, in order.

    open_item: gives a picture for an item, or raises ``BadImage``; such items are left out and appended to ``bad``.
    stop: after the first bad picture compute nothing more and only look for further ones, to report all at once.
    """
    transform = method.backbone.transform

    def load(item: T) -> Tensor | BadImage:
        try:
            return transform.pixels_uint8(open_item(item))
        except BadImage as error:
            return error

    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: deque[tuple[list[T], list[Future[Tensor | BadImage]]]] = deque()
        chunks = batches(items, batch)

        def fill() -> None:
            for chunk in islice(chunks, max(0, 2 - len(waiting))):  # one batch ahead of the forward pass
                waiting.append((chunk, [pool.submit(load, item) for item in chunk]))

        fill()
        while waiting:
            chunk, futures = waiting.popleft()
            loaded = [future.result() for future in futures]
            fill()
            bad.extend(result for result in loaded if isinstance(result, BadImage))
            good = [(item, result) for item, result in zip(chunk, loaded, strict=True) if isinstance(result, Tensor)]
            if good and not (stop and bad):
                pixels = transform.normalise(torch.stack([pixels for _, pixels in good]))
                yield [item for item, _ in good], method.logits(pixels.to(method.backbone.device)).float().cpu()


def refuse_bad(bad: Sequence[BadImage], total: int) -> None:
    """Raise one :class:`UserError` that lists all unreadable pictures, if there are any."""
    problems = Problems(f"{len(bad)} of {total} pictures cannot be used (--bad-images skip leaves them out):")
    for error in bad:
        problems.add(str(error))
    problems.raise_if_any()
