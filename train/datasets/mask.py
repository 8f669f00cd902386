"""Read the pixel truth of a sample in any form: 1 manipulated, 0 not, 255 unknown."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from train.datasets.sample import Polarity, Sample, Truth
from train.media import is_video, read_picture

UNKNOWN = 255  # left out by losses and measures


def binary(levels: NDArray[np.uint8], polarity: Polarity) -> NDArray[np.uint8]:
    """Grey levels of a stored mask, (H, W) or (H, W, 3) uint8, as (H, W) uint8 0 and 1."""
    grey = levels if levels.ndim == 2 else levels[..., 0]
    if polarity is Polarity.BELOW_255:
        return (grey < 255).astype(np.uint8)
    return (grey > (0 if polarity is Polarity.ABOVE_0 else 127)).astype(np.uint8)


def read_mask(sample: Sample, height: int, width: int) -> NDArray[np.uint8]:
    """The truth of a sample at the size of its picture: (height, width) uint8 of 0, 1 and 255.

    A stored mask of another size is scaled to it (nearest). For a video whose mask is a video, read
    that one with `train.media.read_frames` and give each frame to `binary`.

    Raises:
        CorruptError: the mask cannot be read.
        ValueError: the mask is a video or a folder.
    """
    if sample.truth is Truth.POLYGONS:
        drawn = np.zeros((height, width), np.uint8)
        for points in sample.polygons:  # one by one: together, overlaps would cancel out
            outline = np.round(np.reshape(points, (-1, 2))).astype(np.int32)
            cv2.fillPoly(drawn, [outline], (1,))
        return drawn
    if sample.mask is None:
        value = {Truth.CLEAN: 0, Truth.WHOLE: 1}.get(sample.truth, UNKNOWN)
        return np.full((height, width), value, np.uint8)
    if sample.mask.is_dir() or is_video(sample.mask):
        raise ValueError(f"{sample.mask}: the mask of a whole video; read its frames one by one")
    mask = binary(read_picture(sample.mask), sample.polarity)
    if mask.shape != (height, width):
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    return mask
