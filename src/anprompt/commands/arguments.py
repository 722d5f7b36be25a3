"""From a command line and a YAML file to the arguments of a command, or one sentence about what is wrong."""

from __future__ import annotations

import inspect
import json
import keyword
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from anprompt.commands.nearest import as_option, nearest_option
from anprompt.errors import Problems, UserError, did_you_mean

# Options, and those of one command, whose text is a list with commas: a list in YAML means the same.
LISTS = {
    "methods",
    "datasets",
    "seeds",
    "shots",
    "classes",
    "noises",
    "compare",
    "robustness adapter",
    "describe texts",
}


class Command(NamedTuple):
    """A command: its function and the names of its positional parameters.

    A trailing ``*`` in ``positional`` takes all the rest (at least one), a trailing ``?`` may be left out.
    """

    name: str
    function: Callable[..., int]
    positional: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.function).parameters)

    @property
    def operands(self) -> list[str]:
        """The positional parameters without their marks."""
        return [entry.rstrip("*?") for entry in self.positional]


def is_switch(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is an option without a value, such as ``--json``."""
    return parameter.annotation in ("bool", bool)


def value_type(command: Command, name: str) -> Any:
    """The type of a parameter's values, without the ``None`` that stands for "not given"."""
    hint = get_type_hints(command.function)[name]
    parts = get_args(hint)
    return next(part for part in parts if part is not NoneType) if NoneType in parts else hint


def as_parameter(typed: str) -> str:
    """``bad-images`` -> ``bad_images``, ``class`` -> ``class_``, the way a function's parameter is called."""
    name = typed.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def parse(command: Command, given: Sequence[str]) -> dict[str, Any]:
    """Return the arguments for ``command.function``. Options on the command line win over those from ``--config``.

    Both spellings of an option (``--bad-images``, ``--bad_images``) are accepted, on the line and in YAML; ``-o`` is
    short for ``--out``.

    Raises:
        UserError: unknown options (with the nearest one), values of a wrong kind, missing operands, a faulty YAML file.
    """
    from jsonargparse import ArgumentError

    arguments = [_with_underscores("--out" if argument == "-o" else argument) for argument in given]
    _check_options(command, arguments)
    arguments, files = _take_config(arguments)
    documents = [_read_config(command, Path(file)) for file in files]
    # An operand that is not on the line would override YAML with nothing, so YAML's operands are kept apart.
    operands = {name: document.pop(name) for document in documents for name in command.operands if name in document}
    # A string is a configuration to jsonargparse too. First in line, so that everything else overrides it.
    from_files = [f"--config={json.dumps(document, default=str)}" for document in documents]
    try:
        namespace = _parser(command).parse_args([*from_files, *arguments])
    except ArgumentError as error:
        raise _explain(command, str(error.message), arguments, files) from None
    values: dict[str, Any] = namespace.as_dict()
    values.pop("config", None)
    values |= {name: value for name, value in operands.items() if not values[name]}
    for entry in command.positional:
        if not entry.endswith("?") and not values[entry.rstrip("*")]:
            raise UserError(
                f"'anprompt {command.name}' needs {entry.rstrip('*').upper()}; see 'anprompt {command.name} --help'."
            )
    return values


def _parser(command: Command) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"anprompt {command.name}", exit_on_error=False, add_help=False)
    for entry in command.positional:
        parser.add_argument(entry.rstrip("*?"), nargs="*" if entry.endswith("*") else "?", type=str)
    switches = [name for name, parameter in command.parameters.items() if is_switch(parameter)]
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(command.function, skip={*command.operands, *switches}, sub_configs=False)
    for name in switches:
        parser.add_argument(f"--{name}", action="store_true")
    return parser


def _with_underscores(argument: str) -> str:
    """``--bad-images=skip`` -> ``--bad_images=skip``; values and nested names (``--options.x``) stay as they are."""
    match = re.match(r"--[^=.]+", argument)
    return f"--{as_parameter(match.group()[2:])}{argument[match.end() :]}" if match else argument


def _name_of(argument: str) -> str | None:
    """The option's name, if ``argument`` is one and not a value such as ``-1``."""
    return re.split(r"[=.]", argument.lstrip("-"))[0] if re.match(r"-[^\d.]", argument) else None


def _check_options(command: Command, arguments: Sequence[str]) -> None:
    known = ["config", *(name for name in command.parameters if name not in command.operands)]
    wrong: list[str] = []
    for argument in arguments:
        if argument == "--":
            break
        name = _name_of(argument)
        if name is not None and (name not in known or not argument.startswith("--")):
            flag = argument.split("=")[0]
            shown = as_option(flag[2:]) if flag.startswith("--") else flag
            near = nearest_option(name, known, _method_in(arguments))
            wrong.append(f"'anprompt {command.name}' has no option '{shown}'.{near}")
    if wrong:
        raise UserError("\n".join(wrong))


def _method_in(arguments: Sequence[str]) -> str | None:
    """The method that the line names, if it names one."""
    words = [part for argument in arguments for part in argument.split("=", 1)]
    return next((after for word, after in pairwise(words) if word == "--method"), None)


def _take_config(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split off ``--config FILE`` and ``--config=FILE``."""
    rest: list[str] = []
    files: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument == "--config":
            file = next(waiting, None)
            if file is None:
                raise UserError("--config needs a value: a YAML file.")
            files.append(file)
        elif argument.startswith("--config="):
            files.append(argument.partition("=")[2])
        else:
            rest.append(argument)
    return rest, files


def _read_config(command: Command, file: Path) -> dict[str, Any]:
    """Read a YAML file of options; unknown and repeated ones are all reported, with their lines."""
    import yaml

    try:
        text = file.read_text(encoding="utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except FileNotFoundError:
        folder = file.parent
        there = [other.name for other in folder.iterdir() if other.is_file()] if folder.is_dir() else []
        raise UserError(f"There is no configuration file '{file}'.{did_you_mean(file.name, there)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the configuration '{file}': {error}.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"'{file}'{where}: not valid YAML ({error.problem or error.context}).") from None
    except yaml.YAMLError as error:
        raise UserError(f"'{file}' is not valid YAML ({str(error).splitlines()[0]}).") from None
    if node is None or content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"'{file}' must hold lines such as 'shots: 4', one option of 'anprompt {command.name}' each.")
    problems = Problems(f"The configuration '{file}' cannot be used:")
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = as_parameter(key.value), key.start_mark.line + 1
        if name in command.parameters:
            content[key.value] = _as_typed(command, name, value, content[key.value])
        if name not in command.parameters:
            near = nearest_option(name, command.parameters, content.get("method"), in_file=True)
            problems.add(f"line {line}: 'anprompt {command.name}' has no option '{key.value}'.{near}")
        elif name in seen:
            problems.add(f"line {line}: '{key.value}' is already set on line {seen[name]}.")
        elif name in command.operands and not _is_operand(command, name, content[key.value]):
            problems.add(f"line {line}: '{key.value}' {_takes(command, name)[0]} (got '{content[key.value]}').")
        elif is_switch(command.parameters[name]) and not isinstance(content[key.value], bool):
            problems.add(f"line {line}: '{key.value}' must be true or false (got '{content[key.value]}').")
        seen.setdefault(name, line)
    problems.raise_if_any()
    return {as_parameter(key): value for key, value in content.items()}


def _as_typed(command: Command, name: str, node: Any, value: Any) -> Any:
    """A value of YAML as the line would give it: text as it is written, also ``1`` and ``no``; lists with commas.

    What cannot be meant stays as it is.
    """
    import yaml

    several = f"{name}*" in command.positional
    if value is None or not (several or value_type(command, name) is str):
        return value
    if isinstance(node, yaml.ScalarNode):
        return [node.value] if several else node.value
    if not isinstance(value, list) or not all(isinstance(entry, yaml.ScalarNode) for entry in node.value):
        return value
    texts = [entry.value for entry in node.value]
    if several:
        return texts
    return ",".join(texts) if texts and _is_list(command, name) and "," not in "".join(texts) else value


def _is_list(command: Command, name: str) -> bool:
    return value_type(command, name) is str and bool(LISTS & {name, f"{command.name} {name}"})


def _is_operand(command: Command, name: str, value: Any) -> bool:
    """Whether a value from YAML is text, or a list of texts where several are taken."""
    if f"{name}*" in command.positional:
        return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    return isinstance(value, str)


def _explain(command: Command, message: str, arguments: Sequence[str], files: Sequence[str]) -> UserError:
    """Turn the parser's message into one sentence that names the option, what it takes and the nearest value."""
    match = re.match(r'Parser key "(\w+)', message)
    if match and match.group(1) in command.parameters:
        name = match.group(1)
        found = re.search(r"(?:Got value|Given value): (.*)", message)
        value = found.group(1).strip() if found else None
        typed = name in command.operands or any(_name_of(argument) == name for argument in arguments)
        where = as_option(name) if typed or not files else f"'{name}' in {' or '.join(map(repr, files))}"
        takes, allowed = _takes(command, name)
        got = f" (got '{value}')" if value is not None else ""
        return UserError(f"{where} {takes}{got}.{did_you_mean(value or '', allowed)}")
    if match := re.match(r"argument --(\w+): (expected one argument|ignored explicit)", message):
        needs = "needs a value" if match.group(2).startswith("expected") else "is a switch and takes no value"
        return UserError(f"{as_option(match.group(1))} {needs}; see 'anprompt {command.name} --help'.")
    if match := re.match(r"unrecognized arguments: (.*)", message, re.IGNORECASE):
        takes = " and ".join(name.upper() for name in command.operands) or "no operand"
        return UserError(f"'anprompt {command.name}' takes {takes}; '{match.group(1)}' is too much.")
    return UserError(f"anprompt {command.name}: {' '.join(message.split())}")


def _takes(command: Command, name: str) -> tuple[str, list[str]]:
    """What values the parameter takes, in words, and the list of them if there is one."""
    kind = value_type(command, name)
    if get_origin(kind) is Literal:
        allowed = [str(value) for value in get_args(kind)]
        return f"must be one of {', '.join(allowed)}", allowed
    if get_origin(kind) is dict:
        return f"takes single entries, as in {as_option(name)}.NAME VALUE", []
    kinds = {int: "must be a whole number", float: "must be a number", bool: "must be true or false"}
    if _is_list(command, name):
        return "must be text, or a list in which no entry has a comma", []
    return kinds.get(kind, "must be text, or a list of texts" if get_origin(kind) is list else "must be text"), []
