"""Attention and MLP of frozen blocks on packed rows.

Rows of all sequences lie one after another, ``(T, D)``, so that every linear map is one matrix product without padding.
On a CPU both functions are written with their own backward pass: weights are frozen, so only gradients of rows are
made; work goes through in pieces that fit the cache, where a fresh array for each intermediate would cost more time in
page faults than its arithmetic; and probabilities are made again rather than kept. Elsewhere PyTorch's own fused
attention is used. The arithmetic is the same: ``tests/test_kernels.py`` compares both with the plain formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PIECE = 512  # rows that go through the MLP together; 512 · 3072 numbers fit a second-level cache or nearly
QUICK = 1.702

aten = torch.ops.aten


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI's fast approximation of GELU: x · sigmoid(1.702 x)."""
    return F.silu(QUICK * x) / QUICK


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


# name -> (function, gradient from the output's gradient and the input)
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "quick_gelu": (quick_gelu, lambda grad, x: aten.silu_backward(grad, QUICK * x)),
    "gelu": (F.gelu, lambda grad, x: aten.gelu_backward(grad, x)),
    "gelu_pytorch_tanh": (gelu_tanh, lambda grad, x: aten.gelu_backward(grad, x, approximate="tanh")),
}


@dataclass(frozen=True)
class Packing:
    """How sequences lie in packed rows: groups of ``n`` sequences of ``length`` rows each, one after another."""

    groups: tuple[tuple[int, int], ...]  # (n, length)

    @staticmethod
    def equal(count: int, length: int) -> Packing:
        """``count`` sequences of one length, in groups small enough for the cache."""
        n = max(1, min(count, PIECE // 2 // max(1, length)))
        whole, rest = divmod(count, n)
        return Packing(((n, length),) * whole + (((rest, length),) if rest else ()))

    @property
    def sequences(self) -> int:
        return sum(n for n, _ in self.groups)

    @property
    def rows(self) -> int:
        return sum(n * length for n, length in self.groups)

    def spans(self, reads: int | None = None) -> Iterator[tuple[int, int, slice, slice]]:
        """(n, length, rows of the keys, rows of the queries) of each group; ``reads`` queries a sequence, or all."""
        k = q = 0
        for n, length in self.groups:
            r = length if reads is None else reads
            yield n, length, slice(k, k + n * length), slice(q, q + n * r)
            k, q = k + n * length, q + n * r

    def last_rows(self) -> Tensor:
        """Index of each sequence's last row, ``(N,)``."""
        lengths = torch.tensor([length for n, length in self.groups for _ in range(n)])
        return lengths.cumsum(0) - 1


@cache
def _future(length: int, dtype: torch.dtype) -> Tensor:
    """``(L, L)``: −∞ where a key lies after the query."""
    return torch.full((length, length), -math.inf, dtype=dtype).triu(1)


def attend(
    queries: Tensor | None, rows: Tensor, shared: Tensor | None, packing: Packing, heads: int, causal: bool
) -> Tensor:
    """Softmax attention within each sequence, and from every query to the ``shared`` rows before it.

    queries: ``(N·r, D)``, r a sequence, which see all rows of theirs; ``None``: they are in ``rows``.
    rows: ``(T, 2D)`` keys and values, or ``(T, 3D)`` queries, keys and values.
    shared: ``(S, 2D)`` keys and values that all sequences have in common, computed once; gradients add up in them.
    causal: a row sees only itself and earlier rows; only for queries in ``rows``.
    Returns ``(N·r, D)`` or ``(T, D)``.
    """
    if rows.device.type == "cpu":
        out: Tensor = _Attention.apply(queries, rows, shared, packing, heads, causal)
        return out
    return _attend_fused(queries, rows, shared, packing, heads, causal)


def _attend_fused(
    queries: Tensor | None, rows: Tensor, shared: Tensor | None, packing: Packing, heads: int, causal: bool
) -> Tensor:
    """The same with PyTorch's fused attention, one call a group."""
    if queries is None:
        queries, rows = rows.split([rows.shape[1] // 3, rows.shape[1] // 3 * 2], dim=1)
        reads = None
    else:
        reads = queries.shape[0] // packing.sequences
    d = queries.shape[1]

    def by_head(x: Tensor, n: int) -> Tensor:
        return x.reshape(n, -1, heads, d // heads).transpose(1, 2)  # (n, H, L, D/H)

    parts = []
    for n, length, own, asked in packing.spans(reads):
        kv = rows[own].view(n, length, 2 * d)
        mask = None
        if shared is not None:
            kv = torch.cat([shared.expand(n, -1, -1), kv], dim=1)  # (n, S + L, 2D)
        if causal and reads is None:
            before = kv.shape[1] - length
            mask = torch.ones(length, kv.shape[1], dtype=torch.bool, device=kv.device).tril(before)
        k, v = by_head(kv[..., :d], n), by_head(kv[..., d:], n)
        x = F.scaled_dot_product_attention(by_head(queries[asked], n), k, v, attn_mask=mask)
        parts.append(x.transpose(1, 2).reshape(-1, d))
    return torch.cat(parts)


class _Group:
    """Views of one group's rows by head, and its probabilities. H heads of width h."""

    def __init__(self, q: Tensor, kv: Tensor, shared: Tensor | None, n: int, heads: int, causal: bool) -> None:
        d = q.shape[1]
        self.n, self.heads, self.width = n, heads, d // heads
        self.q = q.reshape(n, -1, heads, self.width).transpose(1, 2) * self.width**-0.5  # (n, H, R, h)
        self.k, self.v = self.by_head(kv[:, :d]), self.by_head(kv[:, d:])  # (n, H, L, h)
        scores = self.q @ self.k.transpose(2, 3)  # (n, H, R, L)
        if causal:
            scores += _future(scores.shape[-1], scores.dtype)
        self.s = 0
        if shared is not None:
            self.s = shared.shape[0]
            self.k_shared = shared[:, :d].view(self.s, heads, self.width).transpose(0, 1)  # (H, S, h)
            self.v_shared = shared[:, d:].view(self.s, heads, self.width).transpose(0, 1)
            ahead = self.flat(self.q) @ self.k_shared.transpose(1, 2)  # (H, n·R, S)
            scores = torch.cat([self.unflat(ahead), scores], dim=3)
        self.p = scores.softmax(dim=3)  # (n, H, R, S + L), summed in fp32 inside

    def by_head(self, x: Tensor) -> Tensor:
        """``(n·L, D)`` -> ``(n, H, L, h)``."""
        return x.reshape(self.n, -1, self.heads, self.width).transpose(1, 2)

    def flat(self, x: Tensor) -> Tensor:
        """``(n, H, R, ·)`` -> ``(H, n·R, ·)``: one product for all sequences, where they meet shared rows."""
        return x[0] if self.n == 1 else x.transpose(0, 1).reshape(self.heads, -1, x.shape[-1])

    def unflat(self, x: Tensor) -> Tensor:
        """Back to ``(n, H, R, ·)``."""
        return x.view(self.heads, self.n, -1, x.shape[-1]).transpose(0, 1)

    def output(self) -> Tensor:
        """``(n, R, H, h)``, a view."""
        out = self.p[..., self.s :] @ self.v
        if self.s:
            out = out + self.unflat(self.flat(self.p[..., : self.s]) @ self.v_shared)
        return out.transpose(1, 2)


class _Attention(torch.autograd.Function):
    """:func:`attend`, group by group; the probabilities are made again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor | None, rows: Tensor, shared: Tensor | None, packing: Packing, heads: int,
        causal: bool,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(queries, rows, shared)
        ctx.settings = packing, heads, causal
        d = rows.shape[1] // 3 if queries is None else queries.shape[1]
        count = rows.shape[0] if queries is None else queries.shape[0]
        out = rows.new_empty(count, d)
        for group, asked, _ in _groups(queries, rows, shared, packing, heads, causal):
            out[asked].view(group.n, -1, heads, d // heads).copy_(group.output())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, rows, shared = ctx.saved_tensors
        packing, heads, causal = ctx.settings
        d = grads[0].shape[1]
        own = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        d_queries = torch.empty_like(queries) if own and queries is not None else None
        d_rows = torch.empty_like(rows) if own else None
        d_shared = torch.zeros_like(shared, dtype=torch.float32) if ctx.needs_input_grad[2] else None
        for group, asked, held in _groups(queries, rows, shared, packing, heads, causal):
            s = group.s
            d_out = group.by_head(grads[0][asked])  # (n, H, R, h)
            d_p = d_out @ group.v.transpose(2, 3)
            if s:
                d_p = torch.cat([group.unflat(group.flat(d_out) @ group.v_shared.transpose(1, 2)), d_p], dim=3)
            d_scores = aten._softmax_backward_data(d_p, group.p, 3, group.p.dtype)  # (n, H, R, S + L)
            if d_shared is not None:
                d_k = group.flat(d_scores[..., :s]).transpose(1, 2) @ group.flat(group.q)  # (H, S, h)
                d_v = group.flat(group.p[..., :s]).transpose(1, 2) @ group.flat(d_out)
                d_shared[:, :d] += d_k.transpose(0, 1).reshape(s, d)
                d_shared[:, d:] += d_v.transpose(0, 1).reshape(s, d)
            if d_rows is None:
                continue
            d_q = d_scores[..., s:] @ group.k
            if s:
                d_q = d_q + group.unflat(group.flat(d_scores[..., :s]) @ group.k_shared)
            d_k = d_scores[..., s:].transpose(2, 3) @ group.q  # (n, H, L, h)
            d_v = group.p[..., s:].transpose(2, 3) @ d_out
            first = 0 if queries is not None else d  # column of the keys
            at = d_rows[held] if d_queries is None else d_queries[asked]
            for part, into in ((d_q * group.width**-0.5, at[:, :d]), (d_k, d_rows[held, first : first + d]),
                               (d_v, d_rows[held, first + d :])):  # fmt: skip
                into.unflatten(0, (group.n, -1)).unflatten(2, (heads, -1)).copy_(part.transpose(1, 2))
        return d_queries, d_rows, None if d_shared is None else d_shared.to(shared.dtype), None, None, None


def _groups(
    queries: Tensor | None, rows: Tensor, shared: Tensor | None, packing: Packing, heads: int, causal: bool
) -> Iterator[tuple[_Group, slice, slice]]:
    """(group, its rows among the queries, its rows among the keys), one at a time."""
    reads = None if queries is None else queries.shape[0] // packing.sequences
    d = rows.shape[1] // 3
    for n, _, held, asked in packing.spans(reads):
        q, kv = (rows[held, :d], rows[held, d:]) if queries is None else (queries[asked], rows[held])
        yield _Group(q, kv, shared, n, heads, causal and queries is None), asked, held


def mlp(x: Tensor, fc: torch.nn.Linear, proj: torch.nn.Linear, activation: str) -> Tensor:
    """``proj(activation(fc(x)))`` of packed rows ``(T, D)``; ``fc`` and ``proj`` are frozen."""
    if x.device.type != "cpu":
        out: Tensor = proj(ACTIVATIONS[activation][0](fc(x)))
        return out
    out = _Mlp.apply(x, fc.weight, fc.bias, proj.weight, proj.bias, activation)
    return out


class _Mlp(torch.autograd.Function):
    """:func:`mlp`, some rows at a time: the hidden rows stay in the cache, only ``fc``'s output is kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor, activation: str
    ) -> Tensor:
        function = ACTIVATIONS[activation][0]
        kept = x.new_empty(x.shape[0], w_in.shape[0]) if ctx.needs_input_grad[0] else None  # (T, 4D)
        out = torch.empty_like(x)
        for start in range(0, x.shape[0], PIECE):
            piece = slice(start, start + PIECE)
            if kept is None:
                hidden = F.linear(x[piece], w_in, b_in)
            else:
                hidden = torch.addmm(b_in, x[piece], w_in.T, out=kept[piece])
            torch.addmm(b_out, function(hidden), w_out.T, out=out[piece])
        if kept is not None:
            ctx.save_for_backward(kept, w_in, w_out)
            ctx.activation = activation
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept, w_in, w_out = ctx.saved_tensors
        gradient = ACTIVATIONS[ctx.activation][1]
        d_x = torch.empty_like(grads[0])
        for start in range(0, kept.shape[0], PIECE):
            piece = slice(start, start + PIECE)
            torch.mm(gradient(grads[0][piece] @ w_out, kept[piece]), w_in, out=d_x[piece])
        return d_x, None, None, None, None, None
