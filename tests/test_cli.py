"""The command line as a person meets it: help, options, YAML, what goes to stdout and what to stderr."""

from __future__ import annotations

import errno
import inspect
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anprompt import __version__
from anprompt.cli import COMMANDS, main
from anprompt.commands.arguments import Command, parse
from anprompt.commands.nearest import as_option
from anprompt.commands.usage import help_page
from anprompt.errors import UserError
from anprompt.training import Interrupted
from helpers_cli import Cli, Refused

HEAVY = ("torch", "sklearn", "matplotlib", "transformers", "numpy", "rich", "jsonargparse", "huggingface_hub")


def python(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, **settings)


# Start


@pytest.mark.parametrize("start", [["-c", "import anprompt"], ["-m", "anprompt", "--help"]])
def test_starting_takes_less_than_a_second(start: list[str]) -> None:
    """Of the processor's time, which does not depend on what else the machine does."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python(*start).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(2)) < 1  # the first may compile


def test_nothing_heavy_is_imported_for_help() -> None:
    lines = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    code = (
        f"import sys, anprompt.cli\nfor line in {lines}: anprompt.cli.run(line)\nprint(*sys.modules, file=sys.stderr)"
    )
    ended = python("-c", code)
    assert ended.returncode == 0
    assert "anprompt.cli" in ended.stderr.split()
    assert not set(HEAVY) & set(ended.stderr.split())


# Help


def test_without_a_command_the_help_goes_to_stderr(cli: Cli) -> None:
    code, out, err = cli()
    assert (code, out) == (2, "")
    assert err == cli("--help").out == cli("help").out == cli("-h").out
    assert all(f"  {name} " in err for name in COMMANDS)
    assert max(map(len, err.splitlines())) <= 80


def test_version(cli: Cli) -> None:
    assert cli("--version") == cli("-V") == (0, f"anprompt {__version__}\n", "")


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_pages(name: str, width: int, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    command = COMMANDS[name]
    code, page, err = cli(name, "--help")
    assert (code, err) == (0, "")
    assert page == cli("help", name).out == help_page(command)
    text, _, examples = page.partition("\nexamples:\n")
    assert max(map(len, text.splitlines())) <= width
    for parameter in command.parameters:
        shown = parameter.upper() if parameter in command.operands else as_option(parameter)
        assert shown in text
    assert not any(noise in page for noise in ("Optional", "Literal", "typing", "null", "None", "_images", "(type"))
    for example in examples.splitlines():
        assert example.startswith(f"  anprompt {name}")


def test_help_pages_show_explanations_to_their_end(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for name, command in COMMANDS.items():
        page = " ".join(cli(name, "--help").out.split())
        about = inspect.cleandoc(command.function.__doc__ or "").split("\n\nArgs:\n")[1].split("\n\nExamples:\n")[0]
        for line in about.splitlines():
            assert line.strip().partition(": ")[2] in page or " ".join(line.split()) in page, line
    assert "or of an ablation of your own" in " ".join(cli("table", "--help").out.split())


def test_only_robustness_takes_several_adapters(cli: Cli) -> None:
    assert "--adapter A,B" in cli("robustness", "--help").out
    assert "--adapter FOLDER" in cli("explain", "--help").out


def test_the_examples_in_help_pages_can_be_parsed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-adapter").mkdir()
    (tmp_path / "my-adapter" / "config.yaml").write_text("data: photos\nshots: 3\n")
    for command in COMMANDS.values():
        for line in help_page(command).partition("\nexamples:\n")[2].splitlines():
            _, name, *arguments = shlex.split(line)
            assert parse(COMMANDS[name], arguments).keys() == command.parameters.keys()


# Options on the line and in YAML


def test_both_spellings_of_an_option() -> None:
    fit = COMMANDS["fit"]
    hyphens = parse(fit, ["photos", "--bad-images", "skip", "--data-root=d", "--options.prompt-length", "4"])
    underscores = parse(fit, ["--bad_images=skip", "photos", "--data_root", "d", "--options.prompt-length=4"])
    assert hyphens == underscores
    assert (hyphens["bad_images"], hyphens["data_root"], hyphens["options"]) == ("skip", "d", {"prompt-length": 4})
    assert (hyphens["resume"], hyphens["preset"], hyphens["seed"]) == (False, None, 1)


def test_text_stays_text() -> None:
    given = {"--classes": "1,2", "--texts": "07", "--csv": "{}: x"}
    values = parse(COMMANDS["predict"], ["a", "1.jpg", "2", *(part for pair in given.items() for part in pair)])
    assert (values["inputs"], values["classes"], values["texts"], values["csv"]) == (
        ["1.jpg", "2"],
        "1,2",
        "07",
        "{}: x",
    )


@pytest.mark.parametrize("last", [True, False])
def test_the_command_line_wins_over_yaml_wherever_it_stands(last: bool, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "data: photos\nshots: 3\nseed: 5\nbad-images: skip\nresume: true\noptions:\n  alpha: 1\n  theta: 0.5\n"
    )
    line = ["--shots", "4", "--options.alpha", "2"]
    values = parse(COMMANDS["fit"], [*line, "--config", str(file)] if last else [f"--config={file}", *line])
    assert (values["data"], values["shots"], values["seed"], values["bad_images"]) == ("photos", 4, 5, "skip")
    assert values["resume"] is True
    assert values["options"] == {"alpha": 2, "theta": 0.5}
    assert parse(COMMANDS["fit"], ["other", "--config", str(file)])["data"] == "other"


def test_lists_of_inputs_from_yaml_and_an_empty_file(tmp_path: Path) -> None:
    file, empty = tmp_path / "predict.yaml", tmp_path / "empty.yaml"
    file.write_text("adapter: a\ninputs: [1.jpg, 2.jpg]\ntop: 2\n")
    empty.write_text("# nothing\n")
    values = parse(COMMANDS["predict"], ["--config", str(file), "--config", str(empty)])
    assert (values["adapter"], values["inputs"], values["top"]) == ("a", ["1.jpg", "2.jpg"], 2)


AS_ON_THE_LINE = [
    ("bench", "seeds: 1", {"seeds": "1"}),
    ("bench", "seeds: [1, 2]\nmethods: [zero-shot, coop]\ndatasets: [photos]\nshots: 4",
     {"seeds": "1,2", "methods": "zero-shot,coop", "datasets": "photos", "shots": "4"}),
    ("compare", "data: photos\nseeds: 1\nshots: 4", {"seeds": "1", "shots": 4}),
    ("describe", "classes: [yes, no]\ntexts: [a.csv, b.csv]", {"classes": "yes,no", "texts": "a.csv,b.csv"}),
    ("table", "name: 6\ncompare: [coop, anprompt]", {"name": "6", "compare": "coop,anprompt"}),
    ("robustness", "data: photos\nadapter: [a, b]\nnoises: [drop]", {"adapter": "a,b", "noises": "drop"}),
    ("predict", "adapter: 1\ninputs: photo.png\nclasses: [a, b]",
     {"adapter": "1", "inputs": ["photo.png"], "classes": "a,b"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "expected"), AS_ON_THE_LINE)
def test_numbers_and_lists_from_yaml(name: str, text: str, expected: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    values = parse(COMMANDS[name], ["--config", str(tmp_path / "run.yaml")])
    assert {key: values[key] for key in expected} == expected


def test_lists_from_yaml_that_cannot_be_meant(refused: Refused) -> None:
    Path("run.yaml").write_text("classes: ['a, b', c]\n")
    words = "'classes' in 'run.yaml' must be text, or a list in which no entry has a comma (got"
    assert words in refused("predict", "a", "x.png", "--config", "run.yaml")
    Path("run.yaml").write_text("inputs: {a: b}\n")
    assert "'inputs' must be text, or a list of texts (got" in refused("predict", "a", "--config", "run.yaml")


def test_files_whose_names_begin_with_a_hyphen() -> None:
    assert parse(COMMANDS["predict"], ["--top", "1", "--", "a", "-x.jpg"])["inputs"] == ["-x.jpg"]


# Ends


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("So it is."), 2, "anprompt: So it is.\n"),
        (KeyboardInterrupt(), 130, "anprompt: interrupted.\n"),
        (Interrupted(2, 0, 3), 130, "Continue with:  anprompt methods 'a name' --resume\n"),
        (Interrupted(15, 0, 3), 143, "Interrupted in epoch 1 after 3 steps; the state is kept."),
        (OSError(errno.ENOSPC, "No space left on device", "f"), 2, "anprompt: The system refuses 'f': No space left"),
    ],
)
def test_ends(error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    def fails(name: str | None = None, resume: bool = False) -> int:
        """Fail."""
        raise error

    monkeypatch.setitem(COMMANDS, "methods", Command("methods", fails, ("name?",)))
    outcome = cli("methods", "a name")
    assert (outcome.code, outcome.out) == (code, "")
    assert words in outcome.err
    if isinstance(error, Interrupted):
        assert cli("methods", "a name", "--resume").err.count("--resume") == 1


@pytest.mark.parametrize("fault", [KeyError("x"), FileNotFoundError(errno.ENOENT, "No such file", "asset")])
def test_faults_of_ours_are_not_hidden(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> int:
        """Fail."""
        raise fault

    monkeypatch.setitem(COMMANDS, "methods", Command("methods", fails))
    with pytest.raises(type(fault)):
        main(["methods"])


@pytest.mark.parametrize(
    ("line", "buffered"), [(["--help"], True), (["--help"], False), (["methods", "coop", "--json"], False)]
)
def test_a_reader_that_goes_away_is_no_error(line: list[str], buffered: bool) -> None:
    """Unbuffered, writing fails; buffered, a short output fails only at the end."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    command = [sys.executable, "-m", "anprompt", *line]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=60)) == ("", 0)


def test_a_terminal_without_greek_letters_gets_its_answer() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    ended = python("-m", "anprompt", "methods", "anprompt", env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\\u03b1" in ended.stdout  # α
