"""SurPL against its literal second implementation; images in pieces give the same logits."""

from __future__ import annotations

import pytest
import torch

from anprompt.methods import surpl
from helpers_methods import batch, small_backbone
from helpers_twins import check_against, make
from literal_surpl import LiteralSurPL


@pytest.mark.parametrize("depth", [2, 1])
def test_surpl_equals_the_literal_one(depth: int) -> None:
    names, sizes = ["cat", "red dog", "lake", "star"], {"vision_depth": 2, "text_depth": 2, "context": 30}
    check_against(LiteralSurPL, "surpl", depth=depth, signals=2, top=3, photos=4, names=names, sizes=sizes)


def test_images_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    method, pixels = make("surpl", small_backbone()), batch(4)["pixels"]
    whole = method.logits(pixels)
    monkeypatch.setattr(surpl, "ROWS", 12)  # two images a piece
    torch.testing.assert_close(method.logits(pixels), whole, rtol=1e-5, atol=1e-4)
