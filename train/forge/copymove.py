"""Copy and move: parts of a face laid over others, from its mirror image or of another person."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from train.forge.artefacts import decode
from train.forge.blend import BLENDS, SPACES, compose, match_colour
from train.forge.contract import FaceImage, Forged, Picture
from train.forge.selfblend import random_mask
from train.forge.shape import place
from train.forge.swap import align

_PARTS = ("left eye", "right eye", "mouth", "nose", "eyes", "brows", "cheeks", "parts", "forehead")


def copy_move(
    face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None
) -> Forged:
    """Lay a part over a face: mirrored, moved within it, or another person's if there is one."""
    points = place(face.landmarks)
    mask, region = random_mask(face, rng, _PARTS)
    if not (mask > 0.4).any():
        mask, region = random_mask(face, rng, ("lower face",))
    draw = rng.random()
    if other is not None and draw < 0.5:
        source, how = align(other, face, rng), "other"
    elif draw < 0.75 and region not in ("eyes", "nose", "forehead", "cheeks"):
        source, how = align(mirrored(face), face, rng), "mirrored"
    else:
        source, how = _moved(face, rng), "moved"
    space = SPACES[rng.choice(len(SPACES), p=(0.25, 0.15, 0.15, 0.05, 0.4))]
    source = match_colour(source, face.image, mask, space)
    if rng.random() < 0.35:
        source = decode(source, float(np.ptp(points[:, 0])), rng, rng.uniform(0.1, 0.6))
    kind = BLENDS[rng.choice(len(BLENDS), p=(0.4, 0.25, 0.35))]
    made = compose(source, face.image, mask, kind)
    return Forged(made, face.image, mask, ("copy-move", region, how, kind))


def mirrored(face: FaceImage) -> FaceImage:
    """The mirror image with its landmarks in their order."""
    width = face.image.shape[1]
    landmarks = face.landmarks[[1, 0, 2, 4, 3]] * (-1, 1) + (width - 1, 0)
    x1, y1, x2, y2 = face.box
    return replace(
        face,
        image=np.ascontiguousarray(face.image[:, ::-1]),
        landmarks=landmarks,
        box=(width - x2, y1, width - x1, y2),
        mesh=None,  # its points would be in the order of the other side
    )


def _moved(face: FaceImage, rng: np.random.Generator) -> Picture:
    """The picture moved by a tenth to a quarter of the face, turned and scaled a little."""
    height, width = face.image.shape[:2]
    across = float(np.ptp(place(face.landmarks)[:, 0]))
    x, y = (float(value) for value in face.landmarks.mean(0))
    turn = cv2.getRotationMatrix2D((x, y), rng.uniform(-8, 8), rng.uniform(0.9, 1.12))
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.22) * across
    turn[:, 2] += far * np.cos(angle), far * np.sin(angle)
    return cv2.warpAffine(
        face.image, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
