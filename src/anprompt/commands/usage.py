"""Help pages, made from a command's signature and docstring without any heavy import."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from typing import Literal, get_args, get_origin

from anprompt.commands.arguments import Command, is_switch, value_type
from anprompt.commands.nearest import as_option

COLUMN = 24  # where explanations start
PLACEHOLDERS = {  # by parameter, or by command and parameter where a command differs
    "out": "FOLDER", "data_root": "FOLDER", "texts": "PATH", "noise_texts": "FILE", "csv": "FILE", "record": "FILE",
    "classes_file": "FILE", "classes": "A,B,C", "method": "NAME", "preset": "NAME", "backbone": "MODEL",
    "split": "NAME", "device": "NAME", "adapter": "FOLDER", "noises": "A,B", "synonyms": "PATH", "wordnet": "FOLDER",
    "server": "URL", "model": "NAME", "results": "FOLDER", "methods": "A,B,C", "datasets": "A,B,C", "compare": "A,B",
    "source": "DATA", "figure": "FILE", "table out": "FILE", "describe out": "FILE", "report out": "FILE",
    "class_": "NAME", "against": "NAME", "noise": "NAME", "robustness adapter": "A,B", "recipe": "NAME|FILE",
}  # fmt: skip


def help_page(command: Command) -> str:
    """The page of ``anprompt COMMAND --help``.

    The docstring's first paragraph says what the command does, ``Args:`` explains the parameters, and ``Examples:`` is
    shown as it is.
    """
    about, _, rest = inspect.cleandoc(command.function.__doc__ or "").partition("\n\nArgs:\n")
    explained, _, examples = rest.partition("\n\nExamples:\n")
    help_of = _explanations(explained)
    width = min(shutil.get_terminal_size().columns, 120)
    marks = {"*": "…", "?": "]"}
    operands = [
        f"{'[' if entry.endswith('?') else ''}{entry.rstrip('*?').upper()}{marks.get(entry[-1], '')}"
        for entry in command.positional
    ]
    lines = [f"usage: {' '.join(['anprompt', command.name, *operands, '[options]'])}", "", *textwrap.wrap(about, width)]
    if operands:
        lines.append("")
    for name in command.operands:
        lines += _entry(name.upper(), help_of[name], width)
    lines += ["", "options:"]
    for name, parameter in command.parameters.items():
        if name not in command.operands:
            default = "" if parameter.default in (None, False) else f" [{parameter.default}]"
            lines += _entry(_flag(command, name, parameter), help_of[name] + default, width)
    lines += _entry("--config FILE", "YAML file with any of these options; the command line wins over it", width)
    if examples:
        lines += ["", "examples:", *(f"  {line.strip()}" for line in examples.splitlines())]
    return "\n".join(lines) + "\n"


def _explanations(text: str) -> dict[str, str]:
    """``name: explanation`` of each parameter; lines that are indented further go on with the one before."""
    help_of: dict[str, str] = {}
    for line in textwrap.dedent(text).splitlines():
        if line[:1].isspace():
            name = next(reversed(help_of))
            help_of[name] += f" {line.strip()}"
        else:
            name, _, help_of_name = line.partition(":")
            help_of[name] = help_of_name.strip()
    return help_of


def _flag(command: Command, name: str, parameter: inspect.Parameter) -> str:
    kind = value_type(command, name)
    if is_switch(parameter):
        return as_option(name)
    if get_origin(kind) is Literal:
        return f"{as_option(name)} {'|'.join(get_args(kind))}"
    if get_origin(kind) is dict:
        return f"{as_option(name)}.NAME VALUE"
    placeholder = PLACEHOLDERS.get(f"{command.name} {name}") or PLACEHOLDERS.get(name, "TEXT")
    return f"{as_option(name)} {'N' if kind in (int, float) else placeholder}"


def _entry(flag: str, text: str, width: int) -> list[str]:
    """``flag`` on the left, its explanation in a column on the right, from the next line on if the flag is long."""
    indent = " " * COLUMN
    lines = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    if len(flag) + 4 > COLUMN:
        return [f"  {flag}", *lines]
    return [f"  {flag}".ljust(COLUMN) + lines[0].strip(), *lines[1:]]
