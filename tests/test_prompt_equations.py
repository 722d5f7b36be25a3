"""The methods of CoOp's line against their literal second implementation in ``literal_prompts.py``."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anprompt import methods
from anprompt.clip import Backbone
from anprompt.errors import UserError
from anprompt.methods.dapt import BACKGROUNDS
from helpers_clip import random_backbone
from helpers_methods import NAMES, NEW_NAMES, bank, batch, perturb
from literal_prompts import LITERAL, Case, PromptedEncoder, plain_gradients, projected_gradients

TOLERANCE = 1e-4
FEW = {"depth": 3}  # of the 4 and 5 blocks here
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "coop": ("coop", {}),
    "coop, name in the middle": ("coop", {"length": 5, "start": "", "position": "middle"}),
    "coop, name in front": ("coop", {"length": 3, "start": "a photo", "position": "front"}),
    "kgcoop": ("kgcoop", {}),
    "kgcoop, other target": ("kgcoop", {"target": "an image with a large {}."}),
    "cocoop": ("cocoop", {}),
    "prograd": ("prograd", {}),
    "prograd, contradicted": ("prograd", {"length": 4, "temperature": 2.0, "projection": 0.8}),
    "maple": ("maple", FEW),
    "maple, only the input": ("maple", {"depth": 1, "length": 3}),
    "maple, more prompts than words": ("maple", {"depth": 2, "length": 5}),
    "promptsrc": ("promptsrc", FEW),
    "coprompt": ("coprompt", {**FEW, "weight": 3.0}),
    "dapt": ("dapt", FEW),
    "dapt, later": ("dapt", {**FEW, "switch": 0}),
    "dapt, as its code": ("dapt", {**FEW, "switch": 0, "background_columns": True}),
    "hicropl": ("hicropl", {"depth": 4, "cross": 2, "length": 2}),
    "hicropl, more prompts than words": ("hicropl", {"depth": 4, "cross": 2, "length": 5}),
    "promptsrc, one template": ("promptsrc", {"depth": 2, "wordings": "template"}),
}


def backbone() -> Backbone:
    return random_backbone(seed=3, vision_depth=5, text_depth=4, image_size=24)


def close(ours: Tensor, literal: Tensor, what: str, absolute: float = 0.0) -> None:
    size = literal.abs().max()
    assert size > 0, f"{what} is zero: the comparison says nothing"
    assert ours.shape == literal.shape
    difference = (ours.double() - literal).abs().max()
    assert difference <= TOLERANCE * size + absolute, f"{what}: relative difference {difference / size:.1e}"


@pytest.mark.parametrize("chosen", CASES)
def test_losses_gradients_and_logits_equal_the_literal_ones(chosen: str) -> None:
    name, options = CASES[chosen]
    data = batch(3, len(NAMES), seed=4, side=24, extras=True)
    method = perturb(methods.create(name, backbone(), NAMES, texts=bank(), **options), seed=4)
    leaf = {key: p.detach().double().clone().requires_grad_() for key, p in method.named_parameters()}
    case = Case(PromptedEncoder(backbone()), leaf, method.options, NAMES, data["pixels"], data["labels"], bank(), data)

    if name == "dapt":
        case.backgrounds = BACKGROUNDS
    theirs, logits = LITERAL[name](case)
    gradients = plain_gradients(case, theirs)
    if name == "prograd":
        plain, gradients = gradients, projected_gradients(case, theirs)
        assert torch.equal(plain["context"], gradients["context"]) is ("contradicted" not in chosen)
    ours = method.losses(data)
    assert set(ours) == set(theirs)
    for term in theirs:
        close(ours[term].detach(), theirs[term].detach(), term, 3e-7)  # 1 − cos of nearly equal features in fp32
    method.backward(ours)
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None
        close(parameter.grad, gradients[key], f"gradient of {key}")
    close(method.logits(data["pixels"]), logits.detach(), "logits")

    case.names = NEW_NAMES[:2]
    case.labels = torch.zeros_like(case.labels)
    with torch.no_grad():
        new = LITERAL[name](case)[1]
    close(method.with_classes(NEW_NAMES[:2], bank()).logits(data["pixels"]), new, "logits of new classes")


@pytest.mark.parametrize("chunk", [None, 2])
def test_prograd_takes_out_what_contradicts_and_only_that(chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the definition: never against the general direction, unchanged where the two agree."""
    own = backbone()
    monkeypatch.setattr(own, "class_chunk", chunk)
    seen = set()
    for seed in range(4):
        data = batch(3, len(NAMES), seed=seed, side=24, extras=True)
        method: Any = perturb(methods.create("prograd", own, NAMES, length=4, temperature=2.0), seed)
        special, general = (
            torch.autograd.grad(method.losses(data)[term], method.context)[0]
            for term in ("cross_entropy", "zero_shot_alignment")
        )
        method.backward(method.losses(data))
        against = bool((special * general).sum() < 0)
        seen.add(against)
        if against:
            cosine = torch.cosine_similarity(method.context.grad.flatten(), general.flatten(), dim=0)
            assert abs(float(cosine)) < 1e-4
        else:
            assert torch.allclose(method.context.grad, special, rtol=1e-5, atol=1e-6 * float(special.abs().max()))
    assert seen == {False, True}


@pytest.mark.parametrize(("mean", "deviation"), [(0.6, 0.2), (3.0, 0.2), (0.4, 2.0)])
def test_promptsrc_ends_with_the_weighted_mean_of_its_epochs(mean: float, deviation: float) -> None:
    method: Any = methods.create("promptsrc", backbone(), NAMES[:2], **FEW, mean=mean, deviation=deviation)
    epochs, states = 5, []
    for epoch in range(epochs):
        perturb(method, seed=epoch)
        states.append({name: p.detach().double().clone() for name, p in method.named_parameters()})
        before = {name: p.detach().clone() for name, p in method.named_parameters()}
        method.end_epoch(epoch, epochs)
        assert all(torch.equal(p, before[name]) for name, p in method.named_parameters()) is (epoch < epochs - 1)
    mu, sigma = mean * epochs, deviation * epochs
    weights = [math.exp(-((e - mu) ** 2) / (2 * sigma**2)) for e in range(1, epochs + 1)]
    for name, p in method.named_parameters():
        expected = sum(w * state[name] for w, state in zip(weights, states, strict=True)) / sum(weights)
        close(p.detach(), torch.as_tensor(expected), name)


def test_hicropl_as_its_code_writes_what_random_maps_give_into_the_prompts() -> None:
    options = {"depth": 4, "cross": 2, "length": 2}
    ours: Any = methods.create("hicropl", backbone(), NAMES, texts=bank(), preset="code", **options)
    intended: Any = methods.create("hicropl", backbone(), NAMES, texts=bank(), **options)
    assert set(ours.state_dict()) == {"text_prompts", "vision_prompts"}
    data = batch(3, len(NAMES), seed=4, side=24, extras=True)
    before = ours.logits(data["pixels"])
    assert torch.equal(ours.logits(data["pixels"]), before), "predictions do not write"
    expected = intended.losses(data)  # the same seed: the same prompts and maps
    written = intended.exchanged(intended.to_vision, intended.to_text)
    losses = ours.losses(data)
    assert torch.equal(losses["total"], expected["total"])
    assert torch.equal(ours.text_prompts, written[0])
    assert torch.equal(ours.vision_prompts, written[1])
    ours.backward(losses)
    assert ours.text_prompts.grad.abs().sum() > 0
    assert not any(p.requires_grad for module in ours.frozen_maps for p in module.parameters())
    assert not torch.allclose(ours.losses(data)["total"], losses["total"]), "written once more"
    with pytest.raises(UserError, match="'cross' is 4, but must be below 'depth'"):
        methods.create("hicropl", backbone(), NAMES, depth=4, cross=4)
    with pytest.raises(UserError, match="'depth' is 9, but the towers have 4 blocks"):
        methods.create("maple", backbone(), NAMES)
    with pytest.raises(UserError, match="has 4 tokens, but 'length' is 2"):
        methods.create("coop", backbone(), NAMES, length=2)
