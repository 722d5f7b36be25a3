"""Between what users call classes, which may be numbers, and the names that stand in sentences."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import column_or_1d

from anprompt.data.assemble import canonical_name, same_to_clip
from anprompt.errors import Problems, UserError

Label = str | int | float | bool
DTYPES = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float16", "float32",
          "float64")  # fmt: skip


@dataclass(frozen=True)
class Labels:
    """What users call classes, where that is not the name in sentences. Predictions are labels.

    of: label by class name. dtype: numpy's name for the type of labels that are numbers; ``""`` if there are none.
    """

    of: Mapping[str, Label] = field(default_factory=dict)
    dtype: str = ""

    @classmethod
    def of_pictures(cls, given: Sequence[Label], dtype: str) -> Labels:
        """From what :func:`read_labels` gives."""
        return cls({name: label for label in given if (name := name_of(label)) != label}, dtype)

    def array(self, names: Sequence[str]) -> npt.NDArray[Any]:
        """The labels ``(C,)`` of classes: of ``dtype``, text, or objects where both occur."""
        labels = [self.of.get(name, name) for name in names]
        texts = sum(isinstance(label, str) for label in labels)
        if texts == len(labels):
            return np.array(labels)
        return np.array(labels, dtype=object if texts else self.dtype or None)

    def names(self, names: Sequence[str]) -> dict[Label, str]:
        """Class name by label."""
        return {self.of.get(name, name): name for name in names}

    def given(self, labels: Sequence[Label], present: Sequence[str]) -> tuple[list[str], Labels]:
        """The class names that ``labels`` or names of classes stand for, ``present`` ones or new, and their labels.

        Raises :class:`UserError` for numbers where classes are labelled with truth values, and the other way round.
        """
        self._check_kinds(labels)
        ours = self.names([*present, *self.of])
        names = [
            label if isinstance(label, str) and label in present else ours.get(label) or name_of(label)
            for label in labels
        ]
        more = {name: label for name, label in zip(names, labels, strict=True) if label != name}
        of = {**more, **self.of}
        return names, Labels(of, _wide(self.dtype, [label for label in of.values() if not isinstance(label, str)]))

    def _check_kinds(self, labels: Sequence[Label]) -> None:
        """Refuse numbers beside truth values, which are equal to 0 and 1."""
        ours = {_kind(label) for label in self.of.values()} - {"text"}
        problems = Problems("The class names cannot be used:")
        for label in labels:
            if ours and _kind(label) not in {"text", *ours}:
                problems.add(f"{label!r}: the labels of this classifier are {' and '.join(ours)}")
        problems.raise_if_any()

    def to_json(self) -> dict[str, Any]:
        """``{"dtype": …, "of": {class name: label}}``."""
        return {"dtype": self.dtype, "of": dict(self.of)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | None) -> Labels:
        """From :meth:`to_json`; ``None``: every label is its class name."""
        if document is None:
            return cls()
        return cls(dict(document["of"]), document["dtype"] if document["dtype"] in DTYPES else "")


def _wide(dtype: str, labels: Sequence[bool | int | float]) -> str:
    """``dtype``, or where it cannot hold all of ``labels`` the least type that also does; any that does for ``""``."""
    if not dtype:
        return np.array(labels).dtype.name if labels else ""
    for label in map(int, labels):
        least = np.min_scalar_type(label)
        try:
            with np.errstate(over="ignore"):
                held = int(np.array(label, least).astype(dtype)) == label
        except OverflowError:  # infinite, or more than any whole number of numpy's
            held = False
        dtype = dtype if held else np.result_type(dtype, least).name
    return dtype


def name_of(label: Label) -> str:
    """How a label is worded: ``_`` in text means a space, as in the names of folders; 1.0 is ``1``."""
    if isinstance(label, str):
        return canonical_name(label)
    return str(label if isinstance(label, bool) else int(label))


def read_labels(given: Any, what: str = "The labels", *, mixed: bool = False) -> tuple[list[Label], str]:
    """Labels as plain values, and numpy's name for their type (``""``: text).

    given: list or array ``(N,)`` of text, whole numbers or truth values; a column ``(N, 1)`` with scikit-learn's
    warning. mixed: whether text may occur beside numbers or truth values; these two never may.
    Raises :class:`UserError` for other shapes, and for all entries that are missing or no label.
    """
    if isinstance(given, str | bytes | Mapping) or not (isinstance(given, Iterable) or hasattr(given, "__array__")):
        raise UserError(f"{what} must be a list (got {_shown(given)}).")
    array = _as_array(given)
    if array.ndim == 2 and array.shape[1] == 1:
        array = column_or_1d(array, warn=True)
    if array.ndim != 1:
        one_hot = (
            "; of one-hot rows give labels.argmax(axis=1)" if array.ndim == 2 and array.dtype.kind in "biuf" else ""
        )
        raise UserError(f"{what} must be one-dimensional, one for each picture (got shape {array.shape}){one_hot}.")
    problems, kinds = Problems(f"{what} cannot be used:"), set()
    values: list[Label] = []
    for at, value in enumerate(array.tolist()):
        plain = value.item() if isinstance(value, np.generic) else value
        kind = _kind(plain)
        if kind in ("text", "truth values", "numbers"):
            kinds.add(kind)
            values.append(str(plain) if kind == "text" else plain)
        else:
            problems.add(f"entry {at} is {kind}")
    if mixed:
        kinds.discard("text")
    if len(kinds) > 1:
        problems.add(f"{' and '.join(sorted(kinds))} are mixed")
    problems.raise_if_any()
    if kinds <= {"text"} or mixed:
        return values, ""
    return values, (np.array(values) if array.dtype == object else array).dtype.name


def _as_array(given: Any) -> npt.NDArray[Any]:
    if hasattr(given, "detach"):  # a torch tensor
        given = given.detach().cpu()
    if hasattr(given, "__array__"):
        return np.asarray(given)
    entries = list(given) if isinstance(given, Iterator) else given
    return np.array(list(entries), dtype=object)  # which leaves numbers beside text what they are


def _kind(value: Any) -> str:
    """What a label is, or what is wrong with it."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "truth values"
    if isinstance(value, numbers.Integral):
        return "numbers"
    if isinstance(value, float):
        if value != value:
            return "missing (NaN)"
        return "numbers" if value.is_integer() else f"{value:g}: classes are text or whole numbers"
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return f"missing ({value})"
    return f"{_shown(value)}: classes are text, whole numbers or truth values"


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:40] + '…'}, of type {type(value).__name__}"


def check_new_names(names: Sequence[str], present: Sequence[str] = (), published: bool = False) -> None:
    """Raise :class:`UserError` for class names that are empty or there twice, ``present`` ones included.

    published: two classes may share a name, as two pairs of ImageNet's do.
    """
    problems = Problems("These class names cannot be used:")
    seen = {same_to_clip(name) for name in present}
    for name in names:
        if not name.strip():
            problems.add("an empty name")
        elif same_to_clip(name) in seen and not published:
            problems.add(f"'{name}' is there twice")
        seen.add(same_to_clip(name))
    if not len(names):
        problems.add("the list is empty")
    problems.raise_if_any()
