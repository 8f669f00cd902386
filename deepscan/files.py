"""Input files and finished outputs: resolved, hashed, checked, published.

An output is written aside and takes its name when it is whole, so that whoever sees a name sees a
whole file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from deepscan.errors import OutputError, UnreadableError, UsageError
from deepscan.options import Limits
from deepscan.sinks.sink import SINKS
from deepscan.types import Output, ReadReport
from deepscan.video.input_file import open_source

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


def check_outputs(wanted: Mapping[str, Path], inputs: Iterable[Path], *, force: bool) -> None:
    """Refuse, before any work, what could not be written or would be lost.

    Raises:
        UsageError: a sink that does not exist, two for one file, or an output that is an input.
        OutputError: the folder is missing, or a file is there and `force` is not set.
    """
    if len(set(wanted.values())) < len(wanted):
        raise UsageError(f"two outputs have one name: {', '.join(map(str, wanted.values()))}")
    for kind, target in wanted.items():
        if kind not in SINKS:
            raise UsageError(f"no output {kind!r}; there are {', '.join(SINKS)}")
        if not target.parent.is_dir():
            raise OutputError(f"the folder {target.parent} does not exist: create it first")
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise OutputError(f"the folder {target.parent} may not be written to")
        if target.is_dir():
            raise OutputError(f"{target} is a folder: name a file")
        if target.exists():
            for path in inputs:
                with suppress(OSError):
                    if target.samefile(path):
                        raise UsageError(f"{target} is an input: name another output")
            if not force:
                raise OutputError(f"{target} is there already: name another, or give --force")


def aside(path: Path) -> Path:
    """A free name beside the final one; it keeps the suffix, which tells writers the container."""
    # 40 characters: with what is added, the longest name that a file system takes is not passed.
    return path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}.part{path.suffix}")


@contextmanager
def whole_or_absent(parts: Mapping[str, tuple[Path, Path]]) -> Iterator[None]:
    """Leave no half-written file behind, whatever happens, also on Ctrl-C."""
    try:
        yield
    except BaseException:
        for part, _ in parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)
        raise


def finished(kind: str, part: Path, final: Path) -> Output:
    """What is known of a finished file, which is on the disk when this returns."""
    digest = hashlib.sha256()
    try:
        with part.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            os.fsync(file.fileno())
            size = file.tell()
    except OSError as error:
        raise OutputError(f"{final} cannot be completed: {error.strerror}") from error
    return Output(kind, final, digest.hexdigest(), size)


def publish(parts: Mapping[str, tuple[Path, Path]]) -> None:
    """Give finished files their names; whoever sees a name sees a whole file."""
    for part, final in parts.values():
        try:
            os.replace(part, final)
        except OSError as error:
            raise OutputError(f"{final} cannot be written: {error.strerror}") from error
