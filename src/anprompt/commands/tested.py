"""Which photos are tested on where nobody says it, and what must be said of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anprompt.data import DataSource
    from anprompt.seen import Seen


def seen_by(adapter: Mapping[str, Any]) -> Seen | None:
    """The photos that an adapter was trained on, by its document; ``None``: it does not say."""
    from anprompt.seen import Seen

    photos = adapter.get("photos")
    return None if photos is None else Seen(photos)


def split_to_use(source: DataSource, seen: Seen | None) -> str:
    """The test split; all photos where the data have no splits and none of them was trained on.

    seen: the adapter's training photos; ``None``: it does not say.
    """
    from anprompt.report import console

    if not source.own_split or source.benchmark is not None:
        return "test"
    every, test = source.items("all"), source.items("test")
    if seen is None:
        console.note(f"'{source.name}' has no splits: {len(test)} of {len(every)} photos are held out and evaluated; "
                     "--split all evaluates every photo.")  # fmt: skip
    elif not seen.count(source, every):
        console.note(f"'{source.name}' has no splits, and none of its {len(every)} photos was trained on: all of them "
                     "are evaluated.")  # fmt: skip
        return "all"
    return "test"


def trained_on(source: DataSource, split: str, subset: str, seen: Seen | None) -> str:
    """That the adapter has learnt from tested photos, where accuracy is to tell of others; empty if it has not."""
    if seen is None or split == "train" or source.benchmark is not None:
        return ""
    items = source.subset(subset).items(split)
    count, which = seen.count(source, items), "photos" if split == "all" else f"{split} photos"
    return f"{count} of the {len(items)} {which} were trained on: the accuracy is too high." if count else ""
