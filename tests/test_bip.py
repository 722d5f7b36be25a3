"""BIP against its literal second implementation, and where its class vectors start."""

from __future__ import annotations

import pytest
import torch

from anprompt.errors import UserError
from helpers_methods import NAMES, FewPhotos, small_backbone
from helpers_twins import check_against, make
from literal_bip import LiteralBIP


@pytest.mark.parametrize(("text_block", "vision_block", "text_mix"), [(3, 2, 1.0), (2, 3, 0.6)])
def test_bip_equals_the_literal_one(text_block: int, vision_block: int, text_mix: float) -> None:
    check_against(LiteralBIP, "bip", text_block=text_block, vision_block=vision_block, text_mix=text_mix)


def test_class_vectors_start_as_means_of_the_photos() -> None:
    backbone = small_backbone()
    method, photos = make("bip", backbone), FewPhotos(backbone)
    features = backbone.encode_image(photos.pixels)
    expected = torch.stack([features[photos.labels == c].mean(dim=0) for c in range(len(NAMES))])
    torch.testing.assert_close(method.head.detach(), expected)
    with pytest.raises(UserError, match="'vision_block' is 13, but that tower has 12 blocks"):
        make("bip", backbone, vision_block=13)


def test_blocks_outside_the_tower_are_named() -> None:
    with pytest.raises(UserError, match="'text_block' is 15, but that tower has 12 blocks"):
        make("bip", small_backbone(), text_block=15)
