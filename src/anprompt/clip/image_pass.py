"""One pass of pictures through the vision tower under a plan, without work that nobody reads.

Exact short cuts: prompts that the next block overwrites serve as keys and values only, made once for the whole batch;
in the last block only the class token, and the prompts if asked for, get queries and an MLP; all pictures' rows go
through the linear maps together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anprompt.clip.kernels import Packing
from anprompt.clip.plan import PromptPlan
from anprompt.clip.towers import VisionTower
from anprompt.clip.transfer import sent


def run_images(tower: VisionTower, tokens: Tensor, first: int, last: int) -> Tensor:
    """Run blocks ``first``..``last`` on ``(B, L, D)`` without prompts and return all rows."""
    b, length, d = tokens.shape
    packing = Packing.equal(b, length)
    x = tokens.reshape(b * length, d)
    for number in range(first, last + 1):
        x = tower.block(number).packed(x, packing, False)
    return x.view(b, length, d)


def read_images(tower: VisionTower, tokens: Tensor, first: int, plan: PromptPlan, *, prompts: bool) -> Tensor:
    """Run blocks ``first``..end on ``(B, L, D)`` and return the class token and, if asked for, the prompts after it.

    Returns ``(B, 1, D)`` or ``(B, 1 + K, D)``: before the final norm.
    """
    plan.check(tower.depth)
    k = plan.writes[0].length if prompts else 0
    if not _packs(plan):
        rows = torch.arange(1 + k, device=tokens.device).expand(tokens.shape[0], -1)
        return tower.run(tokens, first, tower.depth, plan, rows)
    pictures = _Pictures(tokens)
    for number in range(first, tower.depth):
        pictures.run(tower, number, plan)
    pictures.run(tower, tower.depth, plan, prompts=k)
    return pictures.x.view(len(tokens), 1 + k, -1)


def run_to_last(tower: VisionTower, tokens: Tensor, first: int, plan: PromptPlan) -> Tensor:
    """Run all blocks from ``first`` but the last on ``(B, L, D)``, and return all rows: ``(B, L [+ K], D)``.

    Rows stand where the plan puts them. Nothing is written for the last block yet; what it overwrites as a whole is 0.
    """
    plan.check(tower.depth)
    if not _packs(plan):
        return tower.run(tokens, first, tower.depth - 1, plan)
    pictures = _Pictures(tokens)
    for number in range(first, tower.depth):
        pictures.run(tower, number, plan)
    return pictures.in_order(plan, tower.depth)


class _Pictures:
    """Rows of B pictures, packed; the prompts of each, where they have rows, stand at its end."""

    def __init__(self, tokens: Tensor) -> None:
        self.b, self.length, self.d = tokens.shape
        self.x = tokens.reshape(-1, self.d)
        self.own = self.length  # rows of a picture in x
        self.waiting: Tensor | None = None  # prompts (K, D) that have no rows in x

    def run(self, tower: VisionTower, number: int, plan: PromptPlan, prompts: int | None = None) -> None:
        """Run one block. prompts: it is the last, of which only the class token and so many prompts are read."""
        b, length, d, block, inside = self.b, self.length, self.d, tower.block(number), plan.inside(number)
        for write in plan.before(number):
            new, rows = write.tokens.to(self.x.dtype), self.x.view(b, self.own, d)
            if write.how == "overwrite" and write.mix != 1.0:
                new = write.mix * new + (1.0 - write.mix) * rows[:, length:]  # (B, K, D)
            if self.own > length:
                self.x, self.own = rows[:, :length].reshape(b * length, d), length
            self.waiting = new
        if self.waiting is not None:
            unread = plan.replaced(number) if prompts is None else not prompts
            if self.waiting.dim() == 3 or not unread:
                new = self.waiting.expand(b, -1, -1)
                self.x = torch.cat([self.x.view(b, self.own, d), new], dim=1).flatten(0, 1)
                self.waiting, self.own = None, self.own + new.shape[1]
        shared = None if self.waiting is None else block.keys_values(self.waiting, inside)
        read = None
        if prompts is not None:
            places = sent(torch.tensor([0, *range(length, length + prompts)]), self.x.device)
            read = (torch.arange(b, device=self.x.device)[:, None] * self.own + places).flatten()  # (B·(1 + K),)
        packing = Packing.equal(b, self.own)
        self.x = plan.adapt(number, block.packed(self.x, packing, False, shared, read, inside))

    def in_order(self, plan: PromptPlan, block: int) -> Tensor:
        """All rows ``(B, L [+ K], D)`` in the plan's order before ``block``, zeros for prompts without rows."""
        x, length = self.x.view(self.b, self.own, self.d), self.length
        inserted = next((write for write in plan.writes if write.block < block), None)
        if inserted is None:
            return x
        prompts = x[:, length:] if self.own > length else x.new_zeros(self.b, inserted.length, self.d)
        at = length if inserted.at is None else inserted.at
        return torch.cat([x[:, :at], prompts, x[:, at:length]], dim=1)


def _packs(plan: PromptPlan) -> bool:
    """Whether the short cuts are exact under ``plan``."""
    return _one_place(plan) and not plan.reach and plan.allowed is None


def _one_place(plan: PromptPlan) -> bool:
    """Whether all prompts stand in one place: inserted once, later only overwritten as a whole, CLS not among them."""
    kinds = [write.how for write in plan.writes]
    places = {(write.at, write.length) for write in plan.writes}
    at = plan.writes[0].at if plan.writes else None
    return not plan.writes or (
        kinds == ["insert"] + ["overwrite"] * (len(kinds) - 1) and len(places) == 1 and (at is None or at >= 1)
    )
