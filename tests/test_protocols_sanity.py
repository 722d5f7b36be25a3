"""Zero-shot accuracy is compared with the published values before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anprompt.data import DataSource
from anprompt.errors import UserError
from anprompt.protocols.declare import Asked
from anprompt.protocols.runs import Evaluation, Target
from anprompt.protocols.sanity import check_zero_shot, zero_shot_runs
from anprompt.results import make_record, write_record
from helpers_cli import Cli

OPENAI = "openai/clip-vit-base-patch16"


def source(name: str, **changes: Any) -> DataSource:
    return DataSource(name, ("a", "b"), {"test": []}, opener=lambda item: item, benchmark=name, **changes)  # type: ignore[arg-type, return-value]


def evaluated(out: Path, target: str, subset: str, accuracy: float, protocol: str = "base-to-new") -> Evaluation:
    """An evaluation whose record says ``accuracy``."""
    config = {"protocol": protocol, "method": "zero-shot", "source": target, "target": target, "seed": None, "shots": 0,
              "target_subset": subset}  # fmt: skip
    evaluation = Evaluation(Target(target, subset), config)
    write_record(out / evaluation.file, make_record("bench", config, accuracy=accuracy, template="a {}."))
    return evaluation


def test_only_the_papers_backbone_and_published_data_are_compared() -> None:
    asked = Asked("few-shot", ["anprompt"], ["dtd", "eurosat", "mine"])
    data = {"dtd": source("dtd"), "eurosat": source("eurosat", differs=("smaller",)), "mine": source("mine")}
    runs = zero_shot_runs(asked, OPENAI, data)
    assert [(run.protocol, run.method, run.source, run.targets) for run in runs] == [
        ("base-to-new", "zero-shot", "dtd", (Target("dtd", "base"), Target("dtd", "new")))
    ]
    for name in ("folder/ViT-B-16.pt", "ViT-B/16", "/models/clip-vit-base-patch16"):
        assert zero_shot_runs(asked, name, data) == runs
    assert zero_shot_runs(asked, "miniature", data) == []
    assert zero_shot_runs(asked, OPENAI, {"eurosat": data["eurosat"]}) == []


def test_renderings_are_compared_on_all_classes() -> None:
    names = ["imagenet", "imagenetv2", "imagenet_sketch"]
    data = {name: source(name) for name in names}
    data["imagenet_sketch"] = source("imagenet_sketch", differs=("smaller",))
    asked = Asked("domain-generalisation", ["anprompt"], names[1:])
    (run,) = zero_shot_runs(asked, OPENAI, data)
    assert run.targets == (Target("imagenet", "all"), Target("imagenetv2", "all"))
    other = Asked("domain-generalisation", ["anprompt"], ["imagenetv2"], source="mine")
    assert zero_shot_runs(other, OPENAI, {**data, "mine": source("mine")}) == []
    assert zero_shot_runs(asked, OPENAI, {**data, "imagenet": replace(source("imagenet"), benchmark=None)}) == []


def test_up_to_a_point_is_fine(tmp_path: Path) -> None:
    published = {"base": 53.24, "new": 59.90}  # Table I, CLIP on DTD
    good = [evaluated(tmp_path, "dtd", half, value + 0.99) for half, value in published.items()]
    check_zero_shot(good, tmp_path)
    check_zero_shot([evaluated(tmp_path, "imagenetv2", "all", 60.83, "domain-generalisation")], tmp_path)
    check_zero_shot([evaluated(tmp_path, "somebody's", "base", 1.0)], tmp_path)  # nothing published
    bad = [evaluated(tmp_path, "dtd", half, value - 1.01) for half, value in published.items()]
    with pytest.raises(UserError) as error:
        check_zero_shot([*bad, evaluated(tmp_path, "imagenet_a", "all", 40.0, "domain-generalisation")], tmp_path)
    for part in ("dtd, base classes: 52.23 here, 53.24 published (template 'a {}.')", "dtd, new classes: 58.89",
                 "imagenet_a, all classes: 40.00 here, 47.77 published", "Likely causes: another template", "resized",
                 "--unchecked"):  # fmt: skip
        assert part in str(error.value)


def test_a_benchmark_stops_before_training(
    cli: Cli, small_clip: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    from anprompt.protocols import execute, plan

    opened = plan.open_source
    for module in (execute, plan):  # both by name: one that is imported later would keep this for other tests
        monkeypatch.setattr(module, "open_source", lambda spec, root: _as_published(opened(spec, root)))
    monkeypatch.setattr("anprompt.protocols.sanity.is_papers_backbone", lambda source: True)
    line = ("bench", "--backbone", small_clip, "--datasets", photo_folder, "--methods", "anprompt", "--seeds", "1",
            "--recipe", "quick.yaml")  # fmt: skip
    Path("quick.yaml").write_text("method: any\nfrom: the tests\nbase-to-new: {shots: 2, recipe: {epochs: 1}}\n")
    code, out, err = cli(*line)
    assert (code, out) == (2, "")
    assert "eurosat, base classes:" in err
    assert "56.48 published" in err
    assert "training" not in err
    assert cli(*line, "--unchecked").code == 0


def _as_published(data: DataSource) -> DataSource:
    return replace(data, benchmark="eurosat", differs=())
