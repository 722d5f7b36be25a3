"""The command line: parses, runs one command, and turns every mistake into one sentence.

Results go to stdout, progress and notes to stderr; ``--json`` prints one JSON document. Exit codes: 0 done, 2 wrong
input or usage, 1 a fault of ours, 130/143 interrupted with the state kept.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from anprompt import __version__
from anprompt.commands.arguments import Command, parse
from anprompt.commands.bench import bench, recipes
from anprompt.commands.check import check
from anprompt.commands.compare import compare
from anprompt.commands.describe import describe
from anprompt.commands.explain import explain
from anprompt.commands.learn import demo, fit
from anprompt.commands.look import info, methods
from anprompt.commands.report import report
from anprompt.commands.robustness import robustness
from anprompt.commands.tabulate import table
from anprompt.commands.usage import help_page
from anprompt.commands.use import evaluate, predict, zeroshot
from anprompt.errors import UserError, did_you_mean

COMMANDS = {
    command.name: command
    for command in (
        Command("demo", demo),
        Command("fit", fit, ("data",)),
        Command("predict", predict, ("adapter", "inputs*")),
        Command("evaluate", evaluate, ("adapter", "data")),
        Command("zeroshot", zeroshot, ("data",)),
        Command("check", check, ("data",)),
        Command("bench", bench),
        Command("compare", compare, ("data",)),
        Command("recipes", recipes, ("name?",)),
        Command("describe", describe, ("classes",)),
        Command("robustness", robustness, ("data?",)),
        Command("explain", explain, ("images*",)),
        Command("report", report, ("run", "data?")),
        Command("info", info, ("path?",)),
        Command("methods", methods, ("name?",)),
        Command("table", table, ("name",)),
    )
}

# Disk full or too full for this user, file too large, name too long, no permission, read-only: for the user to mend.
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS)

HELP = """\
usage: anprompt COMMAND [options]     'anprompt COMMAND --help' explains one

Teach a frozen CLIP-like model your own classes from a few photos each.

  demo        see it work on a packaged toy world, nothing to download
  fit         learn classes from a few photos each and write an adapter
  predict     classify photos with an adapter
  evaluate    accuracy of an adapter on labelled photos
  zeroshot    accuracy of the frozen model without training
  check       look through data before training
  compare     which method suits your own data: accuracy and cost, side by side
  bench       run a protocol of the field: methods x data sets x seeds
  recipes     list the training recipes of the methods
  describe    make, merge, convert and check sentences that describe classes
  robustness  how far answers depend on how classes are worded
  explain     which parts of a picture and which words an answer rests on
  report      one web page about an adapter or a run, to look at and to show
  info        versions and machine, or what an adapter or a backbone is
  methods     list the methods, or the options of one
  table       a table or figure of the paper from benchmark results

  --version   print the version
  --help      print this

DATA is a folder with one sub-folder per class, a CSV or JSONL file, a folder in
CoOp's layout, toyworld[:domain], or a benchmark's name with --data-root.
"""


def run(arguments: Sequence[str]) -> int:
    """Run one command line without the program name; return the exit code. :class:`UserError` for wrong usage."""
    if not arguments:
        sys.stderr.write(HELP)
        return 2
    name, *rest = arguments
    if name == "help" and rest:
        name, rest = rest[0], ["--help"]
    if name in ("-h", "--help", "help"):
        sys.stdout.write(HELP)
        return 0
    if name in ("-V", "--version"):
        sys.stdout.write(f"anprompt {__version__}\n")
        return 0
    if name not in COMMANDS:
        what = "option" if name.startswith("-") else "command"
        near = did_you_mean(name, [*COMMANDS, "--help", "--version"])
        raise UserError(f"There is no {what} '{name}'.{near} 'anprompt --help' lists all.")
    if "--help" in rest or "-h" in rest:
        sys.stdout.write(help_page(COMMANDS[name]))
        return 0
    return COMMANDS[name].function(**parse(COMMANDS[name], rest))


def _show_note(message: Any, category: Any, *_: Any) -> None:
    if category.__name__ == "Note":
        sys.stderr.write(f"note: {message}\n")


def _guarded(given: list[str]) -> int:
    """Run and turn every expected end into a sentence on stderr and an exit code."""
    try:
        code = run(given)
        sys.stdout.flush()
        return code
    except UserError as error:
        said = str(error).replace('bad_images="skip"', "--bad-images skip")  # pictures.SKIP, whose import is slow
        sys.stderr.write(f"anprompt: {said}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("anprompt: interrupted.\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nothing to flush
        return 0
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        where = f" '{error.filename}'" if error.filename else ""
        sys.stderr.write(f"anprompt: The system refuses{where}: {error.strerror}.\n")
        return 2
    except Exception as error:
        if type(error).__name__ != "Interrupted":  # importing its class would import torch
            raise
        resumes = "resume" in COMMANDS[given[0]].parameters and "--resume" not in given
        again = [*given, "--resume"] if resumes else given
        sys.stderr.write(f"anprompt: {error}\nContinue with:  anprompt {shlex.join(again)}\n")
        return int(error.code)  # type: ignore[attr-defined]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the ``anprompt`` command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without ℓ or é still gets its answer
    with warnings.catch_warnings():
        warnings.showwarning = _show_note  # type: ignore[assignment]
        sys.exit(_guarded(list(sys.argv[1:] if arguments is None else arguments)))


if __name__ == "__main__":
    main()
