"""Typed options of a method: documented once, checked once, named in every error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from anprompt.errors import Problems, UserError, did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def option(default: Any, help: str, *, low: float | None = None, high: float | None = None) -> Any:
    """Declare a dataclass field with its explanation and, for numbers, the allowed closed range."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high})


def _convert(value: Any, kind: Any) -> Any:
    """Return ``value`` as ``kind``; raise ``ValueError`` saying what is allowed."""
    if get_origin(kind) is Literal:
        allowed = get_args(kind)
        if value not in allowed:
            names = [str(a) for a in allowed]
            raise ValueError(f"must be one of {', '.join(names)}.{did_you_mean(str(value), names)}")
        return value
    if kind is bool:
        words = {"true": True, "false": False}
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value
    try:
        number = kind(value)
    except (TypeError, ValueError, OverflowError):
        kinds = {int: "a whole number", float: "a number"}
        raise ValueError(f"must be {kinds.get(kind, kind.__name__)}") from None
    if kind is int and (isinstance(value, bool) or float(value) != number):
        raise ValueError("must be a whole number")
    if kind is float and (isinstance(value, bool) or not math.isfinite(number)):
        raise ValueError("must be a finite number")
    return number


def checked_entries(what: str, given: Any) -> Mapping[str, Any]:
    """``given``, if it is a dictionary or ``None``; else :class:`UserError`. what: the parameter's name."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise UserError(f"'{what}' must be a dictionary with names as keys (got {given!r}).")
    return given


def build_options(cls: type[T], given: Mapping[str, Any], owner: str) -> T:
    """Fill the dataclass ``cls`` from ``given``; all unknown names, wrong types and ranges are reported at once.

    owner: whose options these are, for the message, e.g. ``"method 'anprompt'"``.
    Raises :class:`UserError`.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    problems = Problems(f"Options of {owner}:")
    values: dict[str, Any] = {}
    for raw_name, value in given.items():
        name = raw_name.replace("-", "_")
        if name not in fields:
            hint = did_you_mean(name, fields) or f" Allowed: {', '.join(fields) or 'none'}."
            problems.add(f"unknown option '{raw_name}'.{hint}")
            continue
        try:
            values[name] = _convert(value, hints[name])
        except ValueError as error:
            problems.add(f"'{name}' {error} (got {value!r})")
            continue
        low, high = fields[name].metadata.get("low"), fields[name].metadata.get("high")
        if (low is not None and values[name] < low) or (high is not None and values[name] > high):
            bounds = [f"at least {low}" if low is not None else "", f"at most {high}" if high is not None else ""]
            problems.add(f"'{name}' must be {' and '.join(filter(None, bounds))} (got {value!r})")
    problems.raise_if_any()
    return cls(**values)


def describe_options(cls: type[Any]) -> list[dict[str, Any]]:
    """``name``, ``default``, ``takes`` (allowed values in words) and ``help`` of every option of a dataclass."""
    hints = get_type_hints(cls)
    kinds = {int: "whole number", float: "number", bool: "true, false", str: "text"}
    described = []
    for field in dataclasses.fields(cls):
        kind, low, high = hints[field.name], field.metadata.get("low"), field.metadata.get("high")
        takes = ", ".join(map(str, get_args(kind))) if get_origin(kind) is Literal else kinds[kind]
        if low is not None:
            takes += f" {low} to {high}" if high is not None else f" from {low}"
        described.append({"name": field.name, "default": field.default, "takes": takes, "help": field.metadata["help"]})
    return described
