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


def _clean(raw: Any, where: str, problems: Problems) -> dict[str, list[str]]:
    """Check one ``{class: [sentence, …]}`` object."""
    if not isinstance(raw, dict):
        problems.add(f"{where}: expected an object {{class: [sentences]}}, found {type(raw).__name__}")
        return {}
    out: dict[str, list[str]] = {}
    for name, sentences in raw.items():
        given = [sentences] if isinstance(sentences, str) else sentences
        if not isinstance(given, list) or not all(isinstance(s, str) and s.strip() for s in given):
            problems.add(f"{where}: class '{name}' needs a list of non-empty sentences")
            continue
        out[name.replace("_", " ").strip()] = given
    return out


def _load(path: Path, problems: Problems) -> dict[str, dict[str, list[str]]]:
    """Read one file into ``{"main": …, "noise": …}``."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        problems.add(f"{path}: not readable as JSON ({error})")
        return {"main": {}, "noise": {}}
    if isinstance(raw, dict) and set(raw) <= {"main", "noise"} and all(isinstance(v, dict) for v in raw.values()):
        return {kind: _clean(raw.get(kind, {}), f"{path} ({kind})", problems) for kind in ("main", "noise")}
    kind = "noise" if path.parent.name.lower() in NOISE_FOLDERS or path.stem.lower() in NOISE_FOLDERS else "main"
    empty: dict[str, dict[str, list[str]]] = {"main": {}, "noise": {}}
    return {**empty, kind: _clean(raw, str(path), problems)}


def _match(bank: Mapping[str, Sequence[str]], names: Iterable[str]) -> dict[str, Sequence[str]]:
    """The part of ``bank`` about ``names``: by exact name, else by name in another case."""
    lower = {key.lower(): key for key in bank}
    found = {name: name if name in bank else lower.get(name.lower()) for name in names}
    return {name: bank[key] for name, key in found.items() if key is not None}


def read_bank(path: str | Path, class_names: Sequence[str]) -> DescriptionBank:
    """Read the sentences of ``class_names`` from a JSON file or from a folder of them.

    A file holds ``{class: [sentence, …]}`` or ``{"main": {…}, "noise": {…}}``. In a folder, the file that covers most
    of the classes is taken, once for main and once for noise (files below ``hpt/`` or ``noise/``).

    Raises :class:`UserError` for a missing path, unreadable files, or when no file knows any of the classes.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"No such file or folder with texts: '{path}'.")
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    problems = Problems(f"The texts in '{path}' cannot be used:")
    best: dict[str, dict[str, Sequence[str]]] = {"main": {}, "noise": {}}
    sources: dict[str, str] = {}
    for file in files:
        for kind, sentences in _load(file, problems).items():
            found = _match(sentences, class_names)
            if len(found) > len(best[kind]):
                best[kind], sources[kind] = found, file.name
    if path.is_file():
        problems.raise_if_any()
    if not best["main"] and not best["noise"]:
        problems.raise_if_any()
        shown = ", ".join(class_names[:3])
        raise UserError(f"No JSON file in '{path}' knows any of the {len(class_names)} classes ({shown}, …).")
    return DescriptionBank(best["main"], best["noise"], " + ".join(sources[k] for k in sorted(sources)))
