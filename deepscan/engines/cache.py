"""The cache on disk for converted networks, built engines and proofs of parity.

An entry that is incomplete or altered counts as missing and is made again. Every entry is two
files, the data and a JSON file with its SHA-256; both are written atomically, the JSON file last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from deepscan.errors import OutputError
from deepscan.files import atomic_output

logger = logging.getLogger(__name__)

VARIABLE = "DEEPSCAN_CACHE"


def cache_folder() -> Path | None:
    """The folder for entries, created if it is missing; None without a usable folder.

    It is `engines` in the folder of the environment variable DEEPSCAN_CACHE, else in `deepscan`
    under XDG_CACHE_HOME or ~/.cache. A folder of another user, or one that others can write to, is
    not used.
    """
    root = _root()
    if root is None:
        logger.info("no cache: neither %s, XDG_CACHE_HOME nor HOME names a folder", VARIABLE)
        return None
    folder = root / "engines"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.stat()
    except OSError as error:
        logger.info("no cache: %s", error)
        return None
    if hasattr(os, "getuid") and (facts.st_uid != os.getuid() or facts.st_mode & 0o022):
        logger.warning("no cache: others may write to %s. Run: chmod 700 %s", folder, folder)
        return None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        logger.info("no cache: %s may not be read and written", folder)
        return None
    return folder


def key_of(facts: Mapping[str, str]) -> str:
    """The key of an entry, a hash of its facts."""
    text = json.dumps(dict(facts), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_entry(folder: Path | None, key: str) -> tuple[bytes, ...] | None:
    """Read the parts of an entry; None if it is missing or altered."""
    if folder is None:
        return None
    side, data = _paths(folder, key)
    try:
        parts = json.loads(side.read_text())["parts"]
        content = data.read_bytes()
        whole = []
        place = 0
        for part in parts:
            piece = content[place : place + part["size"]]
            if hashlib.sha256(piece).hexdigest() != part["sha256"]:
                raise ValueError("its SHA-256 differs from the recorded one")
            whole.append(piece)
            place += part["size"]
        if place != len(content):
            raise ValueError("it is longer than recorded")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("the cache entry %s is damaged (%s) and is made again", data, error)
        return None
    return tuple(whole)


def write_entry(folder: Path | None, key: str, facts: Mapping[str, str], *parts: bytes) -> None:
    """Write the parts of an entry. If the cache cannot be written, this is only logged."""
    if folder is None:
        return
    side, data = _paths(folder, key)
    listed = [{"size": len(part), "sha256": hashlib.sha256(part).hexdigest()} for part in parts]
    note = json.dumps({"facts": dict(facts), "parts": listed}, indent=1, sort_keys=True)
    try:
        _replace(data, b"".join(parts))
        _replace(side, note.encode())
    except (OSError, OutputError) as error:
        logger.warning("the cache %s cannot be written: %s", folder, error)


def _root() -> Path | None:
    if named := os.environ.get(VARIABLE):
        return Path(named).absolute()
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named).absolute() / "deepscan"
    if home := os.environ.get("HOME"):
        return Path(home).absolute() / ".cache" / "deepscan"
    return None


def _paths(folder: Path, key: str) -> tuple[Path, Path]:
    return folder / f"{key}.json", folder / f"{key}.bin"


def _replace(path: Path, content: bytes) -> None:
    with atomic_output(path) as part:
        part.write_bytes(content)
