"""Finds videos and further pictures embedded in a picture file.

A phone appends a short video to a JPEG (a motion photo), a camera a second view or a large preview
(MPF, MPO). Viewers show only the first picture, so a scan of that one alone could miss a fake. Each
part is copied into an unnamed file and read like any other file.

The file's own list of its parts (XMP, MPF) is not used: it may be missing or wrong.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from deepscan.errors import LimitError, NoStreamError, UnreadableError
from deepscan.options import Limits
from deepscan.video.contract import OTHER_STREAMS
from deepscan.video.formats import HEIF_BRANDS, still_format
from deepscan.video.input_file import Source
from deepscan.video.structure import boxes

# How a video begins: the first box of an MP4 with its brand, the head of Matroska, that of AVI.
VIDEO_HEADS = re.compile(
    rb"\x00\x00\x00[\x10-\xff]ftyp[ -~]{4}|"
    rb"\x1aE\xdf\xa3.{1,48}?\x42\x82.{1,8}?(?:matroska|webm)|"
    rb"RIFF....AVI LIST",
    re.DOTALL,
)
JPEG_HEAD = re.compile(rb"\xff\xd8\xff[\xc0-\xfe]")
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in the data of a JPEG's scan
MOST_BOXES = 100_000  # at the top of an MP4
PIECE = 2**20  # bytes that are looked through at once
OVERLAP = 96  # bytes, more than any head
LONGEST_TAG = 2**16  # bytes of a JPEG's tag with its marker
# A map of brightness for HDR screens lies behind most phone pictures and is no view of anything.
GAIN_MAP = (b"hdrgm:", b"urn:iso:std:iso:ts:21496", b":aux:hdrgainmap")


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes [start, stop) of a picture file that are a picture or a video of their own."""

    kind: Literal["picture", "video"]
    start: int
    stop: int


def parts_of(source: Source) -> list[Part]:
    """List what a picture file holds besides its picture, in file order.

    Small previews in the picture's tags and gain maps are left out.
    """
    parts = list(_videos(source))
    first_video = parts[0].start if parts else source.size
    if still_format(source) == "JPEG":
        parts += _pictures_behind(source, first_video)
    return sorted(parts, key=lambda part: part.start)


def unread(source: Source, count: int) -> str:
    """The reason in the report of a reader that read only the picture."""
    return f"{OTHER_STREAMS}: {count} more in the file {source.path.name}, one picture was read"


def cut_out(source: Source, limits: Limits) -> Source:
    """Copy part number `source.stream`, from 1 on, into an open file without a name.

    Raises:
        NoStreamError: the file has fewer parts.
        LimitError: the file has more parts than the limit.
        UnreadableError: the temporary folder cannot take the copy.
    """
    parts = parts_of(source)
    if source.stream > len(parts):
        raise NoStreamError(f"{source.path}: holds {len(parts)} pictures and videos inside")
    if source.stream > limits.streams:
        raise LimitError(
            "limit_streams",
            f"{source.path}: {len(parts)} pictures and videos inside, the limit is "
            f"{limits.streams}",
        )
    part = parts[source.stream - 1]
    try:
        with tempfile.TemporaryFile(prefix="deepscan-") as file:
            for place in range(part.start, part.stop, PIECE):
                data = os.pread(source.descriptor, min(PIECE, part.stop - place), place)
                file.write(data)
            file.flush()
            descriptor = os.dup(file.fileno())
    except OSError as error:
        raise UnreadableError(
            f"{source.path}: the {part.kind} at byte {part.start} cannot be copied to the "
            f"temporary folder ({error.strerror}): free some space or set TMPDIR"
        ) from error
    size = os.fstat(descriptor).st_size
    return replace(source, descriptor=descriptor, size=size, stream=0)


def _videos(source: Source) -> Iterator[Part]:
    """Find the videos; one inside another is not listed."""
    place = 1
    while (start := _next_video(source, place)) is not None:
        place = _end_of_video(source, start)
        yield Part("video", start, place)


def _next_video(source: Source, place: int) -> int | None:
    for start, head in _search(source, VIDEO_HEADS, place, source.size):
        if head[8:12] not in HEIF_BRANDS:
            return start
    return None


def _search(
    source: Source, pattern: re.Pattern[bytes], place: int, stop: int
) -> Iterator[tuple[int, bytes]]:
    """Yield position and text of each match of a pattern of at most `OVERLAP` bytes."""
    last = b""
    while place < stop and (data := os.pread(source.descriptor, min(PIECE, stop - place), place)):
        whole = last + data
        for found in pattern.finditer(whole):
            yield place - len(last) + found.start(), found.group()
        last = whole[-OVERLAP:]
        place += len(data)


def _end_of_video(source: Source, start: int) -> int:
    """The end of an MP4's boxes, or the start of the next MP4; else the end of the file."""
    place = start
    for box in boxes(source.descriptor, start, MOST_BOXES):
        first = box.start == start
        if box.length == 0 or (first and box.kind != b"ftyp"):
            return source.size
        if box.length < 8 or not box.kind.isalnum() or (box.kind == b"ftyp" and not first):
            break
        place = box.start + box.length
    return min(place, source.size)


def _pictures_behind(source: Source, stop: int) -> Iterator[Part]:
    """The JPEGs that follow the first one."""
    end, _ = _end_of_jpeg(source, 0, stop)
    while end is not None and end < stop:
        start, _ = next(_search(source, JPEG_HEAD, end, stop), (None, b""))
        if start is None:
            return
        end, is_map = _end_of_jpeg(source, start, stop)
        if not is_map:
            yield Part("picture", start, stop if end is None else end)


def _end_of_jpeg(source: Source, place: int, stop: int) -> tuple[int | None, bool]:
    """The end of the JPEG at `place`, None if it is cut; and whether it is a gain map.

    ITU-T T.81, annex B: segments with their lengths, and after each start of a scan data in which
    0xFF is followed by 0 or a restart marker.
    """
    place += 2
    grey = named = False
    while place + 4 <= stop:
        head = os.pread(source.descriptor, 4, place)
        if head[0] != 0xFF:
            return None, False
        code, length = head[1], int.from_bytes(head[2:4], "big")
        if code == 0xFF:  # padding
            place += 1
            continue
        if code == 0xD9:
            return place + 2, grey and named
        if code in (0xE1, 0xE2):
            data = os.pread(source.descriptor, min(length, LONGEST_TAG), place + 4)
            named |= any(mark in data for mark in GAIN_MAP)
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            grey = os.pread(source.descriptor, 1, place + 9) == b"\x01"  # components
        place += 2 + length
        if code == 0xDA:
            marker, _ = next(_search(source, MARKER, place, stop), (None, b""))
            if marker is None:
                return None, False
            place = marker
    if os.pread(source.descriptor, 2, place) == b"\xff\xd9":
        return place + 2, grey and named
    return None, False
