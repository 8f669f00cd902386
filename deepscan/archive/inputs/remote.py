"""Lists and fetches remote files: s3, gs, http and every other protocol of fsspec."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from deepscan.errors import (
    LimitError,
    OutputError,
    UnreadableError,
    UsageError,
    reason_of,
    system_errors_as,
)
from deepscan.files import atomic_output

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_PASSWORD = re.compile(r"[^:/?#]+://[^/?#@]*:[^/?#@]*@")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}$")
_CHUNK = 4 * 2**20

Kind = Literal["file", "link", "special", "unreadable", "too_deep"]


@dataclass(frozen=True, slots=True)
class Found:
    """An entry at an address. `name` is "/"-separated and relative to the listed address, "" for
    the address itself. `why` says why an entry is unreadable."""

    name: str
    address: str
    kind: Kind = "file"
    why: str = ""


def is_address(text: str) -> bool:
    """True if an input is an address ("s3://bucket/clips") rather than a path."""
    return _ADDRESS.match(text) is not None


def connect(address: str) -> tuple[Any, str]:
    """The file system of an address, and the address in its notation. Nothing is read yet.

    Raises:
        UsageError: fsspec or the driver is missing, or the address holds a password.
    """
    if _PASSWORD.match(address):  # it would stand in the journal and in every report
        raise UsageError(
            f"the address {address.partition('://')[0]}://... holds a password: put it into the "
            f"driver's own configuration instead"
        )
    if "::" in address:
        raise UsageError(f"{address}: chained addresses are not read: name the files themselves")
    try:
        system, path = import_module("fsspec.core").url_to_fs(address)
    except ImportError as error:
        raise UsageError(
            f"{address} cannot be read ({error}): pip install '.[remote]' in deepscan's checkout, "
            f"and the driver of such addresses"
        ) from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"{address}: not an address that fsspec knows: {error}") from error
    return system, str(path)


def list_remote(address: str, *, depth: int = 64, follow_links: bool = False) -> Iterator[Found]:
    """Yield the file at an address, or everything below a folder.

    Each folder is sorted. Keys of object stores with an empty part ("in//x.mp4") come after the
    files of their folder. Folders deeper than `depth` are "too_deep"; links (if the driver reports
    them) are "link" unless `follow_links`.

    Raises:
        UsageError: fsspec or the driver is missing, or the address holds a password.
        UnreadableError: the address does not exist or cannot be read.
    """
    system, base = connect(address)
    try:
        facts = system.info(base)
    except Exception as error:  # drivers raise what they like
        raise UnreadableError(f"{address} cannot be read: {reason_of(error)}") from error
    if facts["type"] != "directory":
        kind: Kind = "file" if system.isfile(base) else "special"
        yield Found("", _address(system, base), kind)
        return
    waiting: list[tuple[str, str, int]] = [("", base, 0)]
    while waiting:
        name, path, level = waiting.pop()
        try:
            entries = {str(entry["name"]): entry for entry in system.ls(path, True)}
            system.invalidate_cache(path)  # drivers keep every listing: memory would grow
        except Exception as error:
            yield Found(name, _address(system, path), "unreadable", reason_of(error))
            continue
        folders = []
        empty = False
        for key, entry in sorted(entries.items()):
            inner = key.rstrip("/")
            last = inner.rpartition("/")[2]
            if inner == path.rstrip("/") or not last:  # an empty folder's mark, or an empty part
                empty = empty or (key != inner and entry["type"] == "directory")
                continue
            below = f"{name}/{last}" if name else last
            where = _address(system, inner)
            is_link = bool(entry.get("islink"))
            if is_link and not follow_links:
                yield Found(below, where, "link")
            elif system.isdir(inner) if is_link else entry["type"] == "directory":
                if level < depth:
                    folders.append((below, inner, level + 1))
                else:
                    yield Found(below, where, "too_deep")
            else:
                is_file = system.isfile(inner) if is_link else entry["type"] == "file"
                yield Found(below, where, "file" if is_file else "special")
        if empty:
            yield from _below_empty_part(system, name, path.rstrip("/"))
        waiting.extend(reversed(folders))


def _below_empty_part(system: Any, name: str, path: str) -> Iterator[Found]:
    """Yield the files whose keys continue with an empty part; drivers list them by prefix."""
    try:
        keys = sorted(map(str, system.find(path, prefix="/")))
        system.invalidate_cache(path)
    except Exception as error:
        address = f"{_address(system, path)}//"
        why = f"keys with an empty part are not listed: {reason_of(error)}"
        yield Found(f"{name}/" if name else "/", address, "unreadable", why)
        return
    for key in keys:
        below = key.removeprefix(path)
        if below.startswith("//") and not below.endswith("/"):
            yield Found(name + below, _address(system, key))


def local_path(address: str, folder: Path) -> Path:
    """The path that `fetch` writes to: a unique name in `folder` with the address's suffix."""
    digest = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    suffix = _SUFFIX.search(re.split(r"[?#]", address)[0])
    return folder / (digest + (suffix.group().lower() if suffix else ""))


def fetch(address: str, folder: Path, *, size: int | None = None) -> Path:
    """Copy a remote file to `local_path(address, folder)`, atomically.

    `folder` is created if it is missing; the caller removes the file after use. `size` is the
    largest accepted file in bytes.

    Raises:
        UsageError: fsspec or the driver is missing.
        UnreadableError: the file is gone or cannot be read.
        LimitError: `limit_size`: it is larger than `size`.
        OutputError: the disk is full.
    """
    system, path = connect(address)
    target = local_path(address, folder)
    with system_errors_as(OutputError, f"{folder} cannot be made"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic_output(target) as part:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for chunk in _read(system, path, address, size):
                file.write(chunk)
    return target


def _read(system: Any, path: str, address: str, most: int | None) -> Iterator[bytes]:
    try:
        expected = system.info(path).get("size")
        if most is not None and expected is not None and expected > most:
            raise _too_large(address, f"{expected} bytes", most)
        count = 0
        with system.open(path, "rb") as source:
            while chunk := source.read(_CHUNK):
                count += len(chunk)
                if most is not None and count > most:
                    raise _too_large(address, "more bytes than announced", most)
                yield chunk
        if expected is not None and count != expected:
            raise UnreadableError(f"{address}: {count} of {expected} bytes came")
    except (LimitError, UnreadableError, OutputError):
        raise
    except Exception as error:  # drivers raise what they like
        raise UnreadableError(f"{address} cannot be read: {reason_of(error)}") from error


def _address(system: Any, path: str) -> str:
    return str(system.unstrip_protocol(path))


def _too_large(address: str, what: str, most: int) -> LimitError:
    return LimitError("limit_size", f"{address}: {what}, the limit is {most}")
