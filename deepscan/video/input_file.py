"""Opens untrusted files: one descriptor to a regular file, for all later steps.

No decoder ever gets a path, since FFmpeg takes names such as `http:x.mp4` or `concat:a` as
instructions and follows playlists. `unless_changed` tells a file that changed while it was read.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from deepscan.errors import (
    CorruptError,
    LimitError,
    UnreadableError,
    reason_of,
    system_errors_as,
)
from deepscan.files import sha256_of
from deepscan.options import Limits
from deepscan.types import ReadReport

Identity = tuple[int, int, int, int]  # device, inode, bytes, modification time in nanoseconds
HEAD = 64  # bytes that tell the formats of formats.py apart


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
        raise UnreadableError(f"{path}: cannot be opened: {reason_of(error)}") from error
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


def identity_of(path: Path) -> Identity:
    """The identity of a file, which changes when it is altered or replaced.

    Raises:
        UnreadableError: the file is gone.
    """
    with system_errors_as(UnreadableError, f"{path} cannot be opened"):
        facts = path.stat()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def unless_changed(report: ReadReport, before: Identity, path: Path) -> ReadReport:
    """Mark a report as incomplete if the file has changed since `before`."""
    try:
        same = identity_of(path) == before
    except UnreadableError:
        same = False
    if same:
        return report
    reasons = (*report.reasons, "changed: the file was altered or replaced while it was read")
    return replace(report, complete=False, reasons=reasons)
