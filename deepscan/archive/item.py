"""What a listing finds: files to scan, and entries that nobody will look into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepscan.types import Label, Reason


@dataclass(frozen=True, slots=True)
class Item:
    """A file to scan.

    `name` says where it lies in the mirrored tree: "/"-separated, relative, unique in a run, as the
    file system spells it (bytes that are no UTF-8 are surrogate escapes). For a file below a folder
    that was named it is the path from that folder on, with the folder's own name in front where
    several inputs were named. `identity` is (device, inode, size, mtime in ns) when it was listed,
    None for an address that is not on a local disk. `path` is absolute.
    """

    name: str
    path: Path
    identity: tuple[int, int, int, int] | None
    address: str | None = None  # of a remote file, fetched to `path` when its turn comes


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry that is not scanned, and the label that this leads to: a link, a pipe, no access."""

    name: str
    path: Path
    label: Label
    reason: Reason
