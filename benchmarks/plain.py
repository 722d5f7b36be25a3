"""ANPrompt's training step as it is usually written: the yardstick for the time of a step.

The mathematics is that of ``anprompt.methods.anprompt`` with the preset ``paper``, on the same parameters and frozen
weights; a test compares losses and gradients. The form is the one that code for such methods usually has, built from
PyTorch's own modules. What it does that the result does not need:

- every text has 77 positions (and the prompts), whatever its length;
- words that all classes have in common run once per class;
- the frozen blocks below the first prompt run again in every step, in the text tower too;
- prompt positions that the next block overwrites go through queries and MLP;
- the last block computes all rows although only CLS, the prompts or EOT are read;
- the frozen teacher is a second full pass over the images, from the patches on;
- the causal mask is made on the CPU in every block and copied to the device;
- attention runs in the layout (L, N, D) with that mask as a dense matrix of numbers.

It does not hold a second copy of the weights, build tokens in Python in each step, run passes that nothing uses, or
wait for the device: published code has these too, but nobody who writes this plainly would add them. Block numbers
start at 1. B images, C classes, L positions, D tower width, d joint width, K prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone, ClipConfig, TowerConfig
from anprompt.errors import UserError
from anprompt.methods import Method
from anprompt.methods.anprompt import ANPrompt, ANPromptOptions
from anprompt.text import fill

Tokens = Mapping[int, Tensor]  # block number -> (K, D)
NUMBERS = {
    "prompt_length",
    "layers",
    "alpha",
    "epsilon",
    "theta",
    "sim_weight",
    "gamma_epsilon",
}  # options of any value


class QuickGELU(nn.Module):
    """OpenAI's x · sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "quick_gelu": QuickGELU,
    "gelu": nn.GELU,
    "gelu_pytorch_tanh": lambda: nn.GELU(approximate="tanh"),
}


class Block(nn.Module):
    """Residual attention block on ``(L, N, D)``."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, eps=config.eps)
        self.attention = nn.MultiheadAttention(config.width, config.heads)
        self.ln_2 = nn.LayerNorm(config.width, eps=config.eps)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp), ACTIVATIONS[config.activation](), nn.Linear(config.mlp, config.width)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attention(h, h, h, need_weights=False, attn_mask=mask)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """All blocks of a tower, with prompts at positions 1..K from the first block that has any."""

    def __init__(self, config: TowerConfig, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))

    def forward(self, x: Tensor, prompts: Tokens) -> Tensor:
        """``(L, N, D)`` to ``(L, N, D)``, or ``(L + K, N, D)`` with prompts."""
        for number, block in enumerate(self.blocks, start=1):
            if number in prompts:
                new = prompts[number].to(x.dtype)[:, None].expand(-1, x.shape[1], -1)  # (K, N, D)
                old = 0 if number == min(prompts) else len(new)  # inserted at first, then overwritten (9)
                x = torch.cat([x[:1], new, x[1 + old :]])
            x = block(x, self.mask(x) if self.causal else None)
        return x

    @staticmethod
    def mask(x: Tensor) -> Tensor:
        """``(L, L)``: −∞ above the diagonal."""
        made = torch.empty(len(x), len(x))
        made.fill_(-math.inf)
        made.triu_(1)
        return made.to(x)


class PlainClip(nn.Module):
    """Both towers with the frozen weights of a backbone that is in fp32.

    dtype: of weights and of everything that runs through the towers.
    """

    def __init__(self, backbone: Backbone, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        c: ClipConfig = backbone.config
        self.config = c
        with torch.device("meta"):  # filled from the backbone
            self.patch = nn.Conv2d(3, c.vision.width, c.patch_size, c.patch_size, bias=False)
            self.cls = nn.Parameter(torch.empty(c.vision.width))
            self.image_position = nn.Parameter(torch.empty(c.patches + 1, c.vision.width))
            self.ln_pre = nn.LayerNorm(c.vision.width, eps=c.vision.eps)
            self.vision = Transformer(c.vision, causal=False)
            self.ln_post = nn.LayerNorm(c.vision.width, eps=c.vision.eps)
            self.image_projection = nn.Linear(c.vision.width, c.joint_width, bias=False)
            self.token = nn.Embedding(c.vocabulary, c.text.width)
            self.text_position = nn.Parameter(torch.empty(c.context, c.text.width))
            self.text = Transformer(c.text, causal=True)
            self.ln_final = nn.LayerNorm(c.text.width, eps=c.text.eps)
            self.text_projection = nn.Linear(c.text.width, c.joint_width, bias=False)
        self.load_state_dict({self._name(k): t.clone() for k, t in backbone.state_dict().items()}, assign=True)
        self.to(dtype).requires_grad_(False).eval()

    @staticmethod
    def _name(ours: str) -> str:
        """The name here of a backbone's tensor."""
        tower, rest = ours.split(".", 1)
        if not rest.startswith("blocks."):
            prefix = {"vision": "image_", "text": "text_"}[tower]
            return f"{prefix}{rest}" if rest.startswith(("position", "projection")) else rest
        inner = {"qkv.": "attention.in_proj_", "out.": "attention.out_proj.", "fc.": "mlp.0.", "proj.": "mlp.2."}
        _, number, part = rest.split(".", 2)
        for ours_, theirs in inner.items():
            if part.startswith(ours_):
                part = theirs + part.removeprefix(ours_)
        return f"{tower}.blocks.{number}.{part}"

    def image(self, pixels: Tensor, prompts: Tokens) -> tuple[Tensor, Tensor]:
        """Features of CLS ``(B, d)``, and prompt outputs after the final norm ``(B, K, D)``; fp32, not normalised."""
        x = self.patch(pixels.to(self.patch.weight.dtype)).flatten(2).transpose(1, 2)  # (B, M, D)
        x = torch.cat([self.cls.expand(len(x), 1, -1), x], dim=1) + self.image_position  # (B, 1 + M, D)
        x = self.vision(self.ln_pre(x).transpose(0, 1), prompts).transpose(0, 1)
        k = len(next(iter(prompts.values()))) if prompts else 0
        x = self.ln_post(x[:, : 1 + k])
        return self.image_projection(x[:, 0]).float(), x[:, 1:].float()

    def sentences(self, ids: Tensor, prompts: Tokens) -> Tensor:
        """Features ``(C, d)`` of token ids ``(C, 77)``, fp32, not normalised."""
        x = (self.token(ids) + self.text_position).transpose(0, 1)  # (L, C, D)
        x = self.ln_final(self.text(x, prompts).transpose(0, 1))  # (C, L + K, D)
        eot = (ids == self.config.eot_id).int().argmax(dim=1)
        k = len(next(iter(prompts.values()))) if prompts else 0
        features: Tensor = self.text_projection(x[torch.arange(len(x), device=x.device), eot + k])
        return features.float()


class PlainANPrompt:
    """The training step of ``method``, plainly. Parameters, P_w and the frozen class features are the method's own.

    clip: the towers, with the weights of the method's backbone.
    Raises :class:`UserError` for another method, and for switches that differ from the preset ``paper``.
    """

    def __init__(self, method: Method, clip: PlainClip) -> None:
        default = ANPromptOptions()
        switches = {f.name for f in fields(default)} - NUMBERS
        if not isinstance(method, ANPrompt) or any(
            getattr(method.options, name) != getattr(default, name) for name in switches
        ):
            raise UserError("The plain formulation is written for ANPrompt with the preset 'paper' only.")
        self.method, self.clip = method, clip
        backbone, block = method.backbone, method.blocks[0]
        self.ids = backbone.tokenizer(fill(method.template, block.names)).to(backbone.device)  # (C, 77)
        self.f_w, self.frozen_text = block.extra["f_w"], block.frozen  # (C, d) each, made before training

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Eq. (3) and its terms, under the same names as the method's own."""
        m, o, scale = self.method, self.method.options, self.method.backbone.logit_scale
        p_a = m.prompts + o.epsilon * m.noise_prompts  # (8)
        vision = {block: m.to_vision(p_a, i) for i, block in enumerate(m.vision_layers)}
        text = {block: m.to_text(p_a, i) for i, block in enumerate(m.text_layers)}

        cls, outputs = self.clip.image(batch["pixels"], vision)
        f_v = F.normalize(cls, dim=-1)  # (B, d)
        f_n = F.normalize(F.linear(outputs.mean(dim=1), m.projection), dim=-1)  # (4)
        f_t = F.normalize(self.clip.sentences(self.ids, text), dim=-1)  # (C, d)
        with torch.no_grad():
            teacher = F.normalize(self.clip.image(batch["pixels"], {})[0], dim=-1)  # (B, d)

        l_a, l_r, l_w = scale * f_v @ f_t.T, scale * f_v @ self.f_w.T, scale * f_n @ self.f_w.T  # (B, C); l_w: (5)
        cross_entropy = F.cross_entropy(l_a, batch["labels"])
        image_similarity = F.cosine_similarity(f_v, teacher, dim=1).mean()
        text_similarity = F.cosine_similarity(f_t, self.frozen_text, dim=1).mean()
        similarity = (1 - image_similarity) + (1 - text_similarity)
        alignment = F.kl_div(l_w.log_softmax(dim=1), l_a.log_softmax(dim=1), reduction="sum", log_target=True)  # (6)
        gamma = 1 / (l_r.detach().std() * l_r.numel() + o.gamma_epsilon)  # (7)
        total = cross_entropy + o.sim_weight * similarity + gamma * alignment  # (3)
        return {"total": total, "cross_entropy": cross_entropy, "similarity": similarity,
                "weak_alignment": alignment, "gamma": gamma}  # fmt: skip
