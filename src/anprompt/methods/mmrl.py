"""MMRL: representation tokens shared by both towers, and a second image feature made of their outputs.

Guo, Gu: MMRL: Multi-Modal Representation Learning for Vision-Language Models, CVPR 2025.
https://arxiv.org/abs/2503.08497

    r_l^v = W_l^v R + b_l^v,   r_l^t = W_l^t R + b_l^t      tokens of layer l from the shared R                    (a)
    {e_cls, r_l^v, e_1 … e_M},  {t_SOS, r_l^t, t_1 … t_EOS}  inserted at the first layer, overwritten later         (b)
    f_c = P_v ln(e_cls),   f_r = P_r ln(mean_k r_k)          class feature (frozen P_v), representation feature     (c)
    ℓ = 100 f_c f_tᵀ,   ℓ_r = 100 f_r f_tᵀ,   ℓ_f = α ℓ + (1 − α) ℓ_r                                               (d)
    L = α CE(ℓ, y) + (1 − α) CE(ℓ_r, y) + λ (1 − cos(f_c, f_v^clip)) + λ (1 − cos(f_t, f_t^clip))                    (e)

Known classes are decided by ℓ_f, others by ℓ. All features have unit length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.clip.plan import PromptPlan
from anprompt.methods.base import ClassBlock, Method, Preset
from anprompt.methods.maps import LinearMaps, parse_layers
from anprompt.methods.options import option

Tokens = dict[int, Tensor]  # block number -> (K, D)


@dataclass
class MMRLOptions:
    """Options of MMRL."""

    prompt_length: int = option(5, "number of representation tokens K", low=1, high=64)
    rep_width: int = option(0, "width of the shared space of R; 0: that of the joint embedding", low=0)
    layers: str = option("last-7", "blocks with tokens, 1-based: 'A-B' or 'last-N' of each tower")
    alpha: float = option(0.7, "weight α of the class logits in loss and decision", low=0, high=1)
    sim_weight: float = option(1.0, "weight λ of both similarity losses", low=0)
    decision: Literal["fused", "class"] = option("fused", "logits that decide for training classes: ℓ_f or ℓ")
    decision_new: Literal["fused", "class"] = option("class", "logits that decide for other classes")


class MMRL(Method):
    """Tokens in the upper blocks of both towers from one learnable set."""

    name = "mmrl"
    paper = "MMRL: Multi-Modal Representation Learning for Vision-Language Models"
    link = "https://arxiv.org/abs/2503.08497"
    year = 2025
    Options = MMRLOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset("as published", {}, {"optimizer": "adamw", "weight_decay": 5e-4}),
    }

    def __init__(self, backbone: Backbone, options: MMRLOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        self.options: MMRLOptions
        config, width = backbone.config, options.rep_width or backbone.config.joint_width
        self.vision_layers = parse_layers(options.layers, config.vision.depth)
        self.text_layers = parse_layers(options.layers, config.text.depth)
        self.shared = nn.Parameter(0.02 * torch.randn(options.prompt_length, width))  # R (K, w)
        self.to_vision = self.make_maps(len(self.vision_layers), width, config.vision.width)
        self.to_text = self.make_maps(len(self.text_layers), width, config.text.width)
        self.make_projection()

    def make_maps(self, layers: int, d_in: int, d_out: int) -> nn.Module:
        """The maps of (a) for one tower."""
        return LinearMaps(layers, d_in, d_out)

    def make_projection(self) -> None:
        """P_r of (c): a random start, not CLIP's own projection."""
        clip = self.backbone.vision.projection.weight
        self.projection = nn.Parameter(torch.randn(clip.shape) * clip.shape[1] ** -0.5)  # (d, D)

    def project(self, outputs: Tensor) -> Tensor:
        """P_r applied to ``(B, D)``: ``(B, d)``."""
        return F.linear(outputs, self.projection)

    # ---- tokens and features ---------------------------------------------------------------------------------------

    def mixes(self) -> tuple[float, float]:
        """Weight of new tokens at the later layers, in training and at prediction: 1, they overwrite."""
        return 1.0, 1.0

    def plans(self, mix: float) -> tuple[PromptPlan, PromptPlan]:
        """What the vision and the text tower meet: (b)."""
        vision: Tokens = {layer: self.to_vision(self.shared, i) for i, layer in enumerate(self.vision_layers)}  # (a)
        text: Tokens = {layer: self.to_text(self.shared, i) for i, layer in enumerate(self.text_layers)}
        return PromptPlan.deep(vision, mix=mix), PromptPlan.deep(text, mix=mix)

    def _both(self, cls: Tensor, prompts: Tensor | None) -> tuple[Tensor, Tensor]:
        """f_c and f_r ``(B, d)`` of (c), unit length, from the projected class token and the tokens' outputs."""
        assert prompts is not None
        return F.normalize(cls, dim=-1), F.normalize(self.project(prompts.mean(dim=1)), dim=-1)

    def _text_features(self, block: ClassBlock, plan: PromptPlan) -> Tensor:
        """f_t ``(C, d)``, unit length."""
        assert block.sentences is not None
        return F.normalize(block.sentences.features(plan), dim=-1)

    # ---- training --------------------------------------------------------------------------------------------------

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(e) and its terms: ``cross_entropy``, weighted by α, and ``similarity``, not weighted by λ."""
        o, block, labels, scale = self.options, self.blocks[0], batch["labels"], self.backbone.logit_scale
        vision, text = self.plans(self.mixes()[0])
        image = self.backbone.images(batch["pixels"], vision, frozen=True)
        assert image.frozen is not None
        f_c, f_r = self._both(image.cls, image.prompts)
        f_t = self._text_features(block, text)

        logits, logits_r = scale * f_c @ f_t.T, scale * f_r @ f_t.T  # (B, C) each, (d)
        cross_entropy = o.alpha * F.cross_entropy(logits, labels) + (1 - o.alpha) * F.cross_entropy(logits_r, labels)
        image_similarity = (f_c * F.normalize(image.frozen, dim=-1)).sum(dim=1).mean()
        similarity = (1 - image_similarity) + (1 - (f_t * block.frozen).sum(dim=1).mean())
        total = cross_entropy + o.sim_weight * similarity  # (e)
        return {"total": total, "cross_entropy": cross_entropy, "similarity": similarity}

    # ---- prediction ------------------------------------------------------------------------------------------------

    def image_features(self, pixels: Tensor) -> Tensor:
        """``[f_c, f_r]`` ``(B, 2d)``."""
        image = self.backbone.images(pixels, self.plans(self.mixes()[1])[0])
        return torch.cat(self._both(image.cls, image.prompts), dim=1)

    def class_weights(self, block: ClassBlock) -> Tensor:
        """Weights ``(C, 2d)`` that give ℓ_f, or ℓ for classes not trained on: both are linear in the features."""
        f_t = self._text_features(block, self.plans(self.mixes()[1])[1])
        decision = self.options.decision if block.trained else self.options.decision_new
        alpha = self.options.alpha if decision == "fused" else 1.0
        return torch.cat([alpha * f_t, (1 - alpha) * f_t], dim=1)  # (d)

    def decision(self) -> str:
        o = self.options
        words = {"fused": f"{o.alpha:g}·ℓ + {1 - o.alpha:g}·ℓ_r", "class": "ℓ"}
        both = words[o.decision], words[o.decision_new]
        return both[0] if both[0] == both[1] else f"{both[0]}; new classes: {both[1]}"
