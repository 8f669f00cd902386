"""Shares one engine among several scans, so that crops of all files fill the same batches.

There is no extra thread: a caller that finds the engine free runs it for all waiting callers. The
other crops of a batch change a result only in the last bit of a sum (OpenVINO: not at all; torch:
3e-8 in a score), which records round away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deepscan.engines.engine import Engine, Predictions, check_crops, check_predictions, join
from deepscan.errors import DeepscanError, EngineError

logger = logging.getLogger(__name__)

MAX_QUEUE_DELAY = 0.004  # seconds that a batch waits to be filled: a tenth of a full batch's time


class SharedEngine:
    """Collects requests until a batch is full, all active clients wait, or the delay is over.

    Each scan uses a `client` of it as its engine.
    """

    def __init__(self, engine: Engine, *, max_queue_delay: float = MAX_QUEUE_DELAY) -> None:
        self.engine = engine
        self._max_queue_delay = max_queue_delay
        self._limit = engine.max_batch  # halved if the device runs out of memory
        self._changed = threading.Condition()
        self._waiting: list[_Request] = []
        self._active = 0
        self._running = False
        self._seconds = 0.0

    def take_seconds(self) -> float:
        """Seconds that the network ran since the last call."""
        with self._changed:
            spent, self._seconds = self._seconds, 0.0
        return spent

    @property
    def limit(self) -> int:
        """The current largest batch."""
        return self._limit

    @contextmanager
    def active_client(self) -> Iterator[None]:
        """Count the calling thread as an active client during the block."""
        with self._changed:
            self._active += 1
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def client(self) -> EngineClient:
        """An engine for one scan; closing it leaves this one open."""
        return EngineClient(self)

    def predict(self, crops: NDArray[np.uint8]) -> Predictions:
        """Predict (B, S, S, 3) uint8 RGB crops, 1 <= B <= max_batch, with those of other threads.

        Raises:
            ValueError: the crops are of another shape or type.
            EngineError: these crops could not be predicted.
        """
        check_crops(crops, self.engine.input_size, self.engine.max_batch)
        mine = _Request(crops, time.monotonic() + self._max_queue_delay)
        with self._changed:
            self._waiting.append(mine)
            self._changed.notify_all()
        while True:
            with self._changed:
                while not mine.answer.done() and (self._running or not self._is_ready()):
                    # The thread that runs the engine notifies all others afterwards.
                    wait = None if self._running else self._waiting[0].until - time.monotonic()
                    self._changed.wait(wait if wait is None else max(wait, 0.0))
                if mine.answer.done():
                    return mine.answer.result()
                batch = self._take()
                self._running = True
            try:
                self._run(batch)
            finally:
                with self._changed:
                    self._running = False
                    for request in batch:
                        if not request.answer.done():  # an error that is no engine's: Ctrl-C
                            stopped = EngineError("the engine was interrupted")
                            request.answer.set_exception(stopped)
                    self._changed.notify_all()

    def _is_ready(self) -> bool:
        if not self._waiting:
            return False
        return (
            sum(len(request.crops) for request in self._waiting) >= self._limit
            or len(self._waiting) >= self._active
            or time.monotonic() >= self._waiting[0].until
        )

    def _take(self) -> list[_Request]:
        """Take the oldest requests that fit into a batch; at least one, which may be split."""
        batch = [self._waiting.pop(0)]
        room = self._limit - len(batch[0].crops)
        for request in list(self._waiting):
            if len(request.crops) <= room:
                self._waiting.remove(request)
                batch.append(request)
                room -= len(request.crops)
        return batch

    def _run(self, batch: list[_Request]) -> None:
        """Predict a batch; if that fails, each request alone, so that others get no error."""
        try:
            crops = [request.crops for request in batch]
            found = self._predict_in_pieces(crops[0] if len(crops) == 1 else np.concatenate(crops))
        except (DeepscanError, ValueError) as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for request in batch:
                self._run([request])
            return
        start = 0
        for request in batch:
            end = start + len(request.crops)
            masks = None if found.masks is None else found.masks[start:end]
            part = Predictions(found.scores[start:end], masks)
            request.answer.set_result(part)
            start = end

    def _predict_in_pieces(self, crops: NDArray[np.uint8]) -> Predictions:
        parts = []
        place = 0
        while place < len(crops):
            piece = crops[place : place + self._limit]
            began = time.monotonic()
            try:
                found = self.engine.predict(piece)
            except EngineError as error:
                if "out of memory" not in str(error).lower() or len(piece) == 1:
                    raise
                self._limit = max(1, len(piece) // 2)
                logger.warning(
                    "%d crops do not fit into the device's memory; at most %d at once from now on",
                    len(piece),
                    self._limit,
                )
                continue
            finally:
                self._seconds += time.monotonic() - began
            name = self.engine.name
            parts.append(check_predictions(found.scores, found.masks, name, len(piece)))
            place += len(piece)
        return join(parts)


class EngineClient:
    """The engine of one scan: the shared one, which `close` leaves open."""

    def __init__(self, shared: SharedEngine) -> None:
        engine = shared.engine
        self.name, self.model, self.info = engine.name, engine.model, engine.info
        self.input_size, self.max_batch = engine.input_size, engine.max_batch
        self._shared = shared

    def predict(self, crops: NDArray[np.uint8]) -> Predictions:
        """As `SharedEngine.predict`."""
        return self._shared.predict(crops)

    def close(self) -> None:
        """Do nothing: other clients use the engine."""


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """The request of one thread; `until` is the end of its delay by the monotonic clock."""

    crops: NDArray[np.uint8]
    until: float
    answer: Future[Predictions] = field(default_factory=Future)
