"""Every registered method on the toy world, where zero-shot is weak: it gets better. And in every protocol: it runs.

What else holds for every method is in test_methods.py (backbone untouched, new classes evaluated or refused with the
reason) and test_every_method.py (same seed same result, saved and loaded bit by bit).
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from anprompt import PromptClassifier, load_backbone, methods
from anprompt.clip import Backbone
from anprompt.data import DataSource, open_data
from helpers_bench import QUICK
from helpers_cli import Cli
from helpers_fit import PHOTO_CLASSES

FIRST, COUNT = 26, 6  # of the 48 classes at night these neighbours are the hardest for zero-shot
LEARNING = [method for method in methods.available() if method.name != "zero-shot"]
LONG = {"cocoop", "coprompt", "promptsrc", "bip", "dapt", "hicropl", "tac"}  # over 5 s on a slow core
RATE = {"cocoop": 0.02, "lweib": 0.02}  # these learn more slowly than all others, whose rate is 0.005
RECIPE = {"optimizer": "adam", "epochs": 2, "batch": 12, "warmup_epochs": 0, "crop_scale": 0.8}


@cache
def night() -> DataSource:
    """Six classes of the toy world at night; every picture is drawn once."""
    whole = open_data("toyworld:night")
    own = range(FIRST, FIRST + COUNT)
    splits = {
        split: [item._replace(label=item.label - FIRST) for item in items if item.label in own]
        for split, items in whole.splits.items()
    }
    return replace(whole, classes=whole.classes[FIRST : FIRST + COUNT], splits=splits, opener=cache(whole.opener))


@cache
def miniature() -> Backbone:
    return load_backbone("miniature")


def accuracy(name: str, **settings: Any) -> float:
    with warnings.catch_warnings(action="ignore"):  # what a method thinks of another optimiser is no matter here
        classifier = PromptClassifier(miniature(), name, shots=8, **settings).fit(night())
        return float(classifier.score(night()))


@cache
def zero_shot() -> float:
    return accuracy("zero-shot")


@pytest.mark.parametrize(
    "name", [pytest.param(m.name, marks=[pytest.mark.slow] if m.name in LONG else []) for m in LEARNING]
)
def test_a_short_fit_is_better_than_zero_shot(name: str) -> None:
    """On the test pictures, by at least three of the 120, after eight steps."""
    before = {key: tensor.clone() for key, tensor in miniature().state_dict().items()}
    assert zero_shot() < 0.8
    assert accuracy(name, recipe={**RECIPE, "lr": RATE.get(name, 0.005)}) >= zero_shot() + 3 / 120
    for key, tensor in miniature().state_dict().items():
        assert torch.equal(tensor, before[key]), f"{name} changed {key} of the backbone"


@pytest.mark.slow
@pytest.mark.timeout(900)  # all methods, one after the other
@pytest.mark.parametrize("protocol", ["base-to-new", "few-shot", "cross-dataset", "domain-generalisation"])
def test_every_method_runs_in_every_protocol(
    protocol: str, cli: Cli, small_clip: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but few-shot ask for new classes or data; methods that have none are refused before anything runs."""
    monkeypatch.chdir(tmp_path)
    Path("quick.yaml").write_text(QUICK.replace("epochs: 2", "epochs: 1"))
    frames = (
        "a photo of the {}.",
        "one large {}.",
        "the {} on a road.",
    )  # TAC clusters them: of two classes, at least 5
    sentences = {name: [frame.replace("{}", name) for frame in frames] for name in PHOTO_CLASSES}
    Path("texts.json").write_text(json.dumps({"main": sentences, "noise": sentences}))
    able = [m.name for m in methods.available() if m.supports_new_classes or protocol == "few-shot"]
    transfer = protocol in ("cross-dataset", "domain-generalisation")
    target = shutil.copytree(photo_folder, "elsewhere") if transfer else photo_folder
    given = ["--protocol", protocol, "--backbone", small_clip, "--datasets", target, "--recipe", "quick.yaml",
             "--seeds", 1, "--threads", 1, "--discard", "--texts", "texts.json"]  # fmt: skip
    given += ["--shots", 2] if protocol == "few-shot" else []
    given += ["--source", photo_folder] if transfer else []
    code, _, err = cli("bench", *given, "--methods", ",".join(able))
    assert code == 0, err
    done = [json.loads(file.read_text()) for file in Path("results/records").rglob("*.json")]
    assert {record["config"]["method"] for record in done} == set(able)
    for other in {m.name for m in methods.available()} - set(able):
        code, out, err = cli("bench", *given, "--methods", other, "--out", "refused")
        assert (code, out) == (2, "")
        assert other in err
