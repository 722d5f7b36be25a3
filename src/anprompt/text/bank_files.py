"""Description banks in files: JSON, YAML, CSV and TXT, read and written.

What a file may hold:

- JSON or YAML: ``{class: [sentence, …]}``, as CoPrompt, CuPL and HPT publish them, or ``{"main": {…}, "noise": {…}}``;
- CSV: the columns ``class`` and ``sentence``, and perhaps ``kind`` (``main`` or ``noise``), one sentence a line;
- TXT: lines ``class: sentence``; after a line ``[noise]`` or ``[main]`` they are of that kind; ``#`` starts a remark.
"""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anprompt.errors import Problems, UserError, did_you_mean, unknown_name
from anprompt.files import csv_delimiter, write_json, write_text
from anprompt.text.bank import DescriptionBank

KINDS = ("main", "noise")
NOISE_FOLDERS = ("noise", "hpt")  # a file in a folder of such a name holds noise sentences; any other holds main ones


class _Pairs(list[tuple[str, Any]]):
    """The entries of an object; a dictionary would silently keep the last of several with one key."""


def _from_json(text: str, problems: Problems, where: str) -> Any:
    return json.loads(text, object_pairs_hook=_Pairs)


def _from_yaml(text: str, problems: Problems, where: str) -> Any:
    """Every scalar as text: ``no`` and ``1`` are class names and sentences like any other."""
    import yaml

    def plain(node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return _Pairs((str(key.value), plain(value)) for key, value in node.value)
        return [plain(entry) for entry in node.value] if isinstance(node, yaml.SequenceNode) else node.value

    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return _Pairs() if node is None else plain(node)


def _grouped(rows: Iterable[tuple[str | None, str, str]]) -> _Pairs:
    """Rows (kind, class, sentence) as the object that JSON would hold."""
    kinds: dict[str | None, dict[str, list[str]]] = {}
    for kind, name, sentence in rows:
        kinds.setdefault(kind, {}).setdefault(_canonical(name), []).append(sentence)
    if set(kinds) <= {None}:
        return _Pairs(kinds.get(None, {}).items())
    return _Pairs((kind or "main", _Pairs(classes.items())) for kind, classes in kinds.items())


def _from_csv(text: str, problems: Problems, where: str) -> Any:
    delimiter = csv_delimiter(text)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    columns = [name.strip().lower() for name in reader.fieldnames or ()]
    if missing := [name for name in ("class", "sentence") if name not in columns]:
        raise ValueError(f"its first line must name the columns class and sentence; {' and '.join(missing)} is missing")
    reader.fieldnames = columns
    rows: list[tuple[str | None, str, str]] = []
    for row in reader:
        kind, name, sentence = ((row.get(key) or "").strip() for key in ("kind", "class", "sentence"))
        if any(field.strip() for field in row.get(None, ())):  # what no column takes
            problems.add(f"{where}, line {reader.line_num}: more fields than the header's {len(columns)}: put quotes "
                         f"around sentences that hold {delimiter!r}")  # fmt: skip
        elif kind and kind not in KINDS:
            problems.add(f"{where}, line {reader.line_num}: the kind '{kind}' must be main or noise")
        elif not name or not sentence:
            problems.add(f"{where}, line {reader.line_num}: a class and a non-empty sentence are needed")
        else:
            rows.append((kind or ("main" if "kind" in columns else None), name, sentence))
    return _grouped(rows)


def _from_txt(text: str, problems: Problems, where: str) -> Any:
    kind: str | None = None
    rows: list[tuple[str | None, str, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        name, colon, sentence = line.partition(": ")
        if line in ("[main]", "[noise]"):
            kind = line[1:-1]
        elif line and not line.startswith("#"):
            if name.strip() and colon and sentence.strip():
                rows.append((kind, name, sentence.strip()))
            else:
                problems.add(f"{where}, line {number}: expected 'class: sentence', found '{line[:40]}'")
    return _grouped(rows)


READERS: dict[str, Callable[[str, Problems, str], Any]] = {
    ".json": _from_json, ".yaml": _from_yaml, ".yml": _from_yaml, ".csv": _from_csv, ".txt": _from_txt,
}  # fmt: skip
IN_FOLDERS = (".json", ".yaml", ".yml", ".csv")  # .txt is also what licences and read-mes are called


def _canonical(key: str) -> str:
    return unicodedata.normalize("NFC", key.replace("_", " ").strip())


def _clean(raw: Any, where: str, problems: Problems) -> dict[str, list[str]]:
    """Check one ``{class: [sentence, …]}`` object."""
    if not isinstance(raw, _Pairs):
        problems.add(f"{where}: expected an object {{class: [sentences]}}, found {type(raw).__name__}")
        return {}
    return _by_class(((_canonical(key), key, own) for key, own in raw), f"{where}: ", problems)


def _by_class(entries: Iterable[tuple[str, Any, Any]], where: str, problems: Problems) -> dict[str, list[str]]:
    """Sentences by class name. entries: name, the key that it was written as, and what is to be its sentences."""
    out: dict[str, list[str]] = {}
    written: dict[str, Any] = {}  # class name -> its key
    for name, key, sentences in entries:
        given = [sentences] if isinstance(sentences, str) else sentences
        a_list = isinstance(given, list | tuple) and not isinstance(given, _Pairs)
        if not a_list or not all(isinstance(s, str) and s.strip() for s in given):
            problems.add(f"{where}class '{key}' needs a list of non-empty sentences")
            continue
        if name in written:
            problems.add(f"{where}'{written[name]}' and '{key}' are one class: join their sentences in one list")
        written[name], out[name] = key, list(given)
    return {name: given for name, given in out.items() if given}  # no sentence is no description


def _load(path: Path, problems: Problems) -> dict[str, dict[str, list[str]]]:
    """Read one file into ``{"main": …, "noise": …}``."""
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise unknown_name(f"format of a file of texts, '{path.name}':", suffix, READERS)
    try:
        raw = READERS[suffix](path.read_text(encoding="utf-8-sig"), problems, str(path))
    except (OSError, ValueError, csv.Error) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        problems.add(f"{path}: not readable as {suffix[1:].upper()} ({error})")
        return {}
    kind = "noise" if path.parent.name.lower() in NOISE_FOLDERS or path.stem.lower() in NOISE_FOLDERS else "main"
    return _parts(raw, str(path), kind, problems)


def _parts(raw: Any, where: str, kind: str, problems: Problems) -> dict[str, dict[str, list[str]]]:
    """Check what JSON would hold. kind: of the sentences of an object that is about classes alone."""
    if isinstance(raw, _Pairs) and all(key in KINDS and isinstance(v, _Pairs) for key, v in raw):
        if len(raw) != len(dict(raw)):
            problems.add(f"{where}: 'main' or 'noise' is there twice")
        return {key: _clean(part, f"{where} ({key})", problems) for key, part in raw}
    return {kind: _clean(raw, where, problems)}


def load_bank(path: str | Path) -> DescriptionBank:
    """Read all that one file holds, whatever its classes. :class:`UserError` lists all its faults."""
    path = Path(path)
    if not os.path.isfile(path):  # False also for a name that is too long
        raise UserError(f"There is no file with texts '{path}'.")
    problems = Problems(f"The texts in '{path}' cannot be used:")
    parts = _load(path, problems)
    problems.raise_if_any()
    return DescriptionBank(parts.get("main", {}), parts.get("noise", {}), path.name)


def _match(bank: Mapping[str, Sequence[str]], names: Iterable[str]) -> dict[str, Sequence[str]]:
    """The part of ``bank`` about ``names``: by exact name, else by name in another case or with other spaces."""
    plain = {_plain(key): key for key in bank}
    found = {name: name if name in bank else plain.get(_plain(name)) for name in names}
    return {name: bank[key] for name, key in found.items() if key is not None}


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).lower().split())


def of_classes(bank: DescriptionBank, names: Sequence[str]) -> DescriptionBank:
    """The part of ``bank`` about ``names``, under these names; other case and spaces count as the same name."""
    return DescriptionBank(_match(bank.main, names), _match(bank.noise, names), bank.source)


def named_as(bank: DescriptionBank, names: Sequence[str]) -> DescriptionBank:
    """All of ``bank``, with keys that are one of ``names`` but for case and spaces under that name."""
    ours = {_plain(name): name for name in names}

    def renamed(part: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        out: dict[str, list[str]] = {}
        for key, sentences in part.items():
            out.setdefault(key if key in names else ours.get(_plain(key), key), []).extend(sentences)
        return out

    return replace(bank, main=renamed(bank.main), noise=renamed(bank.noise))


def read_bank(path: str | Path, class_names: Sequence[str], *, needed: bool = True) -> DescriptionBank:
    """Read the sentences of ``class_names`` from a file or from a folder of them.

    In a folder, the file that covers most of the classes is taken, once for main and once for noise (files below
    ``hpt/`` or ``noise/``); TXT files are only read when they are named themselves. Sentences are kept as they are,
    repeated ones included. Classes that share a name (two pairs of ImageNet's do) share its sentences.

    needed: whether one of the classes must be known.
    Raises :class:`UserError` for a missing path, unreadable files, faults in a file that is taken (all at once), or
    when no file knows any of the classes and they are ``needed``.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise UserError(f"No such file or folder with texts: '{path}'.")
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IN_FOLDERS and file.is_file())
    faults = {file: Problems("") for file in files}
    best: dict[str, dict[str, Sequence[str]]] = {"main": {}, "noise": {}}
    taken: dict[str, Path] = {}
    for file in files:
        for kind, sentences in _load(file, faults[file]).items():
            found = _match(sentences, class_names)
            if len(found) > len(best[kind]):
                best[kind], taken[kind] = found, file
    problems = Problems(f"The texts in '{path}' cannot be used:")
    for file in dict.fromkeys(taken.values()) if path.is_dir() and (taken or not needed) else files:
        problems.lines += faults[file].lines
    problems.raise_if_any()
    if not taken and needed:
        shown = ", ".join(class_names[:3]) + (", …" if len(class_names) > 3 else "")
        raise UserError(f"No file of texts in '{path}' knows any of the {len(class_names)} classes ({shown}).")
    return DescriptionBank(
        best["main"], best["noise"], " + ".join(dict.fromkeys(taken[kind].name for kind in sorted(taken)))
    )


def bank_of(texts: Mapping[Any, Any], class_names: Sequence[str], *, needed: bool = True) -> DescriptionBank:
    """The sentences of ``class_names`` from a dictionary of the form that JSON files have.

    needed: whether one of the classes must be known.
    Raises :class:`UserError` for its faults, all at once, and when it knows none of the classes that are ``needed``.
    """

    def pairs(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _Pairs((str(key), pairs(entry)) for key, entry in value.items())
        return value

    problems = Problems("The texts cannot be used:")
    parts = _parts(pairs(texts), "texts", "main", problems)
    problems.raise_if_any()
    bank = of_classes(DescriptionBank(parts.get("main", {}), parts.get("noise", {}), "texts"), class_names)
    if needed and not bank.main and not bank.noise:
        shown = ", ".join(class_names[:3]) + (", …" if len(class_names) > 3 else "")
        raise UserError(f"The texts know none of the {len(class_names)} classes ({shown}).")
    return bank


def described(
    descriptions: Any, named: Callable[[list[Any]], Sequence[str]], classes: Sequence[str]
) -> dict[str, list[str]]:
    """Main sentences of ``classes`` from a dictionary, ``None`` for an empty one. As in files, a text is one sentence.

    named: gives the class names that the dictionary's keys stand for.
    Raises :class:`UserError` for what is no dictionary, and for all classes whose sentences are no non-empty texts, or
    that are none of ``classes``.
    """
    if descriptions is None:
        return {}
    if not isinstance(descriptions, Mapping):
        got = type(descriptions).__name__
        raise UserError(f"Descriptions must be a dictionary {{class: [sentences]}} (got a {got}).")
    keys = list(descriptions)
    problems = Problems("The descriptions cannot be used:")
    names = named(keys)
    found = _by_class(zip(names, keys, descriptions.values(), strict=True), "", problems)
    for key, name in zip(keys, names, strict=True):
        if name not in classes:
            problems.add(f"{key!r} is none of the {len(classes)} classes.{did_you_mean(name, classes)}")
    problems.raise_if_any()
    return found


def check_format(path: Path) -> None:
    """Raise :class:`UserError` if a bank cannot be written under this file name."""
    if path.suffix.lower() not in READERS:
        raise unknown_name(f"format of a file of texts, '{path.name}':", path.suffix, READERS)


def write_bank(path: str | Path, bank: DescriptionBank) -> None:
    """Write ``bank`` in the format that the file's name ends with; :func:`load_bank` reads the same sentences back.

    Raises :class:`UserError` for an unknown format, and for names or sentences that TXT cannot hold.
    """
    path = Path(path)
    check_format(path)
    document, suffix = bank.to_json(), path.suffix.lower()
    rows = [(kind, name, text) for kind, part in document.items() for name, own in part.items() for text in own]
    if suffix == ".json":
        write_json(path, document)
    elif suffix == ".csv":
        table = io.StringIO(newline="")
        csv.writer(table, lineterminator="\n").writerows([("kind", "class", "sentence"), *rows])
        write_text(path, table.getvalue())
    elif suffix == ".txt":
        write_text(path, _as_txt(rows, path))
    else:
        import yaml

        write_text(path, yaml.safe_dump(document, allow_unicode=True, sort_keys=False, width=10**6))


def _as_txt(rows: Sequence[tuple[str, str, str]], path: Path) -> str:
    problems = Problems(f"'{path}' cannot hold these texts as TXT; write .json instead:")
    lines: list[str] = []
    last = ""
    for kind, name, sentence in rows:
        if ": " in name or name.startswith(("#", "[")) or len(name.splitlines()) > 1:
            problems.add(f"the class name '{name}' would be misread")
        if len(sentence.splitlines()) > 1 or sentence != sentence.strip():
            problems.add(f"a sentence of '{name}' has a line break or white space around it")
        if kind != last:
            lines.append(f"[{kind}]")
            last = kind
        lines.append(f"{name}: {sentence}")
    problems.lines = list(dict.fromkeys(problems.lines))
    problems.raise_if_any()
    return "\n".join([*lines, ""])
