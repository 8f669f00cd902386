"""Reads back what `tests.media.draw_numbered` draws: which frame it is, and its colours."""

from __future__ import annotations

import numpy as np

from tests.media import BITS, PATCHES, columns


def read_number(image):
    """The number that `draw_numbered` put into a picture, None if there is none."""
    height = len(image)
    number = 0
    for bit, (left, right) in enumerate(columns(image.shape[1], BITS)):
        inner = slice(left + (right - left) // 4, right - (right - left) // 4)
        upper = float(image[height // 24 : height // 8, inner].mean())
        lower = float(image[5 * height // 24 : 7 * height // 24, inner].mean())
        if abs(upper - lower) < 60:
            return None
        number |= (upper > lower) << bit
    return number


def read_patches(image):
    """The colours that stand where `draw_numbered` put `PATCHES`, medians of RGB."""
    height = len(image)
    found = []
    for left, right in columns(image.shape[1], len(PATCHES)):
        quarter = (right - left) // 4
        part = image[5 * height // 8 : 7 * height // 8, left + quarter : right - quarter]
        found.append(tuple(round(float(each)) for each in np.median(part.reshape(-1, 3), axis=0)))
    return found
