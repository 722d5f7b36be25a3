"""Pictures listed in a CSV, TSV or JSONL file."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from anprompt.data.assemble import SPLIT_NAMES, build_source, canonical_name, check_class_names, check_class_sets
from anprompt.data.matching import SHOWN_FILES
from anprompt.data.source import DataSource
from anprompt.errors import Problems, UserError, did_you_mean
from anprompt.files import csv_delimiter, expanded

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl"})
# Of several that are there, the first counts: in `path,label,class_name` the label is usually a number.
PATH_COLUMNS = ("path", "filepath", "image", "file")
NAME_COLUMNS = ("class_name", "class", "label")
SPLIT_COLUMN = "split"


class Row(NamedTuple):
    """One line of a table; ``split`` is None where the table has no such column."""

    line: int
    path: str
    label: str
    split: str | None


def load_table(file: Path) -> DataSource:
    """Load a table with a path column, a class column, and perhaps a ``split`` column (train, val or test).

    Columns: path, filepath, image or file; class_name, class or label. CSV and TSV need a header line; JSONL has one
    object per line. Relative paths start at the table's folder. Classes are sorted by name, unless they are listed: in
    ``classes.txt`` beside the table (one per line), or in a first JSONL line ``{"classes": [...]}``; then that order
    counts, and rows and list must name the same classes. Without test rows a test split is held out as for folders;
    data without training rows can only be evaluated on.

    Raises:
        UserError: a missing column, or all of these together, with line numbers: missing files, empty paths or labels,
            unknown splits, files listed twice, classes of one name, a single class, classes without rows or unlisted.
    """
    problems = Problems(f"The table {file} cannot be used:")
    text = _read_text(file)
    if file.suffix.lower() == ".jsonl":
        rows, listed = _read_jsonl(file, text, problems)
    else:
        rows, listed = list(_read_csv(file, text, problems)), None
    if not rows and not problems:
        raise UserError(f"The table {file} has no rows.")
    listed_in = "its first line"
    companion = file.parent / "classes.txt"
    if listed is None and companion.is_file():
        listed, listed_in = _read_text(companion).rstrip().splitlines(), str(companion)

    splits = _check_rows(file, rows, problems)
    classes = _check_classes(rows, listed, listed_in, problems)
    if rows and not splits.keys() & {"train", "test"}:
        problems.add("no row belongs to the split train or test")
    elif "train" in splits:
        check_class_sets({split: {name for _, name in entries} for split, entries in splits.items()}, problems)
    problems.raise_if_any()
    return build_source(file.stem, file.parent, classes, splits)


def _check_rows(file: Path, rows: list[Row], problems: Problems) -> dict[str, list[tuple[str, str]]]:
    """Return the (path, class name) pairs of every split; add what is wrong with single rows to ``problems``."""
    splits: dict[str, list[tuple[str, str]]] = {}
    missing: list[Row] = []
    first_line: dict[str, int] = {}
    has_splits = any(row.split is not None for row in rows)  # JSONL rows may differ in their keys
    for row in rows:
        path = file.parent / (expanded(row.path) if row.path.startswith("~/") else row.path)
        split = SPLIT_NAMES.get((row.split or "").lower()) if has_splits else "train"
        name = canonical_name(row.label)
        if not name:
            problems.add(f"line {row.line}: empty label")
        if not row.path:
            problems.add(f"line {row.line}: empty path")
        elif (earlier := first_line.setdefault(os.path.normpath(path), row.line)) != row.line:
            problems.add(f"line {row.line}: {row.path} is already listed on line {earlier}")
        elif not path.is_file():
            missing.append(row)
        if split is None:
            given = row.split or ""
            hint = did_you_mean(given, SPLIT_NAMES)
            problems.add(f"line {row.line}: unknown split '{given}'; allowed are {', '.join(SPLIT_NAMES)}.{hint}")
        elif name:
            splits.setdefault(split, []).append((str(path), name))
    if missing:
        shown = ", ".join(f"{row.path} (line {row.line})" for row in missing[:SHOWN_FILES])
        more = ", …" if len(missing) > SHOWN_FILES else ""
        many = "1 file does" if len(missing) == 1 else f"{len(missing)} files do"
        hint = "; folders are separated by / here" if os.sep == "/" and any("\\" in row.path for row in missing) else ""
        problems.add(f"{many} not exist below {file.parent}: {shown}{more}{hint}")
    return splits


def _check_classes(rows: list[Row], listed: list[str] | None, listed_in: str, problems: Problems) -> list[str]:
    """Return the class names in label order; add mistakes in names, and differences to the list, to ``problems``."""
    first_line: dict[str, int] = {}
    for row in rows:
        if name := canonical_name(row.label):
            first_line.setdefault(name, row.line)
    if listed is None:
        classes = sorted(first_line)
        check_class_names([(name, f"'{name}' (line {first_line[name]})") for name in classes], problems)
    else:
        classes = [canonical_name(name) for name in listed]
        where = [f"'{name}' (entry {i} of {listed_in})" for i, name in enumerate(listed, start=1)]
        check_class_names(zip(listed, where, strict=True), problems)
        for name in classes:
            if name and name not in first_line:
                problems.add(f"class '{name}' is listed in {listed_in} but has no row.{did_you_mean(name, first_line)}")
        for name, line in first_line.items():
            if name not in classes:
                hint = did_you_mean(name, classes)
                problems.add(f"line {line}: class '{name}' is not listed in {listed_in}.{hint}")
    if len(classes) == 1:
        problems.add(f"there is only one class ('{classes[0]}'), and at least two are needed")
    return classes


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # spreadsheets write a byte-order mark
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror or error}.") from error


def _pick_column(file: Path, kind: str, allowed: tuple[str, ...], there: list[str]) -> str:
    for name in allowed:
        if name in there:
            return name
    near = next((hint for name in there if (hint := did_you_mean(name, allowed))), "")
    raise UserError(
        f"{file} has no column for the {kind} (its first line names: {', '.join(there) or 'nothing'}); "
        f"it must be called {' or '.join(allowed)}.{near}"
    )


def _read_csv(file: Path, text: str, problems: Problems) -> Iterator[Row]:
    tabs = file.suffix.lower() == ".tsv" and "\t" in text.partition("\n")[0]
    delimiter = "\t" if tabs else csv_delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        path_at = header.index(_pick_column(file, "picture", PATH_COLUMNS, header))
        name_at = header.index(_pick_column(file, "class", NAME_COLUMNS, header))
        split_at = header.index(SPLIT_COLUMN) if SPLIT_COLUMN in header else None
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue  # a blank line, or an empty row of a spreadsheet
            if len(fields) != len(header):
                problems.add(f"line {reader.line_num}: {len(fields)} fields, but the header has {len(header)}")
                continue
            split = None if split_at is None else fields[split_at].strip()
            yield Row(reader.line_num, fields[path_at].strip(), fields[name_at].strip(), split)
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: {error}.") from None


def _read_jsonl(file: Path, text: str, problems: Problems) -> tuple[list[Row], list[str] | None]:
    rows: list[Row] = []
    listed: list[str] | None = None
    columns: tuple[str, str] | None = None
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except json.JSONDecodeError as error:
            problems.add(f"line {line}: not JSON ({error})")
            continue
        if not isinstance(record, dict):
            problems.add(f"line {line}: not a JSON object")
            continue
        if line == 1 and set(record) == {"classes"}:
            listed = record["classes"]
            if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
                raise UserError(f'{file}, line 1: "classes" must be a list of class names.')
            continue
        if columns is None:
            there = list(record)
            columns = (
                _pick_column(file, "picture", PATH_COLUMNS, there),
                _pick_column(file, "class", NAME_COLUMNS, there),
            )
        wanted = [*columns, SPLIT_COLUMN] if SPLIT_COLUMN in record else list(columns)
        if isinstance(record.get(columns[1]), int):  # numbers as labels, as in CSV
            record[columns[1]] = str(record[columns[1]])
        wrong = [key for key in wanted if not isinstance(record.get(key), str)]
        for key in wrong:
            state = f"must be text, not {json.dumps(record[key])}" if key in record else "is missing"
            problems.add(f'line {line}: "{key}" {state}')
        if not wrong:
            values = [record[key].strip() for key in wanted]
            rows.append(Row(line, values[0], values[1], values[2] if len(values) == 3 else None))
    return rows, listed
