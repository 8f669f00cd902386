"""Writes the mask video: the network's output for every pixel of every source frame, lossless.

A mask distinguishes manipulated, not manipulated and *not analysed*, so that black never stands for
a pixel that was not analysed. Each frame is 8-bit grey, lossless H.264, at the time of its source:

    0          not analysed
    1 .. 255   1 + round(254 * P(manipulated)); 1 is judged with P = 0, 128 is P = 0.5

Analysed are the pixels in the crop of a judged face. All others are 0: the rest of the picture,
faces that were not judged (too small, too blurred, over the limit), and frames that were not
analysed or show no face. Where crops overlap, the higher value is written.
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
    """Writes the mask video. Without frames there is no file."""

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
            # One mask per frame, also for a still picture, which the writer would repeat.
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
        """Give up; the file at the path is not a video."""
        if self._writer is not None:
            self._writer.abort()


@dataclass(frozen=True, slots=True)
class MaskFrame:
    """One frame of a mask video.

    `index` is the number of the source frame; match frames by it, since Matroska rounds times to
    milliseconds, the unit of `pts`; `time` is the same in seconds. `probability` is (H, W) float32,
    P(manipulated) in [0, 1] to within 1/508, NaN for pixels that were not analysed. `analysed` is
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
    """Write a result into `levels`, which is 0; returns the regions that changed."""
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
    """Probability and analysed pixels of one frame, as in `MaskFrame`."""
    return _PROBABILITY[levels], levels > 0


_PROBABILITY = np.concatenate(
    [np.array([np.nan], np.float32), np.arange(STEPS + 1, dtype=np.float32) / STEPS]
)
