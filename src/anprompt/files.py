"""Writing files so that nothing is ever lost: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from anprompt.errors import UserError

PART = ".part"  # ends the name of a file that is being written
TRIED = ".writable."  # begins the name of a file that only shows whether a folder can be written to
TRIES = 20  # how often a folder is tried that other processes make and remove meanwhile


def expanded(path: str | Path) -> Path:
    """``path`` with ``~`` as the home folder; a ``~name`` that is no user here stays, where pathlib's raises."""
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def atomic_paths(*paths: Path) -> Iterator[list[Path]]:
    """Give a temporary path beside each of ``paths``; they replace ``paths`` when the block ends without an error.

    All files are safe on the disk before the first is replaced: when the system refuses (disk full, read-only), this
    raises :class:`UserError` and every old file is as it was.
    """
    parts: list[Path] = []
    what = " and ".join(f"'{path}'" for path in paths)
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = _beside(path)
            part.touch(exist_ok=False)  # unlike those of tempfile, with the permissions of any new file
            parts.append(part)
        yield parts
        for part in parts:
            with part.open("r+b") as written:  # Windows flushes only what may be written to
                os.fsync(written.fileno())
        _put_in_place(parts, paths)
    except OSError as error:
        raise UserError(
            f"Cannot write {what}: {error.strerror or error}; what was there before is untouched."
        ) from error
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A new name for a temporary file beside ``path``."""
    return path.with_name(f".{path.name}.{secrets.token_urlsafe(6)}{PART}")


def _put_in_place(parts: Sequence[Path], paths: Sequence[Path]) -> None:
    """Replace each of ``paths`` by its part; where one cannot be replaced, all that was there before comes back.

    Of several files copies are kept meanwhile: the old files themselves stay, for readers and should we be killed.
    """
    kept = {path: _beside(path) for path in paths if len(paths) > 1 and os.path.lexists(path)}
    try:
        for path, copy in kept.items():
            shutil.copy2(path, copy, follow_symlinks=False)
        for part, path in zip(parts, paths, strict=True):
            os.replace(part, path)
    except BaseException as error:
        stuck = []
        for part, path in zip(parts, paths, strict=True):
            if part.exists():  # that one was not replaced
                continue
            try:
                os.replace(kept[path], path) if path in kept else path.unlink()
            except OSError:
                old = f"the old one is '{kept.pop(path)}'" if path in kept else "there was none"  # popped, so it stays
                stuck.append(f"'{path}' ({old})")
        if stuck:
            raise UserError(
                f"Only some files could be written ({error}), and they cannot be put back: {', '.join(stuck)}."
            ) from error
        raise
    finally:
        for copy in kept.values():
            with contextlib.suppress(OSError):  # a copy too many is no error
                copy.unlink()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """:func:`atomic_paths` for a single file."""
    with atomic_paths(path) as (part,):
        yield part


@contextlib.contextmanager
def locked(path: Path, run: str, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes out of this block for the same ``path``. The lock goes with the process, however it ends.

    run: what users know it as, for the error. say: told, once in this process, where a file system has no locks.
    Raises :class:`UserError` if another process is in it, or if ``path`` cannot be opened. Without effect on systems
    that have no ``flock``, and on file systems that refuse it, as some network ones do.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise UserError(f"Cannot write '{path}': {error.strerror or error}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(f"Another process is at the same run ({run}): let it finish.") from None
            _say_unlocked(say, error.strerror or str(error))
        yield  # the file stays: a lock on a removed file would keep nobody out


@cache
def _say_unlocked(say: Callable[[str], None], cause: str) -> None:
    say(f"files cannot be locked where the output goes ({cause}): see to it that no two processes do the same run")


def remove_parts(*paths: Path) -> None:
    """Remove temporary files that a killed process left beside ``paths``."""
    for path in paths:
        for part in path.parent.glob(f".{glob.escape(path.name)}.*{PART}"):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically. Bytes of file names that are no UTF-8 are written as ``\\udcXX``."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def to_json(document: Any) -> str:
    """``document`` as indented JSON text."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, document: Any) -> None:
    """Write ``document`` as indented JSON, atomically."""
    write_text(path, to_json(document))


def check_writable(folder: Path) -> None:
    """Try a file in ``folder``, before anything expensive starts; :class:`UserError` if that fails.

    Folders that are not there are made and removed again: nothing is left behind of a run that cannot start.
    """
    if folder.is_file():
        raise UserError(f"'{folder}' is a file; give a folder for the output.")
    for left in reversed(range(TRIES)):
        try:
            _try_file(folder)
            return
        except OSError as error:
            # Another process that tries the same folder may have removed it, or made it, in between.
            if left == 0 or not isinstance(error, FileNotFoundError | FileExistsError):
                cause = error.strerror or error
                raise UserError(f"Cannot write to the output folder '{folder}': {cause}.") from error


def _try_file(folder: Path) -> None:
    absent = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=TRIED):
            pass
    finally:
        for place in absent:
            with contextlib.suppress(OSError):  # somebody else uses it by now
                place.rmdir()


def check_file_writable(file: Path) -> None:
    """:func:`check_writable` for a single output file."""
    if file.is_dir():
        raise UserError(f"'{file}' is a folder; give a file for the output.")
    check_writable(file.parent)


def check_replaceable(file: Path, option: str, kind: str, usual: str, is_ours: Callable[[str], bool]) -> None:
    """:func:`check_file_writable`, and :class:`UserError` where something else than an earlier output would be lost.

    kind, usual: what is written, in words and as a file name. is_ours: whether a file's content is such an output.
    """
    from anprompt.pictures import IMAGE_SUFFIXES  # brings NumPy and Pillow, which most of this file has no use for

    check_file_writable(file)
    if file.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(
            f"{option} writes {kind}, and '{file}' is the name of a picture: name a file such as '{usual}'."
        )
    if not file.is_file() or not file.stat().st_size:
        return
    try:
        ours = is_ours(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise UserError(f"'{file}' is there already and is not {kind} that anprompt wrote: name another for {option}.")


def csv_delimiter(text: str) -> str:
    """The first of comma, semicolon (of spreadsheets in much of Europe), tab and ``|`` that the first line has."""
    header = text.partition("\n")[0]
    return next((mark for mark in ",;\t|" if mark in header), ",")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(document: Any) -> str:
    """SHA-256 over the canonical JSON of ``document``, hexadecimal: equal documents have equal hashes."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
