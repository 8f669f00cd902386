"""The contract of worker pools: tasks go in, events come out. The table is in `__init__.py`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from deepscan.archive.records import InputFile, Outcome
from deepscan.options import ScanOptions
from deepscan.types import Reason

NODE_LOST = "node_lost"  # reason of a loss that was not the file's fault: its machine went


@dataclass(frozen=True, slots=True)
class Task:
    """One file to scan. `folder` (absolute) takes the outputs; it is made when it is needed.

    `write` are the sinks of every file, `write_found` those that are added for a file that is
    manipulated or suspicious. Outputs are named `result` and the suffix of their kind. `attempt`
    counts from 1.
    """

    file: InputFile
    folder: Path
    write: tuple[str, ...]
    write_found: tuple[str, ...]
    options: ScanOptions
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """So many frames of a task are done, `time` seconds of its media."""

    task: Task
    stage: str  # "analysing" or "writing"
    frames: int
    time: float
    duration: float | None


@dataclass(frozen=True, slots=True)
class TaskDone:
    """A task has its outcome, also if that is an error of the file."""

    task: Task
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class TaskLost:
    """The worker of a task died or hung without an outcome; the task may be tried again."""

    task: Task
    reason: Reason


PoolEvent = TaskProgress | TaskDone | TaskLost


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """A pool that is ready: its engine, and how the known crops scored."""

    engine: str
    engine_reason: str
    slots: int  # tasks that it takes at once
    controls: tuple[tuple[str, float], ...]
    controls_passed: bool


class WorkerPool(Protocol):
    """Scans tasks, several at once. Use it with `with`; leaving ends all work at once."""

    def start(self) -> PoolInfo:
        """Load the engines and score the known crops.

        Raises:
            EngineError, ModelError: no network can run.
        """
        ...

    def submit(self, task: Task) -> None:
        """Take a task; never more than `slots` are under way."""
        ...

    def wait(self, timeout: float) -> list[PoolEvent]:
        """What has happened since the last call, at least one event unless the time passes.

        Raises:
            EngineError: nothing can be scanned any more.
        """
        ...

    def busy(self) -> dict[str, float]:
        """Seconds of work by stage over all tasks so far; the largest is the bottleneck."""
        ...

    def close(self) -> None:
        """End everything, also tasks under way. Never raises."""
        ...


class PolledPool(ABC):
    """The part of a pool that is the same for all whose `_poll` gathers events."""

    def __init__(self) -> None:
        self._events: list[PoolEvent] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def wait(self, timeout: float) -> list[PoolEvent]:
        """As `WorkerPool.wait`."""
        until = time.monotonic() + timeout
        while True:
            self._poll(0.0 if self._events else max(0.0, min(until - time.monotonic(), 0.5)))
            if self._events or time.monotonic() >= until:
                events, self._events = self._events, []
                return events

    @abstractmethod
    def close(self) -> None:
        """As `WorkerPool.close`."""

    @abstractmethod
    def _poll(self, timeout: float) -> None:
        """Let happen what happens within that time, and add it to the events."""
