"""Reads a file as frames: `open_video` gives upright RGB pictures with exact times.

A video is untrusted input for a million lines of C. A worker process decodes it under limits (see
isolation/worker.py), so a crash or hang costs one file.
"""

from __future__ import annotations

from pathlib import Path

from deepscan.options import Decoder, Limits
from deepscan.video.contract import ReadOptions, VideoReader

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

    `decoder` "auto" uses decord for the files that decord is proven to read correctly, and PyAV for
    all others. With `isolate` a separate process decodes the file, and this one imports neither av
    nor decord. `stream` selects a picture stream by size, 0 is the largest; in a picture file 0 is
    the picture, 1 and up are the pictures and videos embedded in it. With `planes`, decoder "pyav"
    gives planes instead of RGB where it can. Symbolic links are not followed: resolve them first.

    Raises:
        VideoError: the file cannot be opened, holds no video, or is outside `limits`.
    """
    from deepscan.video.open import open_reader

    options = ReadOptions(decoder, limits or Limits(), planes=planes)
    return open_reader(Path(path), options, stream, isolate=isolate)
