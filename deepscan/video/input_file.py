"""Opens untrusted files: one descriptor to a regular file, and its format by the first bytes.

All later steps use the descriptor. No decoder ever gets a path, since FFmpeg takes names such as
`http:x.mp4` or `concat:a` as instructions and follows playlists.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from deepscan.errors import (
    CorruptError,
    LimitError,
    NoVideoError,
    UnreadableError,
    UnsupportedError,
    VideoError,
    system_errors_as,
)
from deepscan.files import sha256_of
from deepscan.options import Limits

HEAD = 64  # bytes that tell the formats below apart

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


@dataclass(frozen=True, slots=True)
class Source:
    """An open regular file. `path` is for messages only; the caller closes `descriptor`.

    `stream` selects a picture stream by size: 0 is the largest.
    """

    path: Path
    descriptor: int
    size: int
    stream: int = 0

    def rewind(self) -> None:
        """Seek to the first byte: FFmpeg reads from the current position."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)

    def head(self) -> bytes:
        return os.pread(self.descriptor, HEAD, 0)


def open_source(path: Path, limits: Limits, stream: int = 0) -> Source:
    """Open a regular file for reading without ever blocking; symbolic links are not followed.

    Raises:
        UnreadableError: missing, no permission, or a directory, device, pipe, socket or link.
        LimitError: larger than `limits.file_size`.
        CorruptError: the file is empty.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        if path.is_symlink():
            raise UnreadableError(
                f"{path}: a symbolic link; give the file that it points to"
            ) from None
        why = getattr(error, "strerror", None) or str(error)
        raise UnreadableError(f"{path}: cannot be opened: {why}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            kind = "a directory" if stat.S_ISDIR(found.st_mode) else "a device, pipe or socket"
            raise UnreadableError(f"{path}: is {kind}, not a regular file")
        if found.st_size > limits.file_size:
            raise LimitError(
                "limit_size",
                f"{path}: {found.st_size} bytes, the limit is {limits.file_size}",
            )
        if found.st_size == 0:
            raise CorruptError(f"{path}: empty file")
    except BaseException:
        os.close(descriptor)
        raise
    return Source(path, descriptor, found.st_size, stream)


def hash_file(path: Path, limits: Limits) -> str:
    """SHA-256 of a regular file, read once in pieces.

    Raises:
        UnreadableError: it cannot be read.
        LimitError: it is larger than the limit.
        CorruptError: it is empty.
    """
    source = open_source(path, limits)
    with (
        system_errors_as(UnreadableError, f"{path} cannot be read"),
        os.fdopen(source.descriptor, "rb", buffering=0) as file,
    ):
        return str(sha256_of(file).hexdigest())


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
