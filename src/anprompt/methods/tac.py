"""TAC: prompts made of the centres of the classes' text features, beside learnable ones, in all blocks.

Hao et al.: Task-Aware Clustering for Prompting Vision-Language Models, CVPR 2025.
https://github.com/FushengHao/TAC

    Z = K-means by cosine of the classes' F_c        F_c: unit mean of the class's sentence features, frozen        (a)
    a^t = W_t Z + b_t,   a^v = W_v Z + b_v           cluster tokens, the same in every block                        (b)
    {t_SOS, a^t, p_l^t, "a photo of a", c, t_EOS}    with the places' embeddings at the input                       (c)
    {e_cls, e_1 … e_M, a^v, p_l^v}                   patches cannot attend to a^v; all else can                     (d)
    L = CE(s f_v f_tᵀ, y) + 20 mean|f_t − F| + 25 mean|f_v − f_v^clip(photo without augmentation)|                  (e)

All features have unit length. p_l^t of block 1 starts as the embeddings of "a photo of a", t_EOS and padding. The
learned numbers are averaged over the ends of all epochs. With fewer classes than clusters, single sentences are
clustered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone, Sentences
from anprompt.clip.plan import PromptPlan
from anprompt.errors import UserError
from anprompt.methods.base import ClassBlock, Method, Preset
from anprompt.methods.clusters import cosine_centres
from anprompt.methods.contexts import (
    STANDARD_WORDS,
    check_depth,
    places,
    prompted,
    text_plan,
    vision_plan,
)
from anprompt.methods.options import option
from anprompt.text import DescriptionBank

FRAME = f"{STANDARD_WORDS} {{}}."  # behind the prompts
TOGETHER = 256  # sentences that run at a time


@dataclass
class TACOptions:
    """Options of TAC."""

    clusters: int = option(5, "number of centres and of cluster tokens", low=1, high=64)
    length: int = option(5, "learnable prompts a tower and block", low=1, high=64)
    depth: int = option(12, "blocks with prompts, from the first on", low=1)
    text_weight: float = option(20.0, "weight of the text features' distance", low=0)
    image_weight: float = option(25.0, "weight of the image features' distance", low=0)


class TAC(Method):
    """Cluster tokens and learnable prompts in all blocks of both towers."""

    name = "tac"
    paper = "Task-Aware Clustering for Prompting Vision-Language Models"
    link = "https://github.com/FushengHao/TAC"
    year = 2025
    needs = ("descriptions in training",)
    plain = True
    views: ClassVar[int] = 3  # besides the first
    Options = TACOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset(
            "as published, without the code's dropout on image features", {},
            {"optimizer": "sgd", "lr": 0.0025, "weight_decay": 5e-4, "epochs": 20, "batch": 8, "crop_scale": 0.4},
        ),
    }  # fmt: skip

    def __init__(self, backbone: Backbone, options: TACOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        self.options: TACOptions
        check_depth(options.depth, backbone)
        config, n, depth = backbone.config, options.length, options.depth
        deep = 0.02 * torch.randn(depth, n, config.text.width)
        if deep.device.type != "meta":  # places 1 … n of the sentence: with n > 4 its t_EOS and padding as well
            ids = backbone.tokenizer([STANDARD_WORDS])[0, 1 : 1 + n]
            deep[0, : len(ids)] = backbone.text.token.weight.detach()[ids]
        self.text_prompts = nn.Parameter(deep)  # (J, n, D_t)
        self.vision_prompts = nn.Parameter(0.02 * torch.randn(depth, n, config.vision.width))  # (J, n, D_v)
        self.to_text = nn.Linear(config.joint_width, config.text.width)
        self.to_vision = nn.Linear(config.joint_width, config.vision.width)
        self.centres: Tensor
        self.register_buffer("centres", torch.zeros(options.clusters, config.joint_width))  # Z (K, d)
        self._sums: dict[str, Tensor] = {}  # of the learned numbers at the ends of epochs

    # ---- frozen texts ----------------------------------------------------------------------------------------------

    def _features(self, names: Sequence[str]) -> list[Tensor]:
        """Of each class's sentences, ``(count, d)`` each, not normalised."""
        texts = [self.bank.of(name, self.template).main for name in names]
        with torch.no_grad():
            flat = [sentence for own in texts for sentence in own]
            some = [flat[i : i + TOGETHER] for i in range(0, len(flat), TOGETHER)]
            features = torch.cat([Sentences(self.backbone, sentences).features() for sentences in some])
        return list(torch.split(features, [len(own) for own in texts]))

    def make_block(self, names: Sequence[str], *, trained: bool) -> ClassBlock:
        block = super().make_block(names, trained=trained)
        count = self.options.clusters + self.options.length
        frame = places(count).replace("{}.", FRAME)
        return replace(block, sentences=prompted(self.backbone, self.bank, frame, count, names))

    def wording(self, name: str) -> tuple[str, ...]:
        return (self.bank.fill(FRAME, name),)  # the descriptions only serve for training

    def start(self, names: Sequence[str], bank: DescriptionBank) -> None:
        super().start(names, bank)
        features, k = self._features(names), self.options.clusters
        rows = F.normalize(torch.stack([part.mean(dim=0) for part in features]), dim=-1)  # of features as they come
        self.blocks[0].extra["mean"] = rows  # F (C, d)
        if len(rows) < k:  # then single sentences, not classes
            rows = F.normalize(torch.cat(features), dim=-1)
        if len(rows) < k:
            raise UserError(
                f"{k} clusters need at least {k} classes or sentences, but there are {len(rows)}: "
                "lower the option 'clusters' or add texts."
            )
        self.centres.copy_(cosine_centres(rows, k))  # (a)

    # ---- features --------------------------------------------------------------------------------------------------

    def _text_features(self, block: ClassBlock) -> Tensor:
        """f_t ``(C, d)``, unit length."""
        assert block.sentences is not None
        own = self.to_text(self.centres)  # (b)
        plan = text_plan(self.backbone, [torch.cat([own, prompts]) for prompts in self.text_prompts])  # (c)
        return F.normalize(block.sentences.features(plan), dim=-1)

    def image_features(self, pixels: Tensor) -> Tensor:
        own = self.to_vision(self.centres)  # (b)
        plan = vision_plan(self.backbone, [torch.cat([own, prompts]) for prompts in self.vision_prompts])  # (d)
        plan = PromptPlan(plan.writes, allowed=self._allowed)
        return F.normalize(self.backbone.images(pixels, plan).cls, dim=-1)

    def _allowed(self, length: int) -> Tensor:
        """Which of the ``length`` tokens may attend to which: patches not to cluster tokens."""
        allowed = torch.ones(length, length, dtype=torch.bool, device=self.backbone.device)
        patches = self.backbone.config.patches
        allowed[1 : 1 + patches, 1 + patches : 1 + patches + self.options.clusters] = False
        return allowed

    def class_weights(self, block: ClassBlock) -> Tensor:
        return self._text_features(block)

    # ---- training --------------------------------------------------------------------------------------------------

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(e) and its terms, unweighted."""
        o, block, labels, pixels = self.options, self.blocks[0], batch["labels"], batch["pixels"]
        target = batch["plain"] if "plain" in batch else self.backbone.encode_image(pixels)  # f_v^clip (B, d)
        if "views" in batch:  # further augmentations (V, B, 3, H, W)
            count = 1 + len(batch["views"])
            pixels = torch.cat([pixels, *batch["views"]])
            labels, target = labels.repeat(count), target.repeat(count, 1)
        f_v, f_t = self.image_features(pixels), self._text_features(block)
        cross_entropy = F.cross_entropy(self.backbone.logit_scale * f_v @ f_t.T, labels)
        text = (f_t - block.extra["mean"]).abs().mean()
        image = (f_v - target).abs().mean()
        total = cross_entropy + o.text_weight * text + o.image_weight * image  # (e)
        return {"total": total, "cross_entropy": cross_entropy, "text_distance": text, "image_distance": image}

    def training_state(self) -> dict[str, Tensor]:
        """The sums behind the average over epochs."""
        for name, parameter in self.named_parameters():
            self._sums.setdefault(name, torch.zeros_like(parameter, requires_grad=False))
        return self._sums

    @torch.no_grad()
    def end_epoch(self, epoch: int, epochs: int) -> None:
        """Add up the learned numbers; after the last epoch they become their average."""
        for name, total in self.training_state().items():
            parameter = self.get_parameter(name)
            total += parameter
            if epoch + 1 == epochs:
                parameter.copy_(total / epochs)
