"""Putting the parts together into one HTML document."""

from __future__ import annotations

import base64
import datetime
import hashlib
from typing import Any

from anprompt import __version__
from anprompt.errors import UserError
from anprompt.report.page.given import Missing
from anprompt.report.page.parts import PARTS, Page
from anprompt.settings import note

LEFT_OUT = ("results",)  # parts that are not mentioned where they do not apply


def make_parts(page: Page) -> list[dict[str, Any]]:
    """``id``, ``title``, ``made`` (for the part's template) and ``missing`` (why it is not there) of every part.

    A part that fails does not take the others with it: it says so, and ``page.failed`` names it.
    """
    parts = []
    for name, title, make in PARTS:
        made, missing = None, ""
        try:
            made = make(page)
        except (Missing, UserError) as error:
            missing = str(error)
        except Exception as error:  # the photos have been evaluated by now: all other parts are still worth showing
            missing = f"making it failed ({type(error).__name__}: {error})."
            page.failed.append(name)
            note(f"the part '{title}' is missing from the page: {missing}")
        if made is not None or name not in LEFT_OUT:
            parts.append({"id": name, "title": title, "made": made, "missing": missing})
    return parts


def render(page: Page, top: dict[str, Any], parts: list[dict[str, Any]], commands: list[dict[str, str]]) -> str:
    """The page as HTML. Everything that comes from files or users is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("anprompt.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"fixed": fixed, "number": number}
    script = environment.get_template("page.js").render()
    return environment.get_template("page.html").render(
        top=top, parts=parts, commands=commands, notes=page.given.notes, version=__version__, script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        made_on=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip


def fixed(value: float, digits: int = 1) -> str:
    """A number with so many digits; never ``-0.0``."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def number(value: float) -> str:
    """A count with thousands apart, another number with three digits that count."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
