"""Real photos are not given to the miniature without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from anprompt.commands.packaged import backbone_for
from helpers_cli import Cli, write_photos

NOTE = "note: no --backbone is given: the packaged miniature knows the toy world only."


@pytest.mark.parametrize(
    ("named", "noted"), [((), True), (("--backbone", "miniature"), False)], ids=["not named", "named"]
)
def test_the_miniature_is_named_where_photos_may_be_real(
    cli: Cli, tmp_path: Path, named: tuple[str, ...], noted: bool
) -> None:
    photos = write_photos(tmp_path / "photos", ("cat", "dog"))
    code, _, err = cli("zeroshot", photos, *named)
    assert (code, NOTE in err) == (0, noted)


@pytest.mark.parametrize(
    ("data", "noted"), [(["toyworld:night", "Toyworld"], False), (["toyworld", "eurosat"], True), (["photos"], True)]
)
def test_the_toy_world_is_what_the_miniature_is_for(
    data: list[str], noted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert backbone_for("ViT-B/16", data) == "ViT-B/16"
    assert not capsys.readouterr().err
    assert backbone_for(None, data) == "miniature"
    assert (NOTE in capsys.readouterr().err) == noted


def test_a_run_keeps_which_model_it_took(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    code, _, err = cli("fit", "toyworld:night", "--method", "tip-adapter", "--shots", "1", "--out", out)
    assert (code, NOTE in err) == (0, False)
    assert yaml.safe_load((out / "config.yaml").read_text())["backbone"] == "miniature"
