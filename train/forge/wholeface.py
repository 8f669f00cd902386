"""Whole-face synthesis: the entire face or head as a generator or restoration model draws it.

Smooth where there was texture, sharp where there were edges, at times on the grid of its upsampler;
the form itself is a little other than it was.
"""

from __future__ import annotations

import cv2
import numpy as np

from train.forge.artefacts import decode, grid_upsample, guided, local_contrast, requantise
from train.forge.blend import BLENDS, compose
from train.forge.contract import FaceImage, Forged, Picture
from train.forge.degrade import grain, sharpen
from train.forge.selfblend import bent_grid, random_mask
from train.forge.shape import place


def whole_face(
    face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None
) -> Forged:
    """Draw the whole face or head anew."""
    height, width = face.image.shape[:2]
    points = place(face.landmarks)
    mask, region = random_mask(face, rng, ("face", "head", "face"))
    across = float(np.ptp(points[:, 0]))
    source = bent(face.image, across, rng) if rng.random() < 0.6 else face.image
    kind = ("decoder", "grid", "restored", "painted")[rng.integers(4)]
    if kind == "decoder":
        source = decode(source, across, rng)
        if rng.random() < 0.4:
            source = decode(source, across, rng, 0.5)
    elif kind == "grid":
        factor = min(rng.uniform(64, 192) / across, rng.uniform(0.3, 0.6))
        small = cv2.resize(
            source, (max(8, round(width * factor)), max(8, round(height * factor))),
            interpolation=cv2.INTER_AREA,
        )  # fmt: skip
        source = grid_upsample(small, width, height, rng, rng.uniform(0.03, 0.15))
        source = sharpen(source, rng.uniform(0.2, 1.0))
    elif kind == "restored":
        source = _restored(source, across, rng)
    else:
        flat = guided(source, max(2, round(0.012 * across)), rng.uniform(8, 30))
        source = sharpen(flat, rng.uniform(0.3, 1.2))
        if rng.random() < 0.5:
            source = requantise(source, rng)
    if rng.random() < 0.3:
        source = grain(source, rng, rng.uniform(0.5, 4), rng.uniform(1, 2))
    how = BLENDS[rng.choice(len(BLENDS), p=(0.7, 0.2, 0.1))]
    made = compose(source, face.image, mask, how)
    return Forged(made, face.image, mask, ("whole-face", region, kind, how))


def _restored(image: Picture, across: float, rng: np.random.Generator) -> Picture:
    """A small blurred face brought back: edges strong, skin flat, local contrast raised."""
    height, width = image.shape[:2]
    factor = min(0.6, rng.uniform(40, 110) / across)
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    out = cv2.resize(small, (width, height), interpolation=cv2.INTER_LANCZOS4)
    out = guided(out, 3, rng.uniform(4, 14))
    for _ in range(2):
        out = sharpen(out, rng.uniform(0.4, 1.2))
    return local_contrast(out, rng.uniform(0.2, 0.9), max(1.0, 0.02 * across))


def bent(image: Picture, across: float, rng: np.random.Generator) -> Picture:
    """Bend the whole picture by a smooth field of about one percent of the face."""
    height, width = image.shape[:2]
    field = rng.standard_normal((2, 6, 6)).astype(np.float32) * np.float32(0.011 * across)
    maps = bent_grid(field, height, width)
    return cv2.remap(image, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
