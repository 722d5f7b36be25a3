"""Attention of every block of a pass, and attention roll-out.

Abnar, Zuidema: Quantifying Attention Flow in Transformers, ACL 2020. https://arxiv.org/abs/2005.00928

    Â_l = ½ W_l + ½ I          W_l: attention of block l, mean over heads; I: the residual connection         (1)
    R_l = Â_l R_{l−1},  R_0 = I                                                                               (2)

Row i of R_l says what share of token i after block l comes from each token of the input. Prompts bring nothing from the
picture: where a plan inserts them R gets rows of zeros, and where it overwrites them their rows become zero again.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from anprompt.clip.plan import PromptPlan
from anprompt.clip.towers import VisionTower
from anprompt.clip.watch import Pass, Reading


def attention(tower: VisionTower, reading: Reading, plan: PromptPlan) -> Tensor:
    """Attention weights ``(B, H, L, L)`` of the block that was read, under the pass's ``plan``; rows sum to 1."""
    block, (b, length, d) = tower.block(reading.block), reading.tokens.shape
    h = reading.tokens.to(block.qkv.weight.dtype)
    qkv = plan.inside(reading.block).added("qkv", block.qkv(h), h).float()  # (B, L, 3D)
    q, k, _ = qkv.view(b, length, 3, block.heads, d // block.heads).permute(2, 0, 3, 1, 4)  # each (B, H, L, D/H)
    scores = q @ k.transpose(2, 3) * (d // block.heads) ** -0.5
    if plan.allowed is not None:
        scores = scores.masked_fill(~plan.allowed(length).to(scores.device), -torch.inf)
    weights: Tensor = scores.softmax(dim=-1)
    return weights


def rollout(tower: VisionTower, seen: Pass) -> Tensor:
    """Share ``(B, M)`` of the class token's output that comes from each patch; ``seen`` has read all blocks.

    Not negative; what is missing to 1 is the class token's own share and, with prompts, theirs.
    """
    by_block = {reading.block: reading for reading in reversed(seen.readings)}  # the first, if one was read twice
    b, length, _ = by_block[1].tokens.shape
    start = length - sum(write.length for write in seen.plan.before(1) if write.how == "insert")
    shares = torch.eye(start, device=by_block[1].tokens.device).expand(b, -1, -1)  # (B, 1 + M, 1 + M), R_0
    for number in range(1, tower.depth + 1):
        for write in seen.plan.before(number):
            shares = replace(write, tokens=shares.new_zeros(write.length, start)).apply(shares)  # (B, L, 1 + M)
        weights = attention(tower, by_block[number], seen.plan).mean(dim=1)  # (B, L, L)
        shares = (weights @ shares + shares) / 2  # (1), (2)
    return shares[:, 0, 1:]
