"""Reads animated GIF, WebP, PNG and AVIF, and the pages of TIFF and HEIC, with Pillow.

A frame has the duration that the file states, a page one second. Frames smaller than the largest
are centred on black.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction

import numpy as np

from deepscan.errors import LimitError
from deepscan.options import Limits
from deepscan.types import Frame, Image, ReadReport, VideoInfo
from deepscan.video.contract import VideoReader
from deepscan.video.embedded import parts_of, unread
from deepscan.video.input_file import Source
from deepscan.video.probe import check_length, check_size
from deepscan.video.readers.still import EXIF_ORIENTATION, describe, open_picture, read_frame

REASON = "an animated picture, read with Pillow"
PAGES = "a picture of several pages, read with Pillow"
TICKS = 1000  # a second
PAGE = 1000  # ticks of a page
UNTIMED = 10  # ticks; for a shorter or missing duration browsers use `USUAL`
USUAL = 100
LYING = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def is_animated(source: Source, kind: str, limits: Limits) -> bool:
    """True if a picture file holds several frames or pages.

    Further pictures in a JPEG (MPO) are not frames, see embedded.py.

    Raises:
        VideoError: as `open_picture` does.
    """
    if kind in ("JPEG", "BMP"):
        return False
    with open_picture(source, kind, limits) as picture:
        return bool(getattr(picture, "is_animated", False))


class AnimationReader(VideoReader):
    """Reads the frames of an animated picture one by one. `kind` is Pillow's name of its format.

    Raises:
        CorruptError: the first frame is damaged.
        LimitError: too many pixels, or too many frames.
    """

    def __init__(
        self,
        source: Source,
        kind: str,
        *,
        limits: Limits,
        beat: Callable[[], None] | None = None,
    ) -> None:
        self._source, self._limits, self._beat = source, limits, beat
        self._failed = self._decoded = 0
        self._finished = False
        with ExitStack() as held:
            self._picture = held.enter_context(open_picture(source, kind, limits))
            self._pages = kind in ("TIFF", "HEIF")
            self._count: int = getattr(self._picture, "n_frames", 1)
            if self._count > limits.frames:
                raise LimitError("limit_frames", f"{source.path}: more than {limits.frames} frames")
            self._width, self._height = self._size()
            mode = self._picture.mode.lower()
            _, rotation = read_frame(self._picture)
            lasts = self._lasts()
            self._held = held.pop_all()
        inside = len(parts_of(source))
        self._notes = [unread(source, inside)] if inside else []
        if kind == "GIF" and not _has_trailer(source):
            self._notes.append("cut: the file ends before its last mark")
        why = PAGES if self._pages else REASON
        self._info = replace(
            describe(source, kind, mode, self._width, self._height, rotation, why),
            frame_rate=Fraction(TICKS, lasts),
            time_base=Fraction(1, TICKS),
            duration=float(self._count) if self._pages else None,
            still=False,
        )

    @property
    def info(self) -> VideoInfo:
        return self._info

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that can be read.

        Raises:
            LimitError: too large a frame, or too long.
        """
        time = in_a_row = 0
        for place in range(self._count):
            if self._beat is not None:
                self._beat()
            check_length(place, time / TICKS, self._source, self._limits)
            try:
                self._picture.seek(place)
                size = self._picture.size
                check_size(*size, self._source, self._limits)
                image, _ = read_frame(self._picture)
            except LimitError:
                raise
            except Exception:  # as in `open_picture`
                self._failed += 1
                in_a_row += 1
                if in_a_row >= self._limits.consecutive_errors:
                    break
                continue
            in_a_row = 0
            frame = Frame(self._decoded, time, time / TICKS, self._whole(image))
            time += self._lasts()
            self._decoded += 1
            yield frame
        self._finished = True

    def report(self) -> ReadReport:
        reasons = list(self._notes)
        if not self._finished:
            reasons = [f"stopped: reading ended early, after {self._decoded} frames"]
        elif self._decoded < self._count:
            reasons.append(f"frame_count: the file holds {self._count}, {self._decoded} came")
        return ReadReport(
            self._decoded,
            self._failed,
            not reasons,
            tuple(reasons),
            "pillow",
            self._info.decoder_reason,
        )

    def close(self) -> None:
        self._held.close()

    def _size(self) -> tuple[int, int]:
        """Width and height that fit every upright page; for an animation those of the file."""
        sizes = []
        for place in range(self._count if self._pages else 1):
            self._picture.seek(place)
            width, height = self._picture.size
            lying = self._picture.getexif().get(EXIF_ORIENTATION, 1) in LYING
            sizes.append((height, width) if lying else (width, height))
        self._picture.seek(0)
        size = max(width for width, _ in sizes), max(height for _, height in sizes)
        check_size(*size, self._source, self._limits)
        return size

    def _lasts(self) -> int:
        """Duration in ticks of the frame that was read last."""
        if self._pages:
            return PAGE
        told = self._picture.info.get("duration") or 0
        return round(told) if told > UNTIMED else USUAL

    def _whole(self, image: Image) -> Image:
        height, width = image.shape[:2]
        if (width, height) == (self._width, self._height):
            return image
        whole = np.zeros((self._height, self._width, 3), np.uint8)
        top, left = max(0, self._height - height) // 2, max(0, self._width - width) // 2
        part = image[: self._height, : self._width]
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
        whole.flags.writeable = False
        return whole


def _has_trailer(source: Source) -> bool:
    """True if the blocks of a GIF (version 89a, appendix A) end with a trailer."""

    def colours(packed: int) -> int:
        return 3 << (packed & 7) + 1 if packed & 0x80 else 0

    def sub_blocks(place: int) -> int:
        while length := os.pread(source.descriptor, 1, place):
            place += 1 + length[0]
            if not length[0]:
                break
        return place

    place = 13 + colours(source.head()[10])
    while mark := os.pread(source.descriptor, 10, place):
        if mark[:1] == b";":
            return True
        if mark[:1] == b"!":
            place = sub_blocks(place + 2)
        elif mark[:1] == b"," and len(mark) == 10:
            place = sub_blocks(place + 11 + colours(mark[9]))
        else:
            return False
    return False
