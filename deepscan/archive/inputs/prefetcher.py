"""Fetches remote files before their turn comes, so that neither crew nor network waits.

The threads are daemons: a run that is ended at once does not wait for a slow server. What they
leave half-written the next run sweeps away.
"""

from __future__ import annotations

import threading
from pathlib import Path

from deepscan.archive.inputs.remote import fetch


class Ahead:
    """Remote files on their way into a folder."""

    def __init__(self, folder: Path, *, size: int) -> None:
        """`size` is the largest file that is taken, in bytes."""
        self._folder = folder
        self._size = size
        self._under_way: dict[str, _Fetch] = {}

    def want(self, address: str) -> None:
        """Begin to fetch a file, unless it is under way."""
        if address not in self._under_way:
            self._under_way[address] = _Fetch(address, self._folder, self._size)

    def is_here(self, address: str, timeout: float) -> bool:
        """Wait that long at most for a file that is wanted; whether it has come, or failed."""
        self.want(address)
        return self._under_way[address].ended.wait(timeout)

    def take(self, address: str) -> None:
        """The file is wanted now, and lies where `place_of` says when this returns.

        Raises:
            UnreadableError, LimitError, UsageError, OutputError: as `fetch` does.
        """
        self.want(address)
        under_way = self._under_way.pop(address)
        under_way.ended.wait()
        if under_way.error is not None:
            raise under_way.error


class _Fetch:
    """One file on its way."""

    def __init__(self, address: str, folder: Path, size: int) -> None:
        self.ended = threading.Event()
        self.error: Exception | None = None
        self._wanted = address, folder, size
        threading.Thread(target=self._run, name="fetch", daemon=True).start()

    def _run(self) -> None:
        address, folder, size = self._wanted
        try:
            fetch(address, folder, size=size)
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()
