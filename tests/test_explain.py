"""Maps, roll-out, deletion scores and what words bring, against what is known beforehand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt import methods
from anprompt.analysis import explain
from anprompt.analysis.explain import (
    cam,
    deletion,
    maps_for,
    margin,
    rollout,
    with_sentence,
    word_attribution,
)
from anprompt.analysis.robustness import Noise, reworded
from anprompt.clip import Backbone, PromptPlan, load_backbone
from anprompt.clip.plan import BlockAdapter
from anprompt.clip.relevance import relevance
from anprompt.clip.rollout import attention
from anprompt.clip.rollout import rollout as rollout_of
from anprompt.clip.watch import WatchedBackbone
from anprompt.data import toyworld
from anprompt.data.toyworld_draw import RGB
from anprompt.errors import UserError
from anprompt.methods import Method
from anprompt.methods.zero_shot import ZeroShot
from anprompt.text.noise import PACKAGED
from helpers_clip import randomise
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
    expected = as_map(relevance(method.backbone, pixels, score, plan).detach())
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


# ---- toy world -----------------------------------------------------------------------------------------------------


@cache
def toy(count: int = 48) -> tuple[Method, Tensor, Tensor, Tensor]:
    """Zero-shot of the miniature, one picture of each of the toy world's classes, labels, and where objects stand."""
    backbone, names = load_backbone("miniature"), list(toyworld.class_names("shapes"))
    method = methods.create("zero-shot", backbone, names)
    some = range(0, len(names), len(names) // count)
    pixels = backbone.preprocess([toyworld.render(names[i], split="test") for i in some])
    masks = torch.stack([torch.from_numpy(toyworld.mask(names[i], split="test")) for i in some])
    return method, pixels, torch.tensor(list(some)), masks


def hits(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the middle of the patch of each map's maximum is on the object, ``(B,)``."""
    size = masks.shape[1] // maps.shape[1]
    at = maps.flatten(1).argmax(dim=1)
    rows, columns = (size * index + size // 2 for index in (at // maps.shape[2], at % maps.shape[2]))
    return masks[torch.arange(len(maps)), rows, columns]


def test_the_maximum_is_on_the_object() -> None:
    method, pixels, labels, masks = toy()
    found = hits(maps_for(method, pixels, labels), masks)
    middle = masks[:, 24, 24]
    assert found.double().mean() >= 0.7
    assert found[~middle].double().mean() >= 0.7, "pictures whose middle is not on the object"
    assert masks.double().mean() < 0.25, "the object is small, so chance is far below"


def test_random_weights_give_other_maps() -> None:
    method, pixels, labels, masks = toy()
    maps = maps_for(method, pixels, labels)
    blank = copy.deepcopy(method.backbone)
    randomise(blank, seed=1)
    other = maps_for(methods.create("zero-shot", blank, method.class_names), pixels, labels)
    pairs = torch.stack([maps.flatten(1), other.flatten(1)], dim=1).double()
    likeness = torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs]).nan_to_num()
    assert abs(likeness.mean()) < 0.3
    assert hits(other, masks).double().mean() < 0.5


def test_removing_what_a_map_marks_is_worse_than_random() -> None:
    method, pixels, labels, _ = toy()
    pixels, labels = pixels[::12], labels[::12]
    scores = deletion(method, pixels, labels, maps_for(method, pixels, labels), orders=5)
    assert sum(score.area for score in scores) < 0.8 * sum(score.random_area for score in scores)
    assert sum(score.beaten for score in scores) / len(scores) > 0.7


def test_the_mask_is_where_the_object_is_drawn() -> None:
    for name in toyworld.class_names("shapes")[:12]:
        picture = np.asarray(toyworld.render(name, index=3), dtype=float)
        mask, kind = toyworld.mask(name, index=3), toyworld.parse_name(name)
        assert mask.shape == picture.shape[:2]
        hue = picture / np.linalg.norm(picture, axis=2, keepdims=True)
        away = np.linalg.norm(hue - np.array(RGB[kind.colour]) / np.linalg.norm(RGB[kind.colour]), axis=2)
        if kind.pattern != "hollow":
            assert np.median(away[mask]) < np.median(away[~mask]), name
    with pytest.raises(UserError, match="domain"):
        toyworld.mask("striped red star", domain="fog")


# ---- deletion ------------------------------------------------------------------------------------------------------


def one_patch_matters(patch: int) -> Any:
    """Stands in for a method: the class is certain while a patch is bright, else impossible."""
    config = SimpleNamespace(image_size=32, patch_size=8, patches=16)

    def logits(pixels: Tensor) -> Tensor:
        row, column = divmod(patch, 4)
        bright = pixels[:, 0, 8 * row, 8 * column] > 0.5
        return torch.stack([bright.float() * 80 - 40, torch.zeros(len(pixels))], dim=1)

    return SimpleNamespace(backbone=SimpleNamespace(config=config, device="cpu"), logits=logits)


def test_deletion_areas() -> None:
    method, pixels = one_patch_matters(6), torch.zeros(1, 3, 32, 32)
    pixels[:, :, 8:16, 16:24] = 1
    first, last = torch.rand(2, 1, 4, 4)
    first[0, 1, 2], last[0, 1, 2] = 2, -1
    best, worst = (deletion(method, pixels, [0], maps, orders=20)[0] for maps in (first, last))
    assert best.area == pytest.approx(0.5 / 16)
    assert best.curve == pytest.approx([1] + [0] * 16)
    assert worst.area == pytest.approx(1 - 0.5 / 16)
    assert worst.beaten == 0
    assert best.beaten >= 0.8
    assert best.random_area == worst.random_area == pytest.approx(sum(best.random_areas) / 20)
    assert 0.3 < best.random_area < 0.7
    assert "means something" in best.words()
    assert "no better than chance" in worst.words()
    flat = deletion(method, pixels, [0], torch.zeros(1, 4, 4), orders=20)[0]
    assert 0.5 / 16 < flat.area < 1, "equal patches go in random order, not from the top left"
    assert deletion(method, pixels, [0], first, orders=20)[0] == best


# ---- words ---------------------------------------------------------------------------------------------------------


def test_words_of_a_template() -> None:
    method, pixels, labels, _ = toy()
    name = method.class_names[int(labels[5])]
    ((sentence, words),) = word_attribution(method, pixels[5:6], int(labels[5])).items()
    assert sentence == f"a photo of a {name}."
    assert [word.word for word in words] == ["a", "photo", "of", "a", *name.split()]
    features = method.backbone.encode_image(pixels[5:6])
    for left, word in ((f"a photo of a {' '.join(name.split()[1:])}.", words[4]), (f"photo of a {name}.", words[0])):
        both = method.backbone.encode_text([sentence, left])
        change = 100 * (features @ (both[0] - both[1]))
        assert word.logit == pytest.approx(float(change), abs=1e-2)
    assert max(words, key=lambda word: word.logit).word in name.split()


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
