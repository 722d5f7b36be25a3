"""Frozen activations kept on disk, for runs that show the same pictures to the same encoder again.

What comes into the first prompted vision block depends on pixels and frozen weights only, and so do the features
without prompts that some methods compare with. Runs of one seed with other methods or options see the same training
batches, and all runs see the same test batches: all but the first of them can read what the frozen blocks gave, instead
of running these again.

Results are those of a run without a cache, bit by bit. Matrix kernels may round otherwise in a batch of another size or
on another machine, so a whole batch is one entry, and its key covers everything that bits can depend on: the pixels of
the batch in their order (the pictures and the transform in one), block, weights, sizes and precision of the encoder,
the code of this package, torch, device and number of threads. A batch made up otherwise is a miss.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from anprompt.errors import UserError
from anprompt.files import PART, TRIED, atomic_path, check_writable, expanded, write_json

if TYPE_CHECKING:
    from anprompt.clip.backbone import Backbone

MARK = "anprompt-cache.json"  # says that a folder is ours, so that deleting from it is allowed
CONTENT = {"content": "activations kept by anprompt; may be deleted at any time", "format": 1}
ENTRY = ".safetensors"
GIB = 2**30
LIMIT = 10 * GIB
STALE = 3600.0  # seconds after which a file that is still being written was left behind by a killed process


class ActivationCache:
    """A folder of frozen activations, bounded in size; what was not used for longest goes first.

    What this run has used stays: runs show their batches in one order, and when these are too many, each new one would
    take the place of one that the next run asks for. Once only such entries are left, nothing more is written.

    Several processes may share the folder, also on several machines: files appear whole or not at all, and one that
    has vanished or is damaged counts as a miss. When nothing more can be written, runs go on without new entries.

    Args:
        folder: made when there is something to keep. One that holds anything but a cache is refused.
        limit_bytes: size of all entries together. Processes that write at the same moment may exceed it, each by one
            entry or 1/64, until the next of them writes.

    Raises:
        UserError: the folder is not a cache or cannot be made, or the limit is not positive.
    """

    def __init__(self, folder: str | Path, limit_bytes: int = LIMIT) -> None:
        if limit_bytes <= 0:
            raise UserError(f"The size limit of an activation cache must be above 0 (got {limit_bytes} bytes).")
        self.folder = expanded(folder)
        self.limit_bytes = int(limit_bytes)
        self.hits = 0
        self.misses = 0
        self.problem = ""  # why the last batch that was not kept could not be kept
        self._full = False  # the disk, as opposed to the limit
        self._room = 0  # bytes that may be written before the folder is measured again
        self._too_large: float = math.inf  # bytes of a batch for which there was no room in this run
        self._used: set[str] = set()  # names of entries that this run has written or read
        self._used_before: set[str] = set()  # the same of the run before: training and evaluating take turns
        self._check()

    def _check(self) -> None:
        if self.folder.is_file():
            raise UserError(f"'{self.folder}' is a file; give a folder for the activation cache.")
        try:
            known = json.loads((self.folder / MARK).read_text("utf-8")) if self._holds_anything() else CONTENT
        except FileNotFoundError:
            raise UserError(
                f"'{self.folder}' is not an activation cache and not empty: old entries of a cache are deleted, so "
                "give it a folder of its own."
            ) from None
        except OSError as error:
            raise UserError(f"Cannot use '{self.folder}' as activation cache: {error.strerror or error}.") from error
        except ValueError:
            known = None
        if known != CONTENT:
            raise UserError(
                f"'{self.folder}' is not an activation cache that this version can use ('{MARK}' says otherwise): "
                "give another folder, or delete this one."
            )

    def _holds_anything(self) -> bool:
        """Whether more is in the folder than what processes that start now put there; a new folder is tried."""
        try:
            names = [path.name for path in self.folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):  # or another process has removed it, which only tried it
            try:
                check_writable(self.folder)
            except UserError as error:
                raise UserError(f"Cannot make the activation cache '{self.folder}': {_cause(error)}.") from error
            return False
        # A file being written is the mark, one that is tried shows whether that can be written.
        return any(not (name.endswith(PART) or name.startswith(TRIED)) for name in names)

    @contextlib.contextmanager
    def attached(self, backbone: Backbone) -> Iterator[ActivationCache]:
        """Use the cache for ``backbone`` inside the block; afterwards it has the cache that it had before.

        Each block is a run of its own.
        """
        self._used_before, self._used, self._too_large = self._used, set(), math.inf
        before = backbone.cache
        backbone.cache = _Attached(self, backbone)
        try:
            yield self
        finally:
            backbone.cache = before

    def fetch(self, encoder: str, pixels: Tensor, block: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The input ``(B, 1 + M, D)`` of vision block ``block`` for ``pixels`` ``(B, 3, H, W)``, as ``Backbone.cache``.

        encoder: says which frozen encoder in which precision ``compute`` runs. compute: pixels to activations; called
        for a batch that was not kept. Block 1 is never kept: reading costs what the patch embedding does.
        """
        if block <= 1:
            return compute(pixels)
        path = self.folder / f"{_key(encoder, pixels, block)}{ENTRY}"
        kept = _read(path)
        if kept is not None:
            self.hits += 1
            self._used.add(path.name)
            return kept.to(pixels.device)
        self.misses += 1
        tokens = compute(pixels).contiguous()
        self._write(path, tokens)
        return tokens

    def _write(self, path: Path, tokens: Tensor) -> None:
        if self._full or tokens.nbytes >= self._too_large:
            return
        own = tokens.detach().cpu()
        content = save({"tokens": own, "sha256": _digest(path.stem, own)})
        if not self._make_room(len(content)):
            self._too_large = own.nbytes
            return
        try:
            if not (self.folder / MARK).exists():  # the first entry, or somebody has deleted the folder meanwhile
                write_json(self.folder / MARK, CONTENT)
            with atomic_path(path) as part:
                part.write_bytes(content)
            self._used.add(path.name)
        except UserError as error:
            self._full = True
            self.problem = f"nothing more can be written: {_cause(error)}"

    def _make_room(self, size: int) -> bool:
        """Whether ``size`` bytes fit; deletes what was not used for longest when they would not.

        If that is not enough, nothing is deleted, and :attr:`problem` says why.
        """
        spare = self.limit_bytes // 16
        if size > self.limit_bytes - spare:
            self.problem = f"a batch takes {_in_words(size)}, too much for a limit of {_in_words(self.limit_bytes)}"
            return False
        if size <= self._room:
            self._room -= size
            return True
        entries = sorted(self._entries())
        excess = sum(entry.size for entry in entries) + size - (self.limit_bytes - spare)
        others = [entry for entry in entries if not (self._is_used(entry) or entry.path.name.endswith(PART))]
        if sum(entry.size for entry in others) < excess:
            self.problem = f"this run shows more than fits the limit of {_in_words(self.limit_bytes)}"
            return False
        for entry in others:
            if excess <= 0:
                break
            with contextlib.suppress(OSError):  # another process was quicker, or is reading it (Windows)
                entry.path.unlink()
            excess -= entry.size
        self._room = spare // 4
        return True

    def _is_used(self, entry: _Entry) -> bool:
        return entry.path.name in self._used or entry.path.name in self._used_before

    def _entries(self) -> Iterator[_Entry]:
        """All entries, and files being written; those that killed processes left behind are deleted."""
        with contextlib.suppress(OSError), os.scandir(self.folder) as files:
            for file in files:
                if not file.name.endswith((ENTRY, PART)):
                    continue
                with contextlib.suppress(OSError):
                    status = file.stat()
                    if file.name.endswith(PART) and time.time() - status.st_mtime > STALE:
                        Path(file.path).unlink()
                    else:
                        yield _Entry(status.st_mtime_ns, status.st_size, Path(file.path))

    @property
    def bytes(self) -> int:
        """Size of all entries together."""
        return sum(entry.size for entry in self._entries())

    def summary(self) -> str:
        """What the cache did for this process, in one line."""
        text = f"cache: {self.hits} hits, {self.misses} misses, {_in_words(self.bytes)} in '{self.folder}'"
        return f"{text} ({self.problem})" if self.problem else text


@dataclass(frozen=True, order=True)
class _Entry:
    used: int  # ns; what was used last comes last
    size: int
    path: Path


class _Attached:
    """A cache and the backbone that it serves, as :attr:`Backbone.cache` wants it."""

    def __init__(self, cache: ActivationCache, backbone: Backbone) -> None:
        self.cache = cache
        self._backbone = backbone
        self._model = f"{backbone.weights_hash}/{backbone.computes}/{backbone.precision}"

    def fetch(self, pixels: Tensor, block: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """:meth:`ActivationCache.fetch` for this backbone as it runs now."""
        compiled = "packed" in vars(self._backbone.vision.blocks[0])  # set in front of the class's own for that time
        return self.cache.fetch(f"{self._model}/{compiled}", pixels, block, compute)


def _key(encoder: str, pixels: Tensor, block: int) -> str:
    """SHA-256 over everything that the activations' bits can depend on."""
    device = torch.cuda.get_device_name(pixels.device) if pixels.is_cuda else pixels.device.type
    parts = [
        encoder, block, tuple(pixels.shape), pixels.stride(), pixels.dtype, device, torch.get_num_threads(),
        torch.get_float32_matmul_precision(), _software(), _processor(),
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps([str(part) for part in parts]).encode())
    digest.update(_bytes(pixels.detach().cpu()))
    return digest.hexdigest()


@cache
def _software() -> str:
    """What computes: torch, and the code of the encoder itself."""
    digest = hashlib.sha256(f"{torch.__version__}/{torch.backends.cpu.get_cpu_capability()}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _processor() -> str:
    """The processor's model: libraries choose their kernels by it."""
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if match:
            return match[1]
    return platform.processor() or platform.machine()


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, of any dtype."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def _digest(key: str, tensor: Tensor) -> Tensor:
    """SHA-256 over key, dtype, shape and bytes of an entry: uint8 ``(32,)``."""
    digest = hashlib.sha256(f"{key}{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(_bytes(tensor))
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _read(path: Path) -> Tensor | None:
    """An entry, now the one used last; ``None`` if it is not there or not what was written."""
    try:
        entry = load(path.read_bytes())  # not memory-mapped: the file may be deleted, on another machine, meanwhile
        tokens = entry["tokens"]
        if not torch.equal(_digest(path.stem, tokens), entry["sha256"]):
            return None
    except (OSError, KeyError, ValueError, SafetensorError):
        return None
    now = time.time_ns()
    with contextlib.suppress(OSError):  # a folder that others own can be read all the same
        os.utime(path, ns=(now, now))
    return tokens.clone()  # in memory that torch aligned: some kernels round by the alignment of their input


def _cause(error: UserError) -> str:
    """What the system said."""
    cause = error.__cause__
    return str(getattr(cause, "strerror", None) or cause)


def _in_words(size: int) -> str:
    """``1.2 GiB``."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(len(units) - 1, max(0, size.bit_length() - 1) // 10)
    return f"{size / 1024**power:.1f} {units[power]}" if power else f"{size} B"
