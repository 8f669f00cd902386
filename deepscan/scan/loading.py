"""Make something slow in a thread, while other work goes on that does not need it yet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Loading(Generic[T]):
    """A value that is made once, in a thread of its own, from `start` on or when it is wanted."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._future: Future[T] | None = None

    def start(self) -> Future[T]:
        """Begin; later calls change nothing."""
        with self._lock:
            if self._future is None:
                executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loading")
                self._future = executor.submit(self._make)
                executor.shutdown(wait=False)
            return self._future

    def result(self) -> T:
        """The value, waited for; raises what making it raised."""
        return self.start().result()

    def close(self, release: Callable[[T], None]) -> bool:
        """Wait for a value that is being made and release it; False if it was never begun."""
        with self._lock:
            future = self._future
        if future is None:
            return False
        with suppress(Exception):  # whoever wanted the value has met the error
            release(future.result())
        return True
