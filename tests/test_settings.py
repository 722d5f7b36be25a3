"""Names of devices, and the cores that several runs share."""

from __future__ import annotations

import os

import pytest
import torch

from anprompt.commands.lists import cores_each
from anprompt.errors import UserError
from anprompt.settings import find_device


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device("cpu") == find_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("auto") == torch.device("cuda")
    assert find_device("cuda:1") == find_device(torch.device("cuda", 1)) == torch.device("cuda:1")
    with pytest.raises(UserError, match="There is no device 'cuda:2': the last one here is 'cuda:1'"):
        find_device("cuda:2")
    for name in ("gpu", "cuda:one", "cuda1"):
        with pytest.raises(UserError, match=f"Unknown device '{name}'"):
            find_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="'cuda' is not available"):
        find_device("cuda:0")


def test_runs_share_the_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert (cores_each(2, None), cores_each(3, None), cores_each(16, None)) == (4, 2, 1)
    assert (cores_each(1, None), cores_each(2, 5)) == (None, 5)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores_each(2, None) == 32
