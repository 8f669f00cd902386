"""Swaps: another person's face, warped onto this one by five landmarks and colour-matched."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from train.forge.forged import FaceImage, Forged, Picture
from train.forge.selfblend import blend, frequency, random_mask
from train.forge.shape import place


def match_colour(
    source: Picture, target: Picture, weight: NDArray[np.float32], space: str
) -> Picture:
    """Give source the colours (mean, spread) of target under a mask, in "lab", "ycrcb" or "rgb"."""
    forth, back = {
        "lab": (cv2.COLOR_RGB2LAB, cv2.COLOR_LAB2RGB),
        "ycrcb": (cv2.COLOR_RGB2YCrCb, cv2.COLOR_YCrCb2RGB),
        "rgb": (None, None),
    }[space]
    one = cv2.cvtColor(source, forth) if forth is not None else source
    two = cv2.cvtColor(target, forth) if forth is not None else target
    inside = weight > 0.5
    if inside.sum() < 16:
        return source
    mean_one, std_one = one[inside].mean(0), one[inside].std(0) + 1e-3
    mean_two, std_two = two[inside].mean(0), two[inside].std(0) + 1e-3
    out = (one - mean_one) * np.clip(std_two / std_one, 0.5, 2.0) + mean_two
    matched = np.clip(out, 0, 255).astype(np.uint8)
    return cv2.cvtColor(matched, back) if back is not None else matched


def swap(face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None) -> Forged:
    """Put `other`'s face on this one.

    Raises:
        ValueError: there is no other face.
    """
    if other is None:
        raise ValueError("a swap needs another person's face: pass other=")
    height, width = face.image.shape[:2]
    mask, region = random_mask(place(face.landmarks), height, width, rng)
    affine, _ = cv2.estimateAffinePartial2D(
        other.landmarks.astype(np.float32), face.landmarks.astype(np.float32), method=cv2.LMEDS
    )
    if affine is None or rng.random() < 0.4:
        known = np.c_[other.landmarks, np.ones(5)]
        affine = np.linalg.lstsq(known, face.landmarks, rcond=None)[0].T
    source = cv2.warpAffine(
        other.image, affine, (width, height),
        flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    space = ("lab", "ycrcb", "rgb", "none")[rng.integers(4)]
    if space != "none":
        source = match_colour(source, face.image, mask, space)
    if rng.random() < 0.4:
        source = frequency(source, rng)
    return Forged(
        blend(source, face.image, mask), face.image, mask, ("swap", region, f"colour {space}")
    )
