"""Mild noise of pictures: nothing at strength 0, the same for a seed, more for more strength, the object stays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from anprompt.analysis.image_noise import IMAGE_NOISES, noisy_image
from anprompt.errors import UserError


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(40, 200, (8, 10, 3)), np.ones((12, 12, 1)))
    return Image.fromarray((smooth + rng.integers(-20, 20, smooth.shape)).astype(np.uint8))


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


@pytest.mark.parametrize("noise", IMAGE_NOISES)
def test_each_noise(noise: str, picture: Image.Image) -> None:
    before = picture.tobytes()
    assert noisy_image(picture, noise, strength=0) is picture
    distances = []
    for strength in (0.2, 0.4, 0.7, 1):
        once, again = (noisy_image(picture, noise, strength=strength, seed=3) for _ in range(2))
        assert once.tobytes() == again.tobytes()
        assert (once.mode, once.size) == ("RGB", picture.size)
        distances.append(distance(picture, once))
    assert 0 < distances[0] < distances[1] < distances[2] < distances[3]
    assert picture.tobytes() == before


def test_seeds_differ_where_something_is_drawn(picture: Image.Image) -> None:
    for noise, drawn in (("brightness", True), ("occlusion", True), ("blur", False), ("jpeg", False)):
        found = {noisy_image(picture, noise, strength=0.3, seed=seed).tobytes() for seed in range(8)}
        assert (len(found) > 1) is drawn


def test_occlusion_covers_the_background_only(picture: Image.Image) -> None:
    covered = np.asarray(noisy_image(picture, "occlusion", strength=1), int)
    width, height = picture.size
    left, right, top, bottom = width // 4, width - width // 4, height // 4, height - height // 4
    inside = np.asarray(picture)[top:bottom, left:right]
    assert (covered[top:bottom, left:right] == inside).all()
    covered[top:bottom, left:right] = covered[0, 0]
    assert (covered == covered[0, 0]).all()
    half = np.asarray(noisy_image(picture, "occlusion", strength=0.5), int) != np.asarray(picture)
    assert 0.3 < half.any(axis=2).mean() < 0.4  # half of three quarters


def test_wrong_arguments(picture: Image.Image) -> None:
    with pytest.raises(UserError, match="Did you mean 'blur'"):
        noisy_image(picture, "blurr", strength=0.3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        noisy_image(picture, "blur", strength=2)
