"""BIP: prompts that two small nets make from each class's and each image's own frozen feature.

Yao et al.: Bi-modality Individual-aware Prompt Tuning for Visual-Language Model, TPAMI 2025.
https://github.com/htyao89/BIP

    {t_SOS, p_1^t … p_4^t, c, t_EOS},   {e_cls, e_1 … e_M, p_1^v … p_4^v}        learnable from the input on        (a)
    before block 9:  p^t ← w_t N_t(f_t^clip) + (1 − w_t) p^t                     of each class, w_t = 1             (b)
                     p^v ← w_v N_v(f_v^clip) + (1 − w_v) p^v                     of each image, w_v = 0.75          (c)
    f_v = unit(unit(v) + f_v^clip),   f_t = unit(unit(t) + f_t^clip)             v, t: what the towers give         (d)
    L = CE(s f_v f_tᵀ, y) + 8 (1 − cos(f_t, f_t^clip)) + 4 (1 − cos(f_v, f_v^clip))
        + (CE(10 cos(f_v^clip, h), y) + CE(10 cos(f_v, h), y)) / 2                                                  (e)

N: Linear, QuickGELU, Linear, with 128 hidden numbers. h: one vector a training class, at first the mean of its photos'
frozen features; only training uses it. Every image is encoded twice, at prediction too. (d) adds the frozen encoder to
the decision, so that part of the accuracy on new classes is zero-shot's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.clip.kernels import quick_gelu
from anprompt.clip.plan import PromptPlan, PromptWrite
from anprompt.errors import UserError
from anprompt.methods.base import ClassBlock, Method, Photos, Preset
from anprompt.methods.contexts import places, prompted, text_plan, vision_plan
from anprompt.methods.options import option


@dataclass
class BIPOptions:
    """Options of BIP."""

    length: int = option(4, "prompts a tower", low=1, high=64)
    text_block: int = option(9, "block before which classes get their own prompts, 1-based", low=2)
    vision_block: int = option(9, "block before which images get their own prompts, 1-based", low=2)
    text_mix: float = option(1.0, "weight w_t of a class's prompts against the old state", low=0, high=1)
    vision_mix: float = option(0.75, "weight w_v of an image's prompts against the old state", low=0, high=1)
    hidden: int = option(128, "hidden numbers of the nets", low=1)
    text_weight: float = option(8.0, "weight of the text features' distance", low=0)
    image_weight: float = option(4.0, "weight of the image features' distance", low=0)
    head_weight: float = option(0.5, "weight of each loss of the class vectors h", low=0)
    unused_nets: int = option(0, "further visual nets that nothing uses; the published code declares 2", low=0, high=2)


class PromptNet(nn.Module):
    """N: one feature to ``length`` prompts."""

    def __init__(self, d_in: int, hidden: int, length: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(d_in, hidden), nn.Linear(hidden, length * width)
        self.shape = (length, width)

    def forward(self, features: Tensor) -> Tensor:
        """``(N, d)`` to ``(N, K, D)``."""
        out: Tensor = self.up(quick_gelu(self.down(features)))
        return out.view(-1, *self.shape)


class BIP(Method):
    """Individual prompts in the middle of both towers."""

    name = "bip"
    paper = "Bi-modality Individual-aware Prompt Tuning for Visual-Language Model"
    link = "https://github.com/htyao89/BIP"
    year = 2025
    needs = ("training photos",)
    rows_per = {"head": "class"}  # noqa: RUF012 - ClassVar in the base
    Options = BIPOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset(
            "as published", {},
            {"optimizer": "adam", "lr": 0.002, "weight_decay": 5e-4, "epochs": 50, "batch": 32, "crop_scale": 0.08},
        ),
    }  # fmt: skip

    def __init__(self, backbone: Backbone, options: BIPOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        self.options: BIPOptions
        o, config = options, backbone.config
        d, d_text, d_vision = config.joint_width, config.text.width, config.vision.width
        for name, tower in (("text_block", config.text), ("vision_block", config.vision)):
            if (block := getattr(o, name)) > tower.depth:
                raise UserError(f"Option '{name}' is {block}, but that tower has {tower.depth} blocks.")
        self.text_prompts = nn.Parameter(0.02 * torch.randn(o.length, d_text))  # p^t (K, D_t)
        self.vision_prompts = nn.Parameter(0.02 * torch.randn(o.length, d_vision))  # p^v (K, D_v)
        self.text_net = PromptNet(d, o.hidden, o.length, d_text)
        self.vision_net = PromptNet(d, o.hidden, o.length, d_vision)
        if o.unused_nets:
            self.unused = nn.ModuleList(PromptNet(d, o.hidden, o.length, d_vision) for _ in range(o.unused_nets))
        self.head = nn.Parameter(torch.zeros(0, d))  # h (C, d)

    def make_block(self, names: Sequence[str], *, trained: bool) -> ClassBlock:
        block = super().make_block(names, trained=trained)
        length = self.options.length
        return replace(block, sentences=prompted(self.backbone, self.bank, places(length), length, names))

    def wording(self, name: str) -> tuple[str, ...]:
        return (self.bank.name(name), *super().wording(name))  # the prompted and the frozen sentence

    @torch.no_grad()
    def see(self, photos: Photos) -> None:
        super().see(photos)
        sums = torch.zeros_like(self.head).index_add(0, photos.labels, photos.features())
        self.head.copy_(sums / torch.bincount(photos.labels, minlength=len(sums)).clamp_min(1)[:, None])

    # ---- features --------------------------------------------------------------------------------------------------

    def class_weights(self, block: ClassBlock) -> Tensor:
        """f_t ``(C, d)`` of (d)."""
        assert block.sentences is not None
        o, first = self.options, text_plan(self.backbone, [self.text_prompts])  # (a)
        own = PromptWrite(o.text_block, self.text_net(block.frozen), "overwrite", 1, o.text_mix)  # (b)
        plan = PromptPlan((*first.writes, own))
        return F.normalize(F.normalize(block.sentences.features(plan), dim=-1) + block.frozen, dim=-1)

    def _both(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """f_v of (d) and f_v^clip, ``(B, d)`` each."""
        o, frozen = self.options, self.backbone.encode_image(pixels)
        first = vision_plan(self.backbone, [self.vision_prompts])  # (a)
        own = PromptWrite(o.vision_block, self.vision_net(frozen), "overwrite", None, o.vision_mix)  # (c)
        prompted = self.backbone.images(pixels, PromptPlan((*first.writes, own))).cls
        return F.normalize(F.normalize(prompted, dim=-1) + frozen, dim=-1), frozen

    def image_features(self, pixels: Tensor) -> Tensor:
        return self._both(pixels)[0]

    # ---- training --------------------------------------------------------------------------------------------------

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(e) and its terms, unweighted."""
        o, block, labels = self.options, self.blocks[0], batch["labels"]
        f_v, frozen = self._both(batch["pixels"])
        f_t, head = self.class_weights(block), F.normalize(self.head, dim=-1)
        cross_entropy = F.cross_entropy(self.backbone.logit_scale * f_v @ f_t.T, labels)
        text = 1 - (f_t * block.frozen).sum(dim=1).mean()
        image = 1 - (f_v * frozen).sum(dim=1).mean()
        by_head = sum(F.cross_entropy(10 * f @ head.T, labels) for f in (frozen, f_v))
        total = cross_entropy + o.text_weight * text + o.image_weight * image + o.head_weight * by_head  # (e)
        return {"total": total, "cross_entropy": cross_entropy, "text_distance": text, "image_distance": image,
                "head": torch.as_tensor(by_head)}  # fmt: skip

    def decision(self) -> str:
        return "logits of features to which the frozen encoder's own are added"
