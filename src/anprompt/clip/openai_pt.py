"""OpenAI's ``.pt`` files, read as data: no code from the file runs.

Such a file is a zip archive with one pickle (``<name>/data.pkl``) and one member per tensor storage
(``<name>/data/<key>``). A TorchScript archive pickles module objects, ``torch.save`` a plain dictionary. The reader
below admits tensors, containers and inert stand-ins for TorchScript modules, and refuses every other global.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from anprompt.errors import UserError

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Module:
    """Stands in for any ``__torch__.*`` class: keeps the attributes, has no behaviour."""

    attributes: Mapping[str, Any] = MappingProxyType({})

    def __setstate__(self, state: object) -> None:
        self.attributes = dict(state) if isinstance(state, dict) else {}


def _rebuild_tensor(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_hooks_and_metadata: object
) -> Tensor:
    """View a flat storage as a tensor; ``as_strided`` refuses what lies outside the storage."""
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _rebuild_parameter(data: Tensor, *_requires_grad_and_hooks: object) -> Tensor:
    return data


def _first(value: object, *_type: object) -> object:
    """A typed TorchScript list, or a value with a type tag, is the value itself."""
    return value


ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
    **{("torch.jit._pickle", f"build_{kind}list"): _first for kind in ("int", "double", "bool", "tensor")},
}


class _Unpickler(pickle.Unpickler):
    """Admits :data:`ADMITTED` and TorchScript classes; anything else ends the reading before it is called."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, source: str) -> None:
        super().__init__(io.BytesIO(_member(archive, f"{folder}data.pkl")))
        self._archive, self._folder, self._source = archive, folder, source
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if (module, name) in ADMITTED:
            return ADMITTED[module, name]
        raise _refused(self._source, f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """Resolve ``("storage", type, key, device, elements)`` to a flat tensor ``(elements,)``."""
        kind, dtype, key, _device, elements = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError("unknown persistent id")
        if key not in self._storages:
            raw = bytearray(_member(self._archive, f"{self._folder}data/{key}"))
            if len(raw) != elements * dtype.itemsize:
                raise ValueError(f"storage {key} has {len(raw)} bytes")
            self._storages[key] = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _refused(source: str, name: str) -> UserError:
    return UserError(
        f"{source}: the file asks to run or build '{name}', which a CLIP checkpoint does not need; refused, nothing "
        "was run. Give a file with a plain state dict or OpenAI's own archive."
    )


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of one member. PyTorch stores them plainly; a compressed one could unpack to any size."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"member {name} is compressed")
    return archive.read(info)


def _tensors(root: object) -> dict[str, Tensor]:
    """All tensors below ``root``, a tree of modules and dictionaries, by dotted name."""
    found: dict[str, Tensor] = {}
    open_nodes: list[tuple[str, object]] = [("", root)]
    visited: set[int] = set()  # a crafted file could hold a cycle
    while open_nodes:
        prefix, node = open_nodes.pop()
        children = node.attributes if isinstance(node, _Module) else node
        if not isinstance(children, Mapping) or id(node) in visited:
            continue
        visited.add(id(node))
        for name, value in children.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            else:
                open_nodes.append((f"{prefix}{name}.", value))
    return found


def read_openai_pt(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a TorchScript archive or of a saved state dict, by dotted name, without executing its code.

    Tensors keep the file's precision. Raises :class:`UserError` for a truncated or foreign file and for one that names
    a function or class outside :data:`ADMITTED`.
    """
    try:
        if not zipfile.is_zipfile(path):  # torch.save before 2020 wrote no zip archive
            with path.open("rb") as file:
                if file.read(4) == b"PK\x03\x04":
                    raise zipfile.BadZipFile("no central directory")
            return _tensors(torch.load(path, map_location="cpu", weights_only=True))
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
            if len(pickles) != 1:
                raise ValueError("no data.pkl")
            return _tensors(_Unpickler(archive, pickles[0].removesuffix("data.pkl"), str(path)).load())
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
        if unsafe is not None:
            raise _refused(str(path), unsafe[1]) from None
        reason = str(error).strip().split("\n")[0].rstrip(".")[:120]
        if reason.startswith("Weights only load failed"):
            reason = "not a saved state dict"  # what PyTorch advises there is to run the file's code
        raise UserError(
            f"{path}: truncated, damaged or not a PyTorch checkpoint ({path.stat().st_size:,} bytes; {reason}). "
            "Download or copy it again."
        ) from error
