"""Own towers against ``transformers``, and every short cut against the plain computation."""

from __future__ import annotations

import pickle
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anprompt.clip import Backbone, PromptPlan, PromptWrite, Sentences, load_backbone
from anprompt.clip.checkpoint import MINIATURE
from helpers_clip import hugging_face_model, random_backbone, sizes, write_tokenizer

TOLERANCE = 1e-5
TEXTS = ["a photo of a cat", "night", "a red striped circle on a dark road, with a small dog & 3 stars!", "a"]

SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "12 + 12, quick-GELU": (
        {**sizes(32, 12, 2, 128), "image_size": 32, "patch_size": 8},
        {**sizes(24, 12, 2, 96), "max_position_embeddings": 77},
        16,
    ),
    "6 + 3, GELU": (
        {**sizes(48, 6, 4, 192, "gelu"), "image_size": 48, "patch_size": 16},
        {**sizes(32, 3, 4, 128, "gelu"), "max_position_embeddings": 64},
        40,
    ),
    "patch 14, odd sizes, other MLP widths": (
        {**sizes(36, 4, 3, 100), "image_size": 70, "patch_size": 14},
        {**sizes(20, 5, 1, 50), "max_position_embeddings": 77},
        11,
    ),
}


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Relative difference at most 1e-5, in norm (per row) and in the largest entry."""
    assert ours.shape == theirs.shape
    delta = ours - theirs
    assert (delta.norm(dim=-1) <= TOLERANCE * theirs.norm(dim=-1)).all()
    assert delta.abs().max() <= TOLERANCE * theirs.abs().max()


def assert_gradients_close(ours: Tensor, theirs: Tensor, tokens: dict[int, Tensor]) -> None:
    """The same for the gradients of both features to each block's tokens, as one vector each."""
    for mine, other in zip(gradients(ours, tokens), gradients(theirs, tokens), strict=True):
        assert_close(mine.flatten(), other.flatten())


@torch.no_grad()
def compare(backbone: Backbone, model: Any) -> None:
    """Image and text features of ``backbone`` equal those of a ``transformers.CLIPModel``, before normalisation."""
    generator = torch.Generator().manual_seed(3)
    side = backbone.config.image_size
    pixels = torch.randn(3, 3, side, side, generator=generator)
    images = model.get_image_features(pixel_values=pixels).pooler_output
    assert_close(backbone.images(pixels).cls, images)
    ids = backbone.tokenizer(TEXTS)
    texts = model.get_text_features(input_ids=ids).pooler_output
    assert_close(Sentences(backbone, TEXTS).features(), texts)
    assert backbone.logit_scale == pytest.approx(float(model.logit_scale.exp()))
    # The check means something only if features tell inputs apart.
    for features in (images, texts):
        unit = torch.nn.functional.normalize(features, dim=-1)
        assert (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)].max() < 0.9999


def save(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("shape", SHAPES)
def test_features_equal_transformers(tmp_path: Path, shape: str) -> None:
    model = hugging_face_model(*SHAPES[shape])
    backbone = load_backbone(save(model, tmp_path))
    assert (backbone.vision.depth, backbone.text.depth) == (
        SHAPES[shape][0]["num_hidden_layers"],
        SHAPES[shape][1]["num_hidden_layers"],
    )
    compare(backbone, model)


def test_shards_equal_transformers(tmp_path: Path) -> None:
    model = hugging_face_model(*SHAPES["6 + 3, GELU"])
    folder = save(model, tmp_path, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    compare(load_backbone(folder), model)


def test_fp16_file_is_computed_in_fp32(tmp_path: Path) -> None:
    model = hugging_face_model(*SHAPES["patch 14, odd sizes, other MLP widths"]).half()
    backbone = load_backbone(save(model, tmp_path))
    assert all(parameter.dtype == torch.float32 for parameter in backbone.parameters())
    compare(backbone, model.float())  # the same rounded weights


def test_miniature_equals_transformers() -> None:
    from transformers import CLIPModel

    compare(load_backbone("miniature"), CLIPModel.from_pretrained(MINIATURE, dtype=torch.float32).eval())


@pytest.mark.real
def test_stand_in_equals_transformers(real: Path) -> None:
    from transformers import CLIPModel

    folder = real / "clip-standin"
    compare(load_backbone(folder), CLIPModel.from_pretrained(folder, dtype=torch.float32).eval())


# Short cuts, each against the plain computation. A tower of 6 + 4 blocks keeps them fast.


@cache
def small() -> Backbone:
    return random_backbone(vision_depth=6, text_depth=4)


def pixels(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def prompts(blocks: range, length: int, width: int, *, batch: int | None = None) -> dict[int, Tensor]:
    """Learnable tokens for each block, ``(K, D)`` or ``(B, K, D)``."""
    generator = torch.Generator().manual_seed(7)
    shape = (length, width) if batch is None else (batch, length, width)
    return {block: torch.randn(shape, generator=generator).requires_grad_() for block in blocks}


def gradients(features: Tensor, tokens: dict[int, Tensor]) -> list[Tensor]:
    """Gradients of a fixed random projection of ``features`` to all tokens."""
    weight = torch.randn(features.shape, generator=torch.Generator().manual_seed(9))
    return list(torch.autograd.grad((features * weight).sum(), list(tokens.values()), retain_graph=True))


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 6), first=st.integers(1, 6), length=st.integers(1, 3), mix=st.sampled_from([1.0, 0.3]))
def test_two_spans_equal_one_run(cut: int, first: int, length: int, mix: float) -> None:
    tower = small().vision
    plan = PromptPlan.deep(prompts(range(first, 7), length, tower.width), mix=mix)
    start = tower.embed(pixels())
    with torch.no_grad():
        whole = tower.run(start, 1, 6, plan)
        assert torch.equal(tower.run(tower.run(start, 1, cut, plan), cut + 1, 6, plan), whole)
        assert whole.shape[1] == start.shape[1] + length


@settings(max_examples=25, deadline=None)
@given(
    row=st.lists(st.integers(0, 8), min_size=1, max_size=4),
    causal=st.booleans(),
    per_element=st.booleans(),
)
def test_reading_some_rows_equals_gathering_from_all(row: list[int], causal: bool, per_element: bool) -> None:
    """Features and gradients; rows may repeat and differ between batch elements."""
    tower = small().text if causal else small().vision
    tokens = prompts(range(2, tower.depth + 1), 2, tower.width, batch=2 if per_element else None)
    plan = PromptPlan.deep(tokens)
    start = torch.randn(2, 9, tower.width, generator=torch.Generator().manual_seed(1))
    rows = torch.tensor([row, row[::-1]])  # (B, R)
    plain = tower.run(start, 1, tower.depth, plan).gather(1, rows[:, :, None].expand(-1, -1, tower.width))
    short = tower.run(start, 1, tower.depth, plan, rows)
    assert_close(short, plain)
    assert_gradients_close(short, plain, tokens)


@pytest.mark.parametrize("first", [None, 1, 3])
def test_cut_and_cached_text_equals_the_full_context(first: int | None) -> None:
    """Text cut after the longest EOT with a kept trunk, against 77 tokens through all blocks; twice, for the cache."""
    backbone = small()
    tower = backbone.text
    tokens = {} if first is None else prompts(range(first, tower.depth + 1), 2, tower.width)
    plan = PromptPlan.deep(tokens)
    sentences = Sentences(backbone, TEXTS)
    ids = backbone.tokenizer(TEXTS)
    eot = plan.shifted((ids == backbone.config.eot_id).int().argmax(1))
    full = tower.run(tower.embed(ids), 1, tower.depth, plan)
    plain = tower.read(full[torch.arange(len(TEXTS)), eot])
    for _ in range(2):
        short = sentences.features(plan)
        assert_close(short, plain)
        if tokens:
            assert_gradients_close(short, plain, tokens)


def test_kept_text_trunk_follows_a_plan_that_starts_elsewhere() -> None:
    backbone = small()
    sentences = Sentences(backbone, TEXTS)
    for first in (3, 2, 4):
        plan = PromptPlan.deep(prompts(range(first, 5), 1, backbone.text.width))
        assert_close(sentences.features(plan), Sentences(backbone, TEXTS).features(plan))


@pytest.mark.parametrize("first", [None, 1, 4])
def test_shared_trunk_equals_a_separate_teacher(first: int | None) -> None:
    backbone = small()
    tower = backbone.vision
    tokens = {} if first is None else prompts(range(first, 7), 3, tower.width)
    plan = PromptPlan.deep(tokens)
    out = backbone.images(pixels(), plan, frozen=True)
    full = tower.run(tower.embed(pixels()), 1, 6, plan)
    assert_close(out.cls, tower.read(full[:, 0]))
    assert out.frozen is not None
    assert_close(out.frozen, tower.read(tower.run(tower.embed(pixels()), 1, 6)[:, 0]))
    assert not out.frozen.requires_grad
    if first is None:
        assert out.prompts is None
        return
    assert out.prompts is not None
    assert_close(out.prompts, tower.ln_post(full[:, 1:4]))
    ours = torch.cat([out.cls, out.prompts.flatten(1)], 1)
    plain = torch.cat([tower.read(full[:, 0]), tower.ln_post(full[:, 1:4]).flatten(1)], 1)
    assert_gradients_close(ours, plain, tokens)


@settings(max_examples=40, deadline=None)
@given(
    how=st.sampled_from(["insert", "overwrite"]),
    at=st.one_of(st.none(), st.integers(0, 5)),
    length=st.integers(1, 3),
    mix=st.sampled_from([1.0, 0.25, 0.0]),
    per_element=st.booleans(),
)
def test_writes_equal_a_literal_loop(how: Any, at: int | None, length: int, mix: float, per_element: bool) -> None:
    x = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    tokens = prompts(range(1, 2), length, 4, batch=2 if per_element else None)[1].detach()
    got = PromptWrite(1, tokens, how, at, mix).apply(x)
    for b in range(2):
        rows = [x[b, i] for i in range(8)]
        new = [tokens[b, k] if per_element else tokens[k] for k in range(length)]
        if how == "insert":
            start = 8 if at is None else at
            rows[start:start] = new
        else:
            start = 8 - length if at is None else at
            for k, token in enumerate(new):
                rows[start + k] = mix * token + (1 - mix) * rows[start + k]
        torch.testing.assert_close(got[b], torch.stack(rows))


def test_deep_plan_equals_a_literal_loop_over_blocks() -> None:
    tower = small().vision
    tokens = prompts(range(2, 7), 2, tower.width)
    x = start = tower.embed(pixels())
    for number, block in enumerate(tower.blocks, start=1):
        if number == 2:
            x = torch.cat([x[:, :1], tokens[2].expand(2, -1, -1), x[:, 1:]], 1)
        elif number > 2:
            x = torch.cat([x[:, :1], 0.6 * tokens[number] + 0.4 * x[:, 1:3], x[:, 3:]], 1)
        x = block(x, causal=False)
    torch.testing.assert_close(tower.run(start, 1, 6, PromptPlan.deep(tokens, mix=0.6)), x)


def test_positions_shift_only_behind_an_insertion() -> None:
    token = torch.zeros(2, 4)
    plan = PromptPlan((PromptWrite(1, token, "insert", 3), PromptWrite(2, token, "overwrite", 0)))
    assert plan.shifted(torch.tensor([0, 2, 3, 7])).tolist() == [0, 2, 5, 9]
    at_end = PromptPlan((PromptWrite(1, token, "insert", None),))
    assert at_end.shifted(torch.tensor([0, 7])).tolist() == [0, 7]


def test_plan_outside_the_tower_is_refused() -> None:
    tower = small().vision
    plan = PromptPlan.deep(prompts(range(6, 8), 1, tower.width))
    with pytest.raises(ValueError, match=r"\[7\].*blocks 1 to 6"):
        tower.run(tower.embed(pixels()), 1, 6, plan)


def test_using_a_backbone_changes_nothing_in_it() -> None:
    backbone = random_backbone(vision_depth=3, text_depth=2)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    fingerprint = backbone.weights_hash
    vision, text = prompts(range(2, 4), 2, 32), prompts(range(1, 3), 2, 24)
    images = backbone.images(pixels(), PromptPlan.deep(vision), frozen=True)
    texts = Sentences(backbone, TEXTS).features(PromptPlan.deep(text))
    (images.cls @ texts.T).sum().backward()
    assert all(token.grad is not None for token in [*vision.values(), *text.values()])
    assert all(not p.requires_grad and p.grad is None for p in backbone.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    del backbone.__dict__["weights_hash"]
    assert backbone.weights_hash == fingerprint


def test_encoded_features_are_of_unit_length_and_in_the_order_given() -> None:
    backbone = small()
    texts = backbone.encode_text(TEXTS, batch=2)
    assert_close(texts, torch.cat([backbone.encode_text([text]) for text in TEXTS]))
    images = backbone.encode_image(pixels())
    for features in (texts, images):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(features)))
    assert not torch.allclose(images[0], images[1], atol=1e-2)


def test_lower_precision_is_another_encoder_and_back_is_the_one_that_was_loaded() -> None:
    backbone = random_backbone()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    rough = backbone.in_precision("bf16")
    assert (rough.precision, backbone.precision) == ("bf16", "fp32")
    assert rough.vision.blocks[0].qkv.weight.dtype == rough.vision.patch.weight.dtype == torch.bfloat16
    assert rough.text.token.weight.dtype == torch.float32
    assert rough.text.token.weight.data_ptr() == backbone.text.token.weight.data_ptr(), "shared"
    assert rough.weights_hash == backbone.weights_hash
    assert set(rough.state_dict()) == set(before)
    assert not any(parameter.requires_grad for parameter in rough.parameters())
    assert backbone.in_precision("bf16") is rough is rough.in_precision("bf16"), "one for all who use it"
    assert rough.in_precision("fp32") is backbone is backbone.in_precision("fp32")
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    copied = pickle.loads(pickle.dumps(rough))
    assert torch.equal(copied.encode_image(pixels()), rough.encode_image(pixels()))
    assert torch.equal(copied.in_precision("fp32").encode_image(pixels()), backbone.encode_image(pixels()))
    gone = weakref.ref(rough)
    del rough
    assert gone() is None, "kept no longer than it is used"


def test_an_encoder_stays_on_its_device() -> None:
    backbone = random_backbone()
    elsewhere = backbone.in_precision("fp32", torch.device("meta"))
    assert (elsewhere.device.type, backbone.device.type) == ("meta", "cpu")
    assert backbone.in_precision("fp32", torch.device("meta")) is elsewhere
