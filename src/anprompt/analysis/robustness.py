"""How far answers depend on the wording: text shift, logit preservation, accuracy shift (paper, Figure 4).

    TS  = mean over classes of 1 − cos(f_t, f̃_t)             text shift
    LPR = share of images whose top-1 class is unchanged     logit preservation rate
    AS  = accuracy − noisy accuracy, in points               accuracy shift

``f_t`` is what a method multiplies image features with: its class weights, at unit length. Rewording a class changes
every sentence that the method reads about it (``Method.wording``): zero-shot's template or descriptions, ANPrompt's
templated name and its two drawn sentences. Words that a method has learnt in the place of sentences cannot be reworded,
so such methods only move when the class name itself changes.

``weak`` is Eq. (2) on these weights: ``f_t + α f_n``, ``f_n`` being the weights that the method has when each class is
put as its noise sentence. For zero-shot both are frozen text features, as in the paper. Lengths stay as they are.

A *wording* is one draw of the noise. Image features are computed once per method, since they depend on no sentence.
n images, C classes, W wordings.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.analysis.image_noise import IMAGE_NOISES, noisy_image
from anprompt.data import BadImage, DataSource, Item
from anprompt.errors import Problems, UserError, did_you_mean
from anprompt.inference import stream_logits
from anprompt.methods import Method
from anprompt.text import DescriptionBank, Rewrite
from anprompt.text.noise import STRATEGIES, Material, rewriter

LEVEL = 0.95  # of the intervals
RESAMPLES = 2000
CHUNK = 512  # images whose logits are computed together
IMAGE_STRENGTH = 0.3
Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]


class Noise(NamedTuple):
    """One kind of noise at one strength. level: what it changes, ``"text"``, ``"feature"`` or ``"image"``."""

    name: str
    strength: float
    level: str


def parse_noises(spec: str, strength: float | None = None) -> list[Noise]:
    """``"weak:0.001,drop"`` as noises. Those without a strength get ``strength``, or their usual one; ``weak`` always
    its usual α. Raises :class:`UserError` that lists all unknown names and strengths out of range.
    """
    problems = Problems("These noises cannot be used:")
    noises: list[Noise] = []
    for entry in spec.split(","):
        name, colon, own = entry.strip().partition(":")
        text = STRATEGIES.get(name)
        if text is None and name not in IMAGE_NOISES:
            allowed = [*STRATEGIES, *IMAGE_NOISES]
            problems.add(f"'{name}' is none.{did_you_mean(name, allowed)} Allowed: {', '.join(allowed)}.")
            continue
        level = "image" if text is None else text.level
        value = strength if strength is not None and level != "feature" else text.usual if text else IMAGE_STRENGTH
        try:
            value = float(own) if colon else value
        except ValueError:
            value = float("nan")
        if not 0 <= value <= 1:
            problems.add(f"the strength of '{entry.strip()}' must be a number from 0 to 1")
        noises.append(Noise(name, value, level))
    problems.raise_if_any()
    return noises


@dataclass(frozen=True)
class Subject:
    """A method under test. features: of all images under its image prompts, ``(n, d)``."""

    name: str
    method: Method
    features: Tensor

    def logits(self, method: Method, features: Tensor | None = None) -> Tensor:
        """``(n, C)`` under the wording of ``method``, a view of this subject's."""
        of = self.features if features is None else features
        parts = torch.split(of.to(method.backbone.device), CHUNK)
        with torch.no_grad():
            rows = [torch.cat([method.block_logits(part, block) for block in method.blocks], dim=1) for part in parts]
        return torch.cat(rows).float().cpu()


def encode(
    methods: Sequence[Method], source: DataSource, items: Sequence[Item], *, bad: list[BadImage], stop: bool = True,
    noise: Noise | None = None, seed: int = 1, report: Callable[[int], None] | None = None,
) -> tuple[list[Item], list[Tensor]]:  # fmt: skip
    """Image features ``(n, d)`` of ``items`` under each method's image prompts, and the items that could be read.

    Pictures are read once for all ``methods``, which share a backbone but for its precision.
    noise: of the pictures, drawn from ``seed`` and the picture's name.
    """

    def opened(item: Item) -> Any:
        image = source.open(item)
        if noise is None:
            return image
        return noisy_image(image, noise.name, strength=noise.strength, seed=f"{seed}/{source.relative(item)}")

    # Methods of one kind that hold no tensor, zero-shot ones, see pictures alike.
    keys = [i if method.state_dict() else (type(method), method.backbone) for i, method in enumerate(methods)]
    widths: list[int] = []

    @torch.no_grad()
    def compute(pixels: Tensor) -> Tensor:
        own: dict[Any, Tensor] = {}
        for key, method in zip(keys, methods, strict=True):
            own[key] = own[key] if key in own else method.image_features(pixels)
        widths[:] = [own[key].shape[1] for key in keys]
        return torch.cat([own[key] for key in keys], dim=1)

    read: list[Item] = []
    rows: list[Tensor] = []
    for chunk, features in stream_logits(methods[0], items, opened, bad=bad, stop=stop, compute=compute):
        read += chunk
        rows.append(features)
        if report is not None:
            report(len(read))
    return read, list(torch.split(torch.cat(rows), widths, dim=1)) if rows else []


def reworded(method: Method, noise: Noise, seed: int, material: Material, change_name: bool = False) -> Method:
    """A view of ``method`` whose classes are worded with ``noise`` (of level text or feature), drawn from ``seed``.

    A sentence that noise makes longer than the text tower reads loses its last words.
    """
    if noise.level == "feature":
        return _weakened(method, noise.strength, seed, material.paraphrases)

    kept, free = (
        rewriter(noise.name, strength=noise.strength, seed=seed, material=material, change_name=whole)
        for whole in (change_name, True)
    )

    def change(name: str, sentence: str) -> str:
        return (free if name in method.bank.whole else kept)(name, sentence)  # a whole sentence has no name to keep

    rename = change if change_name and STRATEGIES[noise.name].words else None  # a name alone is no sentence
    return method.with_bank(method.bank.reworded(_that_fits(method, change), rename))


def _that_fits(method: Method, change: Rewrite) -> Rewrite:
    tokenizer = method.backbone.tokenizer

    def rewrite(name: str, sentence: str) -> str:
        changed = change(name, sentence)
        while tokenizer.count(changed) > tokenizer.context and " " in changed:
            changed = changed.rpartition(" ")[0]
        return changed

    return rewrite


def has_class_weights(method: Method) -> bool:
    """Whether logits are image features times class weights, which is what ``weak`` changes."""
    return type(method).block_logits is Method.block_logits


def _weakened(method: Method, alpha: float, seed: int, sentences: Mapping[str, Sequence[str]]) -> Method:
    """Eq. (2) on class weights: ``f_t + α f_n``."""
    if not has_class_weights(method):
        raise UserError(f"Noise 'weak' mixes class weights, and the logits of method '{method.name}' have none.")
    drawn = {name: random.Random(f"{seed}/weak/{name}").choice(list(own)) for name, own in sentences.items()}
    put = _that_fits(method, lambda name, sentence: drawn.get(name, sentence))
    noise = method.with_bank(method.bank.reworded(put))
    view = copy.copy(method)
    view.blocks = []
    for block, other in zip(method.blocks, noise.blocks, strict=True):
        f_t, f_n = method.kept_weights(block), noise.kept_weights(other)  # (C, d)
        mixed = _unit(f_t) + alpha * _unit(f_n)  # (2)
        assert block.kept is not None
        length = f_t.norm(dim=1, keepdim=True) / mixed.norm(dim=1, keepdim=True)
        view.blocks.append(replace(block, kept=(block.kept[0], f_t if alpha == 0 else mixed * length)))
    return view


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=1)


def class_weights(method: Method) -> Tensor:
    """``f_t``: class weights at unit length, ``(C, d)``, fp64."""
    with torch.no_grad():
        return _unit(torch.cat([method.text_rows(block) for block in method.blocks]).cpu().double())


def shift(f: Tensor, other: Tensor) -> Tensor:
    """1 − cos of unit rows, as ½ ‖f − f̃‖²: exactly 0 for equal rows, and exact to the last digit for near ones."""
    squares: Tensor = (f - other).square().sum(dim=1)
    return squares / 2


def interval(values: Floats, seed: int) -> Interval | None:
    """Bootstrap interval (percentile, 95 %) of the mean of ``values``; None for fewer than two."""
    from scipy.stats import bootstrap

    if len(values) < 2:
        return None
    if np.all(values == values[0]):
        return float(values[0]), float(values[0])
    found = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, batch=max(1, 2**22 // len(values)), confidence_level=LEVEL,
        method="percentile", random_state=seed,
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def measure(
    subject: Subject, labels: Sequence[int], noise: Noise, material: Material, *, wordings: int, seed: int,
    noisy_features: Sequence[Tensor] = (), change_name: bool = False, report: Callable[[int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """TS, LPR, AS and accuracies (per cent) of one method under one noise, over ``wordings`` draws, with intervals.

    labels: ``(n,)``. noisy_features: for noise of pictures, the features ``(n, d)`` of each draw.
    Each number is ``{"value", "interval"}``: over classes for TS, images for LPR and AS, wordings for the accuracy.
    ``per_class``: of each class the wording that hurts most (see :func:`_worst`); only for text.
    """
    method, truth = subject.method, torch.tensor(labels)  # (n,)
    names = method.class_names
    f_t, clean = class_weights(method), subject.logits(method)
    guess = clean.argmax(dim=1)
    right = (guess == truth).double()  # (n,)
    shifts, kept, hits = list[Tensor](), list[Tensor](), list[Tensor]()
    worst: list[dict[str, Any]] = [{"harm": -np.inf} for _ in names]
    for draw in range(wordings):
        if noise.level == "image":
            logits = subject.logits(method, noisy_features[draw])
            shifts.append(shift(_unit(subject.features.double()), _unit(noisy_features[draw].double())))  # (n,)
        else:
            view = reworded(method, noise, seed + draw, material, change_name)
            logits = subject.logits(view)
            shifts.append(shift(f_t, class_weights(view)))  # (C,)
            harm = _harm(clean, logits, truth)  # (C,)
            for i, name in enumerate(names):
                found = float(harm[i]), float(shifts[-1][i])
                if found > (worst[i]["harm"], worst[i].get("shift", -1.0)):
                    said = zip(method.wording(name), view.wording(name), strict=True)
                    changed = {before: after for before, after in said if before != after}
                    worst[i] = {"class": name, "harm": found[0], "shift": found[1], "wording": draw,
                                "sentences": list(changed.values()), "instead_of": list(changed)}  # fmt: skip
        top = logits.argmax(dim=1)
        kept.append((top == guess).double())
        hits.append((top == truth).double())
        if report is not None:
            report(draw + 1)
    moved, same, found_right = (torch.stack(rows).numpy() for rows in (shifts, kept, hits))  # (W, C) or (W, n)
    accuracies = 100 * found_right.mean(axis=1)  # (W,)

    def with_interval(values: Floats) -> dict[str, Any]:
        return {"value": float(values.mean()), "interval": interval(values, seed)}

    return {
        "method": subject.name, "noise": noise.name, "strength": noise.strength, "level": noise.level,
        "wordings": wordings, "clean_accuracy": 100 * float(right.mean()),
        "accuracy": with_interval(accuracies), "accuracy_range": [float(accuracies.min()), float(accuracies.max())],
        ("image_shift" if noise.level == "image" else "text_shift"): with_interval(moved.mean(axis=0)),
        "logit_preservation": with_interval(same.mean(axis=0)),
        "accuracy_shift": with_interval(100 * (right.numpy() - found_right.mean(axis=0))),
        "per_class": worst if noise.level == "text" else [],
    }  # fmt: skip


def _harm(clean: Tensor, noisy: Tensor, truth: Tensor) -> Tensor:
    """``(C,)``: accuracy points lost over all images when one class alone is reworded, the others staying clean.

    clean, noisy: logits ``(n, C)``. The logit of a class is taken to depend on its own wording only.
    """
    column = torch.arange(clean.shape[1])
    first = clean.argmax(dim=1)[:, None]  # (n, 1)
    second = clean.scatter(1, first, -torch.inf).argmax(dim=1)[:, None]
    rival = torch.where(column == first, second, first)  # (n, C) the best of the other classes
    value = clean.gather(1, rival)
    wins = (noisy > value) | ((noisy == value) & (column < rival))
    guess = torch.where(wins, column, rival)
    return 100 * ((first == truth[:, None]).double() - (guess == truth[:, None]).double()).mean(dim=0)


def curve(
    subject: Subject, labels: Sequence[int], noise: Noise, strengths: Sequence[float], material: Material, *,
    wordings: int, seed: int, change_name: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Mean accuracy (per cent) over ``wordings`` draws at each of ``strengths``, for noise of text or features."""
    truth = torch.tensor(labels)
    points = []
    for strength in strengths:
        draws = range(wordings if strength else 1)
        views = (reworded(subject.method, noise._replace(strength=strength), seed + draw, material, change_name)
                 for draw in draws)  # fmt: skip
        hits = [float((subject.logits(view).argmax(dim=1) == truth).double().mean()) for view in views]
        points.append(100 * float(np.mean(hits)))
    return {"method": subject.name, "noise": noise.name, "strengths": list(strengths), "accuracy": points}


def noise_sentences(bank: DescriptionBank, names: Sequence[str], template: str) -> dict[str, tuple[str, ...]]:
    """What ``paraphrase`` and ``weak`` draw from: the bank's noise sentences, or neutral paraphrases without any."""
    return {name: bank.of(name, template).noise for name in names}
