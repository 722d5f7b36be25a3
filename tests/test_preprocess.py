"""The image transform against Pillow's own pipeline, ``transformers`` and the definition of the random crop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from anprompt.clip import preprocess
from anprompt.clip.preprocess import CLIP_MEAN, CLIP_STD, ImageTransform, _random_box, resize_picture
from anprompt.errors import UserError

SIDES = st.integers(1, 400)
CROPS = st.sampled_from([32, 56, 63, 112])
MAX_DIFFERENCE = 2  # of 255


def picture(width: int, height: int, seed: int = 0, kind: str = "noise") -> Image.Image:
    """Noise, sharp stripes or smooth colour: what rounding and clipping are most sensitive to."""
    rng = np.random.default_rng(seed)
    if kind == "noise":
        pixels = rng.integers(0, 256, (height, width, 3))
    elif kind == "stripes":
        pixels = np.broadcast_to(((np.arange(width) // 3 % 2) * 255)[None, :, None], (height, width, 3))
    else:
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), np.full_like(x, 128)], -1)
    return Image.fromarray(np.ascontiguousarray(pixels.astype(np.uint8)))


def by_pillow(image: Image.Image, size: int, crop: int) -> torch.Tensor:
    """CLIP's preprocessing up to the crop, literally: uint8 ``(3, crop, crop)``."""
    w, h = image.size
    new = (size, int(size * h / w)) if w <= h else (int(size * w / h), size)
    image = image.resize(new, Image.Resampling.BICUBIC)
    left, top = int(round((new[0] - crop) / 2.0)), int(round((new[1] - crop) / 2.0))  # noqa: RUF046
    image = image.crop((left, top, left + crop, top + crop))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, CROPS, st.integers(0, 30), st.integers(0, 99), st.sampled_from(["noise", "stripes", "smooth"]))
def test_pixels_equal_pillows(width: int, height: int, crop: int, extra: int, seed: int, kind: str) -> None:
    """Any size and aspect ratio, up- and downscaling, with and without a margin for the crop."""
    image = picture(width, height, seed, kind)
    ours = ImageTransform(crop + extra, crop).pixels_uint8(image)
    assert ours.shape == (3, crop, crop)
    assert ours.dtype == torch.uint8
    assert largest_difference(ours, by_pillow(image, crop + extra, crop)) <= MAX_DIFFERENCE


@pytest.mark.parametrize(
    "side", [(3000, 2000), (1501, 4000), (224, 224), (1, 1), (500, 1100), (2, 900), (900, 2), (300, 9000), (9000, 300)]
)
def test_large_tiny_and_extreme_pictures_equal_pillows(side: tuple[int, int]) -> None:
    image = picture(*side)
    ours = ImageTransform(224, 224).pixels_uint8(image)
    assert largest_difference(ours, by_pillow(image, 224, 224)) <= MAX_DIFFERENCE


@pytest.mark.parametrize(("width", "height"), [(301, 200), (64, 500), (500, 64), (37, 41)])
@pytest.mark.parametrize("to", [(56, 40), (37, 90), (120, 41)])
def test_shrinking_strip_by_strip_changes_no_bit(
    width: int, height: int, to: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(width, height)
    whole = resize_picture(image, *to)
    crops: list[int] = []
    crop = Image.Image.crop
    monkeypatch.setattr(Image.Image, "crop", lambda image, box: crops.append(box[3] - box[1]) or crop(image, box))
    monkeypatch.setattr(preprocess, "LARGE", 0)
    monkeypatch.setattr(preprocess, "STRIP", 7 * width)
    assert torch.equal(resize_picture(image, *to), whole)
    assert crops == [] if width == to[0] else (max(crops) <= 7 and sum(crops) == height)


def test_an_extreme_strip_is_not_resized_as_a_whole() -> None:
    """1 × 60000 pixels would become 224 × 13,440,000."""
    strip = Image.fromarray(np.repeat(np.arange(60000, dtype=np.uint8)[:, None, None], 3, 2))
    assert ImageTransform(224, 224).pixels_uint8(strip).shape == (3, 224, 224)


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 300), st.integers(20, 300), st.sampled_from([32, 112]))
def test_pixels_equal_transformers(width: int, height: int, crop: int) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    scaled = int(crop * max(width, height) / min(width, height))
    # transformers rounds an odd margin down, OpenAI's CLIP to the even neighbour: one pixel apart every other time
    assume(round((scaled - crop) / 2.0) == (scaled - crop) // 2)
    oracle = CLIPImageProcessorPil(size={"shortest_edge": crop}, crop_size={"height": crop, "width": crop})
    image = picture(width, height)
    theirs = torch.as_tensor(np.asarray(oracle(image, return_tensors="np")["pixel_values"]))
    ours = ImageTransform(crop, crop)([image])
    assert ours.shape == theirs.shape
    std = torch.tensor(CLIP_STD).view(3, 1, 1)
    assert ((ours - theirs) * std).abs().max() <= (MAX_DIFFERENCE + 0.01) / 255  # before normalisation


def test_normalising() -> None:
    """Bytes and floats; what is given stays as it is."""
    transform = ImageTransform(4, 4)
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = (pixels.double() / 255 - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    for given_pixels in (pixels, pixels.float() / 255):
        before = given_pixels.clone()
        torch.testing.assert_close(transform.normalise(given_pixels), expected.float())
        assert torch.equal(given_pixels, before)


def test_paths_arrays_and_pictures_give_the_same_pixels(tmp_path: Path) -> None:
    image = picture(50, 40)
    image.save(tmp_path / "a.png")
    batch = ImageTransform(32, 32)([image, np.asarray(image), tmp_path / "a.png", str(tmp_path / "a.png")])
    assert batch.shape == (4, 3, 32, 32)
    assert batch.dtype == torch.float32
    assert all(torch.equal(batch[0], other) for other in batch[1:])
    assert ImageTransform(32, 32)([]).shape == (0, 3, 32, 32)


# Random crops


def test_random_crops_depend_on_the_generator_alone() -> None:
    images = [torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8) for _ in range(4)]
    transform = ImageTransform(32, 32)

    def draw(seed: int) -> torch.Tensor:
        return transform.random_resized_crop(images, torch.Generator().manual_seed(seed))

    torch.manual_seed(0)
    first = draw(1)
    torch.manual_seed(5)
    assert torch.equal(first, draw(1))
    assert not torch.equal(first, draw(2))
    assert first.shape == (4, 3, 32, 32)


def test_a_crop_of_everything_is_the_resized_picture_or_its_mirror() -> None:
    image = picture(48, 48)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    transform = ImageTransform(32, 32)
    plain = transform([image])[0]
    generator = torch.Generator().manual_seed(0)
    out = transform.random_resized_crop([pixels] * 200, generator, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    mirrored = sum(torch.equal(view, plain.flip(-1)) for view in out)
    assert mirrored + sum(torch.equal(view, plain) for view in out) == 200
    assert 70 <= mirrored <= 130
    fixed = transform.random_resized_crop([pixels] * 9, generator, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)
    assert all(torch.equal(view, plain) for view in fixed)


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 300), st.integers(16, 300), st.integers(0, 10**6))
def test_random_boxes_keep_area_and_aspect(height: int, width: int, seed: int) -> None:
    scale, ratio = (0.5, 1.0), (3 / 4, 4 / 3)
    top, left, h, w = _random_box(height, width, torch.Generator().manual_seed(seed), scale, ratio)
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w
    rounding = (1 + 0.5 / h) * (1 + 0.5 / w) * 1.05
    assert ratio[0] / rounding <= w / h <= ratio[1] * rounding
    if 3 / 4 <= width / height <= 4 / 3:  # else the area may be out of reach
        assert scale[0] / rounding <= h * w / (height * width) <= 1


def test_random_boxes_cover_the_range_evenly() -> None:
    """Shares of the area are uniform, aspects log-uniform (quartiles within 0.04 of a scaled range)."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([_random_box(1000, 1000, generator, (0.1, 0.5), (0.5, 2.0)) for _ in range(2000)]).double()
    area = (boxes[:, 2] * boxes[:, 3] / 1e6 - 0.1) / 0.4
    aspect = (boxes[:, 3] / boxes[:, 2]).log() / (2 * math.log(2)) + 0.5
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.double)
    for values in (area, aspect):
        torch.testing.assert_close(values.quantile(quartiles), quartiles, atol=0.04, rtol=0)


@pytest.mark.parametrize(("size", "box"), [((10, 1000), (0, 493, 10, 13)), ((1000, 10), (493, 0, 13, 10))])
def test_a_strip_falls_back_to_its_centre(size: tuple[int, int], box: tuple[int, ...]) -> None:
    """No box of half the area has an allowed aspect, so the largest centred one is taken."""
    assert _random_box(*size, torch.Generator().manual_seed(0), (0.5, 1.0), (3 / 4, 4 / 3)) == box


# Files


def write(folder: Path, content: dict[str, Any] | str) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "preprocessor_config.json").write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"size": 112, "crop_size": 112}, ImageTransform(112, 112)),
        ({"size": {"shortest_edge": 128}, "crop_size": {"height": 112, "width": 112}}, ImageTransform(128, 112)),
        ({"size": {"height": 112, "width": 112}}, ImageTransform(112, 112, squash=True)),
        ({"image_mean": [0.5] * 3, "image_std": [0.2] * 3}, ImageTransform(112, 112, (0.5,) * 3, (0.2,) * 3)),
        ({}, ImageTransform(112, 112)),
    ],
)
def test_variants_of_the_file(tmp_path: Path, content: dict[str, Any], expected: ImageTransform) -> None:
    assert ImageTransform.from_folder(write(tmp_path, content), 112) == expected


def test_without_a_file_the_towers_size_counts(tmp_path: Path) -> None:
    assert ImageTransform.from_folder(tmp_path, 336) == ImageTransform(336, 336, CLIP_MEAN, CLIP_STD)


def test_height_and_width_ignore_the_aspect_ratio() -> None:
    image = picture(90, 40)
    ours = ImageTransform(32, 32, squash=True).pixels_uint8(image)
    theirs = torch.from_numpy(np.array(image.resize((32, 32), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    assert largest_difference(ours, theirs) <= MAX_DIFFERENCE


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not a readable image preprocessing file"),
        ("[]", "not a readable image preprocessing file"),
        ({"size": {"height": 112, "width": 100}}, "height 112 and width 100 differ"),
        ({"size": {"longest_edge": 112}}, "not a readable image preprocessing file"),
        ({"image_std": [1, 1, 0]}, "image_mean and image_std"),
        ({"size": 224, "crop_size": 224}, "crops to 224 pixels, but the tower takes 112"),
        ({"size": 100, "crop_size": 112}, "resizes to 100"),
        ({"resample": 2}, "resampling filter 2"),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, content: dict[str, Any] | str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        ImageTransform.from_folder(write(tmp_path, content), 112)
    assert "preprocessor_config.json" in str(error.value)
