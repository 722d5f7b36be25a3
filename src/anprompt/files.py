"""Writing files so that nothing is ever lost: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anprompt.errors import UserError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; it replaces ``path`` when the block ends without an error.

    Raises :class:`UserError` when the system refuses (disk full, read-only); the old file is then as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
    except OSError as error:
        raise UserError(f"Cannot write '{path}': {error.strerror or error}.") from error
    part = Path(name)
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"Cannot write '{path}': {error.strerror or error}; what was there before is untouched."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write ``document`` as indented JSON, atomically."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def check_writable(folder: Path) -> None:
    """Create ``folder`` and try a file in it, before anything expensive starts; :class:`UserError` if that fails."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is a file; give a folder for the output.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable."):
            pass
    except OSError as error:
        raise UserError(f"Cannot write to the output folder '{folder}': {error.strerror or error}.") from error


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(document: Any) -> str:
    """SHA-256 over the canonical JSON of ``document``, hexadecimal: equal documents have equal hashes."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
