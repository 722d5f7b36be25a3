"""How many floating point operations a step really does in matrix products, attention and convolutions.

Counted where PyTorch dispatches operators, hence also inside custom autograd functions and in the backward pass. One
multiplication with its addition is 2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from anprompt.clip import ClipConfig, TowerConfig

aten = torch.ops.aten
PRODUCT = re.compile(r"(mm|dot|mv)($|_)|matmul|linear|conv|attention")


def _linear(x: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    """``(…, I)`` to ``(…, O)``, whatever else goes into the same kernel and however the weight is laid out."""
    return 2 * math.prod(out_shape) * x[-1]


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))  # type: ignore[no-untyped-call]


FORMULAS = {  # operators of the CPU that PyTorch's own table lacks
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.mkldnn_linear: _linear,
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # PyTorch was built with oneDNN
    FORMULAS[torch.ops.mkldnn._linear_pointwise] = _linear


class _Names(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which operators ran."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.packets: set[Any] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.packets.add(func._overloadpacket)
        return func(*args, **(kwargs or {}))


def count(call: Callable[[], Any]) -> int:
    """Operations of one call. Raises ``RuntimeError`` when a product ran that no formula is known for."""
    names, counter = _Names(), FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with names, counter:
        call()
    unknown = sorted(
        str(packet) for packet in names.packets - set(counter.flop_registry) if PRODUCT.search(str(packet))
    )
    if unknown:
        raise RuntimeError(f"no formula for the operations of {', '.join(unknown)}")
    return int(counter.get_total_flops())


def block(config: TowerConfig, length: int) -> int:
    """Forward operations of one full block on one sequence: four linear maps, scores and mixing."""
    d = config.width
    return 2 * (length * (4 * d * d + 2 * d * config.mlp) + 2 * length * length * d)


def plain_step(config: ClipConfig, classes: int, images: int, prompts: int = 5, prompted: int = 7) -> int:
    """Operations of the plain step by arithmetic: forward everywhere, backward where gradients pass.

    Backward through frozen linear maps costs as much as forward; attention, which makes its scores again, 2.5 times.
    """

    def tower(c: TowerConfig, length: int) -> int:
        long = length + prompts
        below = (c.depth - prompted) * block(c, length)
        attention = 2 * 2 * long * long * c.width
        return below + prompted * (2 * block(c, long) + round(1.5 * attention))

    m = 1 + config.patches
    patches = 2 * config.patches * 3 * config.patch_size**2 * config.vision.width
    teacher = config.vision.depth * block(config.vision, m)
    return classes * tower(config.text, config.context) + images * (tower(config.vision, m) + teacher + 2 * patches)
