"""Shared fixtures. Everything runs offline on a CPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
REAL = Path(__file__).resolve().parents[2] / "shared" / "real"


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real photos, texts, splits and the stand-in backbone; see the marker ``real``."""
    if not REAL.is_dir():
        pytest.skip("real photos and the stand-in backbone are not beside this checkout (../shared/real)")
    return REAL
