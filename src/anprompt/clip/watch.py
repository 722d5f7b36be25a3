"""A view of a backbone whose passes over pictures can be read and differentiated: explanations of any method.

A method meets its backbone's vision tower through ``images``, ``local`` and ``encode_image``. Here these write down
what the attention of some blocks gets, and add a change of zero to it: the gradient of whatever a method computes with
respect to that change is the gradient with respect to those tokens. Readings are a :class:`BlockAdapter` in the plan,
so the towers know nothing of this, and blocks below the first prompt and the first reading stay without gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.clip.backbone import Backbone, ImageFeatures, LocalFeatures
from anprompt.clip.plan import BlockAdapter, PromptPlan
from anprompt.clip.sentences import NO_PROMPTS


@dataclass(frozen=True)
class Reading:
    """What the attention of one block got, behind the first norm.

    tokens: ``(B, L, D)``, fp32, no gradient. change: zeros of that shape that were added to it, for gradients.
    patches: ``(M,)``, where the patches stand among the L tokens, row by row from the top left.
    """

    block: int
    tokens: Tensor
    change: Tensor
    patches: Tensor

    def relevance(self, gradient: Tensor, *, averaged: bool) -> Tensor:
        """``(B, M)``: what each patch's tokens a bring to a score with this gradient g with respect to ``change``.

        ``Σ_d g_md a_md`` for patch m, as HiResCAM, or ``averaged``, with the mean of g over the patches, as Grad-CAM.
        """
        g = gradient[:, self.patches]  # (B, M, D)
        g = g.mean(dim=1, keepdim=True) if averaged else g
        return (g * self.tokens[:, self.patches]).sum(dim=-1)


@dataclass(frozen=True)
class Pass:
    """One pass through the vision tower. plan: the method's own, without the readers."""

    plan: PromptPlan
    readings: list[Reading] = field(default_factory=list)


class WatchedBackbone(Backbone):
    """``backbone`` with the same tensors; every pass over pictures is added to ``passes``.

    blocks: 1-based numbers of the vision blocks whose input is read. Results are those of ``backbone`` but for
    rounding, since readers look at whole sequences, for which the short cuts are given up. Frozen features that come
    along with prompted ones are differentiable here, as everything is.
    """

    def __init__(self, backbone: Backbone, blocks: Sequence[int]) -> None:
        self.__dict__.update(backbone.__dict__)  # the same modules and settings; nothing is copied or registered
        self.watched = tuple(blocks)
        self.passes: list[Pass] = []

    def images(
        self, pixels: Tensor, plan: PromptPlan = NO_PROMPTS, *, frozen: bool = False, prompts: bool = True
    ) -> ImageFeatures:
        found = super().images(pixels, self._with_readers(plan), prompts=prompts)
        return replace(found, frozen=self.images(pixels).cls) if frozen else found

    def local(
        self, pixels: Tensor, plan: PromptPlan = NO_PROMPTS, *, values: bool = False, attention: bool = False
    ) -> LocalFeatures:
        return super().local(pixels, self._with_readers(plan), values=values, attention=attention)

    def encode_image(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.images(pixels).cls, dim=-1)

    def _with_readers(self, plan: PromptPlan) -> PromptPlan:
        """``plan`` with a reader behind all else in each watched block; its readings are a new pass."""
        current = Pass(plan)
        self.passes.append(current)
        # reach: they get whole sequences (B, L, D), not packed rows
        readers = [replace(reader(self, number, plan, current.readings), reach=1) for number in self.watched]
        return replace(plan, adapters=(*plan.adapters, *readers))


def reader(backbone: Backbone, number: int, plan: PromptPlan, readings: list[Reading]) -> BlockAdapter:
    """Adds what vision block ``number`` gets under ``plan``, in whole sequences, to ``readings``; changes nothing."""
    so_far = PromptPlan(tuple(write for write in plan.writes if write.block <= number))

    def read(tokens: Tensor) -> Tensor:
        change = torch.zeros_like(tokens, requires_grad=True)
        patches = so_far.shifted(torch.arange(1, 1 + backbone.config.patches, device=tokens.device))
        readings.append(Reading(number, tokens.detach(), change, patches))
        return change

    return BlockAdapter(number, read, where="input")
