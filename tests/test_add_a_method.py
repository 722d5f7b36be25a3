"""docs/add-a-method.md, as it stands there: its file becomes a method like any other, in this process and installed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import test_every_method
import test_methods
from anprompt import PromptClassifier
from anprompt.methods.base import REGISTRY
from helpers_bench import QUICK, records
from helpers_cli import Cli

DOCUMENT = Path(__file__).parents[1] / "docs" / "add-a-method.md"
# Every test of test_methods.py that takes a method and a preset, whatever it is called.
GENERIC = [
    function
    for function in vars(test_methods).values()
    if any(mark.args[0] == ("name", "preset") for mark in getattr(function, "pytestmark", ()))
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module that the document shows."""
    found = re.search(r"<!-- example -->\n```python\n(.*?)```\n", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    path = tmp_path_factory.mktemp("own") / "my_taskres.py"
    path.write_text(found[1], encoding="utf-8")
    return path


@pytest.fixture
def taskres(file: Path) -> Iterator[str]:
    """The name of the method, registered by importing the module."""
    specification = importlib.util.spec_from_file_location("my_taskres", file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module.TaskRes.name
    del REGISTRY[module.TaskRes.name]


def test_the_example_is_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.parametrize("check", GENERIC, ids=lambda check: check.__name__.removeprefix("test_"))
def test_what_is_tested_of_every_method(
    check: Callable[[str, str], None], taskres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_methods, "NOTHING_DRAWN", {taskres})  # the one line of a test that the document asks for
    check(taskres, "usual")


def test_training_resuming_saving_loading(taskres: str, tmp_path: Path) -> None:
    assert len(GENERIC) > 6
    test_every_method.test_fitting_resuming_saving_loading(taskres, tmp_path)


def test_equation_1(taskres: str) -> None:
    method: Any = test_methods.make(taskres, alpha=0.25)
    text = method.blocks[0].frozen
    with torch.no_grad():
        method.residual.copy_(torch.randn(text.shape, generator=torch.Generator().manual_seed(0)))
    f_v = method.backbone.encode_image(test_methods.PIXELS)
    for c, x in enumerate(method.residual):
        cosine = torch.cosine_similarity(f_v, (text[c] + 0.25 * x)[None])
        expected = method.backbone.logit_scale * cosine
        torch.testing.assert_close(method.logits(test_methods.PIXELS)[:, c], expected, rtol=1e-5, atol=1e-4)


def test_the_commands(
    taskres: str, photo_folder: Path, small_clip: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("--backbone", small_clip, "--method", taskres, "--shots", 4)
    code, _, err = cli("fit", photo_folder, *given, "--recipe.epochs", 2, "--out", "adapter")
    assert code == 0, err
    outcome = cli("predict", "adapter", photo_folder / "test", "--json")
    assert outcome.code == 0
    loaded = PromptClassifier.load("adapter", small_clip)
    assert loaded.predict(str(photo_folder / "test")).shape == (16,)
    assert cli("evaluate", "adapter", photo_folder, "--json").code == 0
    code, out, err = cli("predict", "adapter", photo_folder / "test", "--classes", "red square,yellow moon")
    assert (code, out) == (2, "")
    assert "because each of its residuals belongs to one class: 'yellow moon'" in err
    Path("quick.yaml").write_text(QUICK)
    given = ("--protocol", "few-shot", "--recipe", "quick.yaml", "--shots", 2, "--seeds", 1, "--threads", 1)
    code, _, err = cli(
        "bench", *given, "--methods", f"zero-shot,{taskres}", "--backbone", small_clip, "--datasets", photo_folder
    )
    assert code == 0, err
    assert {record["config"]["method"] for record in records().values()} == {"zero-shot", taskres}


def install(folder: Path, module: str) -> None:
    """What an installer writes for a package with this entry point."""
    about = folder / "my_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[anprompt.methods]\ntaskres = {module}\n")


LINES = """
import sys
from anprompt.cli import main
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as end:
        for stream in (sys.stdout, sys.stderr):
            stream.write(f"{end.code}\\f")
"""


def run(folder: Path, *lines: str) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of command lines, one after the other in a process in which ``folder`` is installed:
    what takes time is the start."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", LINES, *lines], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    ends = zip(done.stdout.split("\f")[:-1], done.stderr.split("\f")[:-1], strict=True)
    return [(int(out[-1]), out[:-1], err[:-1]) for out, err in ends]


def test_an_installed_package_brings_its_method(file: Path, tmp_path: Path) -> None:
    (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    install(tmp_path, file.stem)
    ((code, out, err),) = run(tmp_path, "methods taskres --json")
    assert code == 0, err
    assert "weight α of the residuals" in json.dumps(json.loads(out), ensure_ascii=False)


def test_an_installed_method_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nowhere_at_all\n")
    install(tmp_path, "broken")
    every, coop, own = run(tmp_path, "methods", "methods coop", "methods taskres")
    assert [code for code, _, _ in (every, coop, own)] == [0, 0, 2]
    said = "The installed method 'taskres' cannot be imported from broken"
    assert [said in err for _, _, err in (every, coop, own)] == [True, False, True], "only where it matters"
    assert "Traceback" not in every[2] + own[2]
