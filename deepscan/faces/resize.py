"""Resizing in NumPy, equal to the last bit to what torch gives, without importing it.

`shrink` is `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` on uint8;
`AreaSums` is `mode="area"`, that is adaptive average pooling, for any number of sizes and regions
of one picture.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from deepscan.types import Image

_ROWS = 32  # worked on at once, so that they stay in a core's cache
_MOST_BITS, _WEIGHT_LIMIT = 22, 1 << 15  # torch's fixed-point weights are int16

Indices = NDArray[np.intp]
Weights = NDArray[np.int32]


def shrink(image: Image, scale: float) -> Image:
    """The picture at `scale` of its size, each side rounded up, without aliasing.

    Args:
        image: (H, W, 3) uint8, not empty.
        scale: above 0 and at most 1.
    """
    if scale == 1:
        return image
    height, width = image.shape[:2]
    rows, columns = (max(1, math.ceil(side * scale)) for side in (height, width))
    if (height, width) == (2 * rows, 2 * columns) and min(rows, columns) > 1:
        return _halve(_halve(image, 1), 0)
    places, weights, bits = _triangle(width, columns)
    pixels = np.ascontiguousarray(image).view("V3")[..., 0]  # gathers whole pixels at once
    wide = np.repeat(weights, 3, axis=0)  # one weight for each of a pixel's three channels
    narrow = np.empty((height, columns * 3), np.uint8)
    for top in range(0, height, _ROWS):
        part = pixels[top : top + _ROWS]
        total = np.full((len(part), columns * 3), 1 << (bits - 1), np.int32)
        for place, weight in zip(places.T, wide.T, strict=True):
            taken = np.take(part, place, axis=1).view(np.uint8).reshape(len(part), -1)
            total += np.multiply(taken, weight, dtype=np.int32)
        narrow[top : top + _ROWS] = np.clip(total >> bits, 0, 255)
    places, weights, bits = _triangle(height, rows)
    small = np.empty((rows, columns * 3), np.uint8)
    for top in range(0, rows, _ROWS):
        part_places, part_weights = places[top : top + _ROWS], weights[top : top + _ROWS]
        total = np.full((len(part_places), columns * 3), 1 << (bits - 1), np.int32)
        for place, weight in zip(part_places.T, part_weights.T, strict=True):
            total += np.multiply(narrow[place], weight[:, None], dtype=np.int32)
        small[top : top + _ROWS] = np.clip(total >> bits, 0, 255)
    return small.reshape(rows, columns, 3)


def _halve(image: Image, axis: int) -> Image:
    """Every two pixels along an axis to one: all weights but at the ends are 1/8, 3/8, 3/8, 1/8."""
    length = image.shape[axis]
    pixels = np.ascontiguousarray(image).view("V3")[..., 0]
    lines = pixels if axis else pixels[None]  # (N, length) or (1, length, W) pixels
    result = np.empty((lines.shape[0], length // 2, *lines.shape[2:], 3), np.uint8)
    for top in range(0, len(lines), _ROWS):
        part = lines[top : top + _ROWS]
        even, odd = (
            np.ascontiguousarray(part[:, first::2])
            .view(np.uint8)
            .reshape(len(part), length // 2, -1)
            for first in (0, 1)
        )
        total = np.add(even, odd, dtype=np.uint16)
        total *= 3
        total[:, 1:] += odd[:, :-1]
        total[:, :-1] += even[:, 1:]
        total += 4
        total >>= 3
        result[top : top + _ROWS] = total.reshape(len(part), *result.shape[1:])
    places, weights, bits = _triangle(length, length // 2)
    for end in (0, -1):
        ends = np.ascontiguousarray(lines[:, places[end]])
        taken = ends.view(np.uint8).reshape(len(lines), len(places[end]), -1)
        sums = (taken * weights[end][:, None]).sum(axis=1) + (1 << (bits - 1))
        result[:, end] = (sums >> bits).reshape(result[:, end].shape)
    return result if axis else result[0]


def _triangle(length: int, result: int) -> tuple[Indices, Weights, int]:
    """Where each sample of a shorter line comes from: (N, K) indices, weights, and their bits.

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

    def __init__(self, image: Image) -> None:
        height, width = image.shape[:2]
        self._sums = np.zeros((height + 1, width + 1, 3), np.uint32)
        np.cumsum(image, axis=0, dtype=np.uint32, out=self._sums[1:, 1:])
        np.cumsum(self._sums[1:, 1:], axis=1, out=self._sums[1:, 1:])

    def resized(self, height: int, width: int) -> NDArray[np.float32]:
        """The whole picture as (height, width, 3) float32, 0 to 255."""
        rows, columns = self._sums.shape[0] - 1, self._sums.shape[1] - 1
        top, bottom = (edge[0] for edge in _bins(np.zeros(1, np.intp), np.array([rows]), height))
        left, right = (edge[0] for edge in _bins(np.zeros(1, np.intp), np.array([columns]), width))
        bands = self._sums[bottom] - self._sums[top]
        sums = bands[:, right] - bands[:, left]
        return _means(sums, (bottom - top)[:, None, None], (right - left)[:, None])

    def crops(
        self, left: Indices, top: Indices, right: Indices, bottom: Indices, side: int
    ) -> NDArray[np.float32]:
        """Rectangles [left, right) x [top, bottom) as (N, side, side, 3) float32, 0 to 255.

        All of them lie within the picture and hold at least one pixel.
        """
        x1, x2 = (edge[:, None, :] for edge in _bins(left, right, side))
        y1, y2 = (edge[:, :, None] for edge in _bins(top, bottom, side))
        sums = self._sums
        found = (sums[y2, x2] - sums[y1, x2]) - (sums[y2, x1] - sums[y1, x1])
        return _means(found, (y2 - y1)[..., None], (x2 - x1)[..., None])


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
