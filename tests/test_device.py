"""All methods on a device other than the CPU: no tensor is made in the wrong place, and no step waits for the device.

No GPU is needed: ``helpers_device`` pretends one. ``device_run.py`` does the work, once, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from anprompt import methods
from anprompt.evaluating import read_weights

METHODS = [method.name for method in methods.available()]
pytestmark = pytest.mark.timeout(1800)  # the first test waits for all cases


@cache
def outcomes() -> dict[str, str | None]:
    """What is wrong with each case, if anything."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("device_run.py"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_trained_and_used_elsewhere(name: str) -> None:
    assert outcomes()[name] is None


@pytest.mark.slow
def test_other_options_and_precisions_elsewhere() -> None:
    others = outcomes().keys() - set(METHODS)
    assert len(others) > 5
    assert {case: outcomes()[case] for case in others if outcomes()[case]} == {}


def test_weights_of_pictures_may_be_a_tensor_with_a_gradient() -> None:
    assert read_weights(torch.ones(2, requires_grad=True), 2).tolist() == [1, 1]
