"""Few-shot draws and the base/new split, exactly as the field does them (CoOp and everything built on it)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

from anprompt.data.names import distinct_names
from anprompt.errors import UserError

# An item is (path, label, class name); `Item` is one such tuple, plain tuples work as well.
ItemT = TypeVar("ItemT", bound=tuple[str, int, str])

VALIDATION_SHOTS = 4  # at most this many validation pictures per class, whatever the number of shots


def draw_few_shot(items: Sequence[ItemT], shots: int, seed: int) -> list[ItemT]:
    """Draw ``shots`` items of every class; the same items as CoOp's published draws for the same list and seed.

    Classes come in order of first appearance in ``items``. A class with fewer than ``shots`` items keeps all of them,
    in list order (see :func:`short_classes`). Python's global generator is neither read nor changed.

    Raises:
        UserError: ``shots`` is below 1.
    """
    return _draw(items, shots, random.Random(seed))


def draw_validation(val_items: Sequence[ItemT], shots: int, seed: int, *, train_items: Sequence[ItemT]) -> list[ItemT]:
    """Draw ``min(shots, 4)`` validation items of every class, as CoOp does right after the training draw.

    The field draws both from one stream of random numbers, training first. ``train_items`` (the whole training list)
    brings the generator to the state in which the validation draw starts.

    Raises:
        UserError: ``shots`` is below 1.
    """
    generator = random.Random(seed)
    _draw(train_items, shots, generator)
    return _draw(val_items, min(shots, VALIDATION_SHOTS), generator)


def short_classes(items: Sequence[ItemT], shots: int) -> dict[str, int]:
    """Return ``{class name: number of items}`` of the classes that have fewer than ``shots`` items."""
    short = [group for group in _by_class(items) if len(group) < shots]
    return dict(zip(distinct_names([group[0][2] for group in short]), map(len, short), strict=True))


def base_new_split(labels: Iterable[int]) -> tuple[list[int], list[int]]:
    """Split label ids into base and new: of the ``n`` sorted unique ids, the first ceil(n / 2) are base."""
    unique = sorted(set(labels))
    half = (len(unique) + 1) // 2
    return unique[:half], unique[half:]


def spread(items: Sequence[ItemT], most: int) -> list[ItemT]:
    """At most ``most`` items of every class, evenly spaced, in the order of the list."""
    kept = {item for group in _by_class(items) for item in group[:: max(1, len(group) // most)][:most]}
    return [item for item in items if item in kept]


def _by_class(items: Sequence[ItemT]) -> list[list[ItemT]]:
    groups: dict[int, list[ItemT]] = {}
    for item in items:
        groups.setdefault(item[1], []).append(item)
    return list(groups.values())


def _draw(items: Sequence[ItemT], shots: int, generator: random.Random) -> list[ItemT]:
    if shots < 1:
        raise UserError(f"The number of shots must be 1 or more, not {shots}.")
    drawn: list[ItemT] = []
    for group in _by_class(items):
        # A class that is too small uses no random numbers; the published draws depend on that.
        drawn += generator.sample(group, shots) if len(group) >= shots else group
    return drawn
