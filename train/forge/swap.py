"""Swaps: another person's face, warped onto this one, colour-matched and blended.

As programs do it: aligned by landmarks (similar, affine, or piece by piece), at the working size of
a model, its skin in this picture's colours, inside a mask that was eroded and feathered.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from train.forge.artefacts import decode
from train.forge.blend import BLENDS, SPACES, compose, match_colour
from train.forge.contract import FaceImage, Forged, Picture
from train.forge.selfblend import frequency, random_mask
from train.forge.shape import eye_distance, place

# Programs replace the face or its inner part; parts alone are rarer.
_REGIONS = (
    "face", "inner face", "features", "face", "inner face", "jaw and parts", "lower face", "parts",
)  # fmt: skip


def swap(face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None) -> Forged:
    """Put `other`'s face on this one.

    Raises:
        ValueError: there is no other face.
    """
    if other is None:
        raise ValueError("a swap needs another person's face: pass other=")
    points = place(face.landmarks)
    mask, region = random_mask(face, rng, _REGIONS)
    source = align(other, face, rng)
    if rng.random() < 0.5:
        source = decode(source, float(np.ptp(points[:, 0])), rng, rng.uniform(0.2, 1.0))
    elif rng.random() < 0.4:
        source = frequency(source, rng)
    space = SPACES[rng.choice(len(SPACES), p=(0.28, 0.18, 0.18, 0.2, 0.16))]
    source = match_colour(source, face.image, mask, space)
    kind = BLENDS[rng.choice(len(BLENDS), p=(0.5, 0.2, 0.3))]
    made = compose(source, face.image, mask, kind)
    return Forged(made, face.image, mask, ("swap", region, f"colour {space}", kind))


def align(other: FaceImage, face: FaceImage, rng: np.random.Generator) -> Picture:
    """Warp another face onto this one: a similarity, an affine map, or piece by piece."""
    height, width = face.image.shape[:2]
    kind = rng.random()
    affine = None
    if kind < 0.4:
        affine, _ = cv2.estimateAffinePartial2D(
            other.landmarks.astype(np.float32), face.landmarks.astype(np.float32), method=cv2.LMEDS
        )
    if affine is None:
        affine = np.linalg.lstsq(np.c_[other.landmarks, np.ones(5)], face.landmarks, rcond=None)[0]
        affine = affine.T
    if kind >= 0.7:
        return _by_pieces(other, face, affine)
    return cv2.warpAffine(
        other.image, affine, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def _by_pieces(other: FaceImage, face: FaceImage, affine: NDArray[np.floating]) -> Picture:
    """The affine map, bent so that all five landmarks meet: the rest is spread by distance."""
    height, width = face.image.shape[:2]
    back = cv2.invertAffineTransform(affine)
    left = other.landmarks - (np.c_[face.landmarks, np.ones(5)] @ back.T)
    reach = 0.5 * eye_distance(face.landmarks, 0.0) + 1
    # Weights such that the sum of all bends is exactly what is left at each landmark.
    apart = ((face.landmarks[:, None] - face.landmarks[None]) ** 2).sum(2)
    bend = np.linalg.solve(np.exp(-apart / (2 * reach**2)) + 1e-3 * np.eye(5), left)
    bend = np.clip(bend, -reach, reach).astype(np.float32)
    # The bends are wide: a quarter of the pixels describes them.
    step = 4
    small_x = np.arange(0, width + step, step, dtype=np.float32)[None]
    small_y = np.arange(0, height + step, step, dtype=np.float32)[:, None]
    a = back.astype(np.float32)
    map_x = a[0, 0] * small_x + a[0, 1] * small_y + a[0, 2]
    map_y = a[1, 0] * small_x + a[1, 1] * small_y + a[1, 2]
    for (dx, dy), (px, py) in zip(bend, face.landmarks, strict=True):
        near_x = np.exp(-((small_x - np.float32(px)) ** 2) / np.float32(2 * reach**2))
        near_y = np.exp(-((small_y - np.float32(py)) ** 2) / np.float32(2 * reach**2))
        map_x += dx * near_x * near_y
        map_y += dy * near_x * near_y
    # Nodes lie on every fourth pixel: an affine map that keeps them there enlarges the grid.
    grow = np.array([[step, 0, 0], [0, step, 0]], np.float32)
    full_x, full_y = (
        cv2.warpAffine(
            part, grow, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        for part in (map_x, map_y)
    )
    return cv2.remap(other.image, full_x, full_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
