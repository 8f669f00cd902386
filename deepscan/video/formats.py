"""Tells formats by the first bytes: pictures, and what is known but not read.

To add a picture format, edit `STILL` here (or `HEIF_BRANDS`), `load_plugins` in readers/still.py,
`PICTURE_SUFFIXES` in archive/inputs/listing.py and the suffixes in .pre-commit-hooks.yaml. The
format of a video is FFmpeg's to tell: it takes only its suffix, in the last two.
"""

from __future__ import annotations

import os
from pathlib import Path

from deepscan.errors import NoVideoError, UnsupportedError, VideoError
from deepscan.options import Limits
from deepscan.video.input_file import Source, open_source

STILL = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
}

UNSUPPORTED = {
    b"#EXTM3U": "a playlist that names other files",
    b"ffconcat": "a playlist that names other files",
    b"[playlist]": "a playlist that names other files",
    b"v=0": "a network session description (SDP)",
    b"<?xml": "an XML document",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
}
APPLE_DOUBLE = b"\x00\x05\x16\x07"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"

SOUND = {
    b"ID3": "MP3",
    b"fLaC": "FLAC",
    b"\xff\xf1": "AAC",
    b"\xff\xf9": "AAC",
    b"\xff\xfb": "MP3",
    b"\xff\xf3": "MP3",
    b"#!AMR": "AMR",
}

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
AVIF_BRANDS = (b"avif", b"avis")  # also of a file whose own brand is a general one


def is_text(head: bytes) -> bool:
    """True if the first bytes of a file are text, in any encoding: a stream has control bytes."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16
        return True
    return not any(byte < 9 or (13 < byte < 32 and byte != 27) for byte in head)


def may_hold_pictures(path: Path, limits: Limits) -> bool:
    """True if the first bytes may belong to a video or picture, so that loading networks pays.

    False if the file cannot be opened, is empty or text, or has a known other format.
    """
    try:
        source = open_source(path, limits)
    except VideoError:
        return False
    try:
        still_format(source)
        return not is_text(source.head())
    except (VideoError, OSError):
        return False
    finally:
        os.close(source.descriptor)


def still_format(source: Source) -> str | None:
    """Pillow's name of the picture format of the first bytes; None for any other file.

    Raises:
        UnsupportedError: a format that deepscan knows but does not read.
        NoVideoError: a sound file.
    """
    head = source.head()
    if head.startswith(LFS_POINTER):
        raise UnsupportedError(
            f"{source.path}: a Git LFS pointer, not the file itself; run `git lfs pull`"
        )
    if head.startswith(APPLE_DOUBLE):
        raise UnsupportedError(
            f"{source.path}: AppleDouble metadata of macOS, not the file itself; scan "
            f"{source.path.name.removeprefix('._')}"
        )
    for magic, what in UNSUPPORTED.items():
        if head.startswith(magic):
            raise UnsupportedError(f"{source.path}: {what}, not a video that deepscan reads")
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        size = int.from_bytes(head[:4], "big")
        return "AVIF" if any(brand in head[8:size] for brand in AVIF_BRANDS) else "HEIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        raise NoVideoError(f"{source.path}: a sound file (WAVE) without pictures")
    for magic, what in SOUND.items():
        if head.startswith(magic):
            raise NoVideoError(f"{source.path}: a sound file ({what}) without video")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    for magic, name in STILL.items():
        if head.startswith(magic):
            return name
    return None
