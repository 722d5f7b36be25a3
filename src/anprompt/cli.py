"""The command line: parses, runs one command, and turns every mistake into one sentence.

Results go to stdout, progress and notes to stderr; ``--json`` prints one JSON document. Exit codes: 0 done, 2 wrong
input or usage, 1 a fault of ours, 130/143 interrupted with the state kept.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from anprompt import __version__
from anprompt.commands.learn import demo, fit
from anprompt.commands.look import check, info, methods
from anprompt.commands.use import evaluate, predict, zeroshot
from anprompt.errors import UserError, did_you_mean

# command -> (function, positional parameters); a trailing "*" takes the rest
COMMANDS: dict[str, tuple[Callable[..., int], tuple[str, ...]]] = {
    "demo": (demo, ()),
    "fit": (fit, ("data",)),
    "predict": (predict, ("adapter", "inputs*")),
    "evaluate": (evaluate, ("adapter", "data")),
    "zeroshot": (zeroshot, ("data",)),
    "check": (check, ("data",)),
    "info": (info, ("path",)),
    "methods": (methods, ()),
}
OPTIONAL = {("info", "path")}
CONFIG = "config.yaml"

HELP = """\
usage: anprompt COMMAND [options]      anprompt COMMAND --help explains one of them

Teach a frozen CLIP-like model your own classes from a few photos each.

  demo       see it work on a packaged toy world, nothing to download
  fit        learn classes from a few photos each and write an adapter
  predict    classify photos with an adapter
  evaluate   accuracy of an adapter on labelled photos
  zeroshot   accuracy of the frozen model without training
  check      look through data before training
  info       versions and machine, or what an adapter or backbone is
  methods    list the methods

DATA is a folder with one sub-folder per class, a CSV or JSONL file, toyworld[:domain], or a CoOp-layout folder.
"""


def build_parser(command: str) -> Any:
    """The parser of one command, made from its function's signature and docstring."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=False)
    function, positional = COMMANDS[command]
    about = (function.__doc__ or "").split("Args:")[0].strip()
    parser = ArgumentParser(prog=f"anprompt {command}", description=about, exit_on_error=False)
    help_of = dict(_parameter_help(function))
    for entry in positional:
        name = entry.rstrip("*")
        parser.add_argument(name, nargs="*" if entry.endswith("*") else "?", type=str, help=help_of.get(name))
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    switches = [name for name, p in inspect.signature(function).parameters.items() if p.annotation == "bool"]
    skip: set[str | int] = {*(entry.rstrip("*") for entry in positional), *switches}
    parser.add_function_arguments(function, skip=skip, sub_configs=False)
    for name in switches:
        parser.add_argument(f"--{name}", action="store_true", help=help_of.get(name))
    return parser


def with_hyphens(text: str) -> str:
    """Show options the way people type them: ``--bad-images``."""
    return re.sub(r"--[a-z_]+", lambda match: match.group().replace("_", "-"), text)


def with_underscores(argument: str) -> str:
    """``--bad-images=skip`` -> ``--bad_images=skip``; values and nested option names stay as they are."""
    if not argument.startswith("--"):
        return argument
    name = re.match(r"--[^=.]*", argument)
    assert name is not None
    return f"--{name.group()[2:].replace('-', '_')}{argument[name.end() :]}"


def _parameter_help(function: Callable[..., int]) -> list[tuple[str, str]]:
    lines = (function.__doc__ or "").partition("Args:")[2].strip().splitlines()
    return [(name.strip(), text.strip()) for name, _, text in (line.partition(":") for line in lines) if text]


def parse(command: str, arguments: Sequence[str]) -> tuple[Any, Any]:
    """Return (parser, namespace); :class:`UserError` with the nearest option for an unknown one."""
    from jsonargparse import ArgumentError

    parser = build_parser(command)
    known = [option for action in parser._actions for option in action.option_strings]
    arguments = [with_underscores(argument) for argument in arguments]
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(with_hyphens(parser.format_help()))
        sys.exit(0)
    for argument in arguments:
        flag = argument.split("=")[0]
        if flag.startswith("--") and flag.split(".")[0] not in known:
            nearest = did_you_mean(flag, known)
            raise UserError(with_hyphens(f"'anprompt {command}' has no option '{flag}'.{nearest}"))
    try:
        namespace = parser.parse_args(arguments)
    except ArgumentError as error:
        raise UserError(f"anprompt {command}: {error.message}") from error
    values = namespace.as_dict()
    for entry in COMMANDS[command][1]:
        name = entry.rstrip("*")
        if not values.get(name) and (command, name) not in OPTIONAL:
            raise UserError(f"'anprompt {command}' needs {name.upper()}; see 'anprompt {command} --help'.")
    return parser, namespace


def run(arguments: Sequence[str]) -> int:
    """Run one command line without the program name; return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(HELP)
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        sys.stdout.write(f"anprompt {__version__}\n")
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        raise UserError(
            f"There is no command '{command}'.{did_you_mean(command, COMMANDS)} 'anprompt --help' lists them."
        )
    parser, namespace = parse(command, arguments[1:])
    values = namespace.as_dict()
    values.pop("config", None)
    if command == "fit":
        _save_config(parser, namespace, Path(values["out"]))
    return COMMANDS[command][0](**values)


def _save_config(parser: Any, namespace: Any, out: Path) -> None:
    """Keep the resolved options: ``anprompt fit --config OUT/config.yaml --out ELSEWHERE`` repeats."""
    from anprompt.files import check_writable, write_text

    check_writable(out)
    if (out / "adapter.json").exists():
        return  # the run will be refused, or is finished
    saved = namespace.clone()
    saved.pop("config", None)
    saved["resume"] = False
    write_text(out / CONFIG, parser.dump(saved, skip_none=True))


def _show_note(message: Any, category: Any, *_: Any) -> None:
    if category.__name__ == "Note":
        sys.stderr.write(f"note: {message}\n")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the ``anprompt`` command."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = _show_note  # type: ignore[assignment]
    code = 1
    try:
        code = run(given)
    except UserError as error:
        sys.stderr.write(f"anprompt: {error}\n")
        code = 2
    except KeyboardInterrupt:
        sys.stderr.write("anprompt: interrupted.\n")
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nothing to flush
        code = 0
    except Exception as error:
        if type(error).__name__ != "Interrupted":
            raise
        again = given if "--resume" in given else [*given, "--resume"]
        sys.stderr.write(f"anprompt: {error}\nContinue with:  anprompt {shlex.join(again)}\n")
        code = error.code  # type: ignore[attr-defined]
    sys.exit(code)


if __name__ == "__main__":
    main()
