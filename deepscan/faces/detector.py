"""The contract of face detectors, which find the faces of one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deepscan.types import Box, Face, Image


@dataclass(frozen=True, slots=True)
class Detection:
    """The faces of one picture, strongest first. `truncated` if there were more than the limit."""

    faces: tuple[Face, ...]
    truncated: bool = False


class FaceDetector(Protocol):
    """Finds every face whose box side is at least `min_face` pixels of the picture."""

    def detect(
        self, image: Image, *, larger_than: float = 0.0, within: Box | None = None
    ) -> Detection:
        """Look at one (H, W, 3) uint8 RGB picture of any size, also smaller than a face.

        Boxes are clipped to the picture; `track_id` is None. Faces whose longer side is below
        `larger_than` pixels, and those that do not lie `within` whole, may be left out or cut, if
        that is faster.
        """
        ...

    def detect_turned(self, image: Image, turns: Sequence[int]) -> tuple[Detection, ...]:
        """Detect faces in the picture turned clockwise by each of `turns`, in degrees.

        Multiples of 90; places are those in the turned picture.
        """
        ...

    def close(self) -> None:
        """Release the device."""
        ...
