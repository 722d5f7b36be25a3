"""``anprompt demo`` with a tiny budget on the packaged miniature."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anprompt import PromptClassifier, demo
from anprompt.data import DataSource, Item, open_data
from anprompt.outputs import is_figure
from anprompt.results import harmonic_mean
from helpers_cli import Cli, contents


def two_of_each_class(data: str) -> DataSource:
    """The toy world with two training and two test pictures of each class."""
    whole = open_data(data)

    def first(items: list[Item]) -> list[Item]:
        return [item for label in range(len(whole.classes)) for item in [i for i in items if i.label == label][:2]]

    return dataclasses.replace(whole, splits={split: first(whole.splits[split]) for split in ("train", "test")})


@pytest.fixture(autouse=True)
def tiny_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "RECIPE", {"epochs": 1, "batch": 24, "warmup_epochs": 0})
    monkeypatch.setattr(demo, "open_data", two_of_each_class)


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "my demo"
    code, printed, err = cli("demo", "--out", out, "--seeds", 2)
    assert code == 0
    stages = ["training, seed {}: 2/2", "testing, seed {}, base classes: 48/48", "testing, seed {}, new classes: 48/48"]
    assert [line.split("  ")[0] for line in err.splitlines() if not line.startswith("note: ")] == [
        "zero-shot, base classes: 48/48",
        "zero-shot, new classes: 48/48",
        *(stage.format(seed) for seed in (1, 2) for stage in stages),
    ]
    record = json.loads((out / "demo.json").read_text())
    assert [run["seed"] for run in record["runs"]] == [1, 2]
    for key in ("base", "new"):
        assert record["mean"][key] == pytest.approx(sum(run[key] for run in record["runs"]) / 2)
    for row in (record["zero_shot"], *record["runs"]):
        assert row["hm"] == pytest.approx(harmonic_mean(row["base"], row["new"]))

    rows = {line[:18].strip(): line[18:].split() for line in printed.splitlines() if line.startswith(("zero", "ANP"))}
    assert list(rows) == ["zero-shot", "ANPrompt, seed 1", "ANPrompt, seed 2", "ANPrompt, mean"]
    for row, scores in zip(rows.values(), (record["zero_shot"], *record["runs"], record["mean"]), strict=True):
        assert row[:3] == [f"{scores[key]:.1f}" for key in ("base", "new", "hm")]
    written = record["written"]
    assert all(path in printed for path in written.values())
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 80
    assert "anprompt fit PHOTOS --backbone openai/clip-vit-base-patch16" in printed

    sheet = Image.open(written["contact sheet"])
    assert sheet.width > 1000
    assert len(sheet.getcolors(1 << 20)) > 1000  # pictures, not an empty page
    loaded = PromptClassifier.load(written["adapter"])
    assert len(loaded.classes_) == 24
    assert record["adapter_bytes"] < 300_000
    half = loaded.evaluate(two_of_each_class("toyworld:night"), subset="base")
    assert half["accuracy"] == pytest.approx(record["runs"][0]["base"])


def test_demo_writes_over_its_own_files_only(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter.json").write_text("{}")
    before = contents(tmp_path)
    code, out, err = cli("demo", "--out", tmp_path)
    assert (code, out) == (2, "")
    assert "holds files that no demo wrote (adapter.json)" in err
    assert contents(tmp_path) == before
    (tmp_path / "demo.json").write_text("{}")
    Image.new("RGB", (8, 8)).save(tmp_path / "predictions.png")
    err = cli("demo", "--out", tmp_path).err
    assert "holds files of yours that would be replaced; give another --out:\n  - predictions.png\n  - demo.json" in err
    (tmp_path / "demo.json").write_text('{"record_version": 1}')
    (tmp_path / "predictions.png").unlink()
    assert "adapter' holds files of yours that would be replaced" in cli("demo", "--out", tmp_path).err
    (tmp_path / "adapter" / "adapter.json").write_text('{"format": "anprompt-adapter"}')
    code, out, _ = cli("demo", "--out", tmp_path, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "demo.json").read_text())
    assert is_figure(tmp_path / "predictions.png")


def test_a_demo_that_was_stopped_can_be_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = PromptClassifier.fit

    def stopped(self: PromptClassifier, *args: Any, **kwargs: Any) -> Any:
        if self.random_state == 2:
            raise KeyboardInterrupt
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(PromptClassifier, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(tmp_path, [1, 2])
    monkeypatch.setattr(PromptClassifier, "fit", fit)
    assert demo.run_demo(tmp_path, [1])["adapter_bytes"] > 0
