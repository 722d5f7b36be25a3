"""Linear probe, Tip-Adapter and LoRA: literal second implementations, what they see of the photos, small fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anprompt import PromptClassifier, methods
from anprompt.errors import UserError
from anprompt.methods import tip_adapter
from anprompt.training import FrozenPhotos, TrainingImages
from anprompt.training.batches import generator_for
from helpers_clip import random_backbone
from helpers_fit import estimator, noisy_array
from helpers_methods import NAMES, FewPhotos, batch, small_backbone
from helpers_twins import check_against, make
from literal_anprompt import cross_entropy
from literal_probes import LiteralLoRA, LiteralProbe, LiteralTip


@pytest.mark.parametrize("start", ["zero", "text"])
def test_linear_probe_equals_the_literal_one(start: str) -> None:
    check_against(LiteralProbe, "linear-probe", start=start)


@pytest.mark.parametrize("options", [{}, {"targets": "qkv"}, {"targets": "k", "towers": "text"}])
def test_lora_equals_the_literal_one(options: dict[str, Any]) -> None:
    check_against(LiteralLoRA, "lora", rank=3, strength=1.5, **options)


def test_lora_starts_as_zero_shot_and_reaches_only_its_layers() -> None:
    backbone, pixels = small_backbone(), batch()["pixels"]
    lora = methods.create("lora", backbone, NAMES, layers="last-2")
    zero_shot = methods.create("zero-shot", backbone, NAMES)
    torch.testing.assert_close(lora.logits(pixels), zero_shot.logits(pixels), rtol=1e-4, atol=1e-3)
    assert {p.shape[0] for p in lora.parameters()} == {2}
    with pytest.raises(UserError, match="outside the tower"):
        methods.create("lora", backbone, NAMES, layers="6-13")


def test_a_text_started_probe_is_zero_shot_before_training() -> None:
    probe, zero_shot = (methods.create(name, small_backbone(), NAMES, **options)
                        for name, options in (("linear-probe", {"start": "text"}), ("zero-shot", {})))  # fmt: skip
    pixels = batch()["pixels"]
    torch.testing.assert_close(probe.logits(pixels), zero_shot.logits(pixels))


def test_a_view_of_all_classes_keeps_two_of_one_name_apart() -> None:
    names = ["missile", "cat", "missile"]
    probe: Any = methods.create("linear-probe", small_backbone(), names)
    with torch.no_grad():
        probe.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(probe.with_classes(names).bias, probe.bias)


def test_tip_adapter_with_trained_keys_equals_the_literal_one() -> None:
    check_against(LiteralTip, "tip-adapter", preset="trained", alpha=2.5, beta=3.0)


def test_training_free_tip_adapter_equals_the_literal_one() -> None:
    method = make("tip-adapter", small_backbone())
    twin, data = LiteralTip(method, NAMES), batch()
    literal = twin.logits(data["pixels"]).float()
    torch.testing.assert_close(method.logits(data["pixels"]), literal, rtol=1e-4, atol=1e-3)
    loss = cross_entropy(literal.double(), data["labels"]).float()
    torch.testing.assert_close(method.losses(data)["total"], loss, rtol=1e-4, atol=1e-4)
    assert not method.trainable
    assert method.decision() == "zero-shot logits + 1·vote of the training photos (β = 5.5)"


@pytest.mark.parametrize("together", [1024, 5])
def test_alpha_and_beta_are_chosen_on_training_photos_alone(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tip_adapter, "TOGETHER", together)  # many photos are compared some at a time
    chosen = make("tip-adapter", small_backbone(), choose="leave-one-out")
    best = LiteralTip(chosen, NAMES).best(tip_adapter.ALPHAS, tip_adapter.BETAS)
    assert chosen.alpha_beta.tolist() == list(best)
    assert list(best) != [1.0, 5.5], "the choice shows nothing"

    class One(FewPhotos):
        def __init__(self, backbone: Any) -> None:
            super().__init__(backbone)
            self.pixels, self.labels = self.pixels[: len(NAMES)], self.labels[: len(NAMES)]

    backbone = small_backbone()
    single = methods.create("tip-adapter", backbone, NAMES, photos=One(backbone), choose="leave-one-out")
    assert single.alpha_beta.tolist() == [1.0, 5.5], "one photo a class cannot vote for itself"
    assert single.decision().endswith("(β = 5.5; fixed, because leaving one out takes two photos of each class)")
    assert "fixed" not in chosen.decision()


def test_photos_are_needed_and_said_to_be() -> None:
    with pytest.raises(UserError, match="'tip-adapter' looks at the training photos first"):
        methods.create("tip-adapter", small_backbone(), NAMES)


def test_features_of_photos() -> None:
    """As at prediction, whatever the batches; views are drawn by the seed alone."""
    backbone = small_backbone()
    arrays = [noisy_array(i, 34 + i % 3) for i in range(35)]
    data = TrainingImages([torch.from_numpy(a).permute(2, 0, 1) for a in arrays], torch.arange(35) % 2)
    photos = FrozenPhotos(data, backbone, seed=1)
    expected = backbone.encode_image(backbone.preprocess([Image.fromarray(a) for a in arrays]))
    torch.testing.assert_close(photos.features(), expected)
    views = photos.features(3)
    assert torch.equal(views, FrozenPhotos(data, backbone, seed=1).features(3))
    assert not torch.allclose(views, FrozenPhotos(data, backbone, seed=2).features(3))
    assert not torch.allclose(views, expected, atol=1e-3)
    images, each = data.images, []
    for view in range(3):
        parts = [
            (images[:32], generator_for(1, "photos", view, 0)),
            (images[32:], generator_for(1, "photos", view, 32)),
        ]
        crops = [backbone.transform.random_resized_crop(some, generator) for some, generator in parts]
        each.append(backbone.encode_image(torch.cat(crops)))
    torch.testing.assert_close(views, torch.nn.functional.normalize(sum(each), dim=-1))


@pytest.mark.parametrize(
    ("name", "preset"), [("linear-probe", "plain"), ("tip-adapter", "training-free"), ("tip-adapter", "trained")]
)
def test_fit_save_load_and_some_of_the_classes(name: str, preset: str, photo_folder: Path, tmp_path: Path) -> None:
    fitted = estimator(random_backbone(), method=name, preset=preset).fit(photo_folder)
    pictures = [noisy_array(i, 64) for i in range(3)]
    logits = fitted.decision_function(pictures)
    assert fitted.score(photo_folder) > 0.5, "solid colours are easily told apart"
    fitted.save(tmp_path / "whole")
    loaded = PromptClassifier.load(tmp_path / "whole", random_backbone())
    assert np.array_equal(loaded.decision_function(pictures), logits)
    with pytest.raises(UserError, match="only knows the classes that it was trained on, because"):
        loaded.with_classes(["red zebra"])
    with pytest.raises(UserError, match="only knows the classes that it was trained on, because"):
        loaded.add_class("red zebra")
    some = loaded.with_classes(list(fitted.classes_[[2, 0]]))
    some.save(tmp_path / "some")
    again = PromptClassifier.load(tmp_path / "some", random_backbone())
    assert list(again.classes_) == list(fitted.classes_[[2, 0]])
    assert np.allclose(again.decision_function(pictures), logits[:, [2, 0]], atol=1e-4)
