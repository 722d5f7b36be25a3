"""DAPT: MaPLe whose image feature is pulled to the foreground and pushed away from the background.

Zhang, Zhou, Yao, Zhang, Tsang, Wang: Decouple before align: visual disentanglement enhances prompt tuning, TPAMI 2025.
https://github.com/Ferenas/DAPT

    text, block i ≤ J: P_i,   vision, block i ≤ J: F_i(P_i), F_i linear              as in MaPLe        (1)
    m = [CAM(x, y) > t max CAM],   x^fg = m x,   x^bg = (1 − m) x                                       (2)
    R = a max(0, |f_v − f^fg| − |f_v − f^bg| + margin)                               epochs before E    (3)
    R = b CE(ℓ^fg, y) + c CE(ℓ^bg, argmax ℓ^bg)                                      from epoch E on    (4)
        ℓ^fg = sim(f^fg, f_t) / τ,   ℓ^bg = sim(f^bg, f_t^bg) / τ,   f_t^bg: texts of background words
    L = CE(ℓ, y) + R                                                                                    (5)

CAM: Grad-CAM of the prompted model for the true class at the last block. No gradient goes through m and f^fg, nor in
(3) through f^bg. The published code computes CAMs once an epoch and then reads masks from image files instead; here the
mask belongs to the very view that is trained on. The background words are our own.
Shapes: B images, C classes, W background words, d joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.clip import Backbone, Sentences
from anprompt.clip.plan import PromptPlan
from anprompt.clip.relevance import relevance
from anprompt.methods.base import Preset
from anprompt.methods.contexts import text_plan, vision_plan
from anprompt.methods.maple import MaPLe, MaPLeOptions
from anprompt.methods.options import option
from anprompt.text import DescriptionBank, fill

BACKGROUNDS = (
    "ground", "land", "grass", "tree", "building", "wall", "sky", "water", "river", "lake", "sea", "cloud", "mountain",
    "road", "street", "field", "forest", "sand", "snow", "floor", "ceiling", "window", "table", "fence", "shadow",
)  # fmt: skip
BACKGROUND_TEMPLATE = "a clean origami {}."
COLUMNS = 7  # background words that the published code leaves among the classes


@dataclass
class DAPTOptions(MaPLeOptions):
    """Options of DAPT."""

    threshold: float = option(0.5, "share t of the map's maximum above which a place is foreground", low=0, high=1)
    separation: float = option(0.8, "weight a of the triplet loss", low=0)
    margin: float = option(1.5, "margin of the triplet loss", low=0)
    switch: int = option(7, "epoch E, from 0, from which texts align fore- and background instead", low=0)
    foreground: float = option(0.1, "weight b of the foreground's cross entropy", low=0)
    background: float = option(0.5, "weight c of the background's cross entropy", low=0)
    background_columns: bool = option(False, "in training seven background words compete with the classes (their code)")


class DAPT(MaPLe):
    """MaPLe with decoupled fore- and background."""

    name = "dapt"
    paper = "Decouple before align: visual disentanglement enhances prompt tuning"
    link = "https://github.com/Ferenas/DAPT"
    year = 2025
    Options = DAPTOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset(
            "base-to-new; its five epochs end before the switch",
            {},
            {"optimizer": "sgd", "lr": 0.0035, "weight_decay": 5e-4, "epochs": 5, "batch": 1, "crop_scale": 0.08},
        ),
        "few-shot": Preset(
            "all classes, ten epochs",
            {},
            {"optimizer": "sgd", "lr": 0.0035, "weight_decay": 5e-4, "epochs": 10, "batch": 4, "crop_scale": 0.08},
        ),
    }

    def __init__(self, backbone: Backbone, options: DAPTOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        self.epoch = 0
        self.surroundings: Sentences | None = None

    def start(self, names: Sequence[str], bank: DescriptionBank) -> None:
        super().start(names, bank)
        self.surroundings = Sentences(self.backbone, fill(BACKGROUND_TEMPLATE, BACKGROUNDS))

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def heaviest_epoch(self, epochs: int) -> int:
        return max(0, epochs - 1)  # after the switch, one more pass has gradients

    def _mask(self, pixels: Tensor, labels: Tensor, weights: Tensor, plan: PromptPlan) -> tuple[Tensor, Tensor]:
        """``m`` of (2), ``(B, 1, H, W)``, zeros and ones, and ``f_v`` ``(B, d)``. weights: ``f_t`` ``(C, d)``."""

        def true_class(cls: Tensor) -> Tensor:
            return (F.normalize(cls, dim=-1) * weights[labels]).sum()

        cam, cls = relevance(self.backbone, pixels, true_class, plan)  # (B, h, w), (B, d)
        cam = F.interpolate(cam[:, None], size=pixels.shape[2:], mode="bilinear", align_corners=True)
        mask: Tensor = cam > self.options.threshold * cam.amax(dim=(2, 3), keepdim=True)
        return mask.to(pixels.dtype), F.normalize(cls, dim=-1)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        o, block, labels, scale = self.options, self.blocks[0], batch["labels"], self.backbone.logit_scale
        pixels = batch["pixels"].to(self.backbone.device)
        text, vision = self.prompts()  # (1)
        plan = vision_plan(self.backbone, vision)
        f_t = F.normalize(self.text_features(block, text), dim=-1)  # (C, d)
        m, f_v = self._mask(pixels, labels, f_t.detach(), plan)  # (2)

        def features(pixels: Tensor) -> Tensor:
            return F.normalize(self.backbone.images(pixels, plan).cls, dim=-1)

        def background_texts() -> Tensor:
            assert self.surroundings is not None
            deep = PromptPlan(text_plan(self.backbone, text).writes[1:])  # their own words stay in the input
            return F.normalize(self.surroundings.features(deep), dim=-1)  # (W, d)

        with torch.no_grad():
            f_fg = features(m * pixels)
        apart = COLUMNS if o.background_columns else 0  # those that compete with the classes are no targets of (4)
        rows = torch.cat([f_t, background_texts()[:apart]]) if apart else f_t
        cross_entropy = F.cross_entropy(scale * f_v @ rows.T, labels)
        if self.epoch < o.switch:
            with torch.no_grad():
                f_bg = features((1 - m) * pixels)
            extra = o.separation * F.triplet_margin_loss(f_v, f_fg, f_bg, margin=o.margin)  # (3)
        else:
            l_fg = scale * f_fg @ f_t.T
            l_bg = scale * features((1 - m) * pixels) @ background_texts()[apart:].T
            extra = o.foreground * F.cross_entropy(l_fg, labels)
            extra = extra + o.background * F.cross_entropy(l_bg, l_bg.argmax(dim=1))  # (4)
        return {"total": cross_entropy + extra, "cross_entropy": cross_entropy, "decoupling": extra}  # (5)
