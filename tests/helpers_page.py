"""Reading an HTML page: is it well-formed, what does it load, what does it say."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

EMPTY = {"meta", "link", "img", "br", "hr", "wbr", "input"}


class Page(HTMLParser):
    """``tags``: (name, attributes) in order. ``text``: what people read, blanks joined. ``of``: the text of an id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.cells: list[list[str]] = []  # rows of all tables
        self._open: list[str] = []
        self._pieces: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], f"not closed: {self._open}"
        self.text = " ".join(" ".join(self._pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th") and self.cells:
            self.cells[-1].append("")
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("style", "script"):
            return
        self._pieces.append(data)
        if {"td", "th"} & set(self._open):
            self.cells[-1][-1] += " ".join(data.split())

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def loaded(self) -> list[str]:
        """Everything that a browser would fetch."""
        names = ("src", "href", "xlink:href", "data", "poster", "srcset", "action")
        found = [attributes[name] for _, attributes in self.tags for name in names if attributes.get(name)]
        return found + re.findall(r"url\(([^)]*)\)|@import\s+(\S+)", self.html)

    def row(self, name: str) -> list[str]:
        """The first table row that begins with ``name``."""
        return next(row for row in self.cells if row and row[0] == name)
