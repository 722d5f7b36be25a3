"""Every way in which a picture can be stored becomes upright RGB, or one sentence with its path."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from anprompt.data import BadImage, Item, decode, verify_images
from anprompt.data.source import open_file
from anprompt.errors import UserError
from anprompt.pictures import is_image_name

RED, WHITE = (255, 0, 0), (255, 255, 255)


def near(picture: Image.Image, xy: tuple[int, int], colour: tuple[int, int, int], tolerance: int = 3) -> bool:
    pixel = np.asarray(picture, dtype=int)[xy[1], xy[0]]
    return bool(np.abs(pixel - colour).max() <= tolerance)


@pytest.mark.parametrize("name", ["a.jpg", "A.JPEG", "a.png", "a.webp", "a.gif", "a.bmp", "A.TIFF"])
def test_common_formats(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (20, 10), RED).save(tmp_path / name)
    picture = decode(tmp_path / name)
    assert (picture.mode, picture.size) == ("RGB", (20, 10))
    assert near(picture, (5, 5), RED)
    assert decode(str(tmp_path / name)).tobytes() == picture.tobytes()
    assert decode((tmp_path / name).read_bytes()).tobytes() == picture.tobytes()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    stored = Image.new("RGB", (32, 16), WHITE)
    stored.paste(RED, (0, 0, 16, 16))  # left half red
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees: the left half is on top
    stored.save(tmp_path / "phone.jpg", exif=exif, quality=95)
    picture = decode(tmp_path / "phone.jpg")
    assert picture.size == (16, 32)
    assert near(picture, (8, 4), RED, 8)
    assert near(picture, (8, 28), WHITE, 8)
    with Image.open(tmp_path / "phone.jpg") as opened:  # an opened picture is treated like its file
        assert decode(opened).size == (16, 32)


def test_one_opened_picture_is_read_by_many_threads(tmp_path: Path) -> None:
    """As in a list that was drawn with replacement."""
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg", quality=95)
    expected = decode(tmp_path / "large.jpg").tobytes()
    for _ in range(5):
        with Image.open(tmp_path / "large.jpg") as opened, ThreadPoolExecutor(4) as pool:
            assert all(picture.tobytes() == expected for picture in pool.map(decode, [opened] * 8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_in_memory_is_neither_changed_nor_copied_without_need(orientation: int) -> None:
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8))
    given = upright.copy()
    exif = given.getexif()
    exif[0x0112] = orientation
    expected = ImageOps.exif_transpose(given)
    decoded = decode(given)
    assert decoded.tobytes() == expected.tobytes()
    assert (decoded is given) == (orientation == 1)
    assert given.tobytes() == upright.tobytes()
    assert given.getexif()[0x0112] == orientation
    assert decode(decoded).tobytes() == expected.tobytes()  # not turned twice


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.bmp", "a.gif", "a.ppm"])
def test_a_decoded_picture_does_not_need_its_file(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 4), RED).save(tmp_path / name)
    picture = decode(tmp_path / name)
    (tmp_path / name).unlink()
    for again in (picture, decode(picture), picture.copy(), picture.crop((1, 1, 3, 3))):
        assert near(again, (1, 1), RED)


def test_broken_exif_does_not_spoil_the_picture(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4), RED).save(tmp_path / "a.png", exif=b"Exif\x00\x00no TIFF header")
    assert decode(tmp_path / "a.png").size == (8, 4)


@pytest.mark.parametrize(("mode", "colour", "expected"), [
    ("1", 1, WHITE), ("L", 100, (100, 100, 100)), ("YCbCr", (76, 85, 255), RED), ("CMYK", (0, 255, 255, 0), RED),
    ("RGBA", (255, 0, 0, 255), RED), ("RGBA", (9, 9, 9, 0), WHITE), ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
    ("LA", (0, 0), WHITE), ("I", 65535, WHITE), ("I", 25700, (100, 100, 100)),
    ("F", 1.0, WHITE), ("I;16", 25700, (100, 100, 100)),
])  # fmt: skip
def test_modes(mode: str, colour: object, expected: tuple[int, int, int]) -> None:
    picture = decode(Image.new(mode, (4, 4), colour))  # type: ignore[arg-type]
    assert picture.mode == "RGB"
    assert near(picture, (1, 1), expected, 2)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert near(decode(tmp_path / "print.jpg"), (3, 3), RED, 12)


def test_palette_with_transparency_is_shown_on_white(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.putpixel((2, 2), 1)
    for name in ("a.png", "a.gif"):
        picture.save(tmp_path / name, transparency=0)
        decoded = decode(tmp_path / name)
        assert near(decoded, (0, 0), WHITE)
        assert near(decoded, (2, 2), RED)
    picture.save(tmp_path / "opaque.png")
    assert near(decode(tmp_path / "opaque.png"), (0, 0), (0, 0, 0))


def test_one_transparent_colour_of_an_rgb_picture(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "key.png", transparency=(1, 2, 3))
    assert near(decode(tmp_path / "key.png"), (0, 0), WHITE)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif"])
def test_sixteen_bit_grey_is_scaled(tmp_path: Path, name: str) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / name)
    picture = np.asarray(decode(tmp_path / name))  # (8, 8, 3)
    assert np.array_equal(picture[..., 0], np.rint(ramp / 257).astype(np.uint8))
    assert np.array_equal(picture[..., 0], picture[..., 2])


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_first_frame_of_an_animation(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, WHITE)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert near(decode(tmp_path / name), (4, 4), RED)


@pytest.mark.parametrize("array", [
    np.full((2, 3), 255, np.uint8), np.full((2, 3, 1), 255, np.uint8), np.full((2, 3, 3), 255, np.uint8),
    np.full((2, 3, 4), 255, np.uint8), np.zeros((2, 3, 4), np.uint8), np.ones((2, 3, 3), np.float32),
    np.ones((2, 3, 1)), np.ones((2, 3), bool), np.full((2, 3), 65535, np.uint16), np.full((2, 3), 65535, ">u2"),
    np.full((4, 6, 3), 255, np.uint8)[::2, ::-2],
])  # fmt: skip
def test_arrays(array: np.ndarray) -> None:
    picture = decode(array)
    assert (picture.mode, picture.size) == ("RGB", (3, 2))
    assert near(picture, (0, 0), WHITE)


def test_float_array_is_rounded() -> None:
    assert decode(np.full((1, 1, 3), 0.5)).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(("array", "reason"), [
    (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\) .*channels come last"),
    (np.zeros((8, 8, 2), np.uint8), r"shape \(8, 8, 2\) is not"),
    (np.zeros((0, 8), np.uint8), r"shape \(0, 8\) is not"),
    (np.full((2, 2), 7.0), r"float values must lie in 0\.\.1, not in 7\.\.7"),
    (np.full((2, 2), np.nan), "float values must lie in"),
    (np.zeros((2, 2), np.int64), "dtype int64; allowed are uint8"),
])  # fmt: skip
def test_arrays_that_are_no_pictures(array: np.ndarray, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(array)


def bad_files(folder: Path) -> dict[str, str]:
    """Write one file of each kind of damage; return {file name: part of the reason}."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("truncated.jpg", "truncated.png", "truncated.webp"):
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, "JPEG" if name.endswith("jpg") else name.split(".")[1])
        (folder / name).write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture at all")
    (folder / "phone.heic").write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00")
    (folder / "folder.jpg").mkdir()
    return {
        "truncated.jpg": "truncated", "truncated.png": "truncated", "truncated.webp": "cannot be decoded|not a picture",
        "empty.jpg": "empty", "text.jpg": "not a picture", "phone.heic": "HEIC", "folder.jpg": "a folder",
        "absent.jpg": "no such file",
    }  # fmt: skip


def test_bad_files_are_named_with_a_reason(tmp_path: Path) -> None:
    for name, reason in bad_files(tmp_path).items():
        with pytest.raises(BadImage, match=reason) as caught:
            decode(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_other_objects_are_refused() -> None:
    with pytest.raises(BadImage, match="give a path, bytes, a PIL picture or a numpy array"):
        decode(3)  # type: ignore[arg-type]
    with pytest.raises(BadImage, match="empty"):
        decode(b"")
    with pytest.raises(BadImage, match="32-bit values outside"):
        decode(Image.new("I", (2, 2), 70000))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [60, 20])  # 100 pixels: Pillow warns above the limit, and raises above twice of it
def test_decompression_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(BadImage, match=r"bomb\.png: a decompression bomb\?"):
        decode(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(tmp_path / "bomb.png").size == (10, 10)


def test_image_names() -> None:
    assert all(map(is_image_name, ["a.jpg", "b.JPG", "c.Png", "d.heic"]))
    assert not any(map(is_image_name, ["README.txt", ".DS_Store", "Thumbs.db", ".a.jpg", "._a.jpg", "jpg"]))


def mixed_items(folder: Path) -> tuple[list[Item], dict[str, str]]:
    reasons = bad_files(folder)
    items = [Item(str(folder / name), 0, "cat") for name in reasons]
    for i in range(3):
        Image.new("RGB", (4, 4)).save(folder / f"good{i}.png")
        items.insert(2 * i, Item(str(folder / f"good{i}.png"), 0, "cat"))
    return items, reasons


def test_verify_stops_with_all_bad_pictures(tmp_path: Path) -> None:
    items, reasons = mixed_items(tmp_path)
    with pytest.raises(UserError, match=f"{len(reasons)} of {len(items)} pictures") as caught:
        verify_images(items, open_file)
    assert all(str(tmp_path / name) in str(caught.value) for name in reasons)
    assert "good" not in str(caught.value)


def test_verify_skips_and_reports(tmp_path: Path) -> None:
    items, reasons = mixed_items(tmp_path)
    seen: list[tuple[int, int]] = []
    good, bad = verify_images(items, open_file, on_bad="skip", progress=lambda *at: seen.append(at))
    assert [Path(item.path).name for item in good] == ["good0.png", "good1.png", "good2.png"]
    assert [Path(error.path).name for error in bad] == list(reasons)
    assert seen == [(i, len(items)) for i in range(1, len(items) + 1)]


def test_verify_refuses_a_class_without_pictures_even_when_skipping(tmp_path: Path) -> None:
    items, _ = mixed_items(tmp_path)
    items += [Item(str(tmp_path / "empty.jpg"), 1, "dog"), Item(str(tmp_path / "text.jpg"), 1, "dog")]
    with pytest.raises(UserError, match=r"'dog' \(2 pictures\), for example .*empty\.jpg") as caught:
        verify_images(items, open_file, on_bad="skip")
    assert "cat" not in str(caught.value).splitlines()[-1]
    with pytest.raises(UserError, match="Did you mean 'skip'"):
        verify_images(items, open_file, on_bad="skipp")


def test_verify_lets_other_errors_through() -> None:
    def fault(item: Item) -> Image.Image:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        verify_images([Item("a", 0, "a")] * 3, fault, on_bad="skip")
