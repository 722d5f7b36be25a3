"""Description banks: several sentences per class, in two kinds (paper, section III-B).

*Main* sentences carry the meaning of a class, *noise* sentences say it in other words. The paper takes the main ones
from CoPrompt's files and the noise from HPT's; both are JSON objects ``{class: [sentence, …]}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anprompt.errors import Problems, UserError
from anprompt.text.templates import PARAPHRASES, fill

NOISE_FOLDERS = ("noise", "hpt")  # a file in a folder of such a name holds noise sentences; any other holds main ones


@dataclass(frozen=True)
class ClassTexts:
    """Sentences of one class. ``described`` is false when they were made from templates because the bank has none."""

    name: str
    main: tuple[str, ...]
    noise: tuple[str, ...]
    described: bool = True


@dataclass(frozen=True)
class DescriptionBank:
    """Main and noise sentences by class name. Classes may have unequal numbers of sentences, or none.

    source: where the sentences come from, for records.
    """

    main: Mapping[str, Sequence[str]] = field(default_factory=dict)
    noise: Mapping[str, Sequence[str]] = field(default_factory=dict)
    source: str = "templates"

    def of(self, name: str, template: str) -> ClassTexts:
        """The sentences of class ``name``.

        Without any, the filled ``template`` is the main sentence and neutral paraphrases are the noise. With main
        sentences only, the noise is drawn from the main ones too: one wording as variation of another.
        """
        main, noise = tuple(self.main.get(name, ())), tuple(self.noise.get(name, ()))
        paraphrases = tuple(p.replace("{}", name) for p in PARAPHRASES)
        if not main:
            return ClassTexts(name, tuple(fill(template, [name])), paraphrases, described=False)
        return ClassTexts(name, main, noise or (main if len(main) > 1 else paraphrases))

    def with_class(self, name: str, descriptions: Sequence[str]) -> DescriptionBank:
        """A bank that also has ``descriptions`` as the main sentences of ``name``."""
        return DescriptionBank({**self.main, name: list(descriptions)}, self.noise, self.source)

    def to_json(self) -> dict[str, dict[str, list[str]]]:
        """``{"main": {class: […]}, "noise": {class: […]}}``, the format that :func:`read_bank` reads back."""
        return {
            "main": {name: list(texts) for name, texts in self.main.items()},
            "noise": {name: list(texts) for name, texts in self.noise.items()},
        }


class _Pairs(list[tuple[str, Any]]):
    """The entries of a JSON object; a dictionary would silently keep the last of several with one key."""


def _clean(raw: Any, where: str, problems: Problems) -> dict[str, list[str]]:
    """Check one ``{class: [sentence, …]}`` object."""
    if not isinstance(raw, _Pairs):
        problems.add(f"{where}: expected an object {{class: [sentences]}}, found {type(raw).__name__}")
        return {}
    out: dict[str, list[str]] = {}
    written: dict[str, str] = {}  # class name -> its key in the file
    for key, sentences in raw:
        given = [sentences] if isinstance(sentences, str) else sentences
        if type(given) is not list or not all(isinstance(s, str) and s.strip() for s in given):
            problems.add(f"{where}: class '{key}' needs a list of non-empty sentences")
            continue
        name = key.replace("_", " ").strip()
        if name in written:
            problems.add(f"{where}: '{written[name]}' and '{key}' are one class: join their sentences in one list")
        written[name], out[name] = key, given
    return {name: given for name, given in out.items() if given}  # no sentence is no description


def _load(path: Path, problems: Problems) -> dict[str, dict[str, list[str]]]:
    """Read one file into ``{"main": …, "noise": …}``."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Pairs)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        problems.add(f"{path}: not readable as JSON ({error})")
        return {}
    if isinstance(raw, _Pairs) and all(key in ("main", "noise") and isinstance(v, _Pairs) for key, v in raw):
        if len(raw) != len(dict(raw)):
            problems.add(f"{path}: 'main' or 'noise' is there twice")
        return {kind: _clean(part, f"{path} ({kind})", problems) for kind, part in raw}
    kind = "noise" if path.parent.name.lower() in NOISE_FOLDERS or path.stem.lower() in NOISE_FOLDERS else "main"
    return {kind: _clean(raw, str(path), problems)}


def _match(bank: Mapping[str, Sequence[str]], names: Iterable[str]) -> dict[str, Sequence[str]]:
    """The part of ``bank`` about ``names``: by exact name, else by name in another case or with other spaces."""
    plain = {_plain(key): key for key in bank}
    found = {name: name if name in bank else plain.get(_plain(name)) for name in names}
    return {name: bank[key] for name, key in found.items() if key is not None}


def _plain(name: str) -> str:
    return " ".join(name.lower().split())


def read_bank(path: str | Path, class_names: Sequence[str]) -> DescriptionBank:
    """Read the sentences of ``class_names`` from a JSON file or from a folder of them.

    A file holds ``{class: [sentence, …]}``, as CoPrompt's and HPT's do, or ``{"main": {…}, "noise": {…}}``. In a
    folder, the file that covers most of the classes is taken, once for main and once for noise (files below ``hpt/``
    or ``noise/``). Sentences are kept as they are, repeated ones included. Classes that share a name (two pairs of
    ImageNet's do) share its sentences.

    Raises :class:`UserError` for a missing path, unreadable files, faults in a file that is taken (all at once), or
    when no file knows any of the classes.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"No such file or folder with texts: '{path}'.")
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    faults = {file: Problems("") for file in files}
    best: dict[str, dict[str, Sequence[str]]] = {"main": {}, "noise": {}}
    taken: dict[str, Path] = {}
    for file in files:
        for kind, sentences in _load(file, faults[file]).items():
            found = _match(sentences, class_names)
            if len(found) > len(best[kind]):
                best[kind], taken[kind] = found, file
    problems = Problems(f"The texts in '{path}' cannot be used:")
    for file in dict.fromkeys(taken.values()) if taken and path.is_dir() else files:
        problems.lines += faults[file].lines
    problems.raise_if_any()
    if not taken:
        shown = ", ".join(class_names[:3]) + (", …" if len(class_names) > 3 else "")
        raise UserError(f"No JSON file in '{path}' knows any of the {len(class_names)} classes ({shown}).")
    return DescriptionBank(best["main"], best["noise"], " + ".join(taken[kind].name for kind in sorted(taken)))
