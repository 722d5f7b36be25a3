"""The two transformers of CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020), runnable in spans.

Written anew rather than wrapped, because running parts of a tower with inserted tokens is what this project exists for.
Blocks are numbered from 1. Shapes: B images or N sentences, L tokens, D tower width, d joint width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip.config import ClipConfig, TowerConfig
from anprompt.clip.kernels import ACTIVATIONS, Packing, attend, mlp
from anprompt.clip.plan import NOTHING, Inside, PromptPlan


class Block(nn.Module):
    """Pre-norm transformer block with fused query, key and value projection.

    Linear maps run in their weights' precision; the rows themselves, the norms and the sums stay in fp32.
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.ln_1 = nn.LayerNorm(config.width, eps=config.eps)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.ln_2 = nn.LayerNorm(config.width, eps=config.eps)
        self.fc = nn.Linear(config.width, config.mlp)
        self.proj = nn.Linear(config.mlp, config.width)
        self.activation = config.activation

    @property
    def linears(self) -> tuple[nn.Linear, ...]:
        """The maps that hold nearly all weights and arithmetic."""
        return self.qkv, self.out, self.fc, self.proj

    def forward(
        self, x: Tensor, causal: bool, rows: Tensor | None = None, inside: Inside = NOTHING,
        allowed: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Run the block on ``(B, L, D)``, plainly: what :meth:`packed` must equal, and what pretraining differentiates.

        rows: ``(B, R)`` positions that are read afterwards. Only these get queries and an MLP, and ``(B, R, D)`` is
        returned; every position still serves as key and value. Exact: rows do not influence each other's output.
        """
        b, length, d = x.shape
        h = inside.added("input", self._norm(self.ln_1, x))
        qkv = inside.added("qkv", self.qkv(h), h)  # (B, L, 3D)
        q, k, v = qkv.view(b, length, 3, self.heads, d // self.heads).unbind(2)  # each (B, L, H, D/H)
        mask = allowed
        if rows is not None:
            at = rows[:, :, None]
            x = x.gather(1, at.expand(-1, -1, d))  # (B, R, D)
            q = q.gather(1, at[..., None].expand(-1, -1, *q.shape[2:]))  # (B, R, H, D/H)
            if allowed is not None:
                mask = allowed[rows][:, None]  # (B, 1, R, L)
            elif causal:
                mask = (torch.arange(length, device=x.device) <= at)[:, None]  # (B, 1, R, L)
        attended = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, is_causal=causal and mask is None
        )
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.fed_forward(x, inside)

    def fed_forward(self, x: Tensor, inside: Inside = NOTHING) -> Tensor:
        """What the MLP adds to rows ``(..., D)``, plainly."""
        hidden = inside.added("hidden", self.fc(self._norm(self.ln_2, x)))
        out: Tensor = self.proj(ACTIVATIONS[self.activation][0](hidden))
        return out

    def packed(
        self, x: Tensor, packing: Packing, causal: bool, shared: Tensor | None = None, read: Tensor | None = None,
        inside: Inside = NOTHING,
    ) -> Tensor:  # fmt: skip
        """Run the block on packed rows ``(T, D)``; weights must be frozen.

        shared: ``(S, 2D)`` keys and values that stand before every sequence (:meth:`keys_values`), or ``(V, S, 2D)``:
            each set before one of V equal runs of groups.
        read: index of the rows that are read afterwards, ``(N·R,)``, equally many a sequence, which must see all
            rows of their sequence: only these get queries and an MLP, and ``(N·R, D)`` is returned.
        """
        h = inside.added("input", self._norm(self.ln_1, x))
        if read is None:
            attended = attend(None, inside.added("qkv", self.qkv(h), h), shared, packing, self.heads, causal)
        elif inside.has("qkv"):
            d, qkv = x.shape[1], inside.added("qkv", self.qkv(h), h)
            attended = attend(qkv[read, :d], qkv[:, d:], shared, packing, self.heads, False)
            x = x[read]
        else:
            d, weight, bias = x.shape[1], self.qkv.weight, self.qkv.bias
            queries = F.linear(h[read], weight[:d], bias[:d])
            attended = attend(queries, F.linear(h, weight[d:], bias[d:]), shared, packing, self.heads, False)
            x = x[read]
        x = x + self.out(attended).to(x.dtype)  # a sum of two precisions is several times slower than a cast and a sum
        if inside.has("hidden"):
            return x + self.fed_forward(x, inside)
        return x + mlp(self.ln_2(x), self.fc, self.proj, self.activation)

    def value_path(self, x: Tensor, inside: Inside = NOTHING) -> Tensor:
        """The block on ``(B, L, D)`` as if each row attended to itself alone: its value in place of what it gathers."""
        d, h = x.shape[-1], inside.added("input", self._norm(self.ln_1, x))
        if inside.has("qkv"):
            values = inside.added("qkv", self.qkv(h), h)[..., 2 * d :]
        else:
            values = F.linear(h, self.qkv.weight[2 * d :], self.qkv.bias[2 * d :])
        x = x + self.out(values)
        return x + self.fed_forward(x, inside)

    def first_row_attention(self, x: Tensor, inside: Inside = NOTHING, allowed: Tensor | None = None) -> Tensor:
        """How much the first row of each ``(B, L, D)`` attends to every row: ``(B, L)``, mean over heads, sums to 1.

        allowed: ``(L, L)``, which rows may attend to which; ``None``: all to all.
        """
        d, h = x.shape[-1], inside.added("input", self._norm(self.ln_1, x))
        weight, bias = self.qkv.weight, self.qkv.bias
        if inside.has("qkv"):
            qkv = inside.added("qkv", self.qkv(h), h)  # (B, L, 3D)
            q, k = qkv[:, 0, :d], qkv[..., d : 2 * d]
        else:
            q, k = F.linear(h[:, 0], weight[:d], bias[:d]), F.linear(h, weight[d : 2 * d], bias[d : 2 * d])
        q = q.float().view(len(x), self.heads, -1)  # (B, H, D/H)
        k = k.float().view(*x.shape[:2], self.heads, -1)  # (B, L, H, D/H)
        scores = torch.einsum("bhc,blhc->bhl", q, k) * (d // self.heads) ** -0.5  # (B, H, L)
        if allowed is not None:
            scores = scores.masked_fill(~allowed[0], -torch.inf)
        attention: Tensor = scores.softmax(dim=-1).mean(dim=1)
        return attention

    def keys_values(self, x: Tensor, inside: Inside = NOTHING) -> Tensor:
        """Keys and values ``(S, 2D)`` of rows ``(S, D)``."""
        d = x.shape[1]
        if inside.adapters:
            h = inside.added("input", self._norm(self.ln_1, x))
            return inside.added("qkv", self.qkv(h), h)[..., d:]
        return F.linear(self._norm(self.ln_1, x), self.qkv.weight[d:], self.qkv.bias[d:])

    def _norm(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        out: Tensor = norm(x)
        return out.to(self.qkv.weight.dtype)


class Tower(nn.Module):
    """A stack of blocks that can be run in parts, with prompts written in between."""

    def __init__(self, config: TowerConfig, *, causal: bool) -> None:
        super().__init__()
        self.config = config
        self.causal = causal
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))

    def block(self, number: int) -> Block:
        """Block ``number``, counted from 1."""
        block = self.blocks[number - 1]
        assert isinstance(block, Block)
        return block

    @property
    def depth(self) -> int:
        return self.config.depth

    @property
    def width(self) -> int:
        return self.config.width

    def run(
        self, tokens: Tensor, first: int, last: int, plan: PromptPlan | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Run blocks ``first``..``last`` (1-based, inclusive) on ``(B, L, D)``, plainly, whatever the plan says.

        plan: prompts written before their blocks; those outside the span are not written.
        rows: ``(B, R)`` positions that are read after block ``last``; then ``(B, R, D)`` is returned.
        """
        plan = plan or PromptPlan()
        plan.check(self.depth)
        whole = plan.reach > 0 and rows is not None  # an adapter that looks sideways needs all rows to the end
        allowed: Tensor | None = None
        for number in range(first, last + 1):
            for write in plan.before(number):
                tokens = write.apply(tokens)
            read = rows if number == last and not whole else None
            if plan.allowed is not None and (allowed is None or len(allowed) != tokens.shape[1]):
                allowed = plan.allowed(tokens.shape[1]).to(tokens.device)
            tokens = self.block(number)(tokens, self.causal, read, plan.inside(number), allowed)
            tokens = plan.adapt(number, tokens)
        if whole and rows is not None:
            tokens = tokens.gather(1, rows[:, :, None].expand(-1, -1, self.width))
        return tokens


class VisionTower(Tower):
    """Patches and a class token; no mask."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__(config.vision, causal=False)
        width = config.vision.width
        self.patch = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.cls = nn.Parameter(torch.zeros(width))
        self.position = nn.Parameter(torch.zeros(config.patches + 1, width))
        self.ln_pre = nn.LayerNorm(width, eps=config.vision.eps)
        self.ln_post = nn.LayerNorm(width, eps=config.vision.eps)
        self.projection = nn.Linear(width, config.joint_width, bias=False)

    def embed(self, pixels: Tensor) -> Tensor:
        """Turn normalised pixels ``(B, 3, H, W)`` into the input ``(B, 1 + M, D)`` of block 1; index 0 is CLS."""
        patches = self.patch(pixels.to(self.patch.weight.dtype)).flatten(2).transpose(1, 2).float()  # (B, M, D)
        cls = self.cls.expand(patches.shape[0], 1, -1)  # (B, 1, D)
        tokens: Tensor = self.ln_pre(torch.cat([cls, patches], dim=1) + self.position)
        return tokens

    def norm(self, tokens: Tensor) -> Tensor:
        """Final layer norm, ``(..., D)``."""
        out: Tensor = self.ln_post(tokens)
        return out

    def read(self, tokens: Tensor) -> Tensor:
        """Final norm and projection of outputs ``(..., D)`` to the joint space ``(..., d)``, not normalised."""
        out: Tensor = self.projection(self.norm(tokens))
        return out


class TextTower(Tower):
    """Token and position embeddings; causal, so nothing right of EOT can influence it."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__(config.text, causal=True)
        width = config.text.width
        # from zeros: on shapes alone a random start imports PyTorch's compiler, which takes two seconds
        self.token = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            torch.zeros(config.vocabulary, width)
        )
        self.position = nn.Parameter(torch.zeros(config.context, width))
        self.ln_final = nn.LayerNorm(width, eps=config.text.eps)
        self.projection = nn.Linear(width, config.joint_width, bias=False)

    def embed(self, ids: Tensor) -> Tensor:
        """Turn token ids ``(N, L)`` into the input ``(N, L, D)`` of block 1."""
        tokens: Tensor = self.token(ids) + self.position[: ids.shape[1]]
        return tokens

    def read(self, tokens: Tensor) -> Tensor:
        """Final norm and projection of EOT outputs ``(..., D)`` to ``(..., d)``, not normalised."""
        out: Tensor = self.projection(self.ln_final(tokens))
        return out
