"""The input as a file: which bytes they are, and whether they stayed the same during the scan."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

from deepscan.errors import UnreadableError
from deepscan.options import Limits
from deepscan.types import ReadReport
from deepscan.video.source import open_source

_CHUNK = 4 * 2**20


def hash_file(path: Path, limits: Limits) -> str:
    """SHA-256 of a regular file, read once in pieces.

    Raises:
        UnreadableError: it cannot be read.
        LimitError: it is larger than the limit.
        CorruptError: it is empty.
    """
    source = open_source(path, limits)
    digest = hashlib.sha256()
    try:
        with os.fdopen(source.descriptor, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def resolve(path: Path) -> Path:
    """The file that a name given by the user stands for; links are followed once, here."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UnreadableError(f"{path} cannot be opened: {why}") from error


def identity_of(path: Path) -> tuple[int, int, int, int]:
    try:
        facts = path.stat()
    except OSError as error:
        raise UnreadableError(f"{path} cannot be opened: {error.strerror}") from error
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def unless_changed(report: ReadReport, before: tuple[int, int, int, int], path: Path) -> ReadReport:
    """A file that is not the same after reading was not read as a whole."""
    try:
        same = identity_of(path) == before
    except UnreadableError:
        same = False
    if same:
        return report
    reasons = (*report.reasons, "changed: the file was altered or replaced while it was read")
    return dataclasses.replace(report, complete=False, reasons=reasons)
