"""The common place of faces: a square in which every face's landmarks lie about alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train.forge.shape import Points, mean_face

# Of the mean face, whose eyes are 1 apart: from the hairline to below the chin.
_CENTRE = (0.0, 0.25)
_SIDE = 4.1


def align(landmarks: Points, side: int) -> NDArray[np.float64]:
    """The similarity (2, 3) that moves a picture's face into a square of `side` pixels.

    Args:
        landmarks: (5, 2) left eye, right eye, nose, left and right corner of the mouth.
    """
    wanted = ((mean_face()[1] - _CENTRE) / _SIDE + 0.5) * side - 0.5  # a pixel's centre is whole
    given = landmarks - landmarks.mean(0)
    away = wanted - wanted.mean(0)
    # Complex numbers: the least-squares turn and scale is one quotient.
    one, two = (points[:, 0] + 1j * points[:, 1] for points in (given, away))
    size = float((np.abs(one) ** 2).sum())
    turn = complex(np.vdot(one, two)) / size if size > 0 else 1.0 + 0j
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.c_[linear, wanted.mean(0) - linear @ landmarks.mean(0)]
