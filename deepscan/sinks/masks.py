"""The mask video: what the network said about every pixel of every source frame, without loss.

A mask has three values: manipulated, not manipulated and *not analysed*, so that black never hides
that nobody looked. Each frame is grey, 8 bit, lossless H.264, and stands at the time of its source:

    0          not analysed
    1 .. 255   1 + round(254 * P(manipulated)); 1 is judged with P = 0, 128 is P = 0.5

Analysed is what the network has seen: the pixels in the crop square of a judged face. Everything
else is 0: the rest of the picture, faces that were not judged (too small, too blurred, over the
limit), and the whole of a frame that was not analysed or held no face. Where squares overlap, the
higher value stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from deepscan.errors import OutputError
from deepscan.faces.crop import paste
from deepscan.types import FrameResult, Output, Scan
from deepscan.video.writer import VideoWriter, load_pyav, read_gray

STEPS = 254  # the levels above 1
Region = tuple[slice, slice]


class MaskSink:
    """Writes the mask video. Without a single frame there is nothing to write, and no file."""

    suffix: ClassVar[str] = ".masks.mkv"
    needs_images: ClassVar[bool] = False

    def __init__(self, path: Path, scan: Scan) -> None:
        load_pyav()  # sinks are made in one thread and write in several
        self._path = path
        self._video = scan.verdict.video
        self._writer: VideoWriter | None = None
        self._levels = np.zeros((0, 0), np.uint8)
        self._marked: list[Region] = []

    def write(self, result: FrameResult) -> None:
        """Add the mask of the next frame.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._video is None:
            raise OutputError(f"{self._path}: no mask video without the facts of the stream")
        if self._writer is None:
            # One mask for one frame, also of a still picture, which the writer would repeat.
            self._writer = VideoWriter(self._path, replace(self._video, still=False), kind="masks")
            self._levels = np.zeros((self._video.height, self._video.width), np.uint8)
        for region in self._marked:
            self._levels[region] = 0
        self._marked = _mark(self._levels, result)
        self._writer.write(self._levels, result.frame.pts)

    def close(self, made: tuple[Output, ...] = ()) -> None:
        """Complete the file.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._writer is not None:
            self._writer.close()

    def abort(self) -> None:
        """Give up; what lies at the path is not a video."""
        if self._writer is not None:
            self._writer.abort()


@dataclass(frozen=True, slots=True)
class MaskFrame:
    """One frame of a mask video.

    `index` is the number of the source frame, and what to match frames by: Matroska rounds times to
    milliseconds, which is what `pts` counts; `time` is the same in seconds. `probability` is (H, W)
    float32, P(manipulated) in [0, 1] to within 1/508, NaN where nothing was analysed. `analysed` is
    (H, W) bool.
    """

    index: int
    pts: int
    time: float
    probability: NDArray[np.float32]
    analysed: NDArray[np.bool_]


def read_masks(path: Path) -> Iterator[MaskFrame]:
    """Yield the frames of a mask video, one at a time, in order.

    Raises:
        OutputError: the file is no mask video, or is damaged.
    """
    for index, (pts, time, levels) in enumerate(read_gray(path)):
        probability, analysed = from_levels(levels)
        yield MaskFrame(index, pts, time, probability, analysed)


def to_levels(result: FrameResult, height: int, width: int) -> NDArray[np.uint8]:
    """The frame of the mask video for one result: (height, width) uint8."""
    levels = np.zeros((height, width), np.uint8)
    _mark(levels, result)
    return levels


def _mark(levels: NDArray[np.uint8], result: FrameResult) -> list[Region]:
    """Write the values of a result into `levels`, which is 0; give the regions that changed."""
    marked: list[Region] = []
    if not result.analysed:
        return marked
    for prediction in result.faces:
        if prediction.mask is None:
            continue
        region, values = paste(prediction.mask, prediction.crop.box, *levels.shape)
        values *= STEPS
        level = np.rint(values, out=values).clip(0, STEPS).astype(np.uint8) + np.uint8(1)
        np.maximum(levels[region], level, out=levels[region])
        marked.append(region)
    return marked


def from_levels(levels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The probability and the analysed pixels, as in `MaskFrame`, of one frame."""
    return _PROBABILITY[levels], levels > 0


_PROBABILITY = np.concatenate(
    [np.array([np.nan], np.float32), np.arange(STEPS + 1, dtype=np.float32) / STEPS]
)
