"""The contract of MTCNN's cascade of three networks, and the numbers it was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepscan.types import Image

FACTOR = 0.709  # between two levels of the pyramid: halves the area
THRESHOLDS = (0.6, 0.7, 0.7)  # of P-Net, R-Net and O-Net, as trained
SIDE = 64  # pixels; smaller pictures are padded, MTCNN fails below 20
CANDIDATES = 2000  # most P-Net cells that pass from one level; a crowd of 67 faces has 1,420


@dataclass(frozen=True, slots=True)
class Candidates:
    """Faces that MTCNN found in one picture, unsorted, also outside of it.

    `boxes` is (N, 4) float64, x1 y1 x2 y2 in pixels; `confidences` (N,); `landmarks` (N, 5, 2).
    `truncated` if P-Net had more candidates at one level than `CANDIDATES`.
    """

    boxes: NDArray[np.float64]
    confidences: NDArray[np.float64]
    landmarks: NDArray[np.float64]
    truncated: bool

    @classmethod
    def none(cls, truncated: bool) -> Candidates:
        """No faces."""
        return cls(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2)), truncated)


@dataclass(frozen=True, slots=True)
class Part:
    """The place of a part in a picture of `height` x `width`: its first row and column."""

    top: int
    left: int
    height: int
    width: int


class Cascade(Protocol):
    """MTCNN's three networks, one after the other, on one picture."""

    def find(self, image: Image, larger_than: float = 0.0, part: Part | None = None) -> Candidates:
        """Search one (H, W, 3) uint8 RGB picture of at least 64 pixels a side.

        Faces below `larger_than` pixels may be left out. With `part`, `image` is that part of the
        picture, as small as it likes, and places are those in the picture.

        Raises:
            IndexError, ValueError, RuntimeError: a candidate lies wholly outside of the picture.
        """
        ...

    def find_turned(self, image: Image, turns: Sequence[int]) -> list[Candidates]:
        """As `find`, in the picture turned clockwise by each of `turns`."""
        ...

    def close(self) -> None:
        """Give back the device."""
        ...
