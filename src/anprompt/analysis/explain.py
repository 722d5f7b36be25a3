"""Why this class: which patches of a picture and which words of a class's text an answer rests on.

Maps are made of the tokens that the attention of the last vision block gets. With the gradient g of a score:

    HiResCAM   relu(Σ_d g_md a_md)                        for patch m                                        (a)
    Grad-CAM   relu(Σ_d α_d a_md),  α_d = mean_m g_md                                                        (b)

(a) Draelos, Carin: Use HiResCAM instead of Grad-CAM for faithful explanations, 2020, https://arxiv.org/abs/2011.08891
(b) Selvaraju et al.: Grad-CAM, ICCV 2017, https://arxiv.org/abs/1610.02391

Averaging the gradient over patches is exact for networks that end in an average over places. A ViT ends in attention,
and on pictures whose object is known (b) misses it more often: docs/explain.md has the numbers, and (a) is the default.

The score is the class's logit less the mean of the other classes' (what all classes share explains none of them), or
less one other class's: why this and not that. A method that looks at a picture in several passes has its passes added
up. B pictures, C classes, h × w patches, M = h·w.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from anprompt.clip.rollout import rollout as rollout_of
from anprompt.clip.watch import WatchedBackbone
from anprompt.methods import Method
from anprompt.text import DescriptionBank, Rewrite

Kind = Literal["cam", "grad-cam", "rollout"]
Labels = Tensor | Sequence[int]
TOGETHER = 16  # pictures whose maps are made at once
PICTURES = 64  # pictures, some with patches removed, that are classified at once
STEPS = 16  # of a deletion curve, or the number of patches if there are fewer
SENTENCES = 6  # of a class, whose words are left out one by one
SILENT = 1e-3  # change of a logit that is only rounding


def cam(
    method: Method, pixels: Tensor, labels: Labels, against: Labels | None = None, *, averaged: bool = False
) -> Tensor:
    """Maps ``(B, h, w)`` in [0, 1] of normalised pixels ``(B, 3, H, W)``: (a), or (b) if ``averaged``.

    labels: column of the logits to explain, for each picture. against: column to tell it from; ``None``: all others.
    Each map is divided by its maximum; one without anything positive is all zero.
    """
    watched = WatchedBackbone(method.backbone, [method.backbone.config.vision.depth])
    with torch.no_grad():
        for block in method.blocks:
            method.kept_weights(block)  # kept from here on: nothing of the text is differentiated
    with torch.enable_grad():
        score = margin(_logits(_seen_through(method, watched), pixels), labels, against).sum()
        readings = [reading for seen in watched.passes for reading in seen.readings]
        gradients = torch.autograd.grad(score, [reading.change for reading in readings], allow_unused=True)
    total = torch.zeros(len(pixels), method.backbone.config.patches, device=score.device)
    for reading, gradient in zip(readings, gradients, strict=True):
        if gradient is not None:  # of a pass that no logit depends on
            total += reading.relevance(gradient, averaged=averaged)  # (a) or (b)
    return _as_maps(method, total.relu())


@torch.no_grad()
def rollout(method: Method, pixels: Tensor) -> Tensor:
    """Attention roll-out ``(B, h, w)`` in [0, 1] under the method's image prompts: where it looks, whatever the class.

    The class token's; mean over the passes of a method with several. Each map is divided by its maximum.
    """
    watched = WatchedBackbone(method.backbone, range(1, method.backbone.config.vision.depth + 1))
    _seen_through(method, watched).image_features(pixels)
    shares = [rollout_of(watched.vision, seen) for seen in watched.passes]
    return _as_maps(method, torch.stack(shares).mean(dim=0))


def maps_for(
    method: Method, pixels: Tensor, labels: Labels, against: Labels | None = None, *, kind: Kind = "cam"
) -> Tensor:
    """Maps ``(B, h, w)`` in [0, 1] of any number of pictures ``(B, 3, H, W)``, some at a time; on the CPU.

    labels, against: as for :func:`cam`; ``"rollout"`` does not look at them.
    """
    columns = _columns(labels, pixels), None if against is None else _columns(against, pixels)
    maps = [torch.zeros(0, *_grid(method))]
    for start in range(0, len(pixels), TOGETHER):
        some = slice(start, start + TOGETHER)
        batch = pixels[some].to(method.backbone.device)
        if kind == "rollout":
            own = rollout(method, batch)
        else:
            other = None if columns[1] is None else columns[1][some]
            own = cam(method, batch, columns[0][some], other, averaged=kind == "grad-cam")
        maps.append(own.cpu())
    return torch.cat(maps)


def margin(logits: Tensor, labels: Labels, against: Labels | None = None) -> Tensor:
    """``(B,)`` of logits ``(B, C)``: that of the label less that of ``against``, or less the mean of all others."""
    own = logits.gather(1, _columns(labels, logits)[:, None])[:, 0]
    if against is not None:
        return own - logits.gather(1, _columns(against, logits)[:, None])[:, 0]
    others = logits.shape[1] - 1
    return own - (logits.sum(dim=1) - own) / others if others else own


def _columns(labels: Labels, beside: Tensor) -> Tensor:
    return torch.as_tensor(labels, device=beside.device)


def _grid(method: Method) -> tuple[int, int]:
    side = method.backbone.config.image_size // method.backbone.config.patch_size
    return side, side


def _as_maps(method: Method, values: Tensor) -> Tensor:
    """``(B, M)``, not negative, as ``(B, h, w)`` with maximum 1."""
    most = values.amax(dim=1, keepdim=True)
    return torch.where(most > 0, values / most, 0.0).view(-1, *_grid(method)).detach()


def _seen_through(method: Method, backbone: WatchedBackbone) -> Method:
    """A view of ``method`` whose passes over pictures go through ``backbone``."""
    view = copy.copy(method)
    object.__setattr__(view, "backbone", backbone)
    return view


def _logits(method: Method, pixels: Tensor) -> Tensor:
    """``Method.logits``, with gradients where they are enabled."""
    features = method.image_features(pixels)
    return torch.cat([method.block_logits(features, block) for block in method.blocks], dim=1)


def with_sentence(method: Method, sentence: str) -> Method:
    """A view with one more class, the last column of the logits: ``sentence`` as it stands, in no template.

    Raises :class:`UserError` for a method that only knows the classes that it was trained on.
    """
    method.check_names([sentence])
    view = copy.copy(method)
    view.bank = replace(method.bank, whole=method.bank.whole | {sentence})
    view.blocks = [*method.blocks, view.make_block([sentence], trained=False)]
    return view


# ---- whether a map means anything ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deletion:
    """What removing the patches of one picture does to the probability of its class.

    curve: probability, 0 to 1, after each step from the whole picture to none of it, most relevant patches first.
    random: the same, mean over random orders. area, random_area: mean height of the curves, 0 to 1; random_areas: of
    each order. beaten: share of the random orders under which the probability stays higher than under the map's.
    """

    curve: tuple[float, ...]
    random: tuple[float, ...]
    area: float
    random_area: float
    random_areas: tuple[float, ...]
    beaten: float

    def words(self) -> str:
        """What the numbers say."""
        n, won = len(self.random_areas), round(self.beaten * len(self.random_areas))
        if self.beaten >= 0.9 and self.area < self.random_area:
            said = "the map means something"
        elif self.beaten > 0.5 and self.area < self.random_area:
            said = "the map is only a hint"
        else:
            said = "no better than chance: do not trust the map"
        return f"{said} (beats {won} of {n} random orders)"


@torch.no_grad()
def deletion(
    method: Method, pixels: Tensor, labels: Labels, maps: Tensor, *, orders: int = 10, seed: int = 1
) -> list[Deletion]:
    """Deletion score of each picture's map (Petsiuk et al.: RISE, BMVC 2018, https://arxiv.org/abs/1806.07421).

    pixels: ``(B, 3, H, W)``, normalised. labels: columns of the logits. maps: ``(B, h, w)``. A removed patch gets the
    picture's mean colour. Patches that a map leaves equal, as all those without relevance, go in random order.
    orders: random orders to compare with, at least 1; the same for every map of one grid and seed.
    """
    count = maps[0].numel() if len(maps) else 0
    generator = torch.Generator().manual_seed(seed)
    random = torch.stack([torch.randperm(count, generator=generator) for _ in range(orders)])  # (R, M)
    mixed = torch.randperm(count, generator=generator)
    found = []
    for picture, label, own in zip(pixels, _columns(labels, pixels).tolist(), maps.flatten(1).cpu(), strict=True):
        first = mixed[own[mixed].argsort(descending=True, stable=True)]  # (M,)
        gone = [round(count * i / min(STEPS, count)) for i in range(min(STEPS, count) + 1)]  # patches removed, (S + 1,)
        curves = _probabilities(method, picture, label, torch.cat([first[None], random]), gone)  # (1 + R, S + 1)
        areas = torch.trapezoid(curves, torch.tensor(gone) / count, dim=1)  # (1 + R,)
        found.append(Deletion(
            tuple(curves[0].tolist()), tuple(curves[1:].mean(dim=0).tolist()), float(areas[0]), float(areas[1:].mean()),
            tuple(areas[1:].tolist()), float((areas[1:] > areas[0]).double().mean()),
        ))  # fmt: skip
    return found


def _probabilities(method: Method, picture: Tensor, label: int, orders: Tensor, gone: Sequence[int]) -> Tensor:
    """Probability ``(R, S)`` of ``label`` when the first ``gone`` ``(S,)`` patches of ``orders`` ``(R, M)`` are removed
    from ``(3, H, W)``."""
    rank = orders.argsort(dim=1)  # (R, M), when each patch goes
    kept = torch.stack([rank >= number for number in gone], dim=1).flatten(0, 1)  # (R·S, M)
    size, mean = method.backbone.config.patch_size, picture.mean(dim=(1, 2), keepdim=True)  # (3, 1, 1)
    rows = []
    for some in torch.split(kept, PICTURES):
        grid = some.view(-1, 1, *_grid(method)).to(picture.device)
        whole = grid.repeat_interleave(size, dim=2).repeat_interleave(size, dim=3)  # (n, 1, H, W)
        logits = method.logits(torch.where(whole, picture, mean).to(method.backbone.device)).float()
        rows.append(logits.softmax(dim=1)[:, label].cpu())
    return torch.cat(rows).view(len(orders), len(gone))


# ---- words ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """A word of a class's text and what it brings: value with it less value without it; above 0 it helps the class.

    logit: of the class. probability: of the class among all, −1 to 1.
    """

    word: str
    logit: float
    probability: float


@torch.no_grad()
def word_attribution(method: Method, pixels: Tensor, label: int) -> dict[str, list[Word]]:
    """What each word of class ``label``'s text brings, mean over pictures ``(B, 3, H, W)``: sentence -> its words.

    Every word of the sentences that the method reads about the class (``Method.wording``, at most ``SENTENCES``) is
    left out by itself, and the class built anew. For methods that learn their own words in place of a sentence, words
    of the class name are left out. Empty for methods that read no words at all. Not for views made by ``with_bank`` of
    reworded sentences.
    """
    pixels = pixels.to(method.backbone.device)
    features = method.image_features(pixels)
    logits = torch.cat([method.block_logits(features, block) for block in method.blocks], dim=1).float()  # (B, C)
    name = method.class_names[label]

    def effect(word: str, changed: Method) -> Word:
        one = torch.cat([changed.block_logits(features, block) for block in changed.blocks], dim=1).float()
        without = logits.clone()
        without[:, label] = one[:, 0 if method.supports_new_classes else label]
        bare = word.strip(".,;:!?")
        before, after = (rows.softmax(dim=1)[:, label] for rows in (logits, without))
        return Word(bare, float((logits - without)[:, label].mean()), float((before - after).mean()))

    found: dict[str, list[Word]] = {}
    for sentence in dict.fromkeys(method.wording(name)[:SENTENCES]):
        found[sentence] = []
        for word, left in _without_each(sentence):
            rewrite = _instead(name, sentence, left)
            found[sentence].append(effect(word, _rebuilt(method, label, method.bank.reworded(rewrite))))
    if any(abs(word.logit) > SILENT for words in found.values() for word in words):
        return found
    if not method.supports_new_classes or len(name.split()) < 2:
        return {}
    main, noise = ({left: part[name] for _, left in _without_each(name) if name in part}
                   for part in (method.bank.main, method.bank.noise))  # fmt: skip
    bank = replace(method.bank, main={**method.bank.main, **main}, noise={**method.bank.noise, **noise})
    renamed = [effect(word, _rebuilt(method, label, bank, left)) for word, left in _without_each(name)]
    return {name: renamed} if any(abs(word.logit) > SILENT for word in renamed) else {}


def _without_each(sentence: str) -> list[tuple[str, str]]:
    """Each word, and the sentence without it; a full stop stays at the end."""
    words = sentence.split()
    if len(words) < 2:
        return []
    pairs = [(word, " ".join(words[:i] + words[i + 1 :])) for i, word in enumerate(words)]
    if words[-1][-1] in ".!?":
        pairs[-1] = words[-1], pairs[-1][1].rstrip(".,;:") + words[-1][-1]
    return pairs


def _instead(name: str, sentence: str, other: str) -> Rewrite:
    """Puts ``other`` in the place of one sentence of one class."""
    return lambda of, said: other if (of, said) == (name, sentence) else said


def _rebuilt(method: Method, label: int, bank: DescriptionBank, name: str | None = None) -> Method:
    """A view that reads ``bank``: with class ``label`` alone, called ``name``, where classes can stand alone."""
    if not method.supports_new_classes:
        return method.with_bank(bank)
    own, trained = [(own, block.trained) for block in method.blocks for own in block.names][label]
    view = copy.copy(method)
    view.bank = bank
    view.blocks = [view.make_block([name or own], trained=trained)]
    return view
