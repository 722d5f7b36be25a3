"""What several methods share: maps from the joint space into the towers, a learned projection, and layer ranges."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.errors import UserError


class LowRankMaps(nn.Module):
    """Linear maps that share one matrix and differ by rank-r updates and biases: W x + B_l A_l x + b_l.

    B_l = 0 at the start (the shared-plus-residual maps of MMRL++, https://arxiv.org/abs/2505.10088).
    """

    def __init__(self, layers: int, d_in: int, d_out: int, rank: int) -> None:
        super().__init__()
        self.shared = nn.Linear(d_in, d_out, bias=False)
        self.down = nn.Parameter(torch.randn(layers, rank, d_in) * d_in**-0.5)
        self.up = nn.Parameter(torch.zeros(layers, d_out, rank))
        self.bias = nn.Parameter(torch.zeros(layers, d_out))

    def forward(self, x: Tensor, layer: int) -> Tensor:
        return F.linear(x, self.shared.weight + self.up[layer] @ self.down[layer], self.bias[layer])


class LowRankProjection(nn.Module):
    """What a method inherits for a projection that starts as a frozen one and learns a rank-r update: (P + B A) x.

    B = 0 at the start. The tensors are the method's own, because adapters have them under these names.
    """

    projection_base: Tensor  # P (d_out, d_in)
    projection_down: nn.Parameter  # A (r, d_in)
    projection_up: nn.Parameter  # B (d_out, r)

    def start_low_rank(self, frozen: Tensor, rank: int) -> None:
        """Make the tensors. frozen: P, which no adapter stores."""
        d_out, d_in = frozen.shape
        self.register_buffer("projection_base", frozen.clone(), persistent=False)
        self.projection_down = nn.Parameter(torch.randn(rank, d_in) * d_in**-0.5)
        self.projection_up = nn.Parameter(torch.zeros(d_out, rank))

    def project_low_rank(self, x: Tensor) -> Tensor:
        """``(…, d_in)`` -> ``(…, d_out)``."""
        return F.linear(x, self.projection_base + self.projection_up @ self.projection_down)


class LinearMaps(nn.Module):
    """One linear map for each layer, all starting equal, or a single one for all layers."""

    def __init__(self, layers: int, d_in: int, d_out: int) -> None:
        super().__init__()
        first = nn.Linear(d_in, d_out)
        self.maps = nn.ModuleList([first, *(copy.deepcopy(first) for _ in range(layers - 1))])

    def forward(self, x: Tensor, layer: int) -> Tensor:
        return self.maps[min(layer, len(self.maps) - 1)](x)  # type: ignore[no-any-return]


def parse_layers(layers: str, depth: int) -> range:
    """Block numbers named by ``"A-B"``, ``"A"`` or ``"last-N"``, 1-based and inclusive, in a tower of ``depth`` blocks.

    Raises :class:`UserError` for another form or for blocks outside the tower.
    """
    try:
        if layers.startswith("last-"):
            count = int(layers.removeprefix("last-"))
            first, last = depth - count + 1, depth
        else:
            first, last = (int(part) for part in (layers.split("-") * 2 if "-" not in layers else layers.split("-")))
    except ValueError:
        raise UserError(f"Option 'layers' must look like '6-12' or 'last-7' (got '{layers}').") from None
    if not 1 <= first <= last <= depth:
        raise UserError(
            f"Option 'layers' is '{layers}', outside the tower: allowed are blocks 1 to {depth}, "
            f"e.g. 'last-{min(7, depth)}'."
        )
    return range(first, last + 1)
