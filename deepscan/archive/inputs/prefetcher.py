"""Fetches remote files before their turn comes, so that neither workers nor network wait.

The threads are daemons: a run that is ended at once does not wait for a slow server. What they
leave half-written the next run sweeps away.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from pathlib import Path

from deepscan.archive.inputs.remote import fetch


class Prefetcher:
    """Remote files on their way into a folder."""

    def __init__(self, folder: Path, *, size: int) -> None:
        """`size` is the largest file that is taken, in bytes."""
        self._folder = folder
        self._size = size
        self._under_way: dict[str, Future[Path]] = {}

    def request(self, address: str) -> None:
        """Begin to fetch a file, unless that has begun."""
        if address not in self._under_way:
            future = self._under_way[address] = Future()
            wanted = address, future
            threading.Thread(target=self._fetch, args=wanted, name="fetch", daemon=True).start()

    def wait(self, address: str, timeout: float) -> bool:
        """Wait at most `timeout` seconds; whether the file has come, or failed."""
        self.request(address)
        return bool(wait([self._under_way[address]], timeout).done)

    def take(self, address: str) -> None:
        """The file is wanted now, and lies where `local_path` says when this returns.

        Raises:
            UnreadableError, LimitError, UsageError, OutputError: as `fetch` does.
        """
        self.request(address)
        self._under_way.pop(address).result()

    def _fetch(self, address: str, future: Future[Path]) -> None:
        try:
            future.set_result(fetch(address, self._folder, size=self._size))
        except Exception as error:
            future.set_exception(error)
