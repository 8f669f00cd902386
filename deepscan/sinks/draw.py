"""Shapes to draw on pictures: outlines, marked areas, text, signs and labels.

Text and labels are rendered once into a sprite, an RGBA picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFilter, ImageFont

from deepscan.sinks.styles import BLACK, NIGHT, RGB, WHITE, Style

Plane = NDArray[np.uint8]  # (h, w) uint8

_SMOOTH = 4  # shapes are drawn this many times larger and scaled down


@dataclass(frozen=True, slots=True)
class Area:
    """Whole pixels [x1, x2) x [y1, y2)."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def width(self) -> int:
        return self.x2 - self.x1

    @property
    def height(self) -> int:
        return self.y2 - self.y1

    def common(self, other: Area) -> int:
        """Number of pixels in both."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        return max(0, width) * max(0, height)

    def moved(self, dx: int, dy: int) -> Area:
        return Area(self.x1 + dx, self.y1 + dy, self.x2 + dx, self.y2 + dy)


def outline(area: Area, style: Style, line: int) -> tuple[list[Area], list[Area]]:
    """The outline of `area`, drawn inwards: the areas to shade, then the areas to fill.

    `line` is the width of a thin line in pixels. A shadow on both sides keeps each line visible on
    every background. A style with corners has brackets there, three lines wide.
    """
    thin = _sides(area, line)
    if style.dashed:
        thin = [dash for side in thin for dash in dashes(side, 5 * line)]
    parts = thin + (_brackets(area, 3 * line) if style.corners else [])
    edge = max(1, line // 2)
    shadows = [Area(p.x1 - edge, p.y1 - edge, p.x2 + edge, p.y2 + edge) for p in parts]
    return shadows, parts


def _sides(area: Area, width: int) -> list[Area]:
    return [
        Area(area.x1, area.y1, area.x2, area.y1 + width),
        Area(area.x1, area.y2 - width, area.x2, area.y2),
        Area(area.x1, area.y1 + width, area.x1 + width, area.y2 - width),
        Area(area.x2 - width, area.y1 + width, area.x2, area.y2 - width),
    ]


def dashes(side: Area, dash: int) -> list[Area]:
    """Cut a long bar into dashes and gaps of `dash` pixels."""
    if side.width >= side.height:
        return [
            Area(x, side.y1, min(x + dash, side.x2), side.y2)
            for x in range(side.x1, side.x2, 2 * dash)
        ]
    return [
        Area(side.x1, y, side.x2, min(y + dash, side.y2)) for y in range(side.y1, side.y2, 2 * dash)
    ]


def _brackets(area: Area, width: int) -> list[Area]:
    """Eight bars, two in each corner, a fifth of the shorter side long."""
    reach = max(width, min(area.width, area.height) // 5)
    bars = []
    for side in _sides(area, width):
        if side.width >= side.height:
            bars.append(Area(side.x1, side.y1, side.x1 + reach, side.y2))
            bars.append(Area(side.x2 - reach, side.y1, side.x2, side.y2))
        else:
            bars.append(Area(side.x1, side.y1, side.x2, side.y1 + reach - width))
            bars.append(Area(side.x1, side.y2 - reach + width, side.x2, side.y2))
    return bars


def marking(
    inside: Plane, style: Style, line: int
) -> tuple[list[tuple[RGB, Pillow.Image]], int, int]:
    """Layers that mark the pixels where `inside` is 255 (0 elsewhere), and their corner (x, y).

    A layer is a colour and a mask (mode L) to paint it through. The area gets an outline and, if
    the style has a slope, a light tint with diagonal lines that leaves the face visible.
    """
    rows = np.flatnonzero(inside.max(axis=1))
    if rows.size == 0:
        return [], 0, 0
    columns = np.flatnonzero(inside.max(axis=0))
    reach = 3 * line
    x1, x2 = max(0, int(columns[0]) - reach), min(inside.shape[1], columns[-1] + 1 + reach)
    y1, y2 = max(0, int(rows[0]) - reach), min(inside.shape[0], rows[-1] + 1 + reach)
    inside = inside[y1:y2, x1:x2]
    area = Pillow.fromarray(inside)
    layers: list[tuple[RGB, Pillow.Image]] = [(BLACK, _contour(area, 2 * line, _SHADOW))]
    if style.slope:
        tint = np.minimum(inside, _hatch(y2 - y1, x2 - x1, line, style.slope))
        layers.append((style.colour, Pillow.fromarray(tint)))
    layers.append((style.colour, _contour(area, line, _RIDGE)))
    return layers, x1, y1


# A box blur turns the border of an area into a ramp; the middle of the ramp is the line.
_RIDGE = [min(255, 3 * (255 - abs(2 * value - 255))) for value in range(256)]
_SHADOW = [value * 2 // 5 for value in _RIDGE]


def _contour(area: Pillow.Image, radius: int, levels: list[int]) -> Pillow.Image:
    return area.filter(ImageFilter.BoxBlur(radius)).point(levels)


def _hatch(height: int, width: int, line: int, slope: int) -> Plane:
    """Opacity of the tint: (height, width) with diagonal lines, cut from a cached tile."""
    tile = _hatch_tile(line)[:, ::slope]
    reach = tile.shape[0]
    if height <= reach and width <= reach:
        return tile[:height, :width]
    return np.tile(tile, (-(-height // reach), -(-width // reach)))[:height, :width]


@lru_cache(maxsize=8)
def _hatch_tile(line: int) -> Plane:
    period = 8 * line
    side = period * max(1, 512 // period)
    y, x = np.ogrid[0:side, 0:side]
    distance = np.abs((x + y) % period - period / 2)
    ridge = np.clip(1.0 + line / 2 - distance, 0, 1)
    return (40 + 104 * ridge).astype(np.uint8)


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The typeface that ships with Pillow (Aileron, CC0), the same on every system."""
    face = ImageFont.load_default(size)
    if not isinstance(face, ImageFont.FreeTypeFont):
        raise TypeError("Pillow was built without FreeType")
    return face


# Characters that the typeface has besides ASCII.
_LETTERS = frozenset("°±·»«‘’“”…")


def clean(text: str) -> str:
    """Replace characters that the typeface does not have, and line ends, by "?"."""
    return "".join(c if c in _LETTERS or " " <= c <= "~" else "?" for c in text)


@lru_cache(maxsize=256)
def text(content: str, size: int, colour: RGB, aspect: float = 1.0) -> Pillow.Image:
    """Render one line of text as an RGBA sprite with the height of a line of `size`.

    `aspect` is the width of a pixel over its height when shown; text is narrowed by it.
    """
    content = clean(content)
    # Hinting moves the letters of small text together; drawn large and scaled down they do not.
    face = font(size * _SMOOTH)
    height = line_height(size)
    width = max(1, math.ceil(face.getlength(content) / _SMOOTH))
    alpha = Pillow.new("L", (width * _SMOOTH, height * _SMOOTH), 0)
    ImageDraw.Draw(alpha).text((0, 0), content, fill=255, font=face)
    small = alpha.resize((width, height), Pillow.Resampling.BOX)
    return squeeze(_coloured(small, colour), aspect)


def line_height(size: int) -> int:
    """Pixels from the top of the highest to the bottom of the lowest letter of a line."""
    return math.ceil(sum(font(size * _SMOOTH).getmetrics()) / _SMOOTH)


def _coloured(alpha: Pillow.Image, colour: RGB) -> Pillow.Image:
    sprite = Pillow.new("RGBA", alpha.size, (*colour, 0))
    sprite.putalpha(alpha)
    return sprite


def squeeze(sprite: Pillow.Image, aspect: float) -> Pillow.Image:
    """Narrow a sprite for pixels that are displayed `aspect` times as wide as high."""
    if aspect == 1.0:
        return sprite
    return sprite.resize(
        (max(1, round(sprite.width / aspect)), sprite.height), Pillow.Resampling.BILINEAR
    )


@lru_cache(maxsize=64)
def sign(name: str, size: int, colour: RGB, aspect: float = 1.0) -> Pillow.Image:
    """Render a sign `size` pixels high: triangle, diamond, ring, bar or cross."""
    side = size * _SMOOTH
    alpha = Pillow.new("L", (side, side), 0)
    pen = ImageDraw.Draw(alpha)
    low, mid, high = 0.08 * side, side / 2, 0.92 * side
    thick = max(_SMOOTH, round(0.17 * side))
    if name == "triangle":
        pen.polygon([(mid, low), (high, high), (low, high)], fill=255)
        pen.rectangle([mid - 0.05 * side, 0.4 * side, mid + 0.05 * side, 0.66 * side], fill=0)
        pen.rectangle([mid - 0.05 * side, 0.73 * side, mid + 0.05 * side, 0.82 * side], fill=0)
    elif name == "diamond":
        pen.polygon([(mid, low), (high, mid), (mid, high), (low, mid)], fill=255)
    elif name == "ring":
        pen.ellipse([1.5 * low, 1.5 * low, side - 1.5 * low, side - 1.5 * low], 0, 255, thick)
    elif name == "bar":
        for start in (low, mid + 0.08 * side):
            pen.rectangle([start, mid - thick / 2, start + 0.34 * side, mid + thick / 2], fill=255)
    elif name == "cross":
        pen.line([(low, low), (high, high)], fill=255, width=thick)
        pen.line([(low, high), (high, low)], fill=255, width=thick)
    else:
        raise ValueError(f"no sign is called {name!r}")
    small = alpha.resize((size, size), Pillow.Resampling.BOX)
    return squeeze(_coloured(small, colour), aspect)


@lru_cache(maxsize=256)
def label(content: str, style: Style, size: int, aspect: float = 1.0) -> Pillow.Image:
    """Render text with its sign on a rounded, translucent panel, as an RGBA sprite."""
    line = text(content, size, WHITE)
    symbol = sign(style.sign, round(0.8 * size), style.colour)
    pad = round(0.4 * size)
    height = round(1.5 * size)
    width = pad + symbol.width + pad + line.width + pad
    sprite = panel(width, height, round(0.36 * size), NIGHT, 205)
    sprite.alpha_composite(symbol, (pad, (height - symbol.height) // 2))
    sprite.alpha_composite(line, (pad + symbol.width + pad, top(size, height)))
    return squeeze(sprite, aspect)


def panel(width: int, height: int, radius: int, colour: RGB, opacity: int) -> Pillow.Image:
    """A rounded rectangle as an RGBA sprite."""
    alpha = Pillow.new("L", (width * _SMOOTH, height * _SMOOTH), 0)
    ImageDraw.Draw(alpha).rounded_rectangle(
        [0, 0, alpha.width - 1, alpha.height - 1], radius * _SMOOTH, fill=opacity
    )
    return _coloured(alpha.resize((width, height), Pillow.Resampling.BOX), colour)


def top(size: int, height: int) -> int:
    """The top of a line of text of `size` that looks centred in `height` pixels."""
    return round((height + 0.7 * size) / 2) - ascent(size)  # 0.7: height of a capital


def ascent(size: int) -> int:
    """Pixels from the top of a line of text to its base line."""
    return round(font(size * _SMOOTH).getmetrics()[0] / _SMOOTH)
