"""Mistakes that a user can mend: one clear sentence each, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LIKE = 0.65  # similarity from which a name is suggested: "gpu" is like "cpu", but "batch" is not like "cache"


class UserError(Exception):
    """Wrong input or usage. The command line prints the message and exits with code 2.

    The message says what was wrong, where (file, line, class), what is allowed, and the nearest valid name.
    """


def nearest(name: str, allowed: Iterable[str], like: float = LIKE) -> str | None:
    """Return the allowed name nearest to ``name``, or ``None`` if none is as similar as ``like`` (0 to 1)."""
    by_lower = {candidate.lower(): candidate for candidate in allowed}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=like)
    close += [other for other in by_lower if len(name) > 3 and other.startswith(name.lower())]
    close += [other for other in by_lower if sorted(other) == sorted(name.lower())]  # letters in another order
    return by_lower[close[0]] if close else None


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the allowed name nearest to ``name``, or an empty string."""
    near = nearest(name, allowed)
    return "" if near is None else f" Did you mean '{near}'?"


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """Build the error for a name that is not one of ``allowed``."""
    names = list(allowed)
    return UserError(f"Unknown {kind} '{name}'.{did_you_mean(name, names)} Allowed: {', '.join(names)}.")


class Problems:
    """Collects mistakes of one kind so that all are reported at once, before anything expensive starts."""

    def __init__(self, heading: str, limit: int = 20) -> None:
        self.heading = heading
        self.limit = limit
        self.lines: list[str] = []
        self._seen: set[str] = set()

    def add(self, line: str) -> None:
        if line not in self._seen:  # one mistake may be met on the way to several things
            self._seen.add(line)
            self.lines.append(line)

    def __bool__(self) -> bool:
        return bool(self.lines)

    def message(self) -> str:
        """The heading, then one indented line per problem (at most ``limit``, with the count of the rest).

        A single problem stands in one line with its heading.
        """
        if len(self.lines) == 1:
            return f"{self.heading} {self.lines[0]}"
        shown = [f"  - {line}" for line in self.lines[: self.limit]]
        if len(self.lines) > self.limit:
            shown.append(f"  … and {len(self.lines) - self.limit} more")
        return "\n".join([self.heading, *shown])

    def raise_if_any(self) -> None:
        """Raise :class:`UserError` with all collected lines, if there are any."""
        if self.lines:
            raise UserError(self.message())


@dataclass(frozen=True)
class Finding:
    """Something that may be a mistake: unlike a problem it stops nothing.

    what: sentence without its end that says what was found and how often. why: why it matters. do: what to do about it.
    shown: all places in words. examples: the same as data, in the same order.
    """

    kind: str
    what: str
    why: str
    do: str
    shown: list[str]
    examples: list[Any]

    def line(self, limit: int = 3) -> str:
        """All of it in one line, with the first ``limit`` places."""
        more = ", …" if len(self.shown) > limit else ""
        return f"{self.what}: {', '.join(self.shown[:limit])}{more}. {self.why}: {self.do}."

    def to_json(self, limit: int = 100) -> dict[str, Any]:
        """``{"kind", "what", "count", "examples", "why", "do"}``, with the first ``limit`` places."""
        return {"kind": self.kind, "what": self.what, "count": len(self.examples), "examples": self.examples[:limit],
                "why": self.why, "do": self.do}  # fmt: skip
