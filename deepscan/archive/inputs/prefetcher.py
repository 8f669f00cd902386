"""Fetches remote files before their turn comes, so that neither workers nor network wait.

The threads are daemons: a run that is ended at once does not wait for a slow server. What they
leave half-written the next run sweeps away.
"""

from __future__ import annotations

import threading
from pathlib import Path

from deepscan.archive.inputs.remote import fetch


class Prefetcher:
    """Remote files on their way into a folder."""

    def __init__(self, folder: Path, *, size: int) -> None:
        """`size` is the largest file that is taken, in bytes."""
        self._folder = folder
        self._size = size
        self._under_way: dict[str, _Fetch] = {}

    def request(self, address: str) -> None:
        """Begin to fetch a file, unless that has begun."""
        if address not in self._under_way:
            self._under_way[address] = _Fetch(address, self._folder, self._size)

    def wait(self, address: str, timeout: float) -> bool:
        """Wait at most `timeout` seconds; whether the file has come, or failed."""
        self.request(address)
        return self._under_way[address].ended.wait(timeout)

    def take(self, address: str) -> None:
        """The file is wanted now, and lies where `local_path` says when this returns.

        Raises:
            UnreadableError, LimitError, UsageError, OutputError: as `fetch` does.
        """
        self.request(address)
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
