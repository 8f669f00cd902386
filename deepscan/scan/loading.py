"""Makes a value in a thread, while the caller does work that does not need it yet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Loading(Generic[T]):
    """A value that is made once, in a thread, from `start` on or when it is first used."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._future: Future[T] | None = None

    def start(self) -> Future[T]:
        """Start; later calls do nothing."""
        with self._lock:
            if self._future is None:
                executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loading")
                self._future = executor.submit(self._make)
                executor.shutdown(wait=False)
            return self._future

    def result(self) -> T:
        """Wait for the value; raises the error of making it."""
        return self.start().result()

    def close(self, release: Callable[[T], None]) -> bool:
        """Wait for a value that is being made and release it; False if it was never started."""
        with self._lock:
            future = self._future
        if future is None:
            return False
        with suppress(Exception):  # `result` has raised the error
            release(future.result())
        return True
