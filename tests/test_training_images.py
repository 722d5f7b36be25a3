"""The drawn photos in memory: whole if small, shrunk with antialiasing if large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anprompt.clip.preprocess import RATIO, _random_box
from anprompt.data import open_data
from anprompt.errors import UserError
from anprompt.training import read_images

CROP = 32


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes; sides below, at and far above twice the crop."""
    rng = np.random.default_rng(0)
    for name, sizes in (("cat", [(40, 50), (64, 64), (63, 400)]), ("dog", [(200, 150), (65, 66), (90, 1000)])):
        (tmp_path / name).mkdir()
        for number, (width, height) in enumerate(sizes):
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_only_large_photos_are_shrunk(photos: Path) -> None:
    source = open_data(photos)
    items = source.splits["train"]
    images, used, bad = read_images(source, items, CROP, "stop")
    assert (used, bad, len(images)) == (list(items), [], len(items))
    assert images.labels.tolist() == [item.label for item in items]
    shrunk = 0
    for item, ours in zip(items, images.images, strict=True):
        photo = source.open(item)
        if min(photo.size) > 2 * CROP:
            shrunk += 1
            factor = 2 * CROP / min(photo.size)
            photo = photo.resize((round(photo.width * factor), round(photo.height * factor)), Image.Resampling.BOX)
        theirs = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
        assert ours.shape == theirs.shape
        assert ours.dtype == torch.uint8
        if ours.shape[1:] == (source.open(item).height, source.open(item).width):
            assert torch.equal(ours, theirs)
        else:  # of noise, antialiasing leaves little: as little as averaging does
            assert ours.float().std() < 1.5 * theirs.float().std()
    assert shrunk == sum(min(source.open(item).size) > 2 * CROP for item in items) > 0


def test_the_smallest_crop_of_a_large_photo_is_never_enlarged(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (900, 700)).save(tmp_path / name / "0.png")
    source = open_data(tmp_path)
    images, _, _ = read_images(source, source.splits["train"], CROP, "stop", crop_scale=0.08)
    generator = torch.Generator().manual_seed(1)
    _, height, width = images.images[0].shape
    assert min(height, width) < 700, "still shrunk"
    for _ in range(500):
        _, _, h, w = _random_box(height, width, generator, (0.08, 0.08), RATIO)
        assert min(h, w) >= CROP
    plain, _, _ = read_images(source, source.splits["train"], CROP, "stop", crop_scale=0.5)
    assert min(plain.images[0].shape[1:]) == 2 * CROP


def test_photos_beyond_the_limit_are_decoded_again_to_the_same_bits(photos: Path) -> None:
    source = open_data(photos)
    items = source.splits["train"]
    every, _, _ = read_images(source, items, CROP, "stop")
    some, _, _ = read_images(source, items, CROP, "stop", limit=3 * 80 * 80)  # the first few
    assert all(torch.equal(a, b) for a, b in zip(every.images, some.images, strict=True))
    assert [a is b for a, b in zip(some.images, some.images, strict=True)].count(True) in range(1, len(items))
    for file in photos.rglob("*.png"):
        file.unlink()
    assert len(list(every.images)) == len(items)
    with pytest.raises(UserError, match=r"could be read before the training, but no longer: .*\.png"):
        list(some.images)
