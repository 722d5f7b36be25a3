"""From the host to the device that computes, without waiting for the work that is still queued there."""

from __future__ import annotations

import torch
from torch import Tensor

QUEUES = {"cuda"}  # kinds of devices that compute behind the host's back and copy from pinned memory meanwhile


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on the CPU, in memory from which :func:`sent` need not wait; itself where that is all the same."""
    return tensor.pin_memory() if device.type in QUEUES else tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor``, from the CPU, on ``device``; an ordinary copy would first let a GPU run out of work."""
    return pinned(tensor, device).to(device, non_blocking=device.type in QUEUES)
