"""The rotation of a video: reads the display matrix of a file, and turns pictures upright by it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from deepscan.types import Image

if TYPE_CHECKING:
    from collections.abc import Iterable

    from av import VideoFrame
    from av.sidedata.sidedata import SideData


@dataclass(frozen=True, slots=True)
class Turn:
    """The steps that make a decoded picture upright: transpose, then flip rows and columns."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def degrees(self) -> int:
        """The clockwise rotation: 0, 90, 180 or 270; mirroring is not counted."""
        if self.transpose:
            return 270 if self.flip_rows else 90
        return 180 if self.flip_rows and self.flip_columns else 0

    def apply(self, image: Image) -> Image:
        """A view of `image` (H, W, 3), upright."""
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.flip_rows:
            image = image[::-1]
        if self.flip_columns:
            image = image[:, ::-1]
        return image


def turn_of(matrix: bytes) -> Turn:
    """Read a display matrix of nine 32-bit numbers; other than right angles are ignored."""
    if len(matrix) < 36:
        return Turn()
    a, b, _, c, d = struct.unpack("=9i", matrix[:36])[:5]  # x' = ax + cy, y' = bx + dy
    small = max(abs(a), abs(b), abs(c), abs(d)) // 100
    if min(abs(a), abs(d)) > small >= max(abs(b), abs(c)):
        return Turn(False, d < 0, a < 0)
    if min(abs(b), abs(c)) > small >= max(abs(a), abs(d)):
        return Turn(True, b < 0, c < 0)
    return Turn()


def turn_of_frame(frame: VideoFrame) -> Turn:
    """The rotation that the container requests; FFmpeg attaches it to each frame."""
    # PyAV's stubs call this a TypedDict; iterating over it gives the buffers.
    for item in cast("Iterable[SideData]", frame.side_data):
        if item.type.name == "DISPLAYMATRIX":
            return turn_of(bytes(item))
    return Turn()
