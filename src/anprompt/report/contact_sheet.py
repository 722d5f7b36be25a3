"""A contact sheet: pictures with what they are and what was predicted, right and wrong at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from anprompt.files import atomic_path
from anprompt.outputs import SIGNED

TILE, CAPTION, GAP, COLUMNS = 150, 46, 10, 8  # pixels, and tiles in a row
RIGHT, WRONG, INK, PAPER = (30, 130, 76), (192, 57, 43), (40, 40, 40), (250, 250, 248)


class Tile(NamedTuple):
    """One prediction. ``probability`` is that of the predicted class, 0 to 1."""

    image: Image.Image
    label: str
    prediction: str
    probability: float


def _fit(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Cut ``text`` to the width of a tile."""
    if draw.textlength(text, font=font) <= TILE:
        return text
    while text and draw.textlength(text + "…", font=font) > TILE:
        text = text[:-1]
    return text + "…"


def save_contact_sheet(path: Path, title: str, sections: Sequence[tuple[str, Sequence[Tile]]]) -> None:
    """Write a PNG with a title and, per section, a heading and rows of captioned tiles."""
    font, small, large = (ImageFont.load_default(size) for size in (14, 12, 20))
    filled = [(heading, tiles) for heading, tiles in sections if tiles]
    rows = sum(-(-len(tiles) // COLUMNS) for _, tiles in filled)
    width = GAP + COLUMNS * (TILE + GAP)
    sheet = Image.new("RGB", (width, 50 + 32 * len(filled) + rows * (TILE + CAPTION + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 14), title, fill=INK, font=large)
    y = 50
    for heading, tiles in filled:
        draw.text((GAP, y + 6), heading, fill=INK, font=font)
        y += 32
        for i, tile in enumerate(tiles):
            x, top = GAP + (i % COLUMNS) * (TILE + GAP), y + (i // COLUMNS) * (TILE + CAPTION + GAP)
            picture = tile.image.convert("RGB")
            picture.thumbnail((TILE, TILE))
            if max(picture.size) < TILE:  # small pictures are enlarged, so that every tile can be seen
                factor = TILE / max(picture.size)
                picture = picture.resize((round(picture.width * factor), round(picture.height * factor)))
            sheet.paste(picture, (x + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
            right = tile.label == tile.prediction
            colour = RIGHT if right else WRONG
            draw.rectangle((x - 2, top - 2, x + TILE + 1, top + TILE + 1), outline=colour, width=2)
            draw.text((x, top + TILE + 4), _fit(draw, tile.prediction, small), fill=colour, font=small)
            second = f"{100 * tile.probability:.0f} %" if right else f"is {tile.label}"
            draw.text((x, top + TILE + 22), _fit(draw, second, small), fill=INK, font=small)
        y += -(-len(tiles) // COLUMNS) * (TILE + CAPTION + GAP)
    signed = PngInfo()
    for key, text in SIGNED["png"].items():
        signed.add_text(key, text)
    with atomic_path(path) as part:
        sheet.save(part, format="PNG", pnginfo=signed)
