"""Draws into 4:2:0 planes in place, so that the verdict video needs no RGB.

Each method touches only the pixels that it changes, so its cost does not depend on the frame size.

A colour sample covers 2x2 pixels. A shape that covers part of them changes the sample by that
share, so that lines and letters are exact to the pixel at odd positions too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from deepscan.sinks import draw
from deepscan.sinks.draw import Area, Plane
from deepscan.sinks.styles import RGB, Style
from deepscan.types import Planes

# Weights of red and blue in luma by H.273 number: BT.709, FCC, BT.601 twice, SMPTE 240M, BT.2020.
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
_BLACK, _NEUTRAL = 16, 128
_THIRD = np.array([_BLACK + max(0, value - _BLACK) // 3 for value in range(256)], np.uint8)


class Surface:
    """A rectangle of 4:2:0 planes to draw on.

    `luma` is (H, W), `blue` and `red` are ((H + 1) // 2, (W + 1) // 2) uint8, limited range; all
    are views.
    """

    def __init__(self, luma: Plane, blue: Plane, red: Plane, matrix: int) -> None:
        self.luma, self.blue, self.red = luma, blue, red
        self.matrix = matrix
        self.height, self.width = luma.shape

    @classmethod
    def of(cls, planes: Planes) -> Self:
        return cls(planes.luma, planes.blue, planes.red, planes.matrix)

    def part(self, area: Area) -> Self:
        """A view of a part whose corner has even coordinates."""
        rows, columns = slice(area.y1, area.y2), slice(area.x1, area.x2)
        half_rows = slice(area.y1 // 2, (area.y2 + 1) // 2)
        half_columns = slice(area.x1 // 2, (area.x2 + 1) // 2)
        blue, red = (plane[half_rows, half_columns] for plane in (self.blue, self.red))
        return type(self)(self.luma[rows, columns], blue, red, self.matrix)

    def copy(self, luma: Plane, blue: Plane, red: Plane) -> None:
        """Copy other planes into this one; pixels beyond them are kept."""
        for target, plane in ((self.luma, luma), (self.blue, blue), (self.red, red)):
            height = min(target.shape[0], plane.shape[0])
            width = min(target.shape[1], plane.shape[1])
            target[:height, :width] = plane[:height, :width]

    def fill(self, area: Area, colour: RGB) -> None:
        """Paint the part of `area` that lies inside."""
        area = self._inside(area)
        if not area.width or not area.height:
            return
        luma, blue, red = _samples(colour, self.matrix)
        self.luma[area.y1 : area.y2, area.x1 : area.x2] = round(luma)
        place, share = _halves(area)
        for plane, value in ((self.blue, blue), (self.red, red)):
            plane[place] = np.rint(plane[place] * (1 - share) + value * share)

    def shade(self, area: Area) -> None:
        """Darken the part of `area` that lies inside to a third."""
        area = self._inside(area)
        if not area.width or not area.height:
            return
        part = self.luma[area.y1 : area.y2, area.x1 : area.x2]
        part[:] = _THIRD[part]
        place, share = _halves(area)
        taken = share * np.float32(2 / 3)
        for plane in (self.blue, self.red):
            plane[place] = np.rint(plane[place] * (1 - taken) + _NEUTRAL * taken)

    def blit(self, sprite: Pillow.Image, x: int, y: int) -> None:
        """Draw an RGBA sprite with its corner at (x, y)."""
        area = self._inside(Area(x, y, x + sprite.width, y + sprite.height))
        if not area.width or not area.height:
            return
        pixels = np.asarray(sprite)[area.y1 - y : area.y2 - y, area.x1 - x : area.x2 - x]
        alpha = pixels[:, :, 3] * np.float32(1 / 255)
        matrix, offset = _conversion(self.matrix)
        samples = pixels[:, :, :3].astype(np.float32) @ matrix + offset
        part = self.luma[area.y1 : area.y2, area.x1 : area.x2]
        part[:] = np.rint(part + (samples[:, :, 0] - part) * alpha)
        place, _ = _halves(area)
        share = _halved(alpha, area)
        for number, plane in ((1, self.blue), (2, self.red)):
            laid = _halved(samples[:, :, number] * alpha, area)
            plane[place] = np.rint(plane[place] * (1 - share) + laid)

    def frame(self, area: Area, style: Style, line: int) -> None:
        """Draw an outline, see `draw.outline`."""
        shadows, lines = draw.outline(area, style, line)
        for part in shadows:
            self.shade(part)
        for part in lines:
            self.fill(part, style.colour)

    def mark(self, inside: Plane, x: int, y: int, style: Style, line: int) -> None:
        """Mark pixels from (x, y) on, all inside the picture, see `draw.marking`."""
        layers, left, top = draw.marking(inside, style, line)
        if layers:
            self._lay(layers, x + left, y + top)

    def _lay(self, layers: Iterable[tuple[RGB, Pillow.Image]], x: int, y: int) -> None:
        """Paint colours through masks (L) of one size with their corner at (x, y)."""
        first, *_ = layers = list(layers)
        width, height = first[1].size
        area = Area(x, y, x + width, y + height)
        rows, columns = slice(y, y + height), slice(x, x + width)
        place, _ = _halves(area)
        parts = [(self.luma, (rows, columns)), (self.blue, place), (self.red, place)]
        below = [Pillow.fromarray(plane[at]) for plane, at in parts]
        for colour, alpha in layers:
            half = _even(alpha, area).reduce(2)
            values = _samples(colour, self.matrix)
            for picture, value, mask in zip(below, values, (alpha, half, half), strict=True):
                picture.paste(round(value), (0, 0, *picture.size), mask)
        for (plane, at), picture in zip(parts, below, strict=True):
            plane[at] = np.asarray(picture)

    def _inside(self, area: Area) -> Area:
        """The part of an area inside the picture; may be empty."""
        x1, y1 = min(max(0, area.x1), self.width), min(max(0, area.y1), self.height)
        return Area(x1, y1, max(x1, min(area.x2, self.width)), max(y1, min(area.y2, self.height)))


@lru_cache(maxsize=8)
def _conversion(matrix: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(3, 3) and (3,): RGB in 0 to 255 times the one plus the other gives limited-range samples."""
    red, blue = _WEIGHTS[matrix]
    luma = np.array([red, 1 - red - blue, blue])
    from_blue = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    from_red = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    columns = np.stack([219 * luma, 224 * from_blue, 224 * from_red], axis=1) / 255
    return columns.astype(np.float32), np.array([_BLACK, _NEUTRAL, _NEUTRAL], np.float32)


@lru_cache(maxsize=64)
def _samples(colour: RGB, matrix: int) -> tuple[float, float, float]:
    """Luma and both colour differences of an RGB colour."""
    columns, offset = _conversion(matrix)
    luma, blue, red = (np.array(colour, np.float32) @ columns + offset).tolist()
    return luma, blue, red


def _halves(area: Area) -> tuple[tuple[slice, slice], NDArray[np.float32]]:
    """The colour samples that an area touches, and the share of each that it covers."""
    rows, down = _half(area.y1, area.y2)
    columns, across = _half(area.x1, area.x2)
    return (rows, columns), down[:, None] * across[None, :]


def _half(start: int, stop: int) -> tuple[slice, NDArray[np.float32]]:
    place = slice(start // 2, (stop + 1) // 2)
    share = np.ones(place.stop - place.start, np.float32)
    share[0] -= 0.5 * (start % 2)
    share[-1] -= 0.5 * (stop % 2)
    return place, share


def _halved(values: NDArray[np.float32], area: Area) -> NDArray[np.float32]:
    """The mean over each 2x2 block of pixels that `area` touches, 0 standing outside it."""
    before, after = (area.y1 % 2, area.x1 % 2), (area.y2 % 2, area.x2 % 2)
    whole = np.pad(values, list(zip(before, after, strict=True)))
    halved = whole[::2, ::2] + whole[1::2, ::2] + whole[::2, 1::2] + whole[1::2, 1::2]
    return halved * np.float32(0.25)


def _even(alpha: Pillow.Image, area: Area) -> Pillow.Image:
    """A mask over `area` grown to whole 2x2 blocks."""
    left, top = area.x1 % 2, area.y1 % 2
    width, height = (2 * math.ceil(side / 2) for side in (left + area.width, top + area.height))
    if (width, height) == alpha.size:
        return alpha
    grown = Pillow.new("L", (width, height), 0)
    grown.paste(alpha, (left, top))
    return grown
