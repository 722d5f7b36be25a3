"""SurPL: class features made anew for each image and for several signals, by one shared block.

Liu et al.: Surrogate Prompt Learning: Towards Efficient and Diverse Prompt Learning for Vision-Language Models, 2025.
https://github.com/llcllc1997/SurPL

    {t_SOS, p_l^t, "of a", c, t_EOS},  {e_cls, e_1 … e_M, p_l^v}     prompts in all blocks; f_v, f_t unit features   (a)
    SFG(x, y) = x' + MLP(ln_2 x'),   x' = x + MHA(ln_1 x, ln_1 y)    one token y: every x attends to it alone        (b)
    ℓ_1 = s f_v f_tᵀ                                                                                                (c)
    ℓ_2 = s f_v unit(SFG(f_t, f_v))ᵀ                                 class features of each image                    (d)
    ℓ_3^k = s mean of the 10 k largest of  unit(P u) unit(SFG(f_t, g_k))ᵀ,   k = 1 … 4                               (e)
    L = CE(ℓ_1) + CE(ℓ_2) + mean_k CE(ℓ_3^k) + 10 mean|f_v − f_v^clip| + 25 mean|f_t − F|                            (f)
    ℓ = (ℓ_1 + ℓ_2 + mean_k ℓ_3^k) / 3                               decides                                        (g)

u: outputs of all tokens but CLS, prompts included, along the last block's value path. g_k: learnable signals. P starts
as the identity. F: unit mean over 60 templates. "SurPL-G" of the tables is read as this code, run base-to-new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.clip.kernels import quick_gelu
from anprompt.methods.base import ClassBlock, Preset
from anprompt.methods.contexts import STANDARD_WORDS, DeepPromptMethod, vision_plan
from anprompt.methods.ensemble import ensemble_features
from anprompt.methods.options import option
from anprompt.text import DescriptionBank

HEADS = 8
ROWS = 1 << 16  # class features of images that are made at a time at prediction


@dataclass
class SurPLOptions:
    """Options of SurPL."""

    length: int = option(4, "prompts a tower and block", low=1, high=64)
    depth: int = option(12, "blocks with prompts, from the first on", low=1)
    start: str = option(STANDARD_WORDS, "words in front of the class name, whose embeddings the prompts start as")
    signals: int = option(4, "learnable signals g_k", low=1, high=16)
    top: int = option(10, "local features in the mean of the first signal; the k-th has k times as many", low=1)
    hidden: int = option(256, "hidden numbers of the shared block's MLP", low=1)
    image_weight: float = option(10.0, "weight of the image features' distance", low=0)
    text_weight: float = option(25.0, "weight of the text features' distance", low=0)


class SharedBlock(nn.Module):
    """SFG of (b). With a single token in y its attention is 1 everywhere: queries and keys cannot matter."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, HEADS)
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x ``(C, d)``, y ``(B, d)``: ``(B, C, d)``, unit length."""
        d, maps = y.shape[1], self.attention
        values = F.linear(self.ln_1(y), maps.in_proj_weight[2 * d :], maps.in_proj_bias[2 * d :])
        x = x + maps.out_proj(values)[:, None]  # (B, C, d)
        out: Tensor = F.normalize(x + self.up(quick_gelu(self.down(self.ln_2(x)))), dim=-1)  # (b)
        return out


class SurPL(DeepPromptMethod):
    """Prompts in both towers, and surrogate class features beside the prompted ones."""

    name = "surpl"
    paper = "Surrogate Prompt Learning: Towards Efficient and Diverse Prompt Learning for Vision-Language Models"
    link = "https://github.com/llcllc1997/SurPL"
    year = 2025
    Options = SurPLOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset(
            "as published", {},
            {"optimizer": "sgd", "lr": 0.0025, "weight_decay": 5e-4, "epochs": 50, "batch": 32, "crop_scale": 0.08},
        ),
    }  # fmt: skip

    def __init__(self, backbone: Backbone, options: SurPLOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        self.options: SurPLOptions
        d, width = backbone.config.joint_width, backbone.config.vision.width
        self.text_prompts = nn.Parameter(self.start_of_prompts())  # (J, K, D_t)
        self.vision_prompts = nn.Parameter(0.02 * torch.randn(options.depth, options.length, width))  # (J, K, D_v)
        self.surrogate = SharedBlock(d, options.hidden)
        self.signals = nn.Parameter(1 / d + 0.02 * torch.randn(options.signals, d))  # g (k, d)
        self.local_projection = nn.Parameter(torch.eye(d))  # P (d, d)

    def prompts(self) -> tuple[list[Tensor], list[Tensor]]:
        return list(self.text_prompts), list(self.vision_prompts)  # (a)

    def start(self, names: Sequence[str], bank: DescriptionBank) -> None:
        super().start(names, bank)
        self.blocks[0].extra["target"] = ensemble_features(self.backbone, names)  # F (C, d)

    # ---- features --------------------------------------------------------------------------------------------------

    def image_features(self, pixels: Tensor) -> Tensor:
        """f_v and unit local features, one after another: ``(B, (1 + L)·d)``."""
        plan = vision_plan(self.backbone, self.prompts()[1])
        seen = self.backbone.local(pixels, plan, values=True)
        local = F.normalize(F.linear(seen.tokens[:, 1:], self.local_projection), dim=-1)  # (B, L, d)
        return torch.cat([F.normalize(seen.cls, dim=-1)[:, None], local], dim=1).flatten(1)

    def class_weights(self, block: ClassBlock) -> Tensor:
        """f_t and the class features of each signal, ``(1 + k, C, d)``."""
        f_t = super().class_weights(block)
        return torch.cat([f_t[None], self.surrogate(f_t, self.signals)])

    def text_rows(self, block: ClassBlock) -> Tensor:
        """f_t ``(C, d)``, from which the others are made."""
        return self.kept_weights(block)[0]

    def _logits(self, features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ℓ_1, ℓ_2 ``(B, C)`` and ℓ_3 ``(k, B, C)`` of :meth:`image_features` and :meth:`class_weights`."""
        scale, f_t = self.backbone.logit_scale, weights[0]
        f_v, local = features.unflatten(1, (-1, f_t.shape[1])).tensor_split([1], dim=1)  # type: ignore[no-untyped-call]
        f_v = f_v[:, 0]  # (B, d)
        first = scale * f_v @ f_t.T  # (c)
        second = scale * (self.surrogate(f_t, f_v) @ f_v[:, :, None])[..., 0]  # (d)
        third = []
        for k, own in enumerate(weights[1:], start=1):
            count = min(self.options.top * k, local.shape[1])
            third.append(scale * (local @ own.T).topk(count, dim=1).values.mean(dim=1))  # (e)
        return first, second, torch.stack(third)

    def block_logits(self, features: Tensor, block: ClassBlock) -> Tensor:
        weights, parts = self.kept_weights(block), []
        for some in torch.split(features, max(1, ROWS // len(block.names))):
            first, second, third = self._logits(some, weights)
            parts.append((first + second + third.mean(dim=0)) / 3)  # (g)
        return torch.cat(parts)

    # ---- training --------------------------------------------------------------------------------------------------

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(f) and its terms, unweighted."""
        o, block, labels = self.options, self.blocks[0], batch["labels"]
        features, weights = self.image_features(batch["pixels"]), self.class_weights(block)
        first, second, third = self._logits(features, weights)
        cross_entropy = F.cross_entropy(first, labels)
        by_image = F.cross_entropy(second, labels)
        by_signal = torch.stack([F.cross_entropy(logits, labels) for logits in third]).mean()
        f_t, f_v = weights[0], features[:, : weights.shape[2]]
        image = (f_v - self.backbone.encode_image(batch["pixels"])).abs().mean()
        text = (f_t - block.extra["target"]).abs().mean()
        total = cross_entropy + by_image + by_signal + o.image_weight * image + o.text_weight * text  # (f)
        return {"total": total, "cross_entropy": cross_entropy, "by_image": by_image, "by_signal": by_signal,
                "image_distance": image, "text_distance": text}  # fmt: skip

    def decision(self) -> str:
        return "(ℓ_1 + ℓ_2 + mean ℓ_3) / 3: prompted, of each image, and of local features"
