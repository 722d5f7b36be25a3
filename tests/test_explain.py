"""Maps, roll-out and what words bring, for every method, against what is known beforehand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt import methods
from anprompt.analysis import explain
from anprompt.analysis.explain import (
    cam,
    maps_for,
    margin,
    rollout,
    with_sentence,
    word_attribution,
)
from anprompt.analysis.robustness import Noise, reworded
from anprompt.clip import Backbone, PromptPlan
from anprompt.clip.plan import BlockAdapter
from anprompt.clip.relevance import relevance
from anprompt.clip.rollout import attention
from anprompt.clip.rollout import rollout as rollout_of
from anprompt.clip.watch import WatchedBackbone
from anprompt.errors import UserError
from anprompt.methods import Method
from anprompt.methods.zero_shot import ZeroShot
from anprompt.text.noise import PACKAGED
from helpers_methods import NAMES, FewPhotos, anprompt, bank, batch, perturb, small_backbone

METHODS = [method.name for method in methods.available()]
SIDE = 4  # patches of the small backbone's grid


@cache
def made(name: str) -> Method:
    return perturb(methods.create(name, small_backbone(), NAMES, texts=bank(), photos=FewPhotos(small_backbone())))


def prompts(backbone: Backbone, blocks: Sequence[int] = (2, 5, 12)) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {block: torch.randn(3, backbone.vision.width, generator=generator) for block in blocks}


class Planned(ZeroShot):
    """Zero-shot under any plan."""

    name = ""  # not registered
    plan = PromptPlan()

    def image_features(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.backbone.images(pixels, self.plan).cls, dim=-1)


def planned(plan: PromptPlan) -> Planned:
    method = Planned(small_backbone(), methods.find("zero-shot").Options())
    method.start(NAMES, bank())
    method.plan = plan
    return method


# ---- maps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_maps(name: str) -> None:
    method, pixels = made(name), batch(3)["pixels"]
    labels = [0, 3, 1]
    for kind in ("cam", "grad-cam", "rollout"):
        maps = maps_for(method, pixels, labels, kind=kind)
        assert maps.shape == (3, SIDE, SIDE)
        assert maps.amin() >= 0
        assert set(maps.amax(dim=(1, 2)).tolist()) <= {0.0, 1.0}, "each divided by its own maximum"
        assert maps.any()
        assert torch.equal(maps, maps_for(method, pixels, labels, kind=kind)), "not deterministic"
        assert not maps.requires_grad
    alone = torch.cat([cam(method, pixels[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, maps_for(method, pixels, labels), rtol=1e-3, atol=1e-4)
    against = cam(method, pixels, labels, [1, 1, 2])
    assert not torch.allclose(against, alone, atol=0.02)
    assert type(method.backbone) is Backbone
    assert not any(p.grad is not None or p.requires_grad for p in method.backbone.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_watching_does_not_change_what_a_method_computes(name: str) -> None:
    method, pixels = made(name), batch(2)["pixels"]
    view = copy.copy(method)
    watched = WatchedBackbone(method.backbone, range(1, 13))
    object.__setattr__(view, "backbone", watched)
    torch.testing.assert_close(view.logits(pixels), method.logits(pixels), rtol=1e-4, atol=1e-3)
    assert watched.passes
    assert all({reading.block for reading in seen.readings} == set(range(1, 13)) for seen in watched.passes)
    assert all(len(reading.patches) == SIDE * SIDE for seen in watched.passes for reading in seen.readings)


def as_map(values: Tensor) -> Tensor:
    return values / values.amax(dim=(1, 2), keepdim=True)


def test_averaged_gradients_are_grad_cam_at_the_last_block() -> None:
    method, pixels, labels = anprompt(), batch(3)["pixels"], torch.tensor([2, 0, 5])
    weights = method.kept_weights(method.blocks[0]).detach()

    def score(cls: Tensor) -> Tensor:
        logits = method.backbone.logit_scale * F.normalize(cls, dim=-1) @ weights.T
        own = logits.gather(1, labels[:, None])[:, 0]
        return (own - (logits.sum(dim=1) - own) / (len(NAMES) - 1)).sum()

    plan = PromptPlan.deep(method.tokens()[0], mix=method.options.mix)
    expected = as_map(relevance(method.backbone, pixels, score, plan)[0])
    torch.testing.assert_close(cam(method, pixels, labels, averaged=True), expected, rtol=1e-3, atol=1e-4)


def test_a_map_is_gradient_times_token() -> None:
    """Against a plain pass with gradients through everything, and differences of the score."""
    method, pixels = planned(PromptPlan()), batch(1)["pixels"]
    tower = method.backbone.vision
    with torch.no_grad():
        x = tower.run(tower.embed(pixels), 1, 11)
        tokens = tower.block(12).ln_1(x)
    weights = method.blocks[0].frozen

    def logit_difference(change: Tensor) -> Tensor:
        plan = PromptPlan(adapters=(BlockAdapter(12, lambda rows: change.view_as(rows), where="input"),))
        out = tower.run(x, 12, 12, plan)[:, 0]
        logits = 100 * F.normalize(tower.read(out), dim=-1) @ weights.T
        return (logits[:, 1] - logits[:, 4]).sum()

    change = torch.zeros_like(tokens, requires_grad=True)
    (gradient,) = torch.autograd.grad(logit_difference(change), change)
    expected = (gradient * tokens)[:, 1:].sum(dim=-1).relu().view(1, SIDE, SIDE)
    torch.testing.assert_close(cam(method, pixels, [1], [4]), as_map(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("at", [1, None])
def test_prompts_that_nobody_attends_to_change_no_map(at: int | None) -> None:
    """Whether they stand before the patches or behind: the grid leaves them out."""
    plan = PromptPlan.deep(prompts(small_backbone()), at=at)

    def hidden(length: int) -> Tensor:
        allowed = torch.ones(length, length, dtype=torch.bool)
        extra = length - 1 - SIDE * SIDE
        places = slice(1, 1 + extra) if at == 1 else slice(length - extra, length)
        allowed[:, places] = False
        return allowed | torch.eye(length, dtype=torch.bool)

    pixels, labels = batch(3)["pixels"], [0, 1, 2]
    with_prompts, without = planned(replace(plan, allowed=hidden)), planned(PromptPlan())
    for averaged in (False, True):
        expected = cam(without, pixels, labels, averaged=averaged)
        torch.testing.assert_close(cam(with_prompts, pixels, labels, averaged=averaged), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(rollout(with_prompts, pixels), rollout(without, pixels), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("patch", [0, 6, 15])
@pytest.mark.parametrize("inserted", [False, True])
def test_the_one_patch_that_counts_is_found(patch: int, inserted: bool) -> None:
    """Nobody sees any patch but one, so all relevance is there: whatever is inserted in front."""

    def narrow(length: int) -> Tensor:
        allowed = torch.eye(length, dtype=torch.bool)
        allowed[:, 0] = True
        allowed[:, length - SIDE * SIDE + patch] = True
        return allowed

    plan = PromptPlan.deep(prompts(small_backbone(), (1, 2))) if inserted else PromptPlan()
    method = planned(replace(plan, allowed=narrow))
    one = torch.zeros(SIDE * SIDE)
    one[patch] = 1
    pixels = batch(4)["pixels"]
    either = torch.cat([cam(method, pixels, [0] * 4, [5] * 4), cam(method, pixels, [5] * 4, [0] * 4)]).flatten(1)
    assert all(torch.equal(found, one) or not found.any() for found in either)
    assert torch.equal(either[:4] + either[4:], one.expand(4, -1)), "it speaks for one of the two classes"
    spread = cam(method, pixels, [0] * 4, [5] * 4, averaged=True) + cam(method, pixels, [5] * 4, [0] * 4, averaged=True)
    assert (spread.flatten(1) > 0).sum(dim=1).min() > 1, "which Grad-CAM's average over patches cannot tell"
    torch.testing.assert_close(rollout(method, pixels).flatten(1), one.expand(4, -1))


def test_margin() -> None:
    logits = torch.tensor([[1.0, 2.0, 6.0], [3.0, 0.0, 0.0]])
    assert margin(logits, [2, 0]).tolist() == [4.5, 3.0]
    assert margin(logits, [2, 0], [0, 1]).tolist() == [5.0, 3.0]
    assert margin(logits[:, :1], [0, 0]).tolist() == [1.0, 3.0]


# ---- roll-out ------------------------------------------------------------------------------------------------------


def plans(backbone: Backbone) -> dict[str, PromptPlan]:
    generator = torch.Generator().manual_seed(1)
    d, tokens = backbone.vision.width, prompts(backbone)
    maps = [torch.randn(n, d, generator=generator) * 0.1 for n in (3 * d, d, d)]
    inside = (
        BlockAdapter(3, lambda rows: rows @ maps[0].T, where="qkv"),
        BlockAdapter(4, lambda rows: rows @ maps[1].T, where="input"),
        BlockAdapter(12, lambda rows: rows @ maps[2].T),
    )
    return {
        "plain": PromptPlan(),
        "in front": PromptPlan.deep(tokens),
        "behind, mixed": PromptPlan.deep(tokens, at=None, mix=0.4),
        "adapters": PromptPlan(adapters=inside),
        "masked": replace(PromptPlan.deep(tokens), allowed=lambda n: torch.ones(n, n).tril(3).bool()),
    }


@pytest.mark.parametrize("name", ["plain", "in front", "behind, mixed", "adapters", "masked"])
def test_attention_gives_the_features_that_the_tower_computes(name: str) -> None:
    backbone, pixels = small_backbone(), batch(2)["pixels"]
    plan, tower = plans(backbone)[name], backbone.vision
    watched = WatchedBackbone(backbone, range(1, 13))
    with torch.no_grad():
        watched.images(pixels, plan)
        seen, x = watched.passes[0], tower.embed(pixels)
        for reading in seen.readings:
            for write in plan.before(reading.block):
                x = write.apply(x)
            block, inside = tower.block(reading.block), plan.inside(reading.block)
            weights = attention(tower, reading, plan)  # (B, H, L, L)
            torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:3]))
            values = inside.added("qkv", block.qkv(reading.tokens), reading.tokens)[..., 2 * tower.width :]
            values = values.view(*x.shape[:2], block.heads, -1).transpose(1, 2)  # (B, H, L, D/H)
            x = x + block.out((weights @ values).transpose(1, 2).flatten(2))
            x = plan.adapt(reading.block, x + block.fed_forward(x, inside))
        torch.testing.assert_close(tower.read(x[:, 0]), backbone.images(pixels, plan).cls, rtol=1e-5, atol=1e-5)
        shares = rollout_of(tower, seen)
    assert shares.shape == (2, SIDE * SIDE)
    assert shares.amin() >= 0
    assert shares.sum(dim=1).amax() <= 1


def test_rollout_is_the_product_of_all_blocks() -> None:
    backbone, pixels = small_backbone(), batch(2)["pixels"]
    watched = WatchedBackbone(backbone, range(1, 13))
    with torch.no_grad():
        watched.encode_image(pixels)
        product = own = torch.eye(1 + SIDE * SIDE)
        for reading in watched.passes[0].readings:
            mean = attention(backbone.vision, reading, PromptPlan()).mean(dim=1)  # (B, L, L)
            product = (mean + own) @ product / 2
    torch.testing.assert_close(rollout_of(backbone.vision, watched.passes[0]), product[:, 0, 1:])


# ---- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_words_of_every_method(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "SENTENCES", 1)
    method, pixels = made(name), batch(2)["pixels"]
    found = word_attribution(method, pixels, 1)
    if name == "linear-probe":
        assert found == {}
        return
    read = set(method.wording(NAMES[1])) | {NAMES[1]}
    assert found
    assert set(found) <= read
    for sentence, words in found.items():
        assert [word.word for word in words] == [word.strip(".,:") for word in sentence.split()]
    assert any(abs(word.logit) > 1e-3 for words in found.values() for word in words)


def test_a_sentence_of_ones_own() -> None:
    method, pixels, text = anprompt(), batch(2)["pixels"], "a cat on a dark road, at night"
    view = with_sentence(method, text)
    logits = view.logits(pixels)
    assert view.class_names == [*NAMES, text]
    assert torch.equal(logits[:, :-1], method.logits(pixels))
    assert view.wording(text) == (text,)
    zero = with_sentence(made("zero-shot"), text)
    expected = 100 * zero.backbone.encode_image(pixels) @ zero.backbone.encode_text([text])[0]
    torch.testing.assert_close(zero.logits(pixels)[:, -1], expected, rtol=1e-4, atol=1e-3)
    noisy = reworded(zero, Noise("shuffle", 1.0, "text"), 1, PACKAGED)
    (said,) = noisy.wording(text)
    assert said != text
    assert sorted(said.split()) == sorted(text.split())
    assert "cat" in noisy.wording("cat")[0], "class names stay as they are"
    with pytest.raises(UserError, match="only knows the classes"):
        with_sentence(made("linear-probe"), text)
