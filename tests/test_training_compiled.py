"""Compiled blocks. Dynamo traces for real in most tests; C++ is only made in the slow one, because it takes minutes."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from anprompt.clip import Backbone
from anprompt.errors import UserError
from anprompt.training import Recipe, check_can_compile, compiled, resolve_recipe, train
from anprompt.training.compiled import compiled_blocks
from helpers_clip import random_backbone
from helpers_fit import copies, estimator, new_method, pictures, same, short_recipe

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: f"/usr/bin/{name}")


def one_block() -> Backbone:
    return random_backbone(vision_depth=1, text_depth=1)


def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Trace without making C++; returns the graphs that were made."""
    graphs: list[Any] = []

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiled.torch, "compile", functools.partial(torch.compile, backend=keep))
    torch._dynamo.reset()
    return graphs


@pytest.mark.slow
def test_compiled_blocks_train_the_same_and_are_plain_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = new_method(backbone=one_block(), layers="last-1")
    train(plain, pictures(8), short_recipe(epochs=1), seed=1)
    graphs = traced(monkeypatch)
    backbone = one_block()
    frozen = copies(backbone)
    method = new_method(backbone=backbone, layers="last-1")
    train(method, pictures(8), short_recipe(epochs=1, compile="on"), seed=1)
    assert graphs
    for (name, ours), theirs in zip(copies(method).items(), copies(plain).values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)
    assert same(copies(backbone), frozen)
    made = len(graphs)
    train(method, pictures(8), short_recipe(epochs=1), seed=1)
    assert len(graphs) == made
    assert not any({"packed", "keys_values"} & vars(block).keys() for block in backbone.vision.blocks)
    assert not any({"packed", "keys_values"} & vars(block).keys() for block in backbone.text.blocks)


def test_blocks_are_plain_again_after_a_failure() -> None:
    block = (backbone := one_block()).vision.blocks[0]

    def fail() -> None:
        with compiled_blocks(backbone, "on"):
            assert "packed" in vars(block)
            raise ValueError("on the way")

    with pytest.raises(ValueError, match="on the way"):
        fail()
    assert "packed" not in vars(block)


def test_a_compiler_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no headers")

    monkeypatch.setattr(compiled.torch, "compile", functools.partial(torch.compile, backend=broken))
    torch._dynamo.reset()
    method = new_method(backbone=one_block(), layers="last-1")
    with pytest.raises(UserError, match=r"could not be compiled \(no headers\): leave --recipe.compile off") as error:
        train(method, pictures(8), short_recipe(epochs=1, compile="on"), seed=1)
    assert "\n" not in str(error.value)


def test_what_cannot_be_compiled_is_refused_before_anything_starts(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="graphs needs a CUDA device; this run is on 'cpu'"):
        estimator(one_block(), recipe={"compile": "graphs"}).fit(photo_folder)
    check_can_compile("graphs", torch.device("cuda"))
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    check_can_compile("off", CPU)
    monkeypatch.setenv("CXX", "my-compiler")
    with pytest.raises(UserError, match="needs the C\\+\\+ compiler 'my-compiler', which is not on this machine"):
        estimator(one_block(), recipe={"compile": "on"}).fit(photo_folder)


def test_graphs_are_replayed_with_gradients_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What frozen passes give outlives a step; a graph's memory does not."""

    def compile(function: Any, mode: str | None = None) -> Any:
        return lambda *_: mode

    monkeypatch.setattr(compiled.torch, "compile", compile)
    call = compiled._compiled(lambda: None, "graphs")
    assert call() == "reduce-overhead"
    with torch.no_grad():
        assert call() is None
    assert compiled._compiled(lambda: None, "on")() is None


def test_yaml_reads_on_and_off_as_truth_values() -> None:
    assert resolve_recipe({}, {"compile": True}) == Recipe(compile="on")
    assert resolve_recipe({}, {"compile": False}) == Recipe()
    with pytest.raises(UserError, match="must be one of off, on, graphs"):
        resolve_recipe({}, {"compile": "yes"})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_to_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", shutil.which)
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ here")
    plain, made = (new_method(backbone=one_block(), layers="last-1") for _ in range(2))
    torch._dynamo.reset()
    frozen = copies(made.backbone)
    train(plain, pictures(8), short_recipe(epochs=1), seed=1)
    train(made, pictures(8), short_recipe(epochs=1, compile="on"), seed=1)
    for (name, ours), theirs in zip(copies(made).items(), copies(plain).values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=name)
    assert same(copies(made.backbone), frozen)
