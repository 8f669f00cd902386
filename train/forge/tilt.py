"""Tilted heads: the same picture as another camera, or a head that leans, would show it.

Portraits look straight into the camera; people in videos lean, nod and turn. Both pictures of a
pair are tilted before anything is forged, so that a tilt is no clue and raises no alarm.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from train.forge.contract import FaceImage
from train.forge.mesh import moved

_LEAN = 30.0  # degrees; most faces that a scan crops lean less
_NARROW = 0.82  # width of a head that is turned away by some 35 degrees, over its width from before
_KERNELS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


def tilted(face: FaceImage, rng: np.random.Generator) -> FaceImage:
    """A face turned in the plane, made narrower and sheared a little, about the middle of its box.

    The box keeps its middle and height: detectors give upright boxes of about one size. What
    comes into view from beyond the picture's edge is its mirror image.

    Args:
        face: any face; its redrawn copies go with it, since they are laid on by landmarks.
        rng: consumed by the draw.
    """
    height, width = face.image.shape[:2]
    x1, y1, x2, y2 = face.box
    middle = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    angle = np.deg2rad(rng.uniform(-_LEAN, _LEAN))
    narrow, shear = rng.uniform(_NARROW, 1.0), rng.uniform(-0.08, 0.08)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.array([[narrow, shear], [0.0, 1.0]])
    affine = np.c_[linear, middle - linear @ middle]
    image = cv2.warpAffine(
        face.image, affine, (width, height),
        flags=_KERNELS[rng.integers(len(_KERNELS))], borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip
    half = narrow * (x2 - x1) / 2
    return replace(
        face,
        image=image.astype(np.uint8, copy=False),
        landmarks=face.landmarks @ linear.T + affine[:, 2],
        mesh=moved(face.mesh, affine),
        box=(middle[0] - half, y1, middle[0] + half, y2),
    )
