"""A device for tests on machines that have no other than the CPU.

``Elsewhere`` pretends that there is one. Everything is computed, on the CPU, but tensors say that they are elsewhere,
and what CUDA refuses is refused: tensors of two places in one operation, ``numpy()``, a CPU's generator. What makes the
host wait for a GPU is written down. It is for a process of its own: PyTorch knows the device from the import on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten = torch.ops.aten
NAME = "elsewhere"
DEVICE = f"{NAME}:0"
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}
READING = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.masked_select.default,
    aten.bincount.default, aten.repeat_interleave.Tensor, aten._unique2.default,
}  # fmt: skip
MATH = 0  # PyTorch's number of its plain attention


class Backend(_DummyBackendModule):
    """What PyTorch asks about the device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(NAME, Backend())
torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) makes a tensor of the CPU and moves it


class There(Tensor):
    """A tensor elsewhere; its numbers are in ``here``."""

    here: Tensor
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        made: There = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=torch.device(DEVICE),
        )  # fmt: skip
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of the pretended device")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self.here.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.here.untyped_storage()


class Elsewhere(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, tensors can be elsewhere. ``waits``: what made the host wait since it was emptied, and where."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = list[Tensor]()
        own = _each([args, kwargs], lambda tensor: given.append(tensor) or _here(tensor))
        there = [tensor for tensor in given if isinstance(tensor, There)]
        to = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type == NAME
        goes = bool(there) if to is None else to  # where the result is
        if func is aten._fused_sdp_choice.default:
            return MATH
        if func is aten._pin_memory.default:
            return args[0]
        if func in (aten._to_copy.default, aten.copy_.default):
            goes = isinstance(args[0], There) if to is None else to
            if len({*(isinstance(tensor, There) for tensor in given), goes}) > 1 and not kwargs.get("non_blocking"):
                self._wait(f"a copy {'to' if goes else 'from'} the device")
        elif there:
            self._check(func, args, given)
        if there and func in READING:
            self._wait(f"reading by {func}")
        if goes and kwargs.get("generator") is not None:
            raise RuntimeError(f"{func}: a CPU's generator for a tensor elsewhere")
        if goes and torch.Tag.nondeterministic_seeded in func.tags:
            self._wait(f"{func} draws other numbers there than on a CPU")
        if to:
            own[1]["device"] = torch.device("cpu")
        written = {id(tensor.here): tensor for tensor in there}
        out = func(*own[0], **own[1])

        def placed(tensor: Tensor) -> Tensor:
            if id(tensor) in written or not goes:
                return written.get(id(tensor), tensor)
            return There(tensor)

        return _each(out, placed)

    def _check(self, func: Any, args: Sequence[Any], given: Sequence[Tensor]) -> None:
        """Raise where CUDA would: only numbers alone may come from the CPU, and indices, for which it waits."""
        if func in INDEXING:
            indices = [index for index in args[1] if index is not None]
            if any(not isinstance(index, There) or index.dtype == torch.bool for index in indices):
                self._wait("an index from the CPU, or a mask")
            given = [args[0], *args[2:3]]
        alone = func not in (aten.cat.default, aten.stack.default)
        if not all(isinstance(tensor, There) or (alone and tensor.dim() == 0) for tensor in given):
            shapes = [(type(tensor).__name__, tuple(tensor.shape)) for tensor in given]
            raise RuntimeError(f"{func}: tensors on two devices, {shapes}")

    def _wait(self, what: str) -> None:
        frame = sys._getframe(1)
        while frame.f_back is not None and "/anprompt/" not in frame.f_code.co_filename:
            frame = frame.f_back
        place = frame.f_code.co_filename.rpartition("/anprompt/")[2]
        self.waits.append(f"{place}:{frame.f_lineno}: {what}")


def _here(tensor: Tensor) -> Tensor:
    return tensor.here if isinstance(tensor, There) else tensor


def _each(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """``value`` with all tensors in it changed; what PyTorch has for it takes several times as long."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return [_each(entry, change) for entry in value]
    if isinstance(value, dict):
        return {key: _each(entry, change) for key, entry in value.items()}
    return value
