"""Attention and MLP on packed rows against the plain formulas: values and gradients, shared rows, uneven lengths."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anprompt.clip.kernels import ACTIVATIONS, PIECE, Packing, _attend_fused, attend, mlp

HEADS, WIDTH = 2, 8
ATTEND = {"own backward": attend, "fused": _attend_fused}
groups = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=3).map(tuple)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def literal(queries: Tensor | None, rows: Tensor, shared: Tensor | None, packing: Packing, causal: bool) -> Tensor:
    """Softmax attention, one sequence, head and query at a time; ``shared`` are ``(V, S, 2D)``."""
    d = WIDTH
    out, row = [], 0
    reads = None if queries is None else queries.shape[0] // packing.sequences
    lengths = [length for n, length in packing.groups for _ in range(n)]
    for number, length in enumerate(lengths):
        own = rows[row : row + length]
        row += length
        asked = own[:, :d] if queries is None or reads is None else queries[number * reads : (number + 1) * reads]
        kv = own[:, -2 * d :]
        if shared is not None:
            kv = torch.cat([shared[number * len(shared) // len(lengths)], kv])
        before = len(kv) - length
        for i, query in enumerate(asked):
            seen = kv[: before + i + 1] if causal and queries is None else kv
            heads = []
            for head in range(HEADS):
                at = slice(head * d // HEADS, (head + 1) * d // HEADS)
                p = (seen[:, :d][:, at] @ query[at] / math.sqrt(d / HEADS)).softmax(0)
                heads.append(p @ seen[:, d:][:, at])
            out.append(torch.cat(heads))
    return torch.stack(out)


@settings(max_examples=40, deadline=None)
@given(
    groups=groups, shared=st.integers(0, 3), runs=st.integers(1, 3), reads=st.one_of(st.none(), st.integers(1, 3)),
    causal=st.booleans(), which=st.sampled_from(sorted(ATTEND)),
)  # fmt: skip
def test_attention_equals_the_formula(
    groups: tuple[tuple[int, int], ...], shared: int, runs: int, reads: int | None, causal: bool, which: str
) -> None:
    packing = Packing(groups * runs)
    queries = None if reads is None else random(packing.sequences * reads, WIDTH, seed=1)
    rows = random(packing.rows, (3 if reads is None else 2) * WIDTH, seed=2)
    ahead = random(runs, shared, 2 * WIDTH, seed=3) if shared else None
    inputs = [x for x in (queries, rows, ahead) if x is not None]
    ours = ATTEND[which](queries, rows, ahead, packing, HEADS, causal)
    plain = literal(queries, rows, ahead, packing, causal)
    torch.testing.assert_close(ours, plain)
    weight = random(*ours.shape, seed=4).detach()
    for mine, other in zip(
        torch.autograd.grad((ours * weight).sum(), inputs), torch.autograd.grad((plain * weight).sum(), inputs),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(
    ("packing", "runs", "calls"),
    [
        (Packing.equal(40, 197), 0, 1),  # pictures, which a CPU takes one by one
        (Packing.equal(40, 197), 1, 1),
        (Packing(((2, 3), (4, 5), (3, 6)) * 4), 4, 3),  # sentences, under four variants of what stands before them
    ],
)
def test_off_the_cpu_sequences_of_one_length_are_one_call(
    packing: Packing, runs: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, queries = random(packing.rows, 3 * WIDTH), random(3 * packing.sequences, WIDTH, seed=1)
    shared = random(runs, 2, 2 * WIDTH, seed=2) if runs else None
    fused = mock.Mock(wraps=F.scaled_dot_product_attention)
    monkeypatch.setattr(F, "scaled_dot_product_attention", fused)
    for asked, own, causal in ((None, rows, False), (None, rows, True), (queries, rows[:, WIDTH:], False)):
        fused.reset_mock()
        out = _attend_fused(asked, own, shared, packing, HEADS, causal)
        assert fused.call_count == calls
        torch.testing.assert_close(out, attend(asked, own.contiguous(), shared, packing, HEADS, causal))


def test_gradients_that_nobody_wants_are_not_made() -> None:
    """In the first prompted block only the prompts' keys and values learn, not the pictures' own rows."""
    packing = Packing(((2, 3),))
    rows, shared = random(6, 3 * WIDTH).detach(), random(2, 2 * WIDTH, seed=1)
    ours = attend(None, rows, shared, packing, HEADS, False)
    (mine,) = torch.autograd.grad(ours.sum(), [shared])
    (other,) = torch.autograd.grad(literal(None, rows, shared[None], packing, False).sum(), [shared])
    torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rows", [3, PIECE + 5])
def test_mlp_equals_its_composition(activation: str, rows: int) -> None:
    torch.manual_seed(0)
    fc, proj = nn.Linear(6, 10).double().requires_grad_(False), nn.Linear(10, 6).double().requires_grad_(False)
    x = random(rows, 6)
    formula = {
        "quick_gelu": lambda h: h * torch.sigmoid(1.702 * h),
        "gelu": lambda h: 0.5 * h * (1 + torch.erf(h / math.sqrt(2))),
        "gelu_pytorch_tanh": lambda h: 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))),
    }[activation]
    ours, plain = mlp(x, fc, proj, activation), proj(formula(fc(x)))
    torch.testing.assert_close(ours, plain)
    weight = random(*ours.shape, seed=4).detach()
    (mine,) = torch.autograd.grad((ours * weight).sum(), [x])
    (other,) = torch.autograd.grad((plain * weight).sum(), [x])
    torch.testing.assert_close(mine, other)


def test_lower_precision_stays_close() -> None:
    """bf16 rows: softmax sums in fp32 inside, so the error is that of rounding inputs and outputs."""
    packing = Packing.equal(3, 40)
    rows = random(120, 3 * WIDTH, dtype=torch.float32)
    exact = literal(None, rows, None, packing, False)
    rough = attend(None, rows.bfloat16(), None, packing, HEADS, False).float()
    assert (rough - exact).norm() < 0.01 * exact.norm()
    (mine,) = torch.autograd.grad(rough.square().sum(), [rows], retain_graph=True)
    (other,) = torch.autograd.grad(exact.square().sum(), [rows])
    assert (mine - other).norm() < 0.02 * other.norm()


@given(count=st.integers(1, 300), length=st.integers(1, 300))
def test_equal_packing_holds_all_sequences(count: int, length: int) -> None:
    packing = Packing.equal(count, length)
    assert packing.sequences == count
    assert packing.rows == count * length
    assert {own for _, own in packing.groups} == {length}
    assert torch.equal(packing.last_rows(), torch.arange(1, count + 1) * length - 1)
