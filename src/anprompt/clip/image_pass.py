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
    if not _one_place(plan) or plan.reach or plan.allowed is not None:
        rows = torch.arange(1 + k, device=tokens.device).expand(tokens.shape[0], -1)
        return tower.run(tokens, first, tower.depth, plan, rows)

    b, length, d = tokens.shape
    x = tokens.reshape(b * length, d)  # packed rows; each picture's prompts, where they have rows, stand at its end
    own = length  # rows of a picture in x
    waiting: Tensor | None = None  # prompts (K, D) that have no rows in x
    for number in range(first, tower.depth + 1):
        block, inside, final = tower.block(number), plan.inside(number), number == tower.depth
        for write in plan.before(number):
            new, rows = write.tokens.to(x.dtype), x.view(b, own, d)
            if write.how == "overwrite" and write.mix != 1.0:
                new = write.mix * new + (1.0 - write.mix) * rows[:, length:]  # (B, K, D)
            if own > length:
                x, own = rows[:, :length].reshape(b * length, d), length
            waiting = new
        if waiting is not None:
            unread = (final and not k) or (not final and plan.replaced(number))
            if waiting.dim() == 3 or not unread:
                new = waiting.expand(b, -1, -1)
                x = torch.cat([x.view(b, own, d), new], dim=1).flatten(0, 1)
                waiting, own = None, own + new.shape[1]
        shared = None if waiting is None else block.keys_values(waiting, inside)
        read = None
        if final:
            places = torch.tensor([0, *range(length, length + k)], device=x.device)
            read = (torch.arange(b, device=x.device)[:, None] * own + places).flatten()  # (B·(1 + K),)
        x = plan.adapt(number, block.packed(x, Packing.equal(b, own), False, shared, read, inside))
    return x.view(b, 1 + k, d)


def _one_place(plan: PromptPlan) -> bool:
    """Whether all prompts stand in one place: inserted once, later only overwritten as a whole, CLS not among them."""
    kinds = [write.how for write in plan.writes]
    places = {(write.at, write.length) for write in plan.writes}
    at = plan.writes[0].at if plan.writes else None
    return not plan.writes or (
        kinds == ["insert"] + ["overwrite"] * (len(kinds) - 1) and len(places) == 1 and (at is None or at >= 1)
    )
