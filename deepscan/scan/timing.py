"""Measures the time of each stage, for the record."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from deepscan.faces.detector import Detection, FaceDetector
from deepscan.types import Box, Image

T = TypeVar("T")

clock = time.monotonic  # a benchmark replaces it by CPU time


class Stopwatch:
    """Adds up wall seconds by stage; stages may run in several threads at once."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time inside the `with` block."""
        started = clock()
        try:
            yield
        finally:
            spent = clock() - started
            with self._lock:
                self._seconds[stage] = self._seconds.get(stage, 0.0) + spent

    def each(self, stage: str, items: Iterable[T]) -> Generator[T]:
        """Count the time that `items` takes for each item; closing this closes `items`."""
        iterator = iter(items)
        try:
            while True:
                try:
                    with self.measure(stage):
                        item = next(iterator)
                except StopIteration:
                    return
                yield item
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def around(self, stage: str, do: Callable[[T], None]) -> Callable[[T], None]:
        """Wrap `do` so that the time of each call is counted."""

        def timed(item: T) -> None:
            with self.measure(stage):
                do(item)

        return timed

    @property
    def timings(self) -> tuple[tuple[str, float], ...]:
        """(stage, seconds) in the order in which the stages started."""
        with self._lock:
            return tuple((stage, round(spent, 3)) for stage, spent in self._seconds.items())


class TimedDetector:
    """A face detector whose time is measured."""

    def __init__(self, detector: FaceDetector, watch: Stopwatch) -> None:
        self._detector, self._watch = detector, watch

    def detect(
        self, image: Image, *, larger_than: float = 0.0, within: Box | None = None
    ) -> Detection:
        with self._watch.measure("detect"):
            return self._detector.detect(image, larger_than=larger_than, within=within)

    def detect_turned(self, image: Image, turns: Sequence[int]) -> tuple[Detection, ...]:
        with self._watch.measure("detect"):
            return self._detector.detect_turned(image, turns)

    def close(self) -> None:
        self._detector.close()
