"""From a file to frames: `open_video` gives upright RGB pictures with exact times.

A video is untrusted input for a million lines of C. It is decoded in a worker process with limits
(see isolation/worker.py), so a crash or hang costs one file.
"""

from __future__ import annotations

from pathlib import Path

from deepscan.options import Decoder, Limits
from deepscan.video.contract import VideoReader

__all__ = ["open_video"]


def open_video(
    path: Path,
    *,
    decoder: Decoder = "auto",
    limits: Limits | None = None,
    isolate: bool = True,
    stream: int = 0,
    planes: bool = False,
) -> VideoReader:
    """Open a video or still picture; use the result with `with`.

    `decoder` "auto" lets decord read what it is proven to read right and PyAV all else. With
    `isolate` the file is decoded in a process of its own, and neither av nor decord is imported
    into this one. `stream` chooses among several picture streams, 0 being the largest; in a picture
    file 0 is its picture, and 1 and on are the pictures and videos that lie behind it.
    With `planes` the decoder "pyav", if named, gives planes in place of RGB where it can.
    Symbolic links are not followed: resolve them first.

    Raises:
        VideoError: the file cannot be opened, holds no video, or is outside `limits`.
    """
    from deepscan.video.open import open_reader

    given = Path(path), decoder, limits or Limits(), stream
    return open_reader(*given, isolate=isolate, planes=planes)
