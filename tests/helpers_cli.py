"""The command line in this process, and small folders of photos to run it on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from anprompt.cli import main


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """stdout as the one JSON document that it must be."""
        return json.loads(self.out)


class Cli:
    """``cli("fit", folder, "--shots", 4)`` is ``anprompt fit FOLDER --shots 4``."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = self.capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, out, err)


def write_photos(root: Path, classes: Iterable[str], count: int = 3) -> Path:
    """``root/<class>/<i>.png``: ``count`` photos of each class, each class in its own grey."""
    for level, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (40, 36 + i), (20 + 40 * level,) * 3).save(root / name / f"{i}.png")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below ``folder``: to see that nothing was written, lost or changed."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


class Refused:
    """Runs a command that must be refused; gives the message."""

    def __init__(self, cli: Cli, folder: Path) -> None:
        self.cli, self.folder = cli, folder

    def __call__(self, *arguments: object) -> str:
        before = contents(self.folder)
        code, out, err = self.cli(*arguments)
        message = err[err.index("anprompt: ") :]
        assert (code, out) == (2, ""), err
        assert "Traceback" not in err
        assert message.count("anprompt: ") == 1
        assert contents(self.folder) == before, "files were written, changed or lost"
        return message
