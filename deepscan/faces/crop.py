"""Cutting a square round a face, and pasting a mask back where the square was cut.

Both sides share one rule, so that a mask lands where its pixels came from: pixel i of a picture
covers [i, i + 1), a crop of side S divides its square into S equal cells, and the value of a cell
belongs to its centre.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from deepscan.types import Box, Image, Mask


def square(box: Box, scale: float) -> Box:
    """The square with the same centre whose side is `scale` times the longer side of `box`.

    A scan takes `ScanOptions.crop_scale`, or the scale of the model's card.
    """
    x, y = box.centre
    half = scale * max(box.width, box.height) / 2
    return Box(x - half, y - half, x + half, y + half)


def cut(image: Image, box: Box, size: int) -> Image:
    """The content of `box` as a (size, size, 3) uint8 RGB picture.

    Smaller is averaged (no aliasing), larger is bicubic. Where the box reaches outside the picture,
    the picture's edge is repeated. Deterministic.

    Args:
        image: (H, W, 3) uint8 RGB, not empty.
        box: where to cut; wholly outside is allowed, its sides must be above 0.
        size: side of the result in pixels.

    Raises:
        ValueError: the picture or the box is empty.
    """
    height, width = image.shape[:2]
    if height == 0 or width == 0 or box.width <= 0 or box.height <= 0:
        raise ValueError(f"cannot cut {box} from a picture of {width}x{height}: nothing there")
    # What the resampling filter may touch and no more: Pillow copies all that it is given.
    margin_x, margin_y = _reach(box.width, size), _reach(box.height, size)
    left, right = math.floor(box.x1) - margin_x, math.ceil(box.x2) + margin_x
    top, bottom = math.floor(box.y1) - margin_y, math.ceil(box.y2) + margin_y
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        region = image[top:bottom, left:right]
    else:
        rows, above, below = _inside(top, bottom, height)
        columns, before, after = _inside(left, right, width)
        region = np.pad(image[rows, columns], ((above, below), (before, after), (0, 0)), "edge")
    inside = (box.x1 - left, box.y1 - top, box.x2 - left, box.y2 - top)
    resized = Pillow.fromarray(np.ascontiguousarray(region)).resize(
        (size, size), Pillow.Resampling.BICUBIC, box=inside
    )
    return np.array(resized)  # a copy: Pillow's own memory is read-only


def paste(mask: Mask, box: Box, height: int, width: int) -> tuple[tuple[slice, slice], Mask]:
    """Put a mask over `box` back on the pixels of a frame: the inverse of `cut`.

    Only the part of the frame that the box covers is returned, so that many faces cost no more than
    their area: `region, values = paste(...)`, then `canvas[region]` has the shape of `values`.

    Args:
        mask: (h, w) float32 over the whole box, not empty.
        box: the square that was cut, in frame pixels.
        height: of the frame.
        width: of the frame.

    Returns:
        (rows, columns) of the frame's pixels whose centre lies in the box, and their values,
        (rows, columns) float32, bilinear between the centres of the mask's cells. Both are empty
        where the box lies outside the frame.
    """
    rows, row_low, row_high, row_weight = _samples(box.y1, box.y2, height, mask.shape[0])
    columns, low, high, weight = _samples(box.x1, box.x2, width, mask.shape[1])
    # First down, then across: each pass is a blend of two gathered arrays.
    tall = mask[row_low] * (1 - row_weight)[:, None] + mask[row_high] * row_weight[:, None]
    values = tall[:, low] * (1 - weight) + tall[:, high] * weight
    return (rows, columns), values.astype(np.float32, copy=False)


def _reach(side: float, size: int) -> int:
    """Pixels beyond the box that Pillow's bicubic filter may read: twice the scale, at least 2."""
    return math.ceil(2 * max(1.0, side / size)) + 1


def _inside(start: int, stop: int, length: int) -> tuple[slice, int, int]:
    """The part of [start, stop) within [0, length), at least one; what is missing on both sides."""
    low = min(max(start, 0), length - 1)
    high = max(min(stop, length), low + 1)
    missing = stop - start - (high - low)
    before = min(max(-start, 0), missing)
    return slice(low, high), before, missing - before


def _samples(
    start: float, stop: float, length: int, cells: int
) -> tuple[slice, NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Frame pixels with centres in [start, stop), and for each the two cells and the weight."""
    first = min(max(math.ceil(start - 0.5), 0), length)
    last = max(min(math.ceil(stop - 0.5), length), first)
    centres = np.arange(first, last) + 0.5
    position = np.clip((centres - start) / (stop - start) * cells - 0.5, 0, cells - 1)
    low = position.astype(np.intp)
    return (
        slice(first, last),
        low,
        np.minimum(low + 1, cells - 1),
        (position - low).astype(np.float32),
    )
