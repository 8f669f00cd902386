"""Continues with PyAV where decord fails, without giving a frame twice.

If decord fails before the first frame, PyAV reads the whole file. If it fails later, PyAV starts at
the first frame again, and every frame that was handed out is compared by its pts and a grid of its
pixels. If all agree, reading continues behind them; else CorruptError says that the frames so far
cannot be trusted.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from deepscan.errors import CorruptError, VideoError
from deepscan.types import Frame, Image, ReadReport, VideoInfo
from deepscan.video.contract import VideoReader

log = logging.getLogger(__name__)

GRID = 16  # samples along each side of a picture that are kept for the comparison
MEAN_DIFFERENCE = 3.0  # levels over the grid; single samples may lie on a chroma edge


class FallbackReader(VideoReader):
    """Reads with `first`; if that is decord and fails, continues with `reopen(why)`.

    Without `reopen` an error of `first` is raised. `held` holds the descriptor that the readers
    use; it is closed with this reader, or when this reader is garbage collected.
    """

    def __init__(
        self,
        first: VideoReader,
        reopen: Callable[[str], VideoReader] | None = None,
        held: ExitStack | None = None,
    ) -> None:
        self._reader = first
        self._reopen = reopen
        self._held = held or ExitStack()
        self._held.push(first)
        self._close = weakref.finalize(self, self._held.close)

    @property
    def info(self) -> VideoInfo:
        return self._reader.info

    def frames(self) -> Iterator[Frame]:
        """Yield the frames, from PyAV after decord has failed.

        Raises:
            CorruptError: PyAV disagrees with frames that were handed out.
            VideoError: PyAV cannot read the file either.
        """
        if self._reopen is None or self.info.decoder != "decord":
            yield from self._reader.frames()
            return
        seen: list[tuple[int, NDArray[np.uint8]]] = []
        try:
            for frame in self._reader.frames():
                seen.append((frame.pts, _grid(frame.image)))
                yield frame
            return
        except VideoError as error:
            why = f"took over from decord after {len(seen)} frames: {error}"
        log.warning("%s", why)
        self._reader.close()
        self._reader = self._reopen(why)
        self._held.push(self._reader)
        for frame in self._reader.frames():
            if frame.index >= len(seen):
                yield frame
            elif not _agree(frame, seen[frame.index]):
                raise CorruptError(
                    f"{self.info.path}: decord and PyAV disagree about frame {frame.index}, which "
                    "was used already; use the decoder pyav"
                )

    def report(self) -> ReadReport:
        return self._reader.report()

    def close(self) -> None:
        self._close()


def _grid(image: Image) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    return image[:: max(1, height // GRID), :: max(1, width // GRID)].copy()


def _agree(frame: Frame, seen: tuple[int, NDArray[np.uint8]]) -> bool:
    pts, grid = seen
    now = _grid(frame.image)
    if frame.pts != pts or now.shape != grid.shape:
        return False
    return float(np.abs(now.astype(np.int16) - grid).mean()) <= MEAN_DIFFERENCE
