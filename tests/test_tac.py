"""TAC against its literal second implementation; clusters, views, plain photos and the average over epochs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anprompt import methods
from anprompt.clip import Sentences
from anprompt.errors import UserError
from anprompt.methods import tac
from anprompt.methods.clusters import cosine_centres
from anprompt.training import Recipe, TrainingImages, train
from anprompt.training.batches import augmented_batches
from helpers_clip import random_backbone
from helpers_fit import pictures
from helpers_methods import NAMES, NEW_NAMES, bank, batch, small_backbone
from helpers_twins import check_against, make
from literal_anprompt import unit
from literal_tac import LiteralTAC


@pytest.mark.parametrize("depth", [3, 2])
def test_tac_equals_the_literal_one(depth: int) -> None:
    check_against(LiteralTAC, "tac", depth=depth, length=2)


@pytest.mark.parametrize("length", [2, 5, 10])
def test_prompts_of_the_first_block_start_as_the_sentence_with_its_end(length: int) -> None:
    """Embeddings of tokens 1 … n of "a photo of a": from the fifth on the end of text, then padding."""
    backbone = small_backbone()
    method, twin = make("tac", backbone, length=length), LiteralTAC(make("tac", backbone), NAMES)
    torch.testing.assert_close(method.text_prompts[0].double(), twin.start(length), rtol=0, atol=0)


def test_centres_are_directions_of_their_rows() -> None:
    """Three bundles of rows are found; in general, each centre is the mean direction of the rows nearest to it."""
    generator = torch.Generator().manual_seed(0)
    bundles = torch.eye(3, 8).repeat_interleave(4, dim=0) + 0.05 * torch.randn(12, 8, generator=generator)
    rows = bundles / bundles.norm(dim=1, keepdim=True)
    found = cosine_centres(rows, 3)
    assert sorted((found @ torch.eye(3, 8).T).argmax(dim=1).tolist()) == [0, 1, 2]
    rows = torch.randn(30, 8, generator=generator)
    rows = rows / rows.norm(dim=1, keepdim=True)
    found = cosine_centres(rows, 5)
    assert torch.equal(found, cosine_centres(rows, 5))
    nearest = [max(range(5), key=lambda i: float(row @ found[i])) for row in rows]
    for i, centre in enumerate(found):
        total = sum(row for row, own in zip(rows, nearest, strict=True) if own == i)
        assert torch.allclose(centre, total / total.norm(), atol=1e-5)
    assert torch.allclose(cosine_centres(rows[:5], 5).sum(dim=0), rows[:5].sum(dim=0), atol=1e-6)  # one row each


def test_clusters_are_of_the_training_classes_and_stay() -> None:
    method = make("tac", small_backbone())
    means = LiteralTAC(method, NAMES)
    rows = torch.stack([means.mean(name) for name in NAMES]).float()
    torch.testing.assert_close(method.centres, cosine_centres(rows, 5), rtol=1e-4, atol=1e-5)
    view: Any = method.with_classes(NEW_NAMES, bank())
    assert torch.equal(view.centres, method.centres)
    few = make("tac", small_backbone(), NAMES[:2])  # then of single sentences
    sentences = torch.stack([unit(means.encoder.text(s)) for name in NAMES[:2] for s in means.sentences[name]]).float()
    torch.testing.assert_close(few.centres, cosine_centres(sentences, 5), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="5 clusters need at least 5 classes or sentences, but there are 4"):
        methods.create("tac", small_backbone(), NAMES[:4])


def test_sentences_run_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, sizes = make("tac", small_backbone()), list[int]()

    def counted(backbone: Any, texts: list[str]) -> Sentences:
        sizes.append(len(texts))
        return Sentences(backbone, texts)

    monkeypatch.setattr(tac, "TOGETHER", 4)
    monkeypatch.setattr(tac, "Sentences", counted)
    method = make("tac", small_backbone())
    assert max(sizes) == 4
    torch.testing.assert_close(method.centres, whole.centres, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(method.blocks[0].extra["mean"], whole.blocks[0].extra["mean"], rtol=1e-5, atol=1e-6)


def test_descriptions_are_only_read_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither other classes, other wordings nor loading an adapter encode them, so an adapter keeps none."""
    method, encoded = make("tac", small_backbone()), list[str]()
    monkeypatch.setattr(tac, "Sentences", lambda backbone, texts: encoded.extend(texts))
    method.with_classes(NEW_NAMES, bank()).logits(batch(1)["pixels"])
    method.with_bank(bank())
    method.add_classes(NEW_NAMES, bank())
    assert encoded == []
    assert method.used_texts([*NAMES, *NEW_NAMES]).main == {}


def test_the_mask_is_made_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    method, made = make("tac", small_backbone()), list[int]()
    allowed = method._allowed
    monkeypatch.setattr(method, "_allowed", lambda length: (made.append(length), allowed(length))[1])
    method.image_features(batch(2)["pixels"])
    assert made == [1 + method.backbone.config.patches + 10]


def test_views_and_plain_photos_in_the_loss() -> None:
    """All views are taken as one batch, all against the features of the photos as they are."""
    method, data, other = make("tac", small_backbone()), batch(2), batch(2, seed=1)
    plain = method.backbone.encode_image(batch(2, seed=2)["pixels"])
    whole = method.losses({**data, "views": other["pixels"][None], "plain": plain})
    parts = [method.losses({**data, "pixels": pixels, "plain": plain}) for pixels in (data["pixels"], other["pixels"])]
    for term in ("cross_entropy", "image_distance", "total"):
        torch.testing.assert_close(whole[term], (parts[0][term] + parts[1][term]) / 2, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(method.losses(data)["image_distance"], parts[0]["image_distance"])


def test_batches_with_features_of_plain_photos() -> None:
    backbone, data = random_backbone(), pictures(6)
    recipe, rows = Recipe(batch=2), torch.arange(6.0)[:, None]
    steps = [list(augmented_batches(data, backbone.transform, recipe, backbone.device, seed=1, epoch=0, plain=plain))
             for plain in (None, rows)]  # fmt: skip
    for (_, without), (_, given) in zip(*steps, strict=True):
        assert set(without) == {"pixels", "labels"}
        assert torch.equal(given["pixels"], without["pixels"])
        assert given["plain"].shape == (2, 1)
        assert torch.equal(data.labels[given["plain"][:, 0].long()], given["labels"])
    assert sorted(torch.cat([given["plain"] for _, given in steps[1]]).flatten().tolist()) == list(range(6))


def test_learned_numbers_are_averaged_over_epochs() -> None:
    method, ends = make("tac", small_backbone()), []
    for epoch in range(3):
        train_one(method, epoch)
        ends.append({name: p.detach().clone() for name, p in method.named_parameters()})
        method.end_epoch(epoch, 3)
    for name, parameter in method.named_parameters():
        torch.testing.assert_close(parameter, sum(end[name] for end in ends) / 3)
        assert torch.equal(method.training_state()[name], sum(end[name] for end in ends))


def train_one(method: Any, seed: int) -> None:
    method.zero_grad()
    method.losses(batch(seed=seed))["total"].backward()
    torch.optim.SGD(method.parameters(), lr=0.1).step()


def test_training_runs_in_the_loop() -> None:
    """The loop hands over plain photos; pixels alone would give another loss."""
    data = TrainingImages(pictures(6).images, torch.arange(6) % len(NAMES))
    method = make("tac", random_backbone(vision_depth=2, text_depth=2), depth=2)
    seen: list[set[str]] = []
    losses = method.losses
    method.losses = lambda given: (seen.append(set(given)), losses(given))[1]
    result = train(method, data, Recipe(epochs=1, batch=3), seed=1)
    assert result.steps == 2
    assert all({"pixels", "labels", "plain"} <= keys for keys in seen)


def test_a_photo_without_augmentation_is_encoded_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its target is what the encoder gives for it as at prediction."""
    data = TrainingImages(pictures(6).images, torch.arange(6) % len(NAMES))
    backbone = random_backbone(vision_depth=2, text_depth=2)
    method, encoded, given = make("tac", backbone, depth=2), list[int](), list[torch.Tensor]()
    encode, losses = backbone.encode_image, method.losses
    monkeypatch.setattr(backbone, "encode_image", lambda pixels: (encoded.append(len(pixels)), encode(pixels))[1])
    method.losses = lambda batch: (given.append(batch["plain"]), losses(batch))[1]
    train(method, data, Recipe(epochs=2, batch=3), seed=1)
    assert encoded == [6]
    expected = encode(data.plain(range(6), backbone.transform))
    for epoch in (given[:2], given[2:]):
        nearest = torch.cat(epoch) @ expected.T
        assert sorted(nearest.argmax(dim=1).tolist()) == list(range(6))
        torch.testing.assert_close(nearest.amax(dim=1), torch.ones(6))
