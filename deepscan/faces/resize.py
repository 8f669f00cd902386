"""Resize in NumPy, equal to torch to the last bit, without importing it.

`shrink` is `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` on uint8;
`AreaSums` is `mode="area"`, that is adaptive average pooling, for any number of sizes and regions
of one picture.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from deepscan.faces.cascade import Part
from deepscan.types import Image

_ROWS = 32  # worked on at once, so that they stay in a core's cache
_MOST_BITS, _WEIGHT_LIMIT = 22, 1 << 15  # torch's fixed-point weights are int16

Indices = NDArray[np.intp]
Weights = NDArray[np.int32]


def shrunk(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width of what `shrink` gives."""
    return max(1, math.ceil(height * scale)), max(1, math.ceil(width * scale))


def shrink(
    image: Image,
    scale: float,
    part: tuple[range, range] | None = None,
) -> Image:
    """The picture at `scale` of its size, each side rounded up, without aliasing.

    Args:
        image: (H, W, 3) uint8, not empty.
        scale: above 0 and at most 1.
        part: rows and columns of the result that are wanted, not empty; all by default.
    """
    height, width = image.shape[:2]
    rows, columns = shrunk(height, width, scale)
    down, across = part or (range(rows), range(columns))
    if scale == 1:
        if part is None:
            return image
        return image[down.start : down.stop, across.start : across.stop]
    if (height, width) == (2 * rows, 2 * columns) and min(len(down), len(across)) > 1:
        return _halve_part(image, down, across)
    places, weights, bits = _triangle(height, rows)
    down_places, down_weights = places[down.start : down.stop], weights[down.start : down.stop]
    first = int(down_places.min())
    image = image[first : down_places.max() + 1]
    narrow = _narrow(image, across, *_triangle(width, columns))
    small = np.empty((len(down), len(across) * 3), np.uint8)
    for top in range(0, len(down), _ROWS):
        part_places = down_places[top : top + _ROWS] - first
        part_weights = down_weights[top : top + _ROWS]
        total = np.full((len(part_places), len(across) * 3), 1 << (bits - 1), np.int32)
        for place, weight in zip(part_places.T, part_weights.T, strict=True):
            total += np.multiply(narrow[place], weight[:, None], dtype=np.int32)
        small[top : top + _ROWS] = np.clip(total >> bits, 0, 255)
    return small.reshape(len(down), len(across), 3)


def _narrow(
    image: Image, across: range, places: Indices, weights: Weights, bits: int
) -> NDArray[np.uint8]:
    """Every row made shorter: (H, columns * 3), of which the columns `across`."""
    places, weights = places[across.start : across.stop], weights[across.start : across.stop]
    first = int(places.min())
    places, image = places - first, image[:, first : places.max() + 1]
    pixels = np.ascontiguousarray(image).view("V3")[..., 0]  # gathers whole pixels at once
    wide = np.repeat(weights, 3, axis=0)  # one weight for each of a pixel's three channels
    narrow = np.empty((len(pixels), len(across) * 3), np.uint8)
    for top in range(0, len(pixels), _ROWS):
        part = pixels[top : top + _ROWS]
        total = np.full((len(part), len(across) * 3), 1 << (bits - 1), np.int32)
        for place, weight in zip(places.T, wide.T, strict=True):
            taken = np.take(part, place, axis=1).view(np.uint8).reshape(len(part), -1)
            total += np.multiply(taken, weight, dtype=np.int32)
        narrow[top : top + _ROWS] = np.clip(total >> bits, 0, 255)
    return narrow


def _halve_part(image: Image, down: range, across: range) -> Image:
    """Rows `down` and columns `across` of the picture at half its size."""
    top, left = max(0, down.start - 1), max(0, across.start - 1)  # the ends are made otherwise
    part = image[2 * top : 2 * down.stop + 2, 2 * left : 2 * across.stop + 2]
    small = _halve(_halve(part, 1), 0)
    down_from, across_from = down.start - top, across.start - left
    return small[down_from : down_from + len(down), across_from : across_from + len(across)]


def _halve(image: Image, axis: int) -> Image:
    """Every two pixels along an axis to one: all weights but at the ends are 1/8, 3/8, 3/8, 1/8."""
    length = image.shape[axis]
    result = np.empty((image.shape[0] // (2 - axis), image.shape[1] // (1 + axis), 3), np.uint8)
    pixels = np.ascontiguousarray(image).view("V3")[..., 0]
    lines = result.reshape(len(result), -1)
    for top in range(0, len(result), _ROWS):
        stop = min(top + _ROWS, len(result))
        if axis:
            part = pixels[top:stop]
            even, odd = (_bytes(part[:, first::2]) for first in (0, 1))
            total = np.add(even, odd, dtype=np.uint16)
            total *= 3
            total[:, 3:] += odd[:, :-3]
            total[:, :-3] += even[:, 3:]
        else:
            even, odd = (_bytes(pixels[2 * top + first : 2 * stop : 2]) for first in (0, 1))
            total = np.add(even, odd, dtype=np.uint16)
            total *= 3
            total[1:] += odd[:-1]
            total[:-1] += even[1:]
            if top:
                total[0] += _bytes(pixels[2 * top - 1 : 2 * top])[0]
            if stop < len(result):
                total[-1] += _bytes(pixels[2 * stop : 2 * stop + 1])[0]
        total += 4
        total >>= 3
        lines[top:stop] = total
    places, weights, bits = _triangle(length, length // 2)
    for end in (0, -1):
        ends = image.take(places[end], axis)
        shape = (-1, 1, 1) if axis == 0 else (-1, 1)
        sums = (ends * weights[end].reshape(shape)).sum(axis=axis) + (1 << (bits - 1))
        np.moveaxis(result, axis, 0)[end] = sums >> bits
    return result


def _bytes(pixels: NDArray[np.void]) -> NDArray[np.uint8]:
    """(H, W) pixels as (H, W * 3) bytes."""
    return np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)


def _triangle(length: int, result: int) -> tuple[Indices, Weights, int]:
    """The sources of each sample of a shorter line: (N, K) indices, weights, and their bits.

    Weights of a row add up to 2 ** bits, as in torch's kernel for uint8 (UpSampleKernel.cpp).
    """
    scale = length / result
    support, step = max(scale, 1.0), max(scale, 1.0)
    centres = scale * (np.arange(result) + 0.5)
    first = np.maximum((centres - support + 0.5).astype(np.intp), 0)
    count = np.minimum((centres + support + 0.5).astype(np.intp), length) - first
    taps = np.arange(count.max())
    distance = np.abs((taps + first[:, None] - centres[:, None] + 0.5) / step)
    weights = np.maximum(0.0, 1.0 - distance)
    weights[taps >= count[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    bits = 0
    while bits < _MOST_BITS and int(0.5 + weights.max() * (1 << (bits + 1))) < _WEIGHT_LIMIT:
        bits += 1
    fixed = (weights * (1 << bits) + 0.5).astype(np.int32)
    return np.minimum(first[:, None] + taps, length - 1), fixed, bits


class AreaSums:
    """Means over rectangles of one (H, W, 3) uint8 picture, from sums that are made once.

    Sums are exact (they wrap at 2 ** 32, their differences do not), so a mean is rounded as torch
    rounds it: by the height, then by the width.
    """

    def __init__(self, image: Image, part: Part | None = None) -> None:
        """`part` says where `image` lies in the picture whose places and sizes are given below."""
        height, width = image.shape[:2]
        self.part = part or Part(0, 0, height, width)
        self._sums = np.zeros((height + 1, width + 1, 3), np.uint32)
        self._sums[1:, 1:] = image
        np.cumsum(self._sums[1:, 1:], axis=0, out=self._sums[1:, 1:])
        np.cumsum(self._sums[1:, 1:], axis=1, out=self._sums[1:, 1:])

    def resized(self, height: int, width: int) -> tuple[NDArray[np.float32], int, int]:
        """The whole picture as (height, width, 3) float32, 0 to 255.

        Of a part that from an even row and column on which it covers: those are given as well, and
        up to an even one or the end.
        """
        part, (rows, columns) = self.part, (side - 1 for side in self._sums.shape[:2])
        top, bottom, first_row = _covered(part.height, height, part.top, rows)
        left, right, first_column = _covered(part.width, width, part.left, columns)
        bands = self._sums[bottom]
        bands -= self._sums[top]
        pixels = bands.view("V12")[..., 0]  # gathers whole pixels at once
        sums = np.take(pixels, right, axis=1).view(np.uint32)
        sums -= np.take(pixels, left, axis=1).view(np.uint32)
        sums = sums.reshape(len(top), len(left), 3)
        means = _means(sums, (bottom - top)[:, None, None], (right - left)[:, None])
        return means, first_row, first_column

    def inside(
        self, left: Indices, top: Indices, right: Indices, bottom: Indices
    ) -> NDArray[np.bool_]:
        """Mask of the rectangles [left, right) x [top, bottom) that lie within the part."""
        part, (rows, columns) = self.part, (side - 1 for side in self._sums.shape[:2])
        inside: NDArray[np.bool_] = (
            (left >= part.left)
            & (top >= part.top)
            & (right <= part.left + columns)
            & (bottom <= part.top + rows)
        )
        return inside

    def crops(
        self, left: Indices, top: Indices, right: Indices, bottom: Indices, side: int
    ) -> NDArray[np.float32]:
        """Rectangles [left, right) x [top, bottom) as (N, side, side, 3) float32, 0 to 255.

        All of them lie within the part and hold at least one pixel.
        """
        x1, x2 = (edge[:, None, :] - self.part.left for edge in _bins(left, right, side))
        y1, y2 = (edge[:, :, None] - self.part.top for edge in _bins(top, bottom, side))
        pixels, row = self._sums.view("V12").ravel(), self._sums.shape[1]

        def at(y: Indices, x: Indices) -> NDArray[np.uint32]:
            taken: NDArray[np.uint32] = np.take(pixels, y * row + x).view(np.uint32)
            return taken.reshape(-1, side, side, 3)

        found = at(y2, x2)
        found -= at(y1, x2)
        found -= at(y2, x1)
        found += at(y1, x1)
        return _means(found, (y2 - y1)[..., None], (x2 - x1)[..., None])


class TurnedSums:
    """`AreaSums` of a whole picture that is turned clockwise by `turn` degrees, from the same sums.

    The same means as of the turned picture, but for the last bit.
    """

    def __init__(self, sums: AreaSums, turn: int) -> None:
        height, width = sums.part.height, sums.part.width
        self._upright, self._turn = sums, turn % 360
        self.part = Part(0, 0, width, height) if turn % 180 else sums.part

    def resized(self, height: int, width: int) -> tuple[NDArray[np.float32], int, int]:
        size = (width, height) if self._turn % 180 else (height, width)
        means, _, _ = self._upright.resized(*size)
        return np.ascontiguousarray(np.rot90(means, -(self._turn // 90))), 0, 0

    def inside(
        self, left: Indices, top: Indices, right: Indices, bottom: Indices
    ) -> NDArray[np.bool_]:
        return np.ones(len(left), bool)

    def crops(
        self, left: Indices, top: Indices, right: Indices, bottom: Indices, side: int
    ) -> NDArray[np.float32]:
        height, width = self.part.height, self.part.width
        if self._turn == 90:
            left, top, right, bottom = top, width - right, bottom, width - left
        elif self._turn == 180:
            left, top, right, bottom = width - right, height - bottom, width - left, height - top
        elif self._turn == 270:
            left, top, right, bottom = height - bottom, left, height - top, right
        found = self._upright.crops(left, top, right, bottom, side)
        return np.rot90(found, -(self._turn // 90), (1, 2))


def _covered(length: int, count: int, start: int, covered: int) -> tuple[Indices, Indices, int]:
    """The bins of [0, length) in `count` that lie in [start, start + covered).

    Their first indices and ends from `start` on, and which is the first of them: an even one. What
    is left out at the end leaves an even number.
    """
    begins, ends = (edge[0] for edge in _bins(np.zeros(1, np.intp), np.array([length]), count))
    first = int(np.searchsorted(begins, start))
    first += first % 2
    last = int(np.searchsorted(ends, start + covered, side="right"))
    if last < count:
        last -= last % 2
    last = max(first, last)
    return begins[first:last] - start, ends[first:last] - start, first


def _bins(start: Indices, stop: Indices, count: int) -> tuple[Indices, Indices]:
    """(N, count) first indices and ends of the bins of adaptive pooling over [start, stop)."""
    place, length = np.arange(count), (stop - start)[:, None]
    first = start[:, None] + place * length // count
    return first, start[:, None] - (-(place + 1) * length // count)


def _means(sums: NDArray[np.uint32], heights: Indices, widths: Indices) -> NDArray[np.float32]:
    found: NDArray[np.float32] = sums.astype(np.float32)
    found /= heights.astype(np.float32)
    found /= widths.astype(np.float32)
    return found
