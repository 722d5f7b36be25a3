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
from itertools import groupby
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

    def run_of(self, group: int, shared: Tensor) -> int:
        """Which of the V equal runs of groups, with ``shared`` rows ``(V, S, ·)``, group number ``group`` is in."""
        return group * len(shared) // len(self.groups)

    def merged(self, runs: int) -> Packing:
        """One of ``runs`` equal runs of groups, neighbours of one length in one group: fewer calls, but larger ones."""
        one = self.groups[: len(self.groups) // runs]
        return Packing(tuple((sum(n for n, _ in same), length) for length, same in groupby(one, key=lambda g: g[1])))

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
    shared: ``(S, 2D)`` keys and values that all sequences have in common, computed once; gradients add up in them. Or
        ``(V, S, 2D)``: the groups are V equal runs, each with its own.
    causal: a row sees only itself and earlier rows; only for queries in ``rows``.
    Returns ``(N·r, D)`` or ``(T, D)``.
    """
    if shared is not None and shared.dim() == 2:
        shared = shared[None]
    if rows.device.type == "cpu":
        out: Tensor = _Attention.apply(queries, rows, shared, packing, heads, causal)  # type: ignore[no-untyped-call]
        return out
    return _attend_fused(queries, rows, shared, packing, heads, causal)


def _attend_fused(
    queries: Tensor | None, rows: Tensor, shared: Tensor | None, packing: Packing, heads: int, causal: bool
) -> Tensor:
    """The same with PyTorch's fused attention, one call for each length; ``shared`` are ``(V, S, 2D)``."""
    if queries is None:
        queries, rows = torch.split(rows, [rows.shape[1] // 3, rows.shape[1] // 3 * 2], dim=1)
        reads = None
    else:
        reads = queries.shape[0] // packing.sequences
    d, runs = queries.shape[1], 1 if shared is None else len(shared)
    queries, rows = queries.reshape(runs, -1, d), rows.reshape(runs, -1, 2 * d)  # (V, ·, D), (V, T/V, 2D)

    def by_head(x: Tensor, sequences: int) -> Tensor:
        return x.reshape(sequences, -1, heads, d // heads).transpose(1, 2)  # (V·n, H, L, D/H)

    parts = []
    for n, length, own, asked in packing.merged(runs).spans(reads):
        kv = rows[:, own].reshape(runs * n, length, 2 * d)
        mask = None
        if shared is not None:
            ahead = shared[:, None].expand(-1, n, -1, -1).flatten(0, 1)  # (V·n, S, 2D)
            kv = torch.cat([ahead, kv], dim=1)  # (V·n, S + L, 2D)
        if causal and reads is None:
            before = kv.shape[1] - length
            mask = torch.ones(length, kv.shape[1], dtype=torch.bool, device=kv.device).tril(before)
        k, v = by_head(kv[..., :d], runs * n), by_head(kv[..., d:], runs * n)
        x = F.scaled_dot_product_attention(by_head(queries[:, asked], runs * n), k, v, attn_mask=mask)
        parts.append(x.transpose(1, 2).reshape(runs, -1, d))
    return torch.cat(parts, dim=1).flatten(0, 1)


class _Group:
    """One group's rows by head, contiguous, and its probabilities. R queries and L keys a sequence, H heads of width h.

    Where sequences meet shared rows, one product serves all of them: ``flat`` and ``unflat`` go there and back.
    """

    def __init__(
        self, queries: Tensor | None, rows: Tensor, shared: Tensor | None, n: int, heads: int, causal: bool
    ) -> None:
        self.n, self.heads = n, heads
        parts = self.by_head(rows, 3 if queries is None else 2)  # (2 or 3, n, H, L, h)
        self.q = parts[0] if queries is None else self.by_head(queries, 1)[0]  # (n, H, R, h)
        self.k, self.v = parts[-2], parts[-1]  # (n, H, L, h)
        self.scale = self.q.shape[-1] ** -0.5
        self.q *= self.scale
        scores = self.q @ self.k.transpose(2, 3)  # (n, H, R, L)
        if causal:
            scores += _future(scores.shape[-1], scores.dtype)
        self.s = 0
        if shared is not None:
            self.s = len(shared)
            self.k_shared, self.v_shared = shared.view(self.s, 2, heads, -1).permute(1, 2, 0, 3)  # (H, S, h) each
            ahead = self.flat(self.q) @ self.k_shared.transpose(1, 2)  # (H, n·R, S)
            scores = torch.cat([self.unflat(ahead), scores], dim=3)
        self.p = scores.softmax(dim=3)  # (n, H, R, S + L); exponentials and sums are fp32 inside

    def by_head(self, x: Tensor, parts: int) -> Tensor:
        """``(n·L, parts·D)`` -> ``(parts, n, H, L, h)``, copied."""
        return (
            x.view(self.n, -1, parts, self.heads, x.shape[1] // parts // self.heads)
            .permute(2, 0, 3, 1, 4)
            .clone(memory_format=torch.contiguous_format)
        )

    def by_row(self, x: Tensor, out: Tensor) -> None:
        """Copy ``(parts, n, H, L, h)`` into the rows ``out`` ``(n·L, parts·D)``."""
        out.view(self.n, -1, x.shape[0], self.heads, x.shape[-1]).copy_(x.permute(1, 3, 0, 2, 4))

    def flat(self, x: Tensor) -> Tensor:
        """``(n, H, R, ·)`` -> ``(H, n·R, ·)``."""
        return x[0] if self.n == 1 else x.transpose(0, 1).reshape(self.heads, -1, x.shape[-1])

    def unflat(self, x: Tensor) -> Tensor:
        """``(H, n·R, ·)`` -> ``(n, H, R, ·)``."""
        return x.view(self.heads, self.n, -1, x.shape[-1]).transpose(0, 1)

    def output(self) -> Tensor:
        """``(n, H, R, h)``."""
        out = self.p[..., self.s :] @ self.v
        if self.s:
            out += self.unflat(self.flat(self.p[..., : self.s]) @ self.v_shared)
        return out


class _Attention(torch.autograd.Function):
    """:func:`attend`, group by group; ``shared`` are ``(V, S, 2D)``. Probabilities are made again going back."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor | None, rows: Tensor, shared: Tensor | None, packing: Packing, heads: int,
        causal: bool,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(queries, rows, shared)
        ctx.settings = packing, heads, causal
        count, d = (rows.shape[0], rows.shape[1] // 3) if queries is None else queries.shape
        out = rows.new_empty(count, d)
        for group, asked, *_ in _groups(queries, rows, shared, packing, heads, causal):
            group.by_row(group.output()[None], out[asked])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, rows, shared = ctx.saved_tensors
        own = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        d_queries = torch.empty_like(queries) if own and queries is not None else None
        d_rows = torch.empty_like(rows) if own else None
        d_shared = torch.zeros_like(shared, dtype=torch.float32) if ctx.needs_input_grad[2] else None
        for group, asked, held, run in _groups(queries, rows, shared, *ctx.settings):
            s, p = group.s, group.p
            d_out = group.by_head(grads[0][asked], 1)[0]  # (n, H, R, h)
            d_p = d_out @ group.v.transpose(2, 3)
            if s:
                d_p = torch.cat([group.unflat(group.flat(d_out) @ group.v_shared.transpose(1, 2)), d_p], dim=3)
            d_scores = aten._softmax_backward_data(d_p, p, 3, p.dtype)  # (n, H, R, S + L)
            ahead, within = d_scores[..., :s], d_scores[..., s:]
            if d_shared is not None:
                d_k = group.flat(ahead).transpose(1, 2) @ group.flat(group.q)  # (H, S, h)
                d_v = group.flat(p[..., :s]).transpose(1, 2) @ group.flat(d_out)
                d_shared[run] += torch.stack([d_k, d_v]).permute(2, 0, 1, 3).reshape(d_shared.shape[1:])
            if d_rows is None:
                continue
            d_q = within @ group.k
            if s:
                d_q += group.unflat(group.flat(ahead) @ group.k_shared)
            d_q *= group.scale
            d_k, d_v = within.transpose(2, 3) @ group.q, p[..., s:].transpose(2, 3) @ d_out  # (n, H, L, h)
            if d_queries is None:
                group.by_row(torch.stack([d_q, d_k, d_v]), d_rows[held])
            else:
                group.by_row(d_q[None], d_queries[asked])
                group.by_row(torch.stack([d_k, d_v]), d_rows[held])
        return d_queries, d_rows, None if d_shared is None else d_shared.to(shared.dtype), None, None, None


def _groups(
    queries: Tensor | None, rows: Tensor, shared: Tensor | None, packing: Packing, heads: int, causal: bool
) -> Iterator[tuple[_Group, slice, slice, int]]:
    """(group, its rows among the queries, its rows among the keys, which shared rows are its), one at a time."""
    reads = None if queries is None else queries.shape[0] // packing.sequences
    for number, (n, _, held, asked) in enumerate(packing.spans(reads)):
        q = None if queries is None else queries[asked]
        run = 0 if shared is None else packing.run_of(number, shared)
        ahead = None if shared is None else shared[run]
        yield _Group(q, rows[held], ahead, n, heads, causal and q is None), asked, held, run


def mlp(x: Tensor, fc: torch.nn.Linear, proj: torch.nn.Linear, activation: str) -> Tensor:
    """``proj(activation(fc(x)))`` of packed rows ``(T, D)``, in and out in ``x``'s precision, products in the weights'.

    ``fc`` and ``proj`` are frozen.
    """
    if x.device.type != "cpu":
        out: Tensor = proj(ACTIVATIONS[activation][0](fc(x.to(fc.weight.dtype))))
        return out.to(x.dtype)
    result: Tensor = _Mlp.apply(x, fc.weight, fc.bias, proj.weight, proj.bias, activation)  # type: ignore[no-untyped-call]
    return result


class _Mlp(torch.autograd.Function):
    """:func:`mlp`, some rows at a time: the hidden rows stay in the cache, only ``fc``'s output is kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor, activation: str
    ) -> Tensor:
        function, kept, out = ACTIVATIONS[activation][0], [], torch.empty_like(x)
        for rows, into in zip(torch.split(x, PIECE), torch.split(out, PIECE), strict=True):
            hidden = F.linear(rows.to(w_in.dtype), w_in, b_in)
            if ctx.needs_input_grad[0]:
                kept.append(hidden)
            into.copy_(F.linear(function(hidden), w_out, b_out))
        ctx.save_for_backward(w_in, w_out, *kept)
        ctx.activation = activation
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        w_in, w_out, *kept = ctx.saved_tensors
        gradient, d_x = ACTIVATIONS[ctx.activation][1], torch.empty_like(grads[0])
        for d_out, into, hidden in zip(torch.split(grads[0], PIECE), torch.split(d_x, PIECE), kept, strict=True):
            into.copy_(gradient(d_out.to(w_out.dtype) @ w_out, hidden) @ w_in)
        return d_x, None, None, None, None, None
