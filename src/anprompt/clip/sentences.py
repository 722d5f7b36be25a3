"""Fixed sentences that prompts are run against again and again, one per class.

Exact short cuts, all possible because the text tower is causal:

- nothing behind EOT is computed, and sentences are packed by length, so that there is no padding either;
- rows that all sentences begin with (SOS, prompts, "a photo of a") run once, and their keys and values are shared;
- blocks below the first prompt run once and are kept, because nothing in them can learn;
- in the last block only EOT gets a query and an MLP.

N sentences, V variants of prompts, S shared rows, T packed rows in all, D tower width, d joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from anprompt.clip.kernels import Packing
from anprompt.clip.plan import PromptPlan, PromptWrite
from anprompt.clip.transfer import sent

if TYPE_CHECKING:
    from anprompt.clip.backbone import Backbone

NO_PROMPTS = PromptPlan()
TOGETHER = 256  # sentences, times variants of prompts, that run at a time: more would not be faster


@dataclass(frozen=True)
class _Step:
    """What the sentences' own rows meet before and in one block."""

    moved: Tensor | None  # (V, R, D) rows that cease to be shared and stand before each sentence's own from now on
    writes: tuple[PromptWrite, ...]  # into the own rows, ``at`` counted from the first of them
    shared: Tensor | None  # (V, S, 2D) keys and values of the rows before


class Sentences:
    """A fixed list of tokenised sentences. truncate: cut those that are too long instead of refusing them."""

    def __init__(self, backbone: Backbone, texts: Sequence[str], *, truncate: bool = False) -> None:
        self._backbone = backbone
        ids = backbone.tokenizer(texts, truncate=truncate)  # (N, context)
        eot = (ids == backbone.config.eot_id).int().argmax(dim=1)  # (N,) first EOT of each
        self.ids, self.eot = sent(ids, backbone.device), sent(eot, backbone.device)
        self.longest = int(eot.max()) + 1  # tokens of the longest sentence, EOT included; steps read it without waiting
        same = (ids == ids[0]).all(dim=0).int()
        prefix = min(int(same.cumprod(0).sum()), int(eot.min()))  # EOT is always a sentence's own row
        lengths: list[int] = (eot + 1 - prefix).tolist()
        self._order = sorted(range(len(lengths)), key=lengths.__getitem__)
        self._groups = [(len(list(same_length)), n) for n, same_length in groupby(sorted(lengths))]
        self._prefix = prefix
        self._trunk: tuple[int, Tensor, Tensor] | None = None  # block, its input: shared and own rows

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def features(self, plan: PromptPlan = NO_PROMPTS) -> Tensor:
        """Encode all sentences under ``plan``: ``(N, d)``, fp32, not normalised; gradients reach the plan.

        With ``backbone.class_chunk`` set, that many sentences run at a time when gradients are wanted, and their
        activations are made again in the backward pass: less memory for about a third more time in the text tower.
        """
        plan.check(self._backbone.text.depth)
        if plan.reach:
            return self._plain(plan)
        tower = self._backbone.text
        first = plan.first_block or 1
        prefix, own = self._below(first)
        steps = self._shared_rows(prefix[None], first, plan)
        chunk = self._backbone.class_chunk
        if chunk is None or chunk >= len(self) or not torch.is_grad_enabled():
            read = self._own_rows(own, self._groups, self._order, first, steps, plan)
        else:
            parts, row = [], 0
            for groups, order in self._chunks(chunk):
                rows = own[row : row + Packing(tuple(groups)).rows]
                row += len(rows)
                rest = (rows, groups, order, first, steps, plan)
                parts.append(checkpoint(self._own_rows, *rest, use_reentrant=False, preserve_rng_state=False))
            read = torch.cat(parts)
        out: Tensor = tower.read(read[self._back(read.device)])
        return out

    def variants(self, plan: PromptPlan) -> Tensor:
        """Encode all sentences under each of V variants of ``plan``: ``(V, N, d)``, fp32, not normalised.

        Here tokens ``(V, K, D)`` are one set for each variant (at least one write has them), and ``(K, D)`` the same
        for all. What the sentences share runs once for each variant. Several variants run together; with
        ``backbone.class_chunk`` set and gradients wanted, one after another.
        """
        own = [len(write.tokens) for write in plan.writes if write.tokens.dim() == 3]
        count, chunked = own[0], self._backbone.class_chunk is not None and torch.is_grad_enabled()
        if count == 1 or plan.reach or chunked:
            return torch.stack([self.features(_variant(plan, v)) for v in range(count)])
        size = max(1, TOGETHER // len(self))
        return torch.cat([self._together(_variant(plan, slice(v, v + size))) for v in range(0, count, size)])

    def _together(self, plan: PromptPlan) -> Tensor:
        """:meth:`variants`, all of them at once."""
        tower, first, n = self._backbone.text, plan.first_block or 1, len(self)
        plan.check(tower.depth)
        count = next(len(write.tokens) for write in plan.writes if write.tokens.dim() == 3)
        prefix, own = self._below(first)
        steps = self._shared_rows(prefix.expand(count, -1, -1), first, plan, variants=True)
        order = [v for v in range(count) for _ in range(n)]  # which of a write's tokens belong to a sentence
        rows = self._own_rows(own.repeat(count, 1), self._groups * count, order, first, steps, plan)  # (V·N, D)
        out: Tensor = tower.read(rows.view(count, n, -1)[:, self._back(rows.device)])
        return out

    def _back(self, device: torch.device) -> Tensor:
        """Where each sentence is in packed order, ``(N,)``."""
        back = torch.empty(len(self), dtype=torch.long)
        back[self._order] = torch.arange(len(self))
        return sent(back, device)

    def _plain(self, plan: PromptPlan) -> Tensor:
        """Without short cuts that an adapter's reach would break: the longest sentence and ``reach`` tokens more."""
        tower, length = self._backbone.text, self.longest + plan.reach
        chunk = self._backbone.class_chunk

        def run(ids: Tensor, eot: Tensor) -> Tensor:
            rows = plan.shifted(eot)[:, None]  # (N, 1)
            return tower.run(tower.embed(ids), 1, tower.depth, plan, rows)[:, 0]  # (N, D)

        ids, own = self.ids[:, :length], any(write.tokens.dim() == 3 for write in plan.writes)
        if chunk is None or own or not torch.is_grad_enabled():
            read = run(ids, self.eot)
        else:
            parts = zip(ids.split(chunk), self.eot.split(chunk), strict=True)  # type: ignore[no-untyped-call]
            read = torch.cat([checkpoint(run, *p, use_reentrant=False, preserve_rng_state=False) for p in parts])
        out: Tensor = tower.read(read)
        return out

    def _below(self, block: int) -> tuple[Tensor, Tensor]:
        """Input of ``block``: shared rows ``(S, D)`` and own rows ``(T, D)``. The frozen blocks below it run once."""
        if self._trunk is None or self._trunk[0] != block:
            tower = self._backbone.text
            with torch.no_grad():
                packing = Packing(tuple(self._groups))
                x = tower.embed(self.ids[:, : self._prefix + self._groups[-1][1]])  # (N, L, D)
                lengths = [length for n, length in self._groups for _ in range(n)]
                own = torch.cat([x[i, self._prefix : self._prefix + length]
                                 for i, length in zip(self._order, lengths, strict=True)])  # fmt: skip
                prefix = x[0, : self._prefix]
                for layer in map(tower.block, range(1, block)):
                    own = layer.packed(own, packing, True, layer.keys_values(prefix))
                    prefix = layer.packed(prefix, Packing.equal(1, len(prefix)), True)
            self._trunk = (block, prefix, own)
        return self._trunk[1:]

    def _shared_rows(self, x: Tensor, first: int, plan: PromptPlan, variants: bool = False) -> list[_Step]:
        """Run the shared rows ``(V, S, D)`` through the blocks from ``first``; note what the own rows need of them.

        variants: tokens ``(V, K, D)`` belong to variants; otherwise V is 1 and ``(N, K, D)`` belong to sentences.
        """
        tower, steps = self._backbone.text, []
        for number in range(first, tower.depth + 1):
            block, moved = tower.block(number), None
            inside: list[PromptWrite] = []
            for write in plan.before(number):
                if write.at is None:
                    raise ValueError("a prompt at the end of the sequence would stand behind EOT, where no text looks")
                end = write.at + (write.length if write.how == "overwrite" else 0)
                length = x.shape[1]
                if (variants or write.tokens.dim() == 2) and end <= length:
                    x = write.apply(x)
                    continue
                if write.at < length:  # different from class to class from here on, and so is all that follows
                    assert not inside, "a plan must write from left to right"
                    moved, x = x[:, write.at :], x[:, : write.at]
                inside.append(replace(write, at=write.at - x.shape[1]))
            count, length, d = x.shape
            rows, within = x.reshape(-1, d), plan.inside(number)  # (V·S, D)
            shared = block.keys_values(rows, within).view(count, length, -1) if length else None
            steps.append(_Step(moved, tuple(inside), shared))
            if number < tower.depth and length:
                rows = block.packed(rows, Packing.equal(count, length), True, inside=within)
                x = plan.adapt(number, rows).view(count, length, d)
        return steps

    def _own_rows(
        self, x: Tensor, groups: list[tuple[int, int]], order: list[int], first: int, steps: list[_Step],
        plan: PromptPlan,
    ) -> Tensor:  # fmt: skip
        """Run packed own rows ``(T, D)`` to the end: EOT's outputs ``(N, D)``.

        order: for each sentence, which of a write's tokens ``(·, K, D)`` are its.
        """
        tower, which = self._backbone.text, sent(torch.tensor(order), x.device)
        for number, step in enumerate(steps, start=first):
            x, groups = _edit(x, groups, which, step)
            packing = Packing(tuple(groups))
            read = sent(packing.last_rows(), x.device) if number == tower.depth else None
            x = tower.block(number).packed(x, packing, True, step.shared, read, plan.inside(number))
            x = plan.adapt(number, x)
        return x

    def _chunks(self, size: int) -> list[tuple[list[tuple[int, int]], list[int]]]:
        """The groups and sentences of each ``size`` sentences, in packed order."""
        lengths = [length for n, length in self._groups for _ in range(n)]
        starts = range(0, len(lengths), size)
        cut = [lengths[i : i + size] for i in starts]
        return [
            ([(len(list(same)), n) for n, same in groupby(part)], self._order[i : i + size])
            for i, part in zip(starts, cut, strict=True)
        ]


def _edit(x: Tensor, groups: list[tuple[int, int]], order: Tensor, step: _Step) -> tuple[Tensor, list[tuple[int, int]]]:
    """Own rows ``(T, D)`` and their groups after a step's rows moved in and its writes happened."""
    if step.moved is None and not step.writes:
        return x, groups
    parts, edited, row, sentence = [], [], 0, 0
    for number, (n, length) in enumerate(groups):
        rows = x[row : row + n * length].view(n, length, -1)
        if step.moved is not None:
            moved = step.moved[number * len(step.moved) // len(groups)]
            rows = torch.cat([moved.expand(n, -1, -1), rows], dim=1)
        for write in step.writes:
            if write.at is not None and write.at < rows.shape[1]:  # else behind EOT
                tokens = write.tokens
                if tokens.dim() == 3:
                    tokens = tokens[order[sentence : sentence + n]]
                if write.how == "overwrite":
                    tokens = tokens[..., : rows.shape[1] - write.at, :]
                rows = PromptWrite(write.block, tokens, write.how, write.at, write.mix).apply(rows)
        parts.append(rows.flatten(0, 1))
        edited.append((n, rows.shape[1]))
        row, sentence = row + n * length, sentence + n
    return torch.cat(parts), edited


def _variant(plan: PromptPlan, which: int | slice) -> PromptPlan:
    """The plan with only some of its variants' tokens."""
    writes = (replace(w, tokens=w.tokens[which] if w.tokens.dim() == 3 else w.tokens) for w in plan.writes)
    return PromptPlan(tuple(writes), plan.adapters)
