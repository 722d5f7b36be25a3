"""How many classes at a time training takes with the memory that it may use, and what it says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from anprompt import fitting, methods
from anprompt.clip import Backbone
from anprompt.errors import UserError
from anprompt.methods import Method
from anprompt.settings import Note
from anprompt.training import memory
from anprompt.training.capacity import Share, sharing
from anprompt.training.memory import (
    GIB,
    MemoryPlan,
    StepMemory,
    check_limit,
    estimate_step,
    plan_memory,
)
from benchmarks import machine
from helpers_cli import Cli, Refused
from helpers_clip import random_backbone
from helpers_fit import estimator
from helpers_memory import of_many_classes, shallow


@pytest.fixture(scope="module")
def many() -> Method:
    return of_many_classes()


# ---- the plan --------------------------------------------------------------------------------------------------------


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process holds 1 GiB and 10 GiB are free."""
    monkeypatch.setattr(memory, "memory_in_use", lambda device: GIB)
    monkeypatch.setattr(memory, "memory_free", lambda device: 10 * GIB)


def with_chunk(method: Method, chunk: int | None) -> StepMemory:
    method.backbone.class_chunk = chunk
    try:
        return estimate_step(method, 2)
    finally:
        method.backbone.class_chunk = None


@pytest.mark.usefixtures("still")
def test_the_largest_chunk_that_fits_is_chosen(many: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {chunk: with_chunk(many, chunk) for chunk in (None, 70, 35)}
    peaks = {chunk: step.peak for chunk, step in steps.items()}
    monkeypatch.setattr(memory, "estimate_step", lambda *_: steps[many.backbone.class_chunk])  # made once each
    assert sorted(peaks.values(), reverse=True) == list(peaks.values())
    for chunk, peak in peaks.items():
        plan = plan_memory(many, 2, peak)
        assert (plan.class_chunk, plan.step.peak, plan.limit) == (chunk, peak, peak)
        assert many.backbone.class_chunk is None
    with pytest.raises(UserError) as error:
        plan_memory(many, 2, peaks[35] - 1)
    assert str(error.value).startswith("Training needs about 1.1 GiB of memory, even with the texts of 35 classes at a")
    assert "(--recipe.batch, now 2), --recipe.precision bf16, a higher --memory-gb" in str(error.value)
    assert many.backbone.class_chunk is None


@pytest.mark.usefixtures("still")
def test_by_default_four_fifths_of_what_is_free(many: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_memory(many, 2)
    assert plan.limit == 9 * GIB
    assert plan.class_chunk is None
    assert plan.summary() == "training will need about 1.1 GiB of memory of the 9.0 GiB that it may use"
    monkeypatch.setattr(memory, "memory_free", lambda device: None)
    assert plan_memory(many, 2).summary() == "training will need about 1.1 GiB of memory"


@pytest.mark.usefixtures("still")
def test_beside_other_jobs_fewer_of_them_help(many: Method) -> None:
    with sharing(Share(2, {})), pytest.raises(UserError, match=r"precision bf16, fewer --jobs\."):
        plan_memory(many, 2, GIB)


@pytest.mark.usefixtures("still")
def test_a_chunk_that_was_set_before_is_kept(many: Method) -> None:
    many.backbone.class_chunk = 50
    try:
        assert plan_memory(many, 2).class_chunk == 50
        assert many.backbone.class_chunk == 50
    finally:
        many.backbone.class_chunk = None


@pytest.mark.usefixtures("still")
def test_where_chunks_cannot_help_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(memory, "_follow", lambda method, batch, epoch: (calls.append(batch), (0, GIB))[1])
    method = shallow(backbone=random_backbone(vision_depth=4, text_depth=4).in_precision("bf16"))
    with pytest.raises(UserError) as error:
        plan_memory(method, 1, GIB)
    assert "needs about 2.4 GiB of memory but may use 1.0 GiB. What helps: a higher --memory-gb" in str(error.value)
    assert calls == [1], "three classes are not cut into chunks"


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "8", True])
def test_a_limit_is_a_number_above_0(value: Any) -> None:
    with pytest.raises(UserError, match="memory limit must be a number of GiB above 0"):
        check_limit(value)


def test_limits_are_in_gib() -> None:
    assert (check_limit(None), check_limit(8), check_limit(0.5)) == (None, 8 * GIB, GIB // 2)


def test_a_plan_holds_for_its_block_only() -> None:
    backbone = random_backbone(vision_depth=1, text_depth=1)
    backbone.class_chunk = 7
    with MemoryPlan(None, None, 3).applied(backbone):
        assert backbone.class_chunk == 3
    assert backbone.class_chunk == 7


# ---- in fit ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone()


def test_fit_records_the_estimate_and_says_it_when_asked(backbone: Backbone, photo_folder: Path) -> None:
    fitted = estimator(backbone, memory_gb=20)
    with pytest.warns(Note, match=r"training will need about \d\.\d GiB of memory of the 20.0 GiB that it may use$"):
        fitted.fit(photo_folder)
    found = fitted.record_["memory"]
    assert found["limit"] == 20 * GIB
    assert found["class_chunk"] is None
    assert 0 < found["estimated_peak"] < 20 * GIB
    assert "memory" not in estimator(backbone, method="zero-shot", recipe={}).fit(photo_folder).record_


def test_fit_says_chunks_and_trains_with_them(
    backbone: Backbone, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int | None] = []
    losses = methods.find("anprompt").losses

    def watched(self: Method, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen.append(self.backbone.class_chunk)
        return losses(self, batch)

    plan = MemoryPlan(StepMemory(GIB, 0, GIB, 0), 2 * GIB, 2)
    monkeypatch.setattr(fitting, "plan_memory", lambda *_: plan)
    monkeypatch.setattr(methods.find("anprompt"), "losses", watched)
    with pytest.warns(Note, match="the texts of 2 classes run at a time"):
        estimator(backbone).fit(photo_folder)
    assert set(seen) == {2}
    assert backbone.class_chunk is None


def test_the_command_refuses_what_cannot_fit(refused: Refused, photo_folder: Path, small_clip: Path) -> None:
    start = ("fit", photo_folder, "--backbone", small_clip, "--shots", 2, "--out", "made")
    assert "must be a number of GiB above 0 (got 0.0)" in refused(*start, "--memory-gb", 0)
    message = refused(*start, "--memory-gb", 0.001)
    assert "Training needs about" in message
    assert "may use 0.0 GiB" in message


def test_the_command_says_the_estimate(cli: Cli, photo_folder: Path, small_clip: Path, tmp_path: Path) -> None:
    code, _, err = cli("fit", photo_folder, "--backbone", small_clip, "--shots", 2, "--recipe.epochs", 1,
                       "--memory-gb", 30, "--out", tmp_path / "made")  # fmt: skip
    assert code == 0
    assert "training will need about" in err


# ---- against the machine ---------------------------------------------------------------------------------------------

TRAIN = """
import json, resource, sys, torch
sys.path.insert(0, sys.argv[1])
from anprompt import methods
from anprompt.training import Recipe, TrainingImages, estimate_step, train
from helpers_clip import WORDS, random_backbone
classes, batch, precision = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
backbone = random_backbone(vision_width=768, vision_heads=12, text_width=512, text_heads=8, joint_width=512,
                           image_size=224, patch_size=16).in_precision(precision)
names = [f"{a} {b}" for a in WORDS for b in WORDS][:classes]
method = methods.create("anprompt", backbone, names, seed=1)
recipe = Recipe(batch=batch, epochs=1)
estimate = estimate_step(method, batch, recipe)
images = [torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8) for _ in range(3 * batch)]
train(method, TrainingImages(images, torch.arange(3 * batch) % classes), recipe, seed=1)
print(json.dumps([estimate.peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the share of holes between blocks was measured with glibc")
@pytest.mark.parametrize(("classes", "batch", "precision"), [(300, 16, "fp32"), (50, 4, "bf16")])
def test_the_peak_of_a_process_is_within_a_quarter(classes: int, batch: int, precision: str) -> None:
    if precision not in machine.precisions("cpu"):
        pytest.skip("this processor has no bf16 products, and imitating them takes longer than the test may")
    arguments = [str(Path(__file__).parent), str(classes), str(batch), precision]
    done = subprocess.run([sys.executable, "-c", TRAIN, *arguments], capture_output=True, text=True, check=True)
    estimate, peak = json.loads(done.stdout)
    assert 0.75 * peak < estimate < 1.25 * peak
