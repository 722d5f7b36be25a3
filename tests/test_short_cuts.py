"""Every exact short cut against the plain formulation: 77 tokens, every row, every block; features and gradients.

``plainly`` uses nothing but ``Tower.run``, which ``test_clip_features.py`` compares with ``transformers`` and with
literal loops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anprompt.clip import Backbone, BlockAdapter, PromptPlan, PromptWrite, Sentences, load_backbone
from anprompt.clip.plan import Place
from anprompt.clip.towers import Tower
from anprompt.text import fill
from helpers_clip import WORDS, random_backbone

UNEVEN = ["cat", "large red dog", "lake", "small dark street with a bright house", "field", "dog on the road"]
TOLERANCE = 1e-5


@cache
def small() -> Backbone:
    return random_backbone(vision_depth=5, text_depth=4)


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def text_plainly(backbone: Backbone, texts: list[str], plan: PromptPlan) -> Tensor:
    tower, ids = backbone.text, backbone.tokenizer(texts)
    eot = plan.shifted((ids == backbone.config.eot_id).int().argmax(1))
    return tower.read(tower.run(tower.embed(ids), 1, tower.depth, plan)[torch.arange(len(texts)), eot])


def images_plainly(backbone: Backbone, pixels: Tensor, plan: PromptPlan, k: int) -> Tensor:
    out = backbone.vision.run(backbone.vision.embed(pixels), 1, backbone.vision.depth, plan)
    return torch.cat([backbone.vision.read(out[:, 0]), backbone.vision.norm(out[:, 1 : 1 + k]).flatten(1)], 1)


def compare(ours: Tensor, plain: Tensor, learnables: list[Tensor]) -> None:
    """Features and the gradients of a random projection, as one vector each, 1e-5 relative."""
    weight = torch.randn(plain.shape, generator=torch.Generator().manual_seed(9))
    pairs = [(ours, plain)]
    if learnables:
        both = [torch.autograd.grad((x * weight).sum(), learnables, retain_graph=True) for x in (ours, plain)]
        pairs += list(zip(*both, strict=True))
    for mine, other in pairs:
        assert mine.shape == other.shape
        assert (mine - other).norm() <= TOLERANCE * other.norm()


def writes(plan: PromptPlan) -> list[Tensor]:
    return [write.tokens for write in plan.writes]


def text_plans(n: int, d: int) -> dict[str, PromptPlan]:
    """What the methods of the field do to a text tower of 4 blocks: N classes, width D."""
    deep = {block: tokens(2, d, seed=block) for block in (2, 3, 4)}
    return {
        "none": PromptPlan(),
        "deep, inserted after SOS": PromptPlan.deep(deep),
        "deep, mixed with the old state": PromptPlan.deep(deep, mix=0.3),
        "context instead of the template's words": PromptPlan((PromptWrite(1, tokens(4, d), "overwrite", 1),)),
        "deep from the input, some blocks": PromptPlan.deep({1: tokens(3, d), 2: tokens(3, d, seed=1)}),
        "context of each class": PromptPlan((PromptWrite(1, tokens(n, 4, d), "overwrite", 1),)),
        "tokens of each class, late": PromptPlan((PromptWrite(3, tokens(n, 2, d), "overwrite", 1),)),
        "shared, then of each class": PromptPlan(
            (PromptWrite(1, tokens(2, d), "insert", 1), PromptWrite(3, tokens(n, 2, d, seed=1), "overwrite", 1))
        ),
        "behind the shared words": PromptPlan((PromptWrite(2, tokens(2, d), "insert", 6),)),
        "up to behind some EOTs": PromptPlan((PromptWrite(2, tokens(4, d), "overwrite", 5),)),
        "instead of SOS": PromptPlan((PromptWrite(2, tokens(1, d), "overwrite", 0),)),
    }


@pytest.mark.parametrize("plan", text_plans(1, 1))
@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("template", ["a photo of a {}.", "{}"])
def test_text_equals_the_plain_formulation(plan: str, chunk: int | None, template: str) -> None:
    backbone, texts = small(), fill(template, UNEVEN)
    chosen = text_plans(len(texts), backbone.text.width)[plan]
    sentences = Sentences(backbone, texts)
    plain = text_plainly(backbone, texts, chosen)
    backbone.class_chunk = chunk
    try:
        for _ in range(2):  # the second time with the kept trunk
            compare(sentences.features(chosen), plain, writes(chosen))
        with torch.no_grad():
            compare(sentences.features(chosen), plain.detach(), [])
    finally:
        backbone.class_chunk = None


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=7
    ),
    first=st.integers(1, 4), length=st.integers(1, 3), template=st.sampled_from(["a photo of a {}.", "{}", "the {}"]),
    chunk=st.one_of(st.none(), st.integers(1, 3)),
)  # fmt: skip
def test_any_names_and_lengths(names: list[str], first: int, length: int, template: str, chunk: int | None) -> None:
    """One class, equal classes, classes that begin alike, very uneven ones."""
    backbone, texts = small(), fill(template, names)
    plan = PromptPlan.deep({block: tokens(length, backbone.text.width, seed=block) for block in range(first, 5)})
    backbone.class_chunk = chunk
    try:
        compare(Sentences(backbone, texts).features(plan), text_plainly(backbone, texts, plan), writes(plan))
    finally:
        backbone.class_chunk = None


def test_shared_rows_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block sees every sentence's own tokens, without padding, and what all begin with once."""
    backbone = small()
    texts = fill("a photo of a {}.", [f"{a} {b}" for a in WORDS[20:26] for b in WORDS[26:31]])
    sentences = Sentences(backbone, texts)
    lengths = (backbone.tokenizer(texts) == backbone.config.eot_id).int().argmax(1) + 1
    assert len(set(lengths.tolist())) > 1
    own = int((lengths - 5).sum())  # all but "SOS a photo of a"
    seen = spy(monkeypatch, backbone.text)
    plan = PromptPlan.deep({3: tokens(2, backbone.text.width)})
    sentences.features(plan)
    assert seen == [own, 5, own, 5, 7, own, own]  # the trunk; from block 3 two prompts more, to the end for each class
    seen.clear()
    sentences.features(plan)
    assert seen == [7, own, own]


def spy(monkeypatch: pytest.MonkeyPatch, tower: Tower) -> list[int]:
    """The number of rows of each call of a block, from now on."""
    seen: list[int] = []

    def watched(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def packed(x: Tensor, *rest: object, **more: object) -> Tensor:
            seen.append(len(x))
            return forward(x, *rest, **more)

        return packed

    for number in range(1, tower.depth + 1):
        monkeypatch.setattr(tower.block(number), "packed", watched(tower.block(number).packed))
    return seen


def image_plans(d: int, b: int) -> dict[str, tuple[PromptPlan, int]]:
    """What the methods of the field do to a vision tower of 5 blocks; and the number of prompts read after CLS."""
    deep = {block: tokens(2, d, seed=block) for block in (2, 3, 4, 5)}
    each = {block: tokens(b, 2, d, seed=block) for block in (2, 3)}
    return {
        "none": (PromptPlan(), 0),
        "deep": (PromptPlan.deep(deep), 2),
        "deep, mixed": (PromptPlan.deep(deep, mix=0.5), 2),
        "deep, only some blocks": (PromptPlan.deep({1: deep[2], 2: deep[3], 3: deep[4]}), 2),
        "at the end": (PromptPlan.deep(deep, at=None), 0),
        "own for each picture": (PromptPlan.deep(each), 2),
        "every other block": (PromptPlan.deep({1: deep[2], 3: deep[3], 5: deep[5]}), 2),
        "only in the last": (PromptPlan.deep({5: deep[5]}), 2),
        "two places": (
            PromptPlan((PromptWrite(2, deep[2], "insert", 1), PromptWrite(3, deep[3], "insert", None))), 2,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", image_plans(1, 1))
def test_images_equal_the_plain_formulation(name: str) -> None:
    backbone = small()
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plan, k = image_plans(backbone.vision.width, 3)[name]
    out = backbone.images(pixels, plan, frozen=True)
    assert (out.prompts is None) == (k == 0)
    ours = out.cls if out.prompts is None else torch.cat([out.cls, out.prompts.flatten(1)], 1)
    compare(ours, images_plainly(backbone, pixels, plan, k), writes(plan))
    assert out.frozen is not None
    compare(out.frozen, images_plainly(backbone, pixels, PromptPlan(), 0), [])
    without = backbone.images(pixels, plan, prompts=False)
    assert without.prompts is None
    compare(without.cls, out.cls, writes(plan))


def test_overwritten_prompts_get_no_query_and_no_mlp(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = small()
    seen = spy(monkeypatch, backbone.vision)
    pixels = torch.randn(3, 3, 32, 32)
    plan, _ = image_plans(backbone.vision.width, 3)["deep"]
    backbone.images(pixels, plan)
    assert seen == [3 * 17] * 4 + [3 * 19]  # only the last block's prompts are read
    seen.clear()
    backbone.images(pixels, plan, prompts=False)
    assert seen == [3 * 17] * 5


@pytest.mark.parametrize("which", ["text", "vision"])
def test_the_miniature_too(which: str) -> None:
    backbone = load_backbone("miniature")
    tower = getattr(backbone, which)
    plan = PromptPlan.deep({block: 0.1 * tokens(5, tower.width, seed=block) for block in range(6, 13)})
    plan = PromptPlan.deep({w.block: w.tokens.detach().requires_grad_() for w in plan.writes})
    if which == "text":
        texts = fill("a photo of a {}.", ["red circle", "green striped triangle on a dark road", "star"])
        compare(Sentences(backbone, texts).features(plan), text_plainly(backbone, texts, plan), writes(plan))
        return
    side = backbone.config.image_size
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    out = backbone.images(pixels, plan)
    assert out.prompts is not None
    ours = torch.cat([out.cls, out.prompts.flatten(1)], 1)
    compare(ours, images_plainly(backbone, pixels, plan, 5), writes(plan))


# A method whose function looks sideways breaks packing, sharing and leaving out: it says so, and nothing is left out.


def row_wise(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.tanh(x @ weight)


def sideways(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Each row looks one position to either side, not causally, as a convolution over tokens does."""

    def function(x: Tensor) -> Tensor:  # (B, L, D)
        padded = torch.nn.functional.pad(x, (0, 0, 1, 1))
        return torch.tanh((padded[..., :-2, :] + padded[..., 2:, :]) @ weight)

    return function


@pytest.mark.parametrize("which", ["text", "vision"])
@pytest.mark.parametrize(("kind", "reach"), [(row_wise, 0), (sideways, 1)])
@pytest.mark.parametrize(
    ("where", "blocks"), [("output", (2, 3)), ("output", (4,)), ("input", (2, 4)), ("qkv", (1, 4)), ("hidden", (3, 4))]
)
def test_adapters_on_blocks(
    which: str, kind: Callable[[Tensor], Callable[[Tensor], Tensor]], reach: int, where: Place, blocks: tuple[int, ...]
) -> None:
    backbone = random_backbone(vision_depth=4, text_depth=4)
    d = getattr(backbone, which).width
    d_in, d_out = {"output": (d, d), "input": (d, d), "qkv": (d, 3 * d), "hidden": (4 * d, 4 * d)}[where]
    weights = [0.1 * tokens(d_in, d_out, seed=block).detach() for block in blocks]
    for weight in weights:
        weight.requires_grad_()
    adapters = tuple(BlockAdapter(block, kind(w), reach, where) for block, w in zip(blocks, weights, strict=True))
    deep = PromptPlan.deep({block: tokens(2, d, seed=block) for block in (2, 3, 4)})
    plan = PromptPlan(deep.writes, adapters)
    if which == "text":
        texts = fill("a photo of a {}.", UNEVEN)
        compare(
            Sentences(backbone, texts).features(plan), text_plainly(backbone, texts, plan), [*writes(plan), *weights]
        )
        return
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    out = backbone.images(pixels, plan)
    assert out.prompts is not None
    ours = torch.cat([out.cls, out.prompts.flatten(1)], 1)
    compare(ours, images_plainly(backbone, pixels, plan, 2), [*writes(plan), *weights])


def test_sentences_with_a_reach_in_chunks() -> None:
    backbone, texts = random_backbone(vision_depth=1, text_depth=4), fill("a photo of a {}.", UNEVEN)
    d = backbone.text.width
    weight, prompts = (0.1 * tokens(d, d)).detach().requires_grad_(), tokens(2, d, seed=1)
    plan = PromptPlan(PromptPlan.deep({2: prompts}).writes, (BlockAdapter(3, sideways(weight), reach=1),))
    whole = Sentences(backbone, texts).features(plan)
    backbone.class_chunk = 4
    compare(Sentences(backbone, texts).features(plan), whole, [weight, prompts])


def test_the_declared_reach_is_what_keeps_it_exact() -> None:
    """The same function declared as row-wise gives something else: the declaration is honoured, not ignored."""
    backbone, texts = small(), fill("a photo of a {}.", UNEVEN)
    weight = 0.1 * tokens(backbone.text.width, backbone.text.width).detach()
    honest = PromptPlan((), (BlockAdapter(3, sideways(weight), reach=1),))
    wrong = PromptPlan((), (BlockAdapter(3, sideways(weight)),))
    plain = text_plainly(backbone, texts, honest)
    compare(Sentences(backbone, texts).features(honest), plain, [])
    assert (Sentences(backbone, texts).features(wrong) - plain).norm() > 1e-3 * plain.norm()


def test_a_prompt_behind_eot_is_refused() -> None:
    plan = PromptPlan.deep({2: tokens(2, small().text.width)}, at=None)
    with pytest.raises(ValueError, match="behind EOT"):
        Sentences(small(), UNEVEN).features(plan)


# ---- several variants of a plan at once


def variant_plans(v: int, d: int) -> dict[str, PromptPlan]:
    """V variants at a text tower of 4 blocks: what differs from picture to picture."""
    return {
        "context": PromptPlan((PromptWrite(1, tokens(v, 4, d), "overwrite", 1),)),
        "deep, some in common": PromptPlan(
            (PromptWrite(2, tokens(2, d), "insert", 1), PromptWrite(3, tokens(v, 2, d, seed=1), "overwrite", 1))
        ),
        "beyond the shared rows": PromptPlan((PromptWrite(2, tokens(v, 4, d), "overwrite", 3),)),
        "inserted among the own rows": PromptPlan((PromptWrite(1, tokens(v, 2, d), "insert", 6),)),
        "with an adapter": PromptPlan(
            (PromptWrite(2, tokens(v, 2, d), "insert", 1),), (BlockAdapter(3, torch.tanh),)
        ),
        "with an adapter that looks sideways": PromptPlan(
            (PromptWrite(2, tokens(v, 2, d), "insert", 1),), (BlockAdapter(3, sideways(torch.eye(d)), reach=1),)
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", variant_plans(1, 1))
@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("together", [1, 14, 256])
def test_variants_of_a_plan(name: str, chunk: int | None, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One text for each picture: several variants at once, one after another, in chunks of classes."""
    backbone, texts, v = small(), fill("a photo of a {}.", UNEVEN), 3
    plan = variant_plans(v, backbone.text.width)[name]
    each = [
        PromptPlan(
            tuple(replace(w, tokens=w.tokens[i] if w.tokens.dim() == 3 else w.tokens) for w in plan.writes),
            plan.adapters,
        )
        for i in range(v)
    ]
    plain = torch.stack([text_plainly(backbone, texts, one) for one in each])  # (V, N, C)
    monkeypatch.setattr("anprompt.clip.sentences.TOGETHER", together)
    monkeypatch.setattr(backbone, "class_chunk", chunk)
    compare(Sentences(backbone, texts).variants(plan), plain, writes(plan))


def test_variants_share_what_their_sentences_share(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = small()
    seen = spy(monkeypatch, backbone.text)
    texts = fill("a photo of a {}.", ["cat", "dog", "lake"])
    plan = PromptPlan((PromptWrite(1, tokens(5, 4, backbone.text.width), "overwrite", 1),))
    Sentences(backbone, texts).variants(plan)
    assert seen == [25, 25, 25, 45, 45, 45, 45]  # SOS and context for 5 variants; name, stop, EOT of 3 sentences each
