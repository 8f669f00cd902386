"""The mark in the metadata of verdict videos, by which a scan of an archive recognises them.

Anyone can write the mark into a file, so it is reported and changes no verdict.
"""

from __future__ import annotations

import os
from pathlib import Path

from deepscan.options import Limits
from deepscan.video.input_file import open_source
from deepscan.video.structure import boxes

MARK = "deepscan verdict video: an analysis copy with masks drawn into it"
"""The comment in the metadata of every verdict video."""

_BOXES = 1_000  # at the top level of an MP4 that are looked at
_SEARCHED = 64 * 2**20  # bytes of the box that holds the metadata


def is_marked(path: Path, limits: Limits) -> bool:
    """True if an MP4 carries the mark of verdict videos; False for any other file.

    Raises:
        VideoError: the file cannot be opened.
        OSError: it cannot be read.
    """
    source = open_source(path, limits)
    try:
        if source.head()[4:8] != b"ftyp":
            return False
        for box in boxes(source.descriptor, most=_BOXES):
            if box.kind == b"moov":
                length = min(box.length or source.size, _SEARCHED)
                return MARK.encode() in os.pread(source.descriptor, length, box.start)
        return False
    finally:
        os.close(source.descriptor)
