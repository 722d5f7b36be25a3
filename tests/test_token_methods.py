"""MMRL and MMRL++ against their literal second implementation, and their options."""

from __future__ import annotations

import pytest
import torch

from anprompt import methods
from anprompt.errors import UserError
from helpers_methods import NAMES, NEW_NAMES, bank, batch, small_backbone
from helpers_twins import check_against
from literal_tokens import LiteralMMRL, LiteralMMRLPlusPlus

DEPTHS = {"vision_depth": 8, "text_depth": 7}  # 7 blocks with tokens, after one frozen block and from the first block


def test_mmrl_equals_the_literal_one() -> None:
    check_against(LiteralMMRL, "mmrl", sizes=DEPTHS, sim_weight=1.3)


def test_mmrl_pp_equals_the_literal_one() -> None:
    check_against(LiteralMMRLPlusPlus, "mmrl++", sizes=DEPTHS, sim_weight=1.3, mix=0.6)


def test_which_logits_decide() -> None:
    """ℓ_f for training classes and ℓ for others, or as the options say; result files say which."""
    pixels = batch()["pixels"]

    def logits(names: list[str], **options: object) -> torch.Tensor:
        method = methods.create("mmrl", small_backbone(), NAMES, texts=bank(), **options)
        return method.with_classes(names, bank()).logits(pixels)

    fused, plain = logits(NAMES), logits(NAMES, decision="class")
    assert not torch.allclose(fused, plain)
    torch.testing.assert_close(plain, logits(NAMES, alpha=1.0), rtol=1e-5, atol=1e-4)
    new = logits(NEW_NAMES)
    torch.testing.assert_close(new, logits(NEW_NAMES, decision="class"), rtol=1e-5, atol=1e-4)
    assert not torch.allclose(new, logits(NEW_NAMES, decision_new="fused"))
    method = methods.create("mmrl", small_backbone(), NAMES)
    assert method.decision() == "0.7·ℓ + 0.3·ℓ_r; new classes: ℓ"


def test_a_mix_chosen_on_test_photos_is_refused_unless_asked_for() -> None:
    pixels = batch()["pixels"]
    with pytest.raises(UserError, match=r"'mix_at_test' 0\.3 is refused: .* chosen on the test photos of each target"):
        methods.create("mmrl++", small_backbone(), NAMES, mix_at_test=0.3)
    tuned = methods.create("mmrl++", small_backbone(), NAMES, mix_at_test=0.3, allow_test_tuning=True)
    assert "β = 0.3 at prediction, chosen on test photos" in tuned.decision()
    plain, other = (methods.create("mmrl++", small_backbone(), NAMES, mix=mix) for mix in (0.9, 0.3))
    assert "test photos" not in plain.decision()
    assert torch.equal(tuned.logits(pixels), other.logits(pixels))
    assert torch.equal(tuned.losses(batch())["total"], plain.losses(batch())["total"])
