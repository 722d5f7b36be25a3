"""MMRL++: MMRL with shared maps, low-rank updates, and tokens that keep some of the previous layer's output.

Guo, Gu: MMRL++: Parameter-Efficient and Interaction-Aware Representation Learning for Vision-Language Models, 2025.
https://arxiv.org/abs/2505.10088

As MMRL, (a) to (e) there, but

    r_l = (W + B_l A_l) R + b_l            one W for each tower, rank 4 and bias of each layer, B_l = 0 at first    (a')
    β r_l + (1 − β) o_{l−1}                tokens at later layers; o: what the layer before gave at their places    (b')
    P_r = P_v + B A                        CLIP's own projection and an update of rank 64, B = 0 at first           (c')

β was chosen for each data set, and for cross-data-set results anew for each *target* on its test photos. That is tuning
on test data: here prediction uses the β of training, and another one is refused unless it is asked for by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.errors import UserError
from anprompt.methods.base import Preset
from anprompt.methods.maps import LowRankMaps, LowRankProjection
from anprompt.methods.mmrl import MMRL, MMRLOptions
from anprompt.methods.options import option


@dataclass
class MMRLPlusPlusOptions(MMRLOptions):
    """Options of MMRL++: MMRL's and these."""

    mix: float = option(0.9, "weight β of new tokens against the old state (1 = overwrite)", low=0, high=1)
    mix_at_test: float = option(-1.0, "another β at prediction, as published per target; -1: that of training", low=-1,
                                high=1)  # fmt: skip
    allow_test_tuning: bool = option(False, "allow mix_at_test, although it was chosen on test photos")
    map_rank: int = option(4, "rank of each layer's update of the shared map", low=1)
    projection_rank: int = option(64, "rank of the update of CLIP's projection", low=1)


class MMRLPlusPlus(LowRankProjection, MMRL):
    """Fewer learnables than MMRL, and tokens that interact across layers."""

    name = "mmrl++"
    paper = "MMRL++: Parameter-Efficient and Interaction-Aware Representation Learning for Vision-Language Models"
    link = "https://arxiv.org/abs/2505.10088"
    year = 2025
    Options = MMRLPlusPlusOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset("as published, with one β in training and prediction", {},
                        {"optimizer": "adamw", "weight_decay": 5e-4}),
    }  # fmt: skip

    def __init__(self, backbone: Backbone, options: MMRLPlusPlusOptions, **common: Any) -> None:
        if options.mix_at_test >= 0 and not options.allow_test_tuning:
            raise UserError(
                f"Option 'mix_at_test' {options.mix_at_test:g} is refused: the published values were chosen on the "
                "test photos of each target. Leave it out to predict with the β of training (option 'mix'), or set "
                "allow_test_tuning to true to repeat the published numbers; results then say so."
            )
        self.options: MMRLPlusPlusOptions
        super().__init__(backbone, options, **common)

    def make_maps(self, layers: int, d_in: int, d_out: int) -> nn.Module:
        return LowRankMaps(layers, d_in, d_out, rank=self.options.map_rank)  # (a')

    def make_projection(self) -> None:
        self.start_low_rank(self.backbone.vision.projection.weight.detach().float(), self.options.projection_rank)

    def project(self, outputs: Tensor) -> Tensor:
        return self.project_low_rank(outputs)  # (c')

    def mixes(self) -> tuple[float, float]:
        o = self.options
        return o.mix, o.mix if o.mix_at_test < 0 else o.mix_at_test  # (b')

    def decision(self) -> str:
        o, words = self.options, super().decision()
        return words if o.mix_at_test < 0 else f"{words}; β = {o.mix_at_test:g} at prediction, chosen on test photos"
