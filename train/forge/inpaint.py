"""In-painting: a part of the face is removed and filled from its surroundings.

Diffusion from the border, a membrane, or skin from elsewhere in the picture; then, at times, grain
that does not match.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from train.forge.artefacts import decode
from train.forge.blend import compose, fill
from train.forge.contract import FaceImage, Forged, Picture
from train.forge.degrade import grain
from train.forge.selfblend import random_mask
from train.forge.shape import Points, draw, place

_PARTS = (
    "mouth", "nose", "left eye", "right eye", "cheeks", "forehead", "brows", "eyes", "lower face",
)  # fmt: skip
_SIDE = 56  # pixels of the hole at which diffusion is solved: larger holes only cost time


def inpaint(face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None) -> Forged:
    """Fill a part of the face, or blots on it, from its surroundings."""
    height, width = face.image.shape[:2]
    points = place(face.landmarks)
    if rng.random() < 0.5:
        mask, region = _blots(points, height, width, rng), "face"
    else:
        mask, region = random_mask(face, rng, _PARTS)
    if not (mask > 0.4).any():
        mask, region = random_mask(face, rng, ("lower face",))
    kind = ("telea", "navier-stokes", "membrane", "patch")[rng.choice(4, p=(0.2, 0.15, 0.25, 0.4))]
    across = float(np.ptp(points[:, 0]))
    if kind == "patch":
        source = _from_elsewhere(face.image, mask, across, rng)
    else:
        source = _diffused(face.image, mask, kind)
    # An in-painter seldom forgets everything: some of what was there is found again.
    kept = rng.uniform(0.0, 0.5) if rng.random() < 0.4 else 0.0
    if kept:
        blur = cv2.GaussianBlur(face.image, (0, 0), max(0.02 * across, 0.5))
        source = cv2.addWeighted(source, 1 - kept, blur, kept, 0)
    if rng.random() < 0.4:
        source = decode(source, across, rng, rng.uniform(0.2, 0.8))
    elif rng.random() < 0.6:
        source = grain(source, rng, rng.uniform(1, 7), rng.uniform(1, 2.2))
    return Forged(
        compose(source, face.image, mask, "alpha"), face.image, mask, ("inpaint", region, kind)
    )


def _blots(
    points: Points, height: int, width: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """One to three soft ellipses on the face."""
    allowed = draw("face", points, height, width)
    across = float(np.ptp(points[:, 0]))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        x, y = points[[109, 112, 129, 139]].mean(0) + rng.normal(0, 0.16, 2) * across
        axes = rng.uniform(0.05, 0.16, 2) * across + 1
        cv2.ellipse(
            mask, (round(x), round(y)), (round(axes[0]), round(axes[1])),
            rng.uniform(0, 180), 0, 360, 1, -1,
        )  # fmt: skip
    soft = cv2.GaussianBlur(mask * allowed, (0, 0), max(0.5, rng.uniform(0.004, 0.025) * across))
    return np.where(soft < 0.01, 0, soft).astype(np.float32)


def _box(mask: NDArray[np.float32], share: float) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    margin = 4 + round(share * max(len(rows), len(columns)))
    return (
        slice(max(0, rows[0] - margin), rows[-1] + 1 + margin),
        slice(max(0, columns[0] - margin), columns[-1] + 1 + margin),
    )


def _diffused(image: Picture, mask: NDArray[np.float32], kind: str) -> Picture:
    window = _box(mask, 0.15)
    part, hole = image[window], (mask[window] > 0.02).astype(np.uint8)
    if kind == "membrane":
        filled = fill(part.astype(np.float32), 1 - hole.astype(np.float32))
        filled = np.clip(np.round(filled), 0, 255).astype(np.uint8)
    else:
        factor = min(1.0, _SIDE / max(hole.shape))
        size = (max(4, round(hole.shape[1] * factor)), max(4, round(hole.shape[0] * factor)))
        flag = cv2.INPAINT_TELEA if kind == "telea" else cv2.INPAINT_NS
        small = cv2.inpaint(
            cv2.resize(part, size, interpolation=cv2.INTER_AREA),
            (cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0)
            .astype(np.uint8),
            3,
            flag,
        )  # fmt: skip
        filled = cv2.resize(small, (hole.shape[1], hole.shape[0]), interpolation=cv2.INTER_CUBIC)
    out = image.copy()
    out[window] = filled
    return out


def _from_elsewhere(
    image: Picture, mask: NDArray[np.float32], across: float, rng: np.random.Generator
) -> Picture:
    """The shift of the picture that meets the border of the hole best, tinted to fit it."""
    hole = (mask > 0.02).astype(np.uint8)
    ring = cv2.dilate(hole, np.ones((5, 5), np.uint8)) - hole
    rows, columns = np.nonzero(ring)
    if len(rows) == 0:
        return image.copy()
    step = max(1, len(rows) // 200)
    rows, columns = rows[::step], columns[::step]
    height, width = hole.shape
    inside_y, inside_x = np.nonzero(hole)
    luma = image[..., 1].astype(np.float32)
    least, best = np.inf, (0, 0)
    border = image[rows, columns].astype(np.float32)
    for shift in rng.uniform(-0.45, 0.45, (24, 2)) * across:
        dx, dy = round(shift[0]), round(shift[1])
        if np.hypot(dx, dy) < 0.06 * across:
            continue
        there_y, there_x = rows + dy, columns + dx
        if there_y.min() < 0 or there_x.min() < 0 or there_y.max() >= height \
                or there_x.max() >= width:  # fmt: skip
            continue
        found = image[there_y, there_x] - border
        # A tint costs nothing, another structure does.
        cost = float((found - found.mean(0)).std() + 0.15 * np.abs(found.mean(0)).mean())
        # What fills the hole is plain, not another eye.
        cost += 0.5 * float(luma[inside_y[::step] + dy, inside_x[::step] + dx].std())
        if cost < least:
            least, best = cost, (dx, dy)
    moved = cv2.warpAffine(
        image, np.array([[1, 0, -best[0]], [0, 1, -best[1]]], float), (width, height),
        borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    if best == (0, 0):  # nothing fits within the picture
        return _diffused(image, mask, "membrane")
    return compose(moved, image, mask, "poisson")
