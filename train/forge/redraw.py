"""Redrawing: the same face as a decoder gives it back, smooth and at a low resolution.

Face-swap programs and generators leave the right face with the wrong fine detail. Here the detail
is taken away by a small working size and a smoothing that keeps edges, then partly put back by
sharpening and foreign grain; the border is soft and the colours match.
"""

from __future__ import annotations

import cv2
import numpy as np

from train.forge.blend import blend
from train.forge.contract import FaceImage, Forged
from train.forge.degrade import grain, sharpen
from train.forge.selfblend import random_mask
from train.forge.shape import place

_UP = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


def redraw(face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None) -> Forged:
    """Replace a region by its own low-resolution copy."""
    height, width = face.image.shape[:2]
    points = place(face.landmarks)
    mask, region = random_mask(face, rng)
    pixels = float(rng.choice((48, 64, 80, 96, 112, 128)))  # decoder's face width
    factor = min(1.0, pixels / float(np.ptp(points[:, 0])))
    if factor > 0.8:
        factor = float(rng.uniform(0.4, 0.8))
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    work = cv2.resize(face.image, size, interpolation=cv2.INTER_AREA)
    if rng.random() < 0.6:
        work = cv2.bilateralFilter(work, 5, rng.uniform(10, 45), 3)
    if rng.random() < 0.3:
        work = grain(work, rng, rng.uniform(1, 5), 1.0)
    kernel = _UP[rng.integers(len(_UP))]
    source = cv2.resize(work, (width, height), interpolation=kernel)
    if rng.random() < 0.6:
        source = sharpen(source, rng.uniform(0.2, 1.5))
    if rng.random() < 0.3:
        source = grain(source, rng, rng.uniform(1, 6), rng.uniform(1, 2))
    return Forged(blend(source, face.image, mask), face.image, mask, ("redraw", region))
