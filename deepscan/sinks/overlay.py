"""Writes the verdict video: the source with boxed faces, tinted areas, and the verdict below.

Pixels change only where something is drawn (see `canvas`); verdict, timeline and legend are in a
strip below the picture (see `footer`). H.264 in MP4, for people: every frame at the time of its
source frame, with the sound copied.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import ClassVar

from deepscan.errors import OutputError
from deepscan.sinks.canvas import Canvas
from deepscan.types import FrameResult, Output, Scan
from deepscan.video.writer import VideoWriter, load_pyav

logger = logging.getLogger(__name__)

THREADS = 2  # of the encoder


class OverlaySink:
    """Writes the verdict video. Without frames there is no file.

    A still picture becomes a clip of two seconds.
    """

    suffix: ClassVar[str] = ".mp4"
    needs_images: ClassVar[bool] = True

    def __init__(self, path: Path, scan: Scan) -> None:
        load_pyav()  # sinks are made in one thread and write in several
        self._path = path
        self._scan = scan
        self._open: tuple[Canvas, VideoWriter] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on sound that could not be copied."""
        return self._open[1].notes if self._open is not None else ()

    def write(self, result: FrameResult) -> None:
        """Paint and encode the next frame.

        Raises:
            OutputError: the file cannot be written.
        """
        canvas, writer = self._open or self._begin()
        writer.write(canvas.paint(result), result.frame.pts)

    def close(self, made: tuple[Output, ...] = ()) -> None:
        """Complete the file.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._open is None:
            return
        _, writer = self._open
        writer.close()
        for note in writer.notes:
            logger.warning("%s: %s", self._scan.path, note)

    def abort(self) -> None:
        """Give up; the file at the path is not a video."""
        if self._open is not None:
            self._open[1].abort()

    def _begin(self) -> tuple[Canvas, VideoWriter]:
        scan = self._scan
        video = scan.verdict.video
        if video is None:
            raise OutputError(f"{self._path}: no verdict video without the facts of the stream")
        canvas = Canvas(scan, video.width, video.height, float(video.sample_aspect_ratio))
        height, width = canvas.shape
        source = scan.path.resolve() if video.audio else None  # of the file behind a link
        writer = VideoWriter(
            self._path,
            video,
            size=(width, height),
            source=source,
            threads=THREADS,
        )
        self._open = canvas, writer
        return self._open
