"""The contract of worker pools: tasks go in, events come out. The table is in `__init__.py`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from deepscan.archive.records import InputFile, Outcome
from deepscan.errors import EngineError
from deepscan.options import ScanOptions
from deepscan.types import Reason

NODE_LOST = "node_lost"  # reason of a loss that was not the file's fault: its node went away
SCANNER = "deepscan.scan.scanner:Scanner"
CONTROLS = "deepscan.archive.workers.controls:score_controls"
HEARTBEAT_TIMEOUT = 60.0  # seconds of silence of a process that sends a heartbeat each second
PROGRESS_TIMEOUT = 600.0  # seconds without progress of one file


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The settings that all pools share.

    Attributes:
        options: which engine, model and face detector to load.
        jobs: files in flight for each device; None: `archive.options.FILES_CPU` or `FILES_CUDA`.
        devices: a model process on each: "cpu", "cuda:0", ... Empty: the pool chooses.
        scanner: "module:function" that makes a scanner of options and, later, an `engine`.
        controls: "module:function" that scores known crops with an engine and options.
        heartbeat_timeout: seconds of silence after which a process or actor is given up.
        progress_timeout: seconds without progress of a file that end its process.
    """

    options: ScanOptions
    jobs: int | None = None
    devices: tuple[str, ...] = ()
    scanner: str = SCANNER
    controls: str = CONTROLS
    heartbeat_timeout: float = HEARTBEAT_TIMEOUT
    progress_timeout: float = PROGRESS_TIMEOUT


@dataclass(frozen=True, slots=True)
class Task:
    """One file to scan. `folder` (absolute) is for the outputs; it is created when needed.

    `write` are the sinks for every file, `write_found` those added if the file is manipulated or
    suspicious. Outputs are named `result` with the suffix of their kind. `attempt` counts from 1.
    """

    file: InputFile
    folder: Path
    write: tuple[str, ...]
    write_found: tuple[str, ...]
    options: ScanOptions
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """Progress of a task: frames done, and `time` in seconds of its media."""

    task: Task
    stage: str  # "analysing" or "writing"
    frames: int
    time: float
    duration: float | None


@dataclass(frozen=True, slots=True)
class TaskDone:
    """A task has its outcome, which may be an error of the file."""

    task: Task
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class TaskLost:
    """The worker of a task died or hung without an outcome; the task may be retried."""

    task: Task
    reason: Reason


PoolEvent = TaskProgress | TaskDone | TaskLost


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """A ready pool: its engine, and the scores of the known crops."""

    engine: str
    engine_reason: str
    slots: int  # tasks that it runs at once
    controls: tuple[tuple[str, float], ...]
    controls_passed: bool


def combined_info(what: str, infos: Sequence[tuple[str, PoolInfo]]) -> PoolInfo:
    """Combine the infos of a pool's parts, given with their labels; `what` names the parts.

    Controls are listed once if all parts agree, else with the labels.

    Raises:
        EngineError: the parts run different engines.
    """
    first = infos[0][1]
    if len({info.engine for _, info in infos}) > 1:
        told = ", ".join(f"{label}: {info.engine}" for label, info in infos)
        raise EngineError(
            f"the {what} run different engines ({told}), whose results cannot be mixed: name one "
            "with --engine"
        )
    controls = first.controls
    if len({info.controls for _, info in infos}) > 1:
        controls = tuple(
            (f"{label} {name}", score) for label, info in infos for name, score in info.controls
        )
    return replace(
        first,
        slots=sum(info.slots for _, info in infos),
        controls=controls,
        controls_passed=all(info.controls_passed for _, info in infos),
    )


class WorkerPool(Protocol):
    """Scans tasks, several at once. Use it with `with`; leaving the block ends all work."""

    def start(self) -> PoolInfo:
        """Load the engines and score the known crops.

        Raises:
            EngineError, ModelError: no network can run.
        """
        ...

    def submit(self, task: Task) -> None:
        """Take a task; at most `slots` may be in flight."""
        ...

    def wait(self, timeout: float) -> list[PoolEvent]:
        """Wait for events since the last call; returns none only after `timeout` seconds.

        Raises:
            EngineError: the pool cannot scan any more.
        """
        ...

    def busy(self) -> dict[str, float]:
        """Seconds of work by stage over all tasks so far; the largest shows the bottleneck."""
        ...

    def close(self) -> None:
        """End all work, including tasks in flight. Never raises."""
        ...


class PolledPool(ABC):
    """Base of pools whose `_poll` collects events."""

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
        """Collect the events of at most `timeout` seconds."""
