"""The lock of a results folder, which allows one run at a time, and the removal of leftovers.

The kernel holds the lock (flock), so it ends with its owner, whatever the cause of death; the text
in the file only names the owner.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import socket
import weakref
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from deepscan import __version__
from deepscan.errors import OutputError
from deepscan.files import is_part

logger = logging.getLogger(__name__)

LOCK = ".lock"
DOWNLOADS = ".fetched"
"""The folder below the results that holds remote files during their scan."""

# Files and folders with the number of the process that writes them.
_TEMPORARY = re.compile(r"\..*\.tmp\.[0-9]+", re.DOTALL)


class Lock:
    """The right to write into a results folder, for the duration of a `with` block."""

    def __init__(self, folder: Path) -> None:
        """Lock nothing yet; `with` does. `folder` has to exist."""
        self.path = folder / LOCK
        self._descriptor: int | None = None
        # flock belongs to the open file, which a forked worker shares: it would outlive its owner.
        ours = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget(ours()))

    def __enter__(self) -> Self:
        """Take the lock; a lock of a dead owner is free.

        Raises:
            OutputError: another run holds it (the message names process, host and start), or the
                folder cannot be written to.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise _refused(self.path, error) from error
        try:
            self._take(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise _refused(self.path, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return self

    def __exit__(self, *error: object) -> None:
        if self._descriptor is None:
            return
        with suppress(OSError):  # an empty file means free; it stays, another run may have it open
            os.ftruncate(self._descriptor, 0)
        self._close()

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _held(self.path.parent, owner) from error
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
            # A file system without locks: rely on the text in the file.
            if owner is not None and _may_live(owner):
                raise _held(self.path.parent, owner) from error
            logger.warning("%s: no locks on this file system, two runs may collide", self.path)
        owner = _owner(descriptor)
        if owner is not None:
            logger.warning("%s: taken over from a run that died (%s)", self.path, _told(owner))
        mine = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "start": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": __version__,
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(mine).encode("ascii") + b"\n", 0)
        os.fsync(descriptor)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def sweep(folder: Path, *, deep: bool = True) -> int:
    """Remove half-written files of killed runs or processes; returns their number.

    Searches a whole results folder, or without `deep` only the folder of one file that is not being
    scanned. Hold the lock: files of an active run look the same. Links are removed, not followed.

    Raises:
        OutputError: something cannot be removed.
    """
    removed = 0
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                found = [
                    (Path(entry.path), entry.is_dir(follow_symlinks=False)) for entry in entries
                ]
            for path, is_folder in found:
                ours = here == folder and path.name == DOWNLOADS
                if not (ours or is_part(path.name) or _TEMPORARY.fullmatch(path.name)):
                    if is_folder and deep:
                        waiting.append(path)
                    continue
                if is_folder:
                    shutil.rmtree(path)
                else:
                    path.unlink()
                removed += 1
        except OSError as error:
            raise OutputError(
                f"{error.filename or here}: left by a killed run and cannot be removed "
                f"({error.strerror}): remove it by hand"
            ) from error
    if removed:
        logger.info("%s: %d leftovers of killed runs removed", folder, removed)
    return removed


def _forget(lock: Lock | None) -> None:
    if lock is not None:
        lock._close()


def _owner(descriptor: int) -> dict[str, Any] | None:
    """The owner in the file; None if it is empty, {} if it is not readable."""
    text = os.pread(descriptor, 4096, 0)
    if not text.strip():
        return None
    try:
        owner = json.loads(text)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _told(owner: dict[str, Any] | None) -> str:
    if not owner:
        return "its owner is not known"
    return (
        f"process {owner.get('pid')!s:.20} on {owner.get('host')!s:.100}, "
        f"since {owner.get('start')!s:.40}, deepscan {owner.get('version')!s:.40}"
    )


def _may_live(owner: dict[str, Any]) -> bool:
    """True if the owner may be alive; always True for another host."""
    if owner.get("host") != socket.gethostname() or not isinstance(owner.get("pid"), int):
        return True
    try:
        os.kill(owner["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _held(folder: Path, owner: dict[str, Any] | None) -> OutputError:
    return OutputError(
        f"{folder} is in use by another run ({_told(owner)}): wait for it, stop it, or name "
        f"another folder"
    )


def _refused(path: Path, error: OSError) -> OutputError:
    why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
    return OutputError(f"{path}: the results folder cannot be locked ({why}): name another folder")
