"""Pictures of the toy world, drawn with Pillow and numpy: one patterned, coloured shape among smaller clutter.

Coordinates of shapes: unit circle around the centre, y down. Arrays: ``(H, W, 3)`` floats, 0 = black, 1 = full.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anprompt.data.toyworld_words import Kind
from anprompt.errors import unknown_name

Array = NDArray[np.float64]
Points = list[tuple[float, float]]

DOMAINS = ("photo", "sketch", "night", "noisy")
SIZE = 48  # side of a picture, pixels
_ZOOM = 2  # drawn at twice the size, then averaged down: anti-aliasing

RGB: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.12),
    "orange": (0.98, 0.52, 0.05),
    "yellow": (0.97, 0.90, 0.15),
    "green": (0.12, 0.66, 0.22),
    "blue": (0.12, 0.30, 0.90),
    "purple": (0.50, 0.14, 0.72),
    "pink": (0.99, 0.58, 0.76),
    "white": (0.97, 0.97, 0.97),
}


def generator(*key: object) -> np.random.Generator:
    """A generator that depends on nothing but ``key``: the same on every machine and in every process."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def _regular(corners: int, inner: float = 1.0, turn: float = -math.pi / 2) -> Points:
    """Regular polygon, or a star when ``inner`` < 1 is the radius of the corners in between."""
    count = corners if inner == 1.0 else 2 * corners
    radii = [1.0 if inner == 1.0 or i % 2 == 0 else inner for i in range(count)]
    return [
        (r * math.cos(turn + 2 * math.pi * i / count), r * math.sin(turn + 2 * math.pi * i / count))
        for i, r in enumerate(radii)
    ]


def _curve(f: Callable[[float], tuple[float, float]], steps: int = 40) -> Points:
    return [f(2 * math.pi * i / steps) for i in range(steps)]


def _crescent() -> Points:
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(0.75, 2 * math.pi - 0.75, 30)]
    inner = [(0.45 + 0.74 * math.cos(a), 0.74 * math.sin(a)) for a in np.linspace(2 * math.pi - 1.16, 1.16, 24)]
    return [(x + 0.2, y) for x, y in outer + inner]


OUTLINES: dict[str, Points] = {
    "circle": _regular(40),
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": [(0.0, -1.05), (1.0, 0.8), (-1.0, 0.8)],
    "star": _regular(5, inner=0.45),
    "heart": _curve(
        lambda t: (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 15.5,
        )
    ),
    "cross": [(x / 3, y / 3) for x, y in [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3)]]
    + [(x / 3, y / 3) for x, y in [(-1, 1), (-3, 1), (-3, -1), (-1, -1)]],
    "crescent": _crescent(),
    "arrow": [(-1.0, -0.32), (0.05, -0.32), (0.05, -0.95), (1.05, 0.0), (0.05, 0.95), (0.05, 0.32), (-1.0, 0.32)],
    "hexagon": _regular(6, turn=0.0),
    "diamond": [(0.0, -1.1), (0.62, 0.0), (0.0, 1.1), (-0.62, 0.0)],
    "drop": _curve(lambda t: (0.85 * math.sin(t) * math.sin(t / 2) ** 1.5, -1.05 * math.cos(t))),
    "bolt": [(0.15, -1.1), (-0.75, 0.2), (-0.12, 0.2), (-0.3, 1.1), (0.75, -0.3), (0.1, -0.3), (0.6, -1.1)],
    "house": [(0.0, -1.05), (1.05, -0.1), (0.72, -0.1), (0.72, 0.9), (-0.72, 0.9), (-0.72, -0.1), (-1.05, -0.1)],
    "flower": [
        ((0.75 + 0.25 * math.cos(5 * t)) * math.sin(t), -(0.75 + 0.25 * math.cos(5 * t)) * math.cos(t))
        for t in np.linspace(0, 2 * math.pi, 60, endpoint=False)
    ],
}


def _pattern(pattern: str, u: Array, v: Array, fine: float) -> NDArray[np.bool_]:
    """Where the second, dark tone stands, by shape coordinates ``u``, ``v`` ``(H, W)``; ``fine``: repeats per unit."""
    if pattern == "striped":
        return np.asarray((v * fine) % 1.0 < 0.5)
    if pattern == "dotted":
        return np.asarray(np.hypot((u * fine) % 1.0 - 0.5, (v * fine) % 1.0 - 0.5) < 0.29)
    if pattern == "checkered":
        return np.asarray(((u * fine) % 1.0 < 0.5) ^ ((v * fine) % 1.0 < 0.5))
    if pattern == "ringed":
        return np.asarray((np.hypot(u, v) * fine + 0.35) % 1.0 < 0.5)
    return np.zeros(u.shape, dtype=bool)


def _texture(rng: np.random.Generator, side: int, cells: int, strength: float) -> Array:
    """Smooth random texture ``(side, side, 3)`` around 0."""
    small = rng.uniform(0, 255, (cells, cells, 3)).astype(np.uint8)
    big = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    return (np.asarray(big, dtype=np.float64) / 255 - 0.5) * strength


def _mask(side: int, draw: Callable[[ImageDraw.ImageDraw], Any]) -> NDArray[np.bool_]:
    image = Image.new("1", (side, side))
    draw(ImageDraw.Draw(image))
    return np.asarray(image, dtype=bool)


def _draw_line(draw: ImageDraw.ImageDraw, points: Points) -> None:
    draw.line(points, fill=1, width=2)


def _draw_blob(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float]) -> None:
    draw.ellipse(box, fill=1)


def _clutter(rng: np.random.Generator, canvas: Array, strength: float) -> None:
    """Small blobs and lines in the classes' own colours, drawn into ``canvas``."""
    side = canvas.shape[0]
    names = list(RGB)
    for number in range(int(rng.integers(4, 9))):
        x, y = (float(z) for z in rng.uniform(0, side, 2))
        w, h = (float(z) for z in rng.uniform(0.025, 0.065, 2) * side)
        turn = rng.uniform(0, 2 * math.pi)
        if number < 2:  # a thin line
            line = [(x, y), (x + 5 * w * math.cos(turn), y + 5 * w * math.sin(turn))]
            mask = _mask(side, partial(_draw_line, points=line))
        else:
            mask = _mask(side, partial(_draw_blob, box=(x - w, y - h, x + w, y + h)))
        colour = np.array(RGB[names[int(rng.integers(len(names)))]])
        canvas[mask] = strength * colour + (1 - strength) * canvas[mask]


class _Placed(NamedTuple):
    """The object at twice the picture's size: RGB, radius and centre in pixels, its turn, the outline's corners."""

    colour: Array
    radius: float
    cx: float
    cy: float
    cos: float
    sin: float
    outline: Points


def _place(kind: Kind, rng: np.random.Generator) -> _Placed:
    """Colour and place of the object: the first that ``rng`` decides about a picture."""
    side = SIZE * _ZOOM
    colour = np.clip(np.array(RGB[kind.colour]) + rng.normal(0, 0.035, 3), 0, 1)
    radius = rng.uniform(0.23, 0.37) * side
    cx, cy = rng.uniform(1.02 * radius, side - 1.02 * radius, 2)
    turn = rng.uniform(-0.35, 0.35)
    cos, sin = math.cos(turn), math.sin(turn)
    outline = [(cx + radius * (x * cos - y * sin), cy + radius * (x * sin + y * cos)) for x, y in OUTLINES[kind.shape]]
    return _Placed(colour, radius, cx, cy, cos, sin, outline)


def _silhouette(outline: Points) -> NDArray[np.bool_]:
    return _mask(SIZE * _ZOOM, lambda d: d.polygon(outline, fill=1))


def place(kind: Kind, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Where the object stands in the picture that :func:`draw` makes with the same ``rng``: ``(SIZE, SIZE)``.

    Inside its outline, also where the shape is hollow; a pixel counts whose larger part is inside.
    """
    inside = _silhouette(_place(kind, rng).outline)
    return np.asarray(inside.reshape(SIZE, _ZOOM, SIZE, _ZOOM).mean((1, 3)) > 0.5)


def _scene(kind: Kind, rng: np.random.Generator, sketch: bool) -> Array:
    """The picture before domain effects, ``(SIZE, SIZE, 3)``."""
    side = SIZE * _ZOOM
    colour, radius, cx, cy, cos, sin, outline = _place(kind, rng)
    inside = _silhouette(outline)
    thick = round(0.22 * radius)
    if kind.pattern == "hollow":
        band = _mask(side, lambda d: d.line([*outline, *outline[:2]], fill=1, width=2 * thick, joint="curve"))
        inside = inside & band
    rows, cols = np.mgrid[0:side, 0:side]
    u = ((cols - cx) * cos + (rows - cy) * sin) / radius + rng.uniform(-0.05, 0.05)
    v = (-(cols - cx) * sin + (rows - cy) * cos) / radius + rng.uniform(-0.05, 0.05)
    dark = inside & _pattern(kind.pattern, u, v, rng.uniform(1.5, 1.8))
    if sketch:  # coloured pencil on paper: light hatching, dense strokes for the dark tone, a pencil outline
        canvas = np.array([0.86, 0.82, 0.72]) + _texture(rng, side, 24, 0.10)
        _clutter(rng, canvas, 0.45)
        hatch = (cols + rows) % 6 < 4
        canvas[inside] = 0.5 * canvas[inside] + 0.5 * colour
        canvas[inside & hatch] = 0.85 * colour + 0.08
        canvas[dark] = 0.45 * colour + 0.12
        canvas[dark & ~hatch] = 0.65 * colour + 0.12
        edge = _mask(side, lambda d: d.line([*outline, *outline[:2]], fill=1, width=2))
        canvas[edge] = 0.35 * colour + 0.1
    else:
        base = rng.uniform(0.2, 0.62) + rng.normal(0, 0.05, 3)
        canvas = base + _texture(rng, side, 9, 0.22) + _texture(rng, side, side // 2, 0.10)
        _clutter(rng, canvas, 0.8)
        canvas[inside] = colour + 0.5 * _texture(rng, side, side // 2, 0.10)[inside]
        canvas[dark] = 0.22 * colour
        edge = _mask(side, lambda d: d.line([*outline, *outline[:2]], fill=1, width=2))
        canvas[edge] = 0.3 * colour
        angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.25)
        light = 1 + slope * ((cols - side / 2) * math.cos(angle) + (rows - side / 2) * math.sin(angle)) / side * 2
        canvas = canvas * (light * rng.uniform(0.85, 1.1))[..., None]
    small = np.clip(canvas, 0, 1).reshape(SIZE, _ZOOM, SIZE, _ZOOM, 3).mean((1, 3))
    return np.asarray(small)


# Rows: red, green and blue of the night picture from red, green and blue of the day. Blue light: hues shift alike
# for every class, so that a correction learnt on some classes serves the others.
_NIGHT = np.array([[0.42, 0.10, 0.04], [0.05, 0.42, 0.12], [0.10, 0.18, 0.50]])


def _night(x: Array, rng: np.random.Generator) -> Array:
    rows, cols = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    vignette = 1.0 - 0.35 * (rows**2 + cols**2) / 2
    y = (x @ _NIGHT.T) * vignette[..., None] * rng.uniform(0.8, 1.0) + np.array([0.02, 0.03, 0.10])
    return np.asarray(y + rng.normal(0, 0.03, x.shape))


def _noisy(x: Array, rng: np.random.Generator) -> Array:
    cast = np.array([1.0, 0.86, 0.66])  # a warm cast
    y = x * cast + rng.normal(0, 0.16, x.shape)
    buffer = io.BytesIO()
    _to_image(y).save(buffer, "JPEG", quality=25)
    return np.asarray(Image.open(buffer), dtype=np.float64) / 255


def _to_image(x: Array) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8))


def draw(kind: Kind, domain: str, rng: np.random.Generator) -> Image.Image:
    """Draw one RGB picture, ``SIZE`` × ``SIZE``. Raises :class:`UserError` for an unknown domain."""
    check_domain(domain)
    x = _scene(kind, rng, sketch=domain == "sketch")
    if domain == "night":
        x = _night(x, rng)
    elif domain == "noisy":
        x = _noisy(x, rng)
    return _to_image(x)


def check_domain(domain: str) -> None:
    """Raise :class:`UserError` for a name that is not one of ``DOMAINS``."""
    if domain not in DOMAINS:
        raise unknown_name("toy world domain", domain, DOMAINS)
