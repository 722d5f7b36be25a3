"""The expected calibration error equals its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.analysis.calibration import calibration


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=60), st.integers(1, 12))
def test_calibration_is_the_definition(answers: list[tuple[bool, float]], bins: int) -> None:
    right, confidence = np.array([a for a, _ in answers]), np.array([b for _, b in answers])
    found = calibration(right, confidence, bins)
    edges = np.linspace(0, 1, bins + 1)
    expected = 0.0
    for i in range(bins):
        inside = (confidence > edges[i]) & (confidence <= edges[i + 1])
        if i == 0:
            inside |= confidence == 0
        if inside.any():
            expected += inside.sum() / len(right) * abs(right[inside].mean() - confidence[inside].mean())
    assert found.ece == pytest.approx(expected)
    assert sum(entry.count for entry in found.bins) == len(answers)
    assert all(entry.interval[0] - 1e-9 <= entry.right <= entry.interval[1] + 1e-9 for entry in found.bins)


def test_calibration_of_nothing_and_of_rounding() -> None:
    with pytest.raises(ValueError, match="no answers"):
        calibration(np.array([], dtype=bool), np.array([], dtype=np.float32))
    assert calibration(np.array([True]), np.array([1 + 1e-7])).ece == 0
