"""How many numbers ANPrompt learns, and its small form for prediction (``bake``)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from anprompt import methods
from anprompt.clip import Backbone, ImageTransform, Sentences
from anprompt.errors import UserError
from anprompt.methods.count import VIT_B_16, learnable_numbers
from anprompt.text import DescriptionBank
from helpers_clip import randomise, small_tables, small_tokenizer
from helpers_methods import NAMES, NEW_NAMES, anprompt, bank, batch, perturb, small_backbone

PIXELS = batch(5)["pixels"]


@pytest.mark.parametrize(
    ("name", "preset", "options", "expected"),
    [
        ("anprompt", "paper", {}, 4_992_256),
        ("anprompt", "paper", {"maps": "shared"}, 1_052_416),
        ("anprompt", "snapshot", {}, 5_117_952),
        ("zero-shot", None, {}, 0),
        ("coop", "paper", {}, 2_048),
        ("coop", "few-shot", {}, 8_192),
        ("cocoop", None, {}, 35_360),
        ("kgcoop", None, {}, 2_048),
        ("prograd", None, {}, 8_192),
        ("maple", "paper", {}, 3_555_072),
        ("maple", "cross-dataset", {}, 1_185_024),
        ("coprompt", None, {}, 3_817_216),
        ("coprompt", None, {"depth": 12, "length": 4}, 5_014_528),
        ("dapt", None, {}, 3_555_072),
        ("hicropl", "paper", {}, 33_431_040),
        ("hicropl", "code", {}, 245_760),
        ("promptsrc", "paper", {}, 46_080),
        ("promptsrc", "cross-dataset", {}, 15_360),
        ("mmrl", "paper", {}, 4_992_256),
        ("mmrl", "paper", {"rep_width": 2048}, 18_762_496),
        ("mmrl++", "paper", {}, 813_312),
        ("lora", "qv", {}, 2 * 2 * 2 * 12 * (768 + 512)),
        ("lora", "qkv", {"towers": "vision", "layers": "last-3"}, 2 * 2 * 3 * 3 * 768),
        ("textrefiner", "paper", {}, 1_052_672),
        ("tac", "paper", {}, 733_440),
        ("tac", "paper", {"length": 10}, 810_240),
        ("lweib", "paper", {}, 506_880),
        ("bip", "paper", {"classes": 10}, 796_928 + 10 * 512),
        ("bip", "paper", {"unused_nets": 2, "classes": 10}, 1_720_832 + 10 * 512),
        ("surpl", "paper", {}, 1_641_216),
        ("linear-probe", "plain", {"classes": 100}, 100 * 513),
        ("tip-adapter", "training-free", {"classes": 100, "photos": 1600}, 0),
        ("tip-adapter", "trained", {"classes": 100, "photos": 1600}, 1600 * 512),
    ],
)
def test_learnable_numbers_on_the_shape_of_vit_b_16(
    name: str, preset: str | None, options: dict[str, Any], expected: int
) -> None:
    assert learnable_numbers(name, VIT_B_16, preset, **options) == expected


def test_the_count_equals_the_sum_of_its_parts() -> None:
    """7 layers, K = 5, d = 512, D = 768 and 512: what the numbers above consist of."""
    vision_map, text_map, prompts, projection = 512 * 768 + 768, 512 * 512 + 512, 5 * 512, 768 * 512
    assert learnable_numbers("anprompt") == 7 * (vision_map + text_map) + prompts + projection
    assert learnable_numbers("anprompt", layers="12") == vision_map + text_map + prompts + projection
    assert learnable_numbers("anprompt", prompt_length=6) == learnable_numbers("anprompt") + 512


@pytest.mark.parametrize("options", [{}, {"free_prompts": 0.2, "maps": "low-rank", "mix": 0.5}, {"anti_prompt": False}])
def test_baked_logits(options: dict[str, Any]) -> None:
    method = anprompt(**options)
    known, new = method.logits(PIXELS), method.with_classes(NEW_NAMES, bank()).logits(PIXELS)
    view = method.with_classes(NEW_NAMES, bank())
    method.bake()
    assert set(method.state_dict()) == {"baked_vision", "baked_text", "baked_weights"}
    assert not list(method.parameters())
    assert (method.logits(PIXELS) - known).abs().max() <= 1e-4
    later = method.with_classes(NEW_NAMES, bank()).logits(PIXELS)  # text tokens in fp16: close, not equal
    assert (later - new).abs().max() <= 0.05
    assert torch.equal(view.logits(PIXELS), new), "a view taken before lost its tensors"
    swapped = method.with_classes([NAMES[2], NEW_NAMES[0], NAMES[0]], bank()).logits(PIXELS)
    assert torch.allclose(swapped[:, [0, 2]], known[:, [2, 0]], atol=1e-4)


def test_baking_a_view_leaves_the_original_alone() -> None:
    method = anprompt()
    logits, tensors = method.logits(PIXELS), set(method.state_dict())
    view: Any = method.with_classes(NAMES[:2])
    view.bake()
    assert set(method.state_dict()) == tensors
    assert torch.equal(method.logits(PIXELS), logits)
    assert torch.allclose(view.logits(PIXELS), logits[:, :2], atol=1e-4)


def test_classes_added_after_baking_are_baked_too() -> None:
    method = anprompt()
    method.bake()
    old = method.logits(PIXELS)
    method.add_classes(NEW_NAMES, bank())
    both = method.logits(PIXELS)
    assert torch.equal(both[:, : len(NAMES)], old)
    method.bake()
    assert method.baked_weights.shape == (len(NAMES) + len(NEW_NAMES), 16)
    assert torch.equal(method.logits(PIXELS), both)


def test_baked_tensors_restore_the_small_form() -> None:
    method = anprompt()
    method.bake()
    other = reloaded(method)
    assert torch.equal(other.logits(PIXELS), method.logits(PIXELS))


def reloaded(method: Any) -> Any:
    """As from the file of a baked adapter, which holds no sentences."""
    other: Any = methods.build("anprompt", small_backbone())
    other.bake(method.state_dict(), method.class_names)
    other.blocks = [other.make_block(method.class_names, trained=True)]
    return other


def test_new_sentences_replace_baked_classes() -> None:
    method = anprompt()
    changed = bank().with_class(NAMES[1], ["a sketch of a dark lake."])
    before, expected = method.logits(PIXELS), method.with_classes(NAMES, changed).logits(PIXELS)
    assert (expected - before)[:, 1].abs().max() > 0.1
    method.bake()
    for made, most in ((method, 0.05), (reloaded(method), 0.5)):  # a file has no noise sentence either
        texts = changed if made is method else DescriptionBank({NAMES[1]: changed.main[NAMES[1]]})
        for view in (made.with_classes(NAMES, texts), made.with_bank(texts)):
            logits = view.logits(PIXELS)
            assert torch.equal(logits[:, [0, *range(2, 6)]], made.logits(PIXELS)[:, [0, *range(2, 6)]])
            assert (logits - expected)[:, 1].abs().max() <= most
            view.bake()  # what is kept now is the new one
            assert torch.equal(view.with_classes(NAMES).logits(PIXELS), logits)
        assert torch.equal(made.with_classes(NAMES).logits(PIXELS), made.logits(PIXELS))
        assert torch.allclose(made.logits(PIXELS), before, atol=1e-4), "a view changed the original"


def test_baked_classes_whose_sentences_are_lost_cannot_be_reworded() -> None:
    method = anprompt()
    method.bake()
    shouted = bank().reworded(lambda name, sentence: sentence.replace("street", "road"))
    moved = method.with_bank(shouted).logits(PIXELS) - method.logits(PIXELS)
    assert moved.abs().max() > 0.01
    other = reloaded(method)
    with pytest.raises(UserError, match="'cat' cannot be reworded: its adapter is baked, so that its sentences are no"):
        other.with_bank(DescriptionBank().reworded(lambda name, sentence: sentence.upper()))
    other.template = "a sketch of a {}."  # of another data set: built as a class without descriptions
    assert not torch.allclose(other.with_classes(NAMES).logits(PIXELS), other.logits(PIXELS), atol=1e-2)


def test_only_classes_that_are_not_baked_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    method = anprompt()
    method.bake()
    read: list[int] = []
    features = Sentences.features
    monkeypatch.setattr(Sentences, "features", lambda *given: (read.append(len(given[0])), features(*given))[1])
    view = method.with_classes([*NAMES, NEW_NAMES[0]], bank())
    assert view.logits(PIXELS).shape == (5, len(NAMES) + 1)
    assert method.logits(PIXELS).shape == (5, len(NAMES))
    assert max(read) == 1


def test_baking_when_sentences_were_drawn_anew_in_each_epoch() -> None:
    method = anprompt(resample="epoch")
    method.start_epoch(1)
    method.bake()
    assert method.with_classes([NAMES[0], NEW_NAMES[0]], bank()).logits(PIXELS).isfinite().all()


def test_baked_size_on_the_shape_of_vit_b_16() -> None:
    """Widths of ViT-B/16 and its 7 prompted blocks; MLPs and vocabulary are small, they are not in the file."""
    tokenizer = small_tokenizer()
    config = replace(
        VIT_B_16,
        vision=replace(VIT_B_16.vision, depth=7, mlp=8),
        text=replace(VIT_B_16.text, depth=7, mlp=8),
        image_size=32,
        vocabulary=len(small_tables()[0]),
        eot_id=tokenizer.eot_id,
        sot_id=tokenizer.sot_id,
    )
    backbone = Backbone(config, tokenizer, ImageTransform(32, 32))
    randomise(backbone, 0)
    method: Any = methods.create("anprompt", backbone, NAMES, texts=bank())
    perturb(method)
    before = method.logits(PIXELS)
    method.bake()
    assert (method.logits(PIXELS) - before).abs().max() <= 1e-4
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in method.state_dict().items()}
    assert sizes == {
        "baked_vision": 7 * 5 * 768 * 4,
        "baked_text": 7 * 5 * 512 * 2,
        "baked_weights": len(NAMES) * 512 * 4,
    }
    assert sum(sizes.values()) <= 150_000 + 2048 * len(NAMES)


def test_bake_is_refused_where_the_prototype_decides() -> None:
    method = anprompt(preset="snapshot")
    with pytest.raises(UserError, match="partner='prototype' needs P_r"):
        method.bake()
    assert method.logits(PIXELS).isfinite().all()
