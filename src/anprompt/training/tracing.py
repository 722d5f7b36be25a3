"""Counting the memory of tensor code, with or without running its arithmetic.

:class:`LiveBytes` sees every operation, forward and backward, and adds up the storages that are alive, as autograd,
custom functions and recomputation keep them. With ``shapes_only`` tensors have a shape and no numbers: what takes
minutes to compute is followed in a second.
"""

from __future__ import annotations

import contextlib
import gc
import random
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

SMALL = 1 << 22  # numbers in a tensor up to which positions, lengths and masks are really computed
EFFICIENT, FLASH = 2, 1  # PyTorch's numbers of its fused attentions

aten = torch.ops.aten


class Shape(Tensor):
    """A tensor on the meta device, which says that it is elsewhere: code that asks goes the way it would really go."""

    __torch_function__: Any = torch._C._disabled_torch_function_impl
    __torch_dispatch__: Any = torch._C._disabled_torch_dispatch_impl
    claimed = torch.device("cpu")
    truthful = False  # inside an operation, where PyTorch's own Python code compares places

    @staticmethod
    def like(tensor: Tensor, device: torch.device) -> Shape:
        """The shape of ``tensor``, which is on the meta device or really on ``device``."""
        if tensor.device.type != "meta":
            tensor = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        made: Shape = torch.Tensor._make_subclass(Shape, tensor)
        if device != Shape.claimed:
            made.claimed = device
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("meta") if Shape.truthful else self.claimed

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return self.claimed.type == "cuda"

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return self.claimed.type == "cpu"


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered: bytes of all storages made since and still alive (``now``), and the most there were (``peak``).

    shapes_only: nothing is computed, as if on ``device``. Tensors from outside keep their numbers, whatever is written
    to them. Only what is made from nothing or from whole numbers (positions, lengths, masks) gets its true values,
    because code reads them; a single number read from anything else is 1. ``torch.empty(…, device="meta")`` makes a
    tensor without numbers of any size.
    """

    def __init__(self, *, shapes_only: bool = False, device: torch.device | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.shapes_only = shapes_only
        self.device = device or torch.device("cpu")
        self._alive: dict[int, Any] = {}  # storage -> weak reference that calls back when it goes
        self._true: set[int] = set()  # storages made here that hold numbers
        self._answers: dict[Any, tuple[Any, Any, torch.dtype]] = {}  # operation and shapes -> what comes out

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors(args, kwargs)
        true = not self.shapes_only or self._computed(func, args, kwargs, given)
        if true:
            out = func(*args, **kwargs)
        else:
            if any(type(tensor) is not Shape for tensor in given):
                args, kwargs = self._meta(args), self._meta(kwargs)
                given = _tensors(args, kwargs)  # views of weights are no memory of ours either
            out = self._shapes(func, args, kwargs, given)
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._alive and not _shares(tensor, given):
                self._count(storage)
                if true:
                    self._true.add(storage._cdata)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), storage._cdata
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone(_: Any) -> None:
            del self._alive[key]
            self._true.discard(key)
            self.now -= size

        self._alive[key] = weakref.ref(storage, gone)

    def check_all_gone(self) -> None:
        """Raise ``RuntimeError`` if a tensor without numbers is still kept anywhere: later code would stumble on it."""
        if set(self._alive) - self._true:
            gc.collect()
        if left := len(set(self._alive) - self._true):
            raise RuntimeError(f"{left} tensors of a memory trace are kept in some cache")

    # ---- shapes ----------------------------------------------------------------------------------------------------

    def _computed(self, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> bool:
        """Whether an operation is one of the few that are really run."""
        if not given:
            made = _tensors(_on_meta(func, args, kwargs))
            small = bool(made) and all(tensor.numel() <= SMALL for tensor in made)
            return small and str(kwargs.get("device")) != "meta"
        known = all(
            type(t) is not Shape
            and t.numel() <= SMALL
            and (not t.is_floating_point() or t.untyped_storage()._cdata in self._true)
            for t in given
        )
        if not _about(func).written:
            return known
        changed = [args[i] for i in _about(func).written if i < len(args)]
        changed += [kwargs[name] for name in _about(func).written_names if name in kwargs]
        inside = {t.untyped_storage()._cdata for t in _tensors(changed)}
        if not known:
            self._true -= inside  # numbers that nobody knows went in
        return known and inside <= self._true  # nothing from outside is ever written to

    def _shapes(self, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
        if func is aten._local_scalar_dense.default:
            return torch.ones((), dtype=args[0].dtype).item()
        if func is aten._fused_sdp_choice.default:
            return FLASH if self.device.type == "cpu" else EFFICIENT
        if func is aten._to_copy.default and self._is_no_copy(args[0], kwargs):
            func, kwargs = aten.alias.default, {}
        if _about(func).keeps_shape:
            return args[0]
        question = func, _described(args), _described(kwargs)
        if question in self._answers:
            size, stride, dtype = self._answers[question]
            return Shape.like(torch.empty_strided(size, stride, dtype=dtype, device="meta"), self.device)
        out = self._claim(_on_meta(func, args, kwargs))
        if isinstance(out, Tensor) and not _shares(out, given):
            self._answers[question] = out.shape, out.stride(), out.dtype
        return out

    @staticmethod
    def _is_no_copy(tensor: Tensor, kwargs: dict[str, Any]) -> bool:
        """Whether only a move to the place is asked for at which ``tensor`` claims to be."""
        there = torch.device(kwargs.get("device") or tensor.device).type == tensor.device.type
        return there and kwargs.get("dtype") in (None, tensor.dtype) and kwargs.get("memory_format") is None

    def _meta(self, value: Any) -> Any:
        """``value`` with shapes in place of tensors that have numbers."""
        if isinstance(value, Tensor):
            return value if type(value) is Shape else Shape.like(value, self.device)
        if isinstance(value, list | tuple):
            return [self._meta(entry) for entry in value] if _tensors(value) else value
        if isinstance(value, dict):
            return {key: self._meta(entry) for key, entry in value.items()}
        return value

    def _claim(self, out: Any) -> Any:
        if isinstance(out, Tensor):
            return out if type(out) is Shape else Shape.like(out, self.device)
        if isinstance(out, list | tuple):
            return type(out)(self._claim(entry) for entry in out)
        return out


class _About(NamedTuple):
    """What an operation's signature says."""

    written: tuple[int, ...]  # positions of the arguments that it changes
    written_names: tuple[str, ...]
    takes_device: bool
    keeps_shape: bool  # changes its first argument and returns it, and the shape stays


@cache
def _about(func: Any) -> _About:
    arguments = func._schema.arguments
    written = tuple(i for i, a in enumerate(arguments) if a.is_write)
    keeps = written == (0,) and (torch.Tag.pointwise in func.tags or func is aten.copy_.default)
    names = tuple(arguments[i].name for i in written)
    return _About(written, names, any(a.name == "device" for a in arguments), keeps)


def _on_meta(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on shapes alone."""
    if _about(func).takes_device:
        kwargs = {**kwargs, "device": torch.device("meta"), "pin_memory": None}
    if "generator" in kwargs:
        kwargs = {**kwargs, "generator": None}
    Shape.truthful = True
    try:
        return func(*args, **kwargs)
    finally:
        Shape.truthful = False


def _described(value: Any) -> Any:
    """All that a result's shape can depend on, as a key."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(_described(entry) for entry in value)
    if isinstance(value, dict):
        return tuple((key, _described(entry)) for key, entry in value.items())
    return type(value), value  # 1 and 1.0 give different dtypes


def _shares(tensor: Tensor, others: list[Tensor]) -> bool:
    """Whether ``tensor`` lies in the memory of one of ``others``."""
    key = tensor.untyped_storage()._cdata
    return any(key == other.untyped_storage()._cdata for other in others)


def _tensors(*values: Any) -> list[Tensor]:
    """All tensors in ``values`` and the lists, tuples and dicts among them."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(*value)
        elif isinstance(value, dict):
            found += _tensors(*value.values())
    return found


# ---- leaving no trace ------------------------------------------------------------------------------------------------

ENDS = (Tensor, str, bytes, int, float, complex, type(None), type, FunctionType, MethodType, ModuleType)
Undo = Callable[[], object]


@contextlib.contextmanager
def untouched(root: object, replace: Iterable[tuple[object, object]] = ()) -> Iterator[None]:
    """Afterwards, attributes, dicts and lists that can be reached from ``root`` hold the same objects as before, and
    random generators are where they were. The numbers in tensors are not looked at.

    replace: (object, what stands for it meanwhile) in attributes, dicts and lists.
    """
    undo: list[Undo] = [*_generators(random._inst, np.random.mtrand._rand, torch.default_generator)]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        undo.append(partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    instead = {id(old): new for old, new in replace}
    holders: list[tuple[Any, list[Any]]] = []  # container, its keys
    seen: set[int] = set()
    waiting: list[Any] = [root]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, ENDS) or id(thing) in seen:
            continue
        seen.add(id(thing))
        undo += _generators(thing)
        if isinstance(thing, dict):
            undo.append(_undo_dict(thing))
            holders.append((thing, list(thing)))
            waiting += thing.values()
        elif isinstance(thing, list):
            undo.append(_undo_list(thing))
            holders.append((thing, list(range(len(thing)))))
            waiting += thing
        elif isinstance(thing, tuple | set | frozenset):
            waiting += thing
        elif isinstance(own := getattr(thing, "__dict__", None), dict):
            waiting.append(own)
    try:
        for holder, keys in holders:
            for key in keys:
                if id(holder[key]) in instead:
                    holder[key] = instead[id(holder[key])]
        yield
    finally:
        for back in undo:
            back()


def _undo_dict(thing: dict[Any, Any]) -> Undo:
    before = dict(thing)

    def back() -> None:  # only what differs: other threads may be reading
        for key in [key for key in thing if key not in before]:
            del thing[key]
        for key, value in before.items():
            if key not in thing or thing[key] is not value:
                thing[key] = value

    return back


def _undo_list(thing: list[Any]) -> Undo:
    before = list(thing)

    def back() -> None:
        if len(thing) != len(before) or any(a is not b for a, b in zip(thing, before, strict=True)):
            thing[:] = before

    return back


def _generators(*things: object) -> Iterator[Undo]:
    """What puts random generators among ``things`` back."""
    for thing in things:
        if isinstance(thing, random.Random):
            yield partial(thing.setstate, thing.getstate())
        elif isinstance(thing, np.random.RandomState):  # noqa: SIM114 - other types of state
            yield partial(thing.set_state, thing.get_state())
        elif isinstance(thing, torch.Generator):
            yield partial(thing.set_state, thing.get_state())
        elif isinstance(thing, np.random.Generator):
            yield partial(setattr, thing.bit_generator, "state", thing.bit_generator.state)
