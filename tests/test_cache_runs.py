"""Training and evaluation with the activation cache: the same bits as without it, and no work twice."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anprompt import methods
from anprompt.clip import Backbone, PromptPlan
from anprompt.clip.cache import ENTRY, ActivationCache
from anprompt.training import Recipe, train
from helpers_cli import Cli, Refused
from helpers_clip import random_backbone
from helpers_fit import copies, new_method, pictures, same
from helpers_methods import NAMES, FewPhotos, bank

BATCH = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@contextlib.contextmanager
def counted(backbone: Backbone) -> Iterator[list[int]]:
    """Notes the batch size of every pass through the first vision block."""
    calls: list[int] = []
    embed = backbone.vision.embed
    backbone.vision.embed = lambda pixels: calls.append(len(pixels)) or embed(pixels)  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        del backbone.vision.embed  # type: ignore[method-assign]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_gives_the_same_bits_with_a_cold_a_warm_and_no_cache(tmp_path: Path, precision: str) -> None:
    recipe = Recipe(epochs=2, batch=4, precision=precision)

    def run(cache: ActivationCache | None) -> tuple[dict[str, Tensor], Tensor, list[int]]:
        backbone = random_backbone().in_precision(precision)
        with contextlib.nullcontext() if cache is None else cache.attached(backbone), counted(backbone) as calls:
            torch.manual_seed(0)
            method = new_method(backbone=backbone)
            train(method, pictures(), recipe, seed=1)
            return copies(method), method.logits(BATCH), calls

    plain, plain_logits, plain_calls = run(None)
    cold, cold_logits, cold_calls = run(first := ActivationCache(tmp_path / "cache"))
    warm, warm_logits, warm_calls = run(second := ActivationCache(tmp_path / "cache"))
    assert same(plain, cold)
    assert same(plain, warm)
    assert torch.equal(plain_logits, cold_logits)
    assert torch.equal(plain_logits, warm_logits)
    assert plain_calls == cold_calls == [4] * 5  # two epochs of two whole batches, and the logits
    assert warm_calls == []
    assert (first.hits, second.misses) == (0, 0)
    assert first.misses == second.hits >= 5


@pytest.mark.parametrize("name", ["zero-shot", "coop", "surpl", "tac"])
def test_passes_without_prompts_are_kept_as_features(tmp_path: Path, name: str) -> None:
    """Methods with a frozen vision tower, or whose teacher sees other photos: no picture runs through it twice."""
    backbone = random_backbone(vision_depth=3, text_depth=3)
    cache, depth = ActivationCache(tmp_path), {"depth": 2} if name in ("surpl", "tac") else {}
    method = methods.create(name, backbone, NAMES, texts=bank(), photos=FewPhotos(backbone), **depth)
    plain = method.logits(BATCH), backbone.encode_image(BATCH), backbone.images(BATCH, frozen=True).frozen
    with cache.attached(backbone):
        for _ in range(2):
            cached = method.logits(BATCH), backbone.encode_image(BATCH), backbone.images(BATCH, frozen=True).frozen
            assert all(torch.equal(a, b) for a, b in zip(plain, cached, strict=True))
        with counted(backbone) as calls:
            backbone.encode_image(BATCH)
    assert calls == []
    assert cache.misses == 1
    assert cache.hits >= 4
    (entry,) = tmp_path.glob(f"*{ENTRY}")
    assert entry.stat().st_size < 4 * 16 * 4 + 512  # features, not rows


def test_features_that_came_along_with_prompted_ones_serve_others(tmp_path: Path) -> None:
    backbone = random_backbone()
    plan = PromptPlan.deep({6: torch.zeros(2, backbone.vision.width)})
    with ActivationCache(tmp_path).attached(backbone) as cache:
        along = backbone.images(BATCH, plan, frozen=True).frozen
        before = cache.hits
        assert torch.equal(backbone.images(BATCH).cls, along)
        assert cache.hits == before + 1


def test_fit_and_evaluate_with_a_cache_write_the_same_and_read_it_the_second_time(
    cli: Cli, small_clip: Path, photo_folder: Path, tmp_path: Path
) -> None:
    def run(name: str, *more: str) -> tuple[bytes, float, list[str]]:
        out = tmp_path / name
        fitted = cli("fit", photo_folder, "--backbone", small_clip, "--shots", "4", "--recipe.epochs", "2",
                     "--recipe.precision", "fp32", "--out", out, *more)  # fmt: skip
        tested = cli("evaluate", out, photo_folder, "--json", *more)
        assert (fitted.code, tested.code) == (0, 0), fitted.err + tested.err
        notes = [line for line in (fitted.err + tested.err).splitlines() if "hits" in line]
        return (out / "adapter.safetensors").read_bytes(), json.loads(tested.out)["accuracy"], notes

    folder = tmp_path / "cache"
    plain = run("plain")
    cold = run("cold", "--cache", str(folder))
    warm = run("warm", "--cache", str(folder), "--cache-limit", "0.5")
    assert plain[:2] == cold[:2] == warm[:2]
    assert plain[2] == []
    size = sum(path.stat().st_size for path in folder.glob(f"*{ENTRY}")) / 1024
    assert [re.sub(r"cache: 0 hits, \d+ misses, .*", "cold", note) for note in cold[2]] == ["note: cold"] * 2
    assert len(warm[2]) == 2
    assert all(f", 0 misses, {size:.1f} KiB in '{folder}'" in note for note in warm[2])
    numbers = [json.loads((tmp_path / name / "record.json").read_text())["cache"] for name in ("cold", "warm")]
    assert numbers[0]["misses"] == numbers[1]["hits"] >= 2 * (16 // 4)  # as many as steps, at least
    assert numbers[0]["hits"] == numbers[1]["misses"] == 0
    assert "cache" not in json.loads((tmp_path / "plain" / "record.json").read_text())
    assert (tmp_path / "plain" / "config.yaml").read_text().replace("plain", "cold") == (
        tmp_path / "cold" / "config.yaml"
    ).read_text()


def test_a_folder_of_photos_is_not_taken_for_a_cache(refused: Refused, photo_folder: Path) -> None:
    before = sorted(photo_folder.rglob("*"))
    message = refused("fit", photo_folder, "--cache", photo_folder, "--out", "a")
    assert "is not an activation cache and not empty" in message
    assert sorted(photo_folder.rglob("*")) == before


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--cache-limit", "1"), "no use without a folder: give --cache too"),
        (("--cache", "c", "--cache-limit", "0"), "a number of GiB above 0 (got 0)"),
        (("--cache", "c", "--cache-limit", "1e999"), "a number of GiB above 0 (got inf)"),
        (("--cache", "c", "--cache-limit", "big"), "--cache-limit must be a number"),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    refused: Refused, photo_folder: Path, small_adapter: Path, options: tuple[str, ...], said: str
) -> None:
    assert said in refused("fit", photo_folder, *options)
    assert said in refused("evaluate", small_adapter, photo_folder, *options)
