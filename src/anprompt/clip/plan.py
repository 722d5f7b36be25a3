"""Prompts as data: which tokens stand where in a tower, from which block on.

A method describes its prompts with a :class:`PromptPlan` and hands it to a tower. The tower runs it, and may take any
exact short cut that the description allows. No method edits a tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class PromptWrite:
    """Tokens written into the sequence just before one block runs.

    block: 1-based number of the block before which the tokens are written.
    tokens: ``(K, D)``, shared by the batch, or ``(B, K, D)``, one set per batch element.
    how: ``"insert"`` lengthens the sequence by K; ``"overwrite"`` replaces K positions, mixing with what stood there:
        ``mix · tokens + (1 − mix) · previous``.
    at: index of the first written token; ``None`` means at the end of the sequence.
    mix: weight of the new tokens, 1 = plain overwrite. Ignored for ``"insert"``.
    """

    block: int
    tokens: Tensor
    how: Literal["insert", "overwrite"]
    at: int | None = 1
    mix: float = 1.0

    @property
    def length(self) -> int:
        """Number of tokens K."""
        return int(self.tokens.shape[-2])

    def apply(self, x: Tensor) -> Tensor:
        """Return the sequence ``(B, N, D)`` with the tokens written: ``(B, N + K, D)`` for an insertion."""
        tokens = self.tokens.to(x.dtype)
        if tokens.dim() == 2:
            tokens = tokens.expand(x.shape[0], -1, -1)  # (K, D) -> (B, K, D)
        if self.how == "insert":
            start = x.shape[1] if self.at is None else self.at
            return torch.cat([x[:, :start], tokens, x[:, start:]], dim=1)
        start = x.shape[1] - self.length if self.at is None else self.at
        end = start + self.length
        if self.mix != 1.0:
            tokens = self.mix * tokens + (1.0 - self.mix) * x[:, start:end]
        return torch.cat([x[:, :start], tokens, x[:, end:]], dim=1)


Place = Literal["output", "input", "qkv", "hidden"]


@dataclass(frozen=True)
class BlockAdapter:
    """A learned function whose result is added to rows ``(..., ·)`` in or behind one block.

    block: 1-based number of the block.
    function: gets fp32 rows.
    where: what it is added to, and what it gets: ``"output"``, the block's output ``(..., D)``; ``"input"``, what the
        attention's maps get, behind the first norm; ``"hidden"``, the MLP's hidden rows before the activation; or
        ``"qkv"``, queries, keys and values: then it gets what these are made of, and gives ``(..., 3D)``.
    reach: up to how many positions to either side influence a row's result. 0, the default, says that rows are treated
        one by one: then all short cuts stay exact. Otherwise ``function`` gets whole sequences ``(B, L, D)``, sentences
        keep that many tokens behind EOT for each such adapter, and nothing is shared, packed or left out.
    """

    block: int
    function: Callable[[Tensor], Tensor]
    reach: int = 0
    where: Place = "output"


@dataclass(frozen=True)
class Inside:
    """The adapters in one block."""

    adapters: tuple[BlockAdapter, ...]

    def has(self, where: Place) -> bool:
        return any(adapter.where == where for adapter in self.adapters)

    def added(self, where: Place, to: Tensor, rows: Tensor | None = None) -> Tensor:
        """``to`` and what the adapters there make of ``rows``, or of ``to`` itself."""
        for adapter in self.adapters:
            if adapter.where == where:
                to = to + adapter.function((to if rows is None else rows).float()).to(to.dtype)
        return to


NOTHING = Inside(())


@dataclass(frozen=True)
class PromptPlan:
    """All writes of one pass through one tower, in the order in which they happen, and adapters, if there are any.

    allowed: for a vision tower, which rows of a sequence of L tokens may attend to which: ``(L, L)`` of booleans;
        ``None``: all to all. With it nothing is left out.
    """

    writes: tuple[PromptWrite, ...] = ()
    adapters: tuple[BlockAdapter, ...] = ()
    allowed: Callable[[int], Tensor] | None = None

    @staticmethod
    def deep(tokens: Mapping[int, Tensor], *, at: int | None = 1, mix: float = 1.0) -> PromptPlan:
        """Insert tokens before the first named block and overwrite them before each later one.

        tokens: block number (1-based) -> ``(K, D)`` or ``(B, K, D)``; every entry has the same K.
        mix: weight of the new tokens against the previous block's output at the later blocks.
        """
        blocks = sorted(tokens)
        return PromptPlan(
            tuple(
                PromptWrite(block, tokens[block], "insert" if block == blocks[0] else "overwrite", at, mix)
                for block in blocks
            )
        )

    @property
    def blocks(self) -> list[int]:
        """The blocks that the entries name."""
        return [write.block for write in self.writes] + [adapter.block for adapter in self.adapters]

    @property
    def first_block(self) -> int | None:
        """The lowest block that is not just the frozen encoder's; everything below can be kept. ``None``: no such."""
        return 1 if self.allowed is not None else min(self.blocks, default=None)

    @property
    def reach(self) -> int:
        """How far to the right a row can see through all adapters together."""
        return sum(adapter.reach for adapter in self.adapters)

    def before(self, block: int) -> tuple[PromptWrite, ...]:
        """The writes that happen just before ``block``."""
        return tuple(write for write in self.writes if write.block == block)

    def inside(self, block: int) -> Inside:
        """The adapters in ``block``."""
        own = tuple(a for a in self.adapters if a.block == block and a.where != "output")
        return Inside(own) if own else NOTHING

    def adapt(self, block: int, x: Tensor) -> Tensor:
        """Apply the adapters behind ``block`` to its output."""
        for adapter in self.adapters:
            if adapter.block == block and adapter.where == "output":
                x = x + adapter.function(x)
        return x

    def replaced(self, block: int) -> bool:
        """Whether ``block``'s output at all prompt positions is overwritten before the next block, so that nobody reads
        it: at that block prompts serve as keys and values only."""
        following = self.before(block + 1)
        return bool(following) and all(write.how == "overwrite" and write.mix == 1.0 for write in following)

    def shifted(self, positions: Tensor) -> Tensor:
        """Where tokens that stood at ``positions`` of the plain sequence stand after all insertions (any shape)."""
        for write in self.writes:
            if write.how == "insert" and write.at is not None:
                positions = torch.where(positions >= write.at, positions + write.length, positions)
        return positions

    def check(self, depth: int) -> None:
        """Raise ``ValueError`` when an entry names a block outside 1..``depth``: a fault of the calling method."""
        outside = [block for block in self.blocks if not 1 <= block <= depth]
        if outside:
            raise ValueError(f"the plan names blocks {outside}, but the tower has blocks 1 to {depth}")
