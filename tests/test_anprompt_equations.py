"""``methods/anprompt.py`` against the literal second implementation in ``literal_anprompt.py``, for both presets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from anprompt import methods
from anprompt.clip import Backbone
from helpers_clip import random_backbone
from helpers_methods import NAMES, NEW_NAMES, bank, batch, perturb
from literal_anprompt import Encoder, LiteralANPrompt, Setting, drawn_sentences, unit

SINGLE = 1e-5  # the package as it is, in fp32
DOUBLE = 1e-6  # the package in fp64; the snapshot's ε0 stands at another place than Eq. (7)'s: 2e-7 of γ
SIM_WEIGHT = 1.3
TERMS = ("total", "cross_entropy", "similarity", "weak_alignment", "gamma")
CASES: dict[str, dict[str, Any]] = {
    "12 + 12 blocks": {"seed": 0, "sizes": {}, "batch": 4, "names": NAMES},
    "9 + 8 blocks": {"seed": 1, "sizes": {"vision_depth": 9, "text_depth": 8}, "batch": 3, "names": NAMES[:5]},
    "7 + 10 blocks, GELU": {
        "seed": 2,
        "sizes": {"vision_depth": 7, "text_depth": 10, "joint_width": 20, "image_size": 24, "context": 40,
                  "activation": "gelu"},
        "batch": 5,
        "names": [*NAMES, "circle"],
    },
}  # fmt: skip


@contextmanager
def double_precision() -> Iterator[None]:
    """Run the package in fp64: its casts to fp32 become casts to fp64, so that only real differences remain."""
    cast, default = Tensor.float, torch.get_default_dtype()
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        Tensor.float = cast  # type: ignore[method-assign]
        torch.set_default_dtype(default)


def build(backbone: Backbone, case: dict[str, Any], preset: str) -> Any:
    texts = bank([*case["names"], *NEW_NAMES])
    return methods.create(
        "anprompt", backbone, case["names"], texts=texts, preset=preset, seed=case["seed"] + 1, sim_weight=SIM_WEIGHT
    )


def assert_close(ours: Tensor, literal: Tensor, what: str, tolerance: float) -> None:
    """The largest difference is at most ``tolerance`` of the largest entry, which is not zero."""
    size = literal.abs().max()
    assert size > 0, f"{what} is zero: the comparison says nothing"
    assert ours.shape == literal.shape
    difference = (ours.double() - literal).abs().max() / size
    assert difference <= tolerance, f"{what}: relative difference {difference:.1e}"


def compare(method: Any, twin: LiteralANPrompt, theirs: dict[str, Tensor], data: dict[str, Tensor], tol: float) -> None:
    """Loss terms and all gradients as one vector; in fp64 also each learnable's gradient."""
    ours = method.losses(data)
    assert set(ours) == set(theirs) == set(TERMS)
    for term in TERMS:
        assert_close(ours[term].detach(), theirs[term].detach(), term, tol)
    method.zero_grad()
    ours["total"].backward()
    gradients = {name: (parameter.grad, twin.leaf[name].grad) for name, parameter in method.named_parameters()}
    assert set(gradients) == set(twin.leaf)
    assert_close(*(torch.cat([pair[i].flatten() for pair in gradients.values()]) for i in (0, 1)), "gradient", tol)
    for name, (mine, literal) in gradients.items():
        if mine.dtype == torch.float64:
            assert_close(mine, literal, f"gradient of {name}", tol)


@pytest.mark.parametrize("preset", ["paper", "snapshot"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_losses_gradients_and_predictions_equal_the_literal_ones(case: dict[str, Any], preset: str) -> None:
    names, backbone = case["names"], random_backbone(seed=case["seed"], **case["sizes"])
    data = batch(case["batch"], len(names), case["seed"], backbone.config.image_size)
    single = perturb(build(backbone, case, preset))
    learnables, setting = dict(single.named_parameters()), Setting(sim_weight=SIM_WEIGHT)
    twin = LiteralANPrompt(backbone, preset, learnables, drawn_sentences(single.used_texts(names)), setting=setting)
    theirs = twin.losses(data["pixels"], data["labels"])

    view: Any = single.with_classes(NEW_NAMES)
    few = data["pixels"][:2]
    with torch.no_grad():
        known = twin.decide(few, twin.drawn, trained=True)
        new = twin.decide(few, drawn_sentences(view.used_texts(NEW_NAMES)), trained=False)

    if preset == "paper":
        assert_close(single.noise_prompts, twin.p_w, "P_w", SINGLE)
    compare(single, twin, theirs, data, SINGLE)
    assert_close(single.logits(few), known, "logits of the training classes", SINGLE)
    assert_close(view.logits(few), new, "logits of new classes", SINGLE)

    with double_precision():
        double = build(backbone.double(), case, preset)
        double.load_state_dict(single.state_dict())
        compare(double, twin, theirs, {"pixels": data["pixels"].double(), "labels": data["labels"]}, DOUBLE)
        assert_close(double.logits(few.double()), known, "logits of the training classes", DOUBLE)
        assert_close(double.with_classes(NEW_NAMES).logits(few.double()), new, "logits of new classes", DOUBLE)


def test_the_literal_towers_equal_the_frozen_encoder() -> None:
    """The yardstick itself: without prompts it is CLIP, whose towers are checked against ``transformers`` elsewhere."""
    backbone, pixels = random_backbone(seed=3, vision_depth=4, text_depth=3), batch()["pixels"]
    encoder = Encoder(backbone)
    images = torch.stack([unit(encoder.image(one)[0]) for one in pixels])
    sentences = torch.stack([unit(encoder.text(sentence)) for sentence in NAMES])
    assert_close(backbone.encode_image(pixels), images, "images", 1e-5)
    assert_close(backbone.encode_text(NAMES), sentences, "texts", 1e-5)
