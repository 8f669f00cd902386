"""Resolves, hashes and checks input files, and writes outputs atomically.

An output is written under a temporary name beside its own, and renamed when it is complete and on
disk, so that a file under its final name is always complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from deepscan.errors import OutputError, UnreadableError, UsageError, reason_of, system_errors_as
from deepscan.types import Output

MIN_FREE = 2**20  # bytes of disk space that a scan needs: a record may be this large
_CHUNK = 4 * 2**20
_PART = re.compile(r"\..*\.[0-9a-f]{8}\.part(\.[^.]*)?", re.DOTALL)


def resolve(path: Path) -> Path:
    """Resolve a path from the user; links are followed only here.

    Raises:
        UnreadableError: the file does not exist.
    """
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise UnreadableError(f"{path} cannot be opened: {reason_of(error)}") from error


def check_exists(path: str | Path) -> None:
    """Raise UsageError where nothing can be found; a link that leads nowhere is something."""
    try:
        os.lstat(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be found ({error.strerror}): check the name") from None


def sha256_of(file: IO[bytes], length: int | None = None) -> Any:
    """The SHA-256 object of a file from its current position on, read in pieces.

    Args:
        length: bytes to read; None for the rest of the file.

    Raises:
        ValueError: the file ends before `length` bytes.
        OSError: it cannot be read.
    """
    digest, left = hashlib.sha256(), length
    while chunk := file.read(_CHUNK if left is None else min(left, _CHUNK)):
        digest.update(chunk)
        left = None if left is None else left - len(chunk)
    if left:
        raise ValueError(f"{left} bytes are missing")
    return digest


def check_outputs(wanted: Mapping[str, Path], inputs: Iterable[Path], *, force: bool) -> None:
    """Refuse outputs that could not be written or would overwrite a file, before any work.

    Raises:
        UsageError: two outputs have the same path, or an output is an input.
        OutputError: the folder is missing, its disk is full, or a file exists and `force` is not
            set.
    """
    if len(set(wanted.values())) < len(wanted):
        raise UsageError(f"two outputs have one name: {', '.join(map(str, wanted.values()))}")
    for target in wanted.values():
        if not target.parent.is_dir():
            raise OutputError(f"the folder {target.parent} does not exist: create it first")
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise OutputError(f"the folder {target.parent} may not be written to: name another")
        if shutil.disk_usage(target.parent).free < MIN_FREE:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # ends a run over many files
            raise OutputError(f"the disk of {target.parent} is full: name another folder") from full
        if target.is_dir():
            raise OutputError(f"{target} is a folder: name a file")
        if target.exists():
            for path in inputs:
                with suppress(OSError):
                    if target.samefile(path):
                        raise UsageError(f"{target} is an input: name another output")
            if not force:
                raise OutputError(f"{target} exists: name another file, or give --force")


def part_name(path: Path) -> Path:
    """A free name beside the final one, with the same suffix, since writers choose by it."""
    # 40 characters, so that the longer name stays within the limit of file systems.
    return path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}.part{path.suffix}")


def is_part(name: str) -> bool:
    """True if a file name is one that `part_name` gives: of an output that was never finished."""
    return _PART.fullmatch(name) is not None


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to `path` if the block succeeds.

    Otherwise, also on Ctrl-C, it is removed and an existing file at `path` is kept.

    Raises:
        OutputError: the file cannot be written.
    """
    refused = system_errors_as(OutputError, f"{path} cannot be written")
    with atomic_outputs({"": path}) as parts, refused:
        yield parts[""]
        sync(parts[""])


@contextmanager
def atomic_outputs(paths: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """As `atomic_output` for several files; each has to be `finished` in the block.

    Raises:
        OutputError: a file cannot be renamed.
    """
    parts = {name: part_name(path) for name, path in paths.items()}
    try:
        yield parts
        for name, path in paths.items():
            with system_errors_as(OutputError, f"{path} cannot be written"):
                os.replace(parts[name], path)
    except BaseException:
        for part in parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)
        raise


def finished(kind: str, part: Path, path: Path) -> Output:
    """Sync a complete file to disk and describe it.

    Args:
        kind: the sink that wrote it.
        part: its temporary path.
        path: its final path.

    Raises:
        OutputError: it cannot be written to disk.
    """
    with system_errors_as(OutputError, f"{path} cannot be completed"), part.open("rb") as file:
        digest = sha256_of(file)
        os.fsync(file.fileno())
        size = file.tell()
    return Output(kind, path, digest.hexdigest(), size)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk.

    Raises:
        OSError: the disk is full or failed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
