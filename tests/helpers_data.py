"""What opening data gives, in short: the sentence of a refusal, or the size of each split."""

from __future__ import annotations

from pathlib import Path

import pytest

from anprompt.data import DataSource, open_data
from anprompt.errors import UserError


def refusal(spec: Path | str, data_root: Path | None = None) -> str:
    """Why ``spec`` is not opened."""
    with pytest.raises(UserError) as caught:
        open_data(spec, data_root=data_root)
    return str(caught.value)


def counts(source: DataSource) -> dict[str, int]:
    """Photos of each split."""
    return {split: len(items) for split, items in source.splits.items()}
