"""Self-blending: a face blended onto itself after a small change of colour, frequency and place.

Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images" (CVPR 2022), written from the
description of the method. Mask shapes are hulls of the dense mesh, as the method's are of 81
points; where a face has no mesh, of a mean face placed by five landmarks.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from train.forge import mesh, shape
from train.forge.blend import BLENDS, blend, compose
from train.forge.contract import FaceImage, Forged, Picture
from train.forge.degrade import colour, jpeg, sharpen
from train.forge.shape import Points, pixel_grid, place

# Large regions twice as often: most programs replace the face, some a part of it.
_REGIONS = (
    "face", "inner face", "features", "parts", "jaw and parts",
    "face", "inner face", "features", "parts", "face",
    "eyes", "nose", "mouth", "lower face", "mouth", "forehead", "upper face",
)  # fmt: skip
# Of the mesh: the whole hull, the face without its forehead, and hulls of parts, about alike.
_MESH_REGIONS = (
    "face", "face", "inner face", "inner face", "jaw and parts", "jaw and parts", "raised brows",
    "raised brows", "parts", "parts", "features", "eyes and nose", "lower face", "mouth", "eyes",
    "nose", "upper face",
)  # fmt: skip
_RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)  # opacity of the blend


def random_mask(
    face: FaceImage, rng: np.random.Generator, regions: tuple[str, ...] = _REGIONS
) -> tuple[NDArray[np.float32], str]:
    """A soft mask over one of some regions of the face: (H, W) float32 in [0, 1], and its name.

    The region is drawn, warped elastically, and given a soft border of random width that lies
    mostly inside it. Regions that the mesh lacks, or faces without one, are drawn by the mean face.
    """
    height, width = face.image.shape[:2]
    region = regions[rng.integers(len(regions))]
    if face.mesh is not None and region in mesh.REGIONS:
        draw, points, shake = mesh.draw, face.mesh[:, :2].astype(float), 0.005
    else:
        draw, points, shake = shape.draw, place(face.landmarks), 0.012
    across = float(np.ptp(points[:, 0]))
    shaken = points + rng.normal(0, shake, points.shape) * across
    mask = elastic(draw(region, shaken, height, width), rng)
    scale = across / 200  # kernels are meant for a face 200 px wide
    widest = 0.09 * float(np.sqrt(mask.sum()))  # a border that leaves small parts something inside
    mask = _soft(mask, min(rng.uniform(1.0, 7.0) * scale, widest))
    mask = _soft((mask > 0.98).astype(np.float32), min(rng.uniform(1.0, 12.0) * scale, widest))
    return mask, region


def oval_mask(face: FaceImage, rng: np.random.Generator) -> NDArray[np.float32]:
    """A soft mask of the whole face oval, as programs that swap a head's face use it.

    The border is one to four percent of the face wide and lies inside the oval.
    """
    height, width = face.image.shape[:2]
    if face.mesh is not None:
        points = face.mesh[:, :2].astype(float)
        mask = mesh.draw("face", points, height, width)
    else:
        points = place(face.landmarks)
        mask = shape.draw("face", points, height, width)
    feather = max(rng.uniform(0.01, 0.04) * float(np.ptp(points[:, 0])), 0.4)
    reach = 2 * round(2 * feather) + 1
    held = cv2.erode(mask, np.ones((reach, reach), np.uint8), borderValue=0)
    return np.minimum(cv2.GaussianBlur(held, (0, 0), feather), np.float32(1))


def _soft(mask: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    soft = cv2.GaussianBlur(mask, (0, 0), max(sigma, 0.3))
    peak = float(soft.max())
    return (soft / peak).astype(np.float32) if peak > 0 else mask


def elastic(mask: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Bend a mask by a smooth random field of a few percent of its width."""
    height, width = mask.shape
    field = rng.standard_normal((2, 9, 9)).astype(np.float32) * width * 0.018
    return cv2.remap(mask, *bent_grid(field, height, width), cv2.INTER_LINEAR)


def bent_grid(
    field: NDArray[np.float32], height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Maps (height, width) for `cv2.remap` from a coarse field (2, n, n) of shifts in pixels."""
    dx, dy = (cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC) for part in field)
    x, y = pixel_grid(height, width)
    return x + dx, y + dy


def frequency(image: Picture, rng: np.random.Generator) -> Picture:
    """Change what fine detail holds: too low a resolution, too much sharpness, another codec."""
    height, width = image.shape[:2]
    kind = rng.random()
    if kind < 0.30:
        factor = rng.choice((2, 4))
        small = cv2.resize(
            image, (width // factor, height // factor), interpolation=cv2.INTER_NEAREST
        )
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if kind < 0.60:
        factor = rng.uniform(1.3, 4.0)
        size = (max(8, round(width / factor)), max(8, round(height / factor)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    if kind < 0.85:
        return sharpen(image, rng.uniform(0.3, 1.4))
    return jpeg(image, int(rng.integers(25, 75)))


def shift(
    image: Picture, mask: NDArray[np.float32], points: Points, rng: np.random.Generator
) -> tuple[Picture, NDArray[np.float32]]:
    """Move, scale and turn source and mask alike by a few percent of the face."""
    height, width = mask.shape
    face = float(np.ptp(points[:, 0]))
    centre = tuple(float(value) for value in points.mean(0))
    turn = cv2.getRotationMatrix2D(centre, rng.uniform(-2.5, 2.5), rng.uniform(0.95, 1 / 0.95))
    turn[:, 2] += rng.uniform(-0.035, 0.035) * face, rng.uniform(-0.025, 0.025) * face
    moved = cv2.warpAffine(
        image, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return moved, cv2.warpAffine(mask, turn, (width, height))


def self_blend(
    face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None
) -> Forged:
    """Blend a face onto itself. The original carries the change too if the target got it."""
    points = place(face.landmarks)
    mask, region = random_mask(face, rng, _REGIONS if face.mesh is None else _MESH_REGIONS)
    source, target = face.image, face.image
    changed = frequency(colour(face.image, rng, 0.8), rng)
    if rng.random() < 0.5:
        source = changed
    else:
        target = changed
    source, mask = shift(source, mask, points, rng)
    ratio = float(_RATIOS[rng.integers(len(_RATIOS))])
    # Poisson takes a change of colour back: only alpha shows it, so it comes most often.
    kind = BLENDS[rng.choice(len(BLENDS), p=(0.7, 0.2, 0.1))]
    made = compose(source, target, mask, kind)
    if ratio < 1:
        made = blend(made, target, np.full_like(mask, ratio))
    return Forged(made, target, mask, ("self-blend", region, kind))
