"""Fixed sentences that prompts are run against again and again, one per class.

Exact short cuts, all possible because the text tower is causal:

- nothing behind EOT is computed, and sentences are packed by length, so that there is no padding either;
- rows that all sentences begin with (SOS, prompts, "a photo of a") run once, and their keys and values are shared;
- blocks below the first prompt run once and are kept, because nothing in them can learn;
- in the last block only EOT gets a query and an MLP.

N sentences, S shared rows, T packed rows in all, D tower width, C joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from anprompt.clip.kernels import Packing
from anprompt.clip.plan import PromptPlan, PromptWrite

if TYPE_CHECKING:
    from anprompt.clip.backbone import Backbone

NO_PROMPTS = PromptPlan()


@dataclass(frozen=True)
class _Step:
    """What the sentences' own rows meet before and in one block."""

    moved: Tensor | None  # (R, D) rows that cease to be shared and stand before each sentence's own from now on
    writes: tuple[PromptWrite, ...]  # into the own rows, ``at`` counted from the first of them
    shared: Tensor | None  # (S, 2D) keys and values of the rows before


class Sentences:
    """A fixed list of tokenised sentences. truncate: cut those that are too long instead of refusing them."""

    def __init__(self, backbone: Backbone, texts: Sequence[str], *, truncate: bool = False) -> None:
        self._backbone = backbone
        ids = backbone.tokenizer(texts, truncate=truncate)  # (N, context)
        eot = (ids == backbone.config.eot_id).int().argmax(dim=1)  # (N,) first EOT of each
        self.ids, self.eot = ids.to(backbone.device), eot.to(backbone.device)
        same = (ids == ids[0]).all(dim=0).int()
        prefix = min(int(same.cumprod(0).sum()), int(eot.min()))  # EOT is always a sentence's own row
        lengths: list[int] = (eot + 1 - prefix).tolist()
        self._order = sorted(range(len(lengths)), key=lengths.__getitem__)
        self._groups = [(len(list(same_length)), n) for n, same_length in groupby(sorted(lengths))]
        self._prefix = prefix
        self._trunk: tuple[int, str, Tensor, Tensor] | None = None  # block, precision, its input: shared and own rows

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def features(self, plan: PromptPlan = NO_PROMPTS) -> Tensor:
        """Encode all sentences under ``plan``: ``(N, C)``, fp32, not normalised; gradients reach the plan.

        With ``backbone.class_chunk`` set, that many sentences run at a time when gradients are wanted, and their
        activations are made again in the backward pass: less memory for about a third more time in the text tower.
        """
        plan.check(self._backbone.text.depth)
        if plan.reach:
            return self._plain(plan)
        tower = self._backbone.text
        first = plan.first_block or 1
        prefix, own = self._below(first)
        steps = self._shared_rows(prefix, first, plan)
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
        back = torch.empty(len(self), dtype=torch.long)
        back[self._order] = torch.arange(len(self))
        out: Tensor = tower.read(read[back.to(read.device)])
        return out

    def _plain(self, plan: PromptPlan) -> Tensor:
        """Without short cuts that an adapter's reach would break: the longest sentence and ``reach`` tokens more."""
        tower, length = self._backbone.text, int(self.eot.max()) + 1 + plan.reach
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
        precision = self._backbone.precision
        if self._trunk is None or self._trunk[:2] != (block, precision):
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
            self._trunk = (block, precision, prefix, own)
        return self._trunk[2:]

    def _shared_rows(self, x: Tensor, first: int, plan: PromptPlan) -> list[_Step]:
        """Run the shared rows ``(S, D)`` through the blocks from ``first`` and note what the own rows need of them."""
        tower, steps = self._backbone.text, []
        for number in range(first, tower.depth + 1):
            block, moved = tower.block(number), None
            inside: list[PromptWrite] = []
            for write in plan.before(number):
                if write.at is None:
                    raise ValueError("a prompt at the end of the sequence would stand behind EOT, where no text looks")
                end = write.at + (write.length if write.how == "overwrite" else 0)
                if write.tokens.dim() == 2 and end <= len(x):
                    x = write.apply(x[None])[0]
                    continue
                if write.at < len(x):  # different from class to class from here on, and so is all that follows
                    assert not inside, "a plan must write from left to right"
                    moved, x = x[write.at :], x[: write.at]
                inside.append(PromptWrite(number, write.tokens, write.how, write.at - len(x), write.mix))
            shared = block.keys_values(x, plan.inside(number)) if len(x) else None
            steps.append(_Step(moved, tuple(inside), shared))
            if number < tower.depth and len(x):
                packing = Packing.equal(1, len(x))
                x = plan.adapt(number, block.packed(x, packing, True, inside=plan.inside(number)))
        return steps

    def _own_rows(
        self, x: Tensor, groups: list[tuple[int, int]], order: list[int], first: int, steps: list[_Step],
        plan: PromptPlan,
    ) -> Tensor:  # fmt: skip
        """Run packed own rows ``(T, D)`` of the sentences ``order`` to the end: EOT's outputs ``(N, D)``."""
        tower = self._backbone.text
        for number, step in enumerate(steps, start=first):
            x, groups = _edit(x, groups, order, step)
            packing = Packing(tuple(groups))
            read = packing.last_rows().to(x.device) if number == tower.depth else None
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


def _edit(
    x: Tensor, groups: list[tuple[int, int]], order: list[int], step: _Step
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Own rows ``(T, D)`` and their groups after a step's rows moved in and its writes happened."""
    if step.moved is None and not step.writes:
        return x, groups
    parts, edited, row, sentence = [], [], 0, 0
    for n, length in groups:
        rows = x[row : row + n * length].view(n, length, -1)
        if step.moved is not None:
            rows = torch.cat([step.moved.expand(n, -1, -1), rows], dim=1)
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
