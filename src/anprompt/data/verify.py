"""Looking at every picture before anything expensive starts, so that all bad ones are reported together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import torch

from anprompt.errors import Problems, unknown_name
from anprompt.pictures import SKIP, BadImage

if TYPE_CHECKING:
    from anprompt.data.source import Item

ON_BAD = ("stop", "skip")


class Verified(NamedTuple):
    """What :func:`verify_images` found; ``good`` keeps the order of the items."""

    good: list[Item]
    bad: list[BadImage]


def decoding_threads() -> int:
    """How many pictures to decode at the same time: as many as the run has threads, 2 to 8."""
    return min(8, max(2, torch.get_num_threads()))


def verify_images(
    items: Sequence[Item],
    open_item: Callable[[Item], object],
    on_bad: str = "stop",
    progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Decode every picture once, before anything expensive, and report all bad ones together.

    Args:
        items: what to check.
        open_item: decodes one item, such as ``DataSource.open``.
        on_bad: ``"stop"`` raises if any picture is bad; ``"skip"`` leaves the bad ones out and returns them.
        progress: called with (number checked, number of items) after each picture.

    Raises:
        UserError: bad pictures (each with path and reason), or, with ``"skip"``, a class that has no picture left.
    """
    if on_bad not in ON_BAD:
        raise unknown_name("choice for bad images", on_bad, ON_BAD)

    def check(item: Item) -> BadImage | None:
        try:
            open_item(item)
        except BadImage as error:
            return error
        return None

    good: list[Item] = []
    bad: list[BadImage] = []
    example: dict[str, BadImage] = {}  # class name -> its first bad picture
    pool = ThreadPoolExecutor(max_workers=decoding_threads())
    try:
        for done, (item, error) in enumerate(zip(items, pool.map(check, items), strict=True), start=1):
            if error is None:
                good.append(item)
            else:
                bad.append(error)
                example.setdefault(item.name, error)
            if progress is not None:
                progress(done, len(items))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest

    if bad and on_bad == "stop":
        problems = Problems(f"{len(bad)} of {len(items)} pictures cannot be used ({SKIP} leaves them out):")
        for error in bad:
            problems.add(str(error))
        problems.raise_if_any()
    remaining = {item.name for item in good}
    problems = Problems("Every picture of these classes is bad:")
    for name, count in Counter(item.name for item in items if item.name not in remaining).items():
        problems.add(f"'{name}' ({count} pictures), for example {example[name]}")
    problems.raise_if_any()
    return Verified(good, bad)
