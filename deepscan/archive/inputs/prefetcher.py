"""Fetches remote files ahead of their scan, so that workers do not wait for the network.

The threads are daemons: a run that is aborted does not wait for a slow server. The next run removes
half-written files.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from pathlib import Path

from deepscan.archive.inputs.remote import fetch


class Prefetcher:
    """Fetches remote files into a folder."""

    def __init__(self, folder: Path, *, size: int) -> None:
        """`size` is the largest accepted file in bytes."""
        self._folder = folder
        self._size = size
        self._under_way: dict[str, Future[Path]] = {}

    def request(self, address: str) -> None:
        """Start to fetch a file, unless that has started."""
        if address not in self._under_way:
            future = self._under_way[address] = Future()
            wanted = address, future
            threading.Thread(target=self._fetch, args=wanted, name="fetch", daemon=True).start()

    def wait(self, address: str, timeout: float) -> bool:
        """Wait at most `timeout` seconds; True if the file has arrived or failed."""
        self.request(address)
        return bool(wait([self._under_way[address]], timeout).done)

    def take(self, address: str) -> None:
        """Wait for the file; afterwards it is at `local_path`.

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
