"""The crew contract and the table of crews: who scans the files of an archive.

A crew holds loaded engines and takes several files at once. The run (archive/run.py) hands tasks
out, writes what comes back into the journal and decides what to try again; a crew only scans. To
add one, write one file with a class of this shape and add one line to `CREWS`; the conformance
suite in tests/archive/ runs over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deepscan.archive.records import Item, Outcome
from deepscan.options import ScanOptions
from deepscan.types import Reason


@dataclass(frozen=True, slots=True)
class Task:
    """One item to scan. `folder` (absolute) takes the outputs; it is made when it is needed.

    `write` are the sinks of every file, `write_found` those that are added for a file that is
    manipulated or suspicious. Outputs are named `result` and the suffix of their kind. `attempt`
    counts from 1.
    """

    item: Item
    folder: Path
    write: tuple[str, ...]
    write_found: tuple[str, ...]
    options: ScanOptions
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Progressed:
    """A sign of life: so many frames of a task are done, `time` seconds of its media."""

    task: Task
    stage: str  # "analysing" or "writing"
    frames: int
    time: float
    duration: float | None


@dataclass(frozen=True, slots=True)
class Done:
    """A task has its outcome, also if that is an error of the file."""

    task: Task
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Lost:
    """What worked on a task died or hung without an outcome; the task may be tried again."""

    task: Task
    reason: Reason


Event = Progressed | Done | Lost


@dataclass(frozen=True, slots=True)
class Crewed:
    """What a crew can tell once it stands: who will score, and how the known crops scored."""

    engine: str
    engine_reason: str
    slots: int  # tasks that it takes at once
    controls: tuple[tuple[str, float], ...]
    controls_passed: bool


class Crew(Protocol):
    """Scans tasks, several at once. Use it with `with`; leaving ends all work at once."""

    def start(self) -> Crewed:
        """Load the engines and score the known crops.

        Raises:
            EngineError, ModelError: no network can run.
        """
        ...

    def submit(self, task: Task) -> None:
        """Take a task; never more than `slots` are under way."""
        ...

    def wait(self, timeout: float) -> list[Event]:
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


CREWS: dict[str, str] = {
    "local": "deepscan.archive.workers.local:LocalCrew",
    "ray": "deepscan.archive.workers.ray:RayCrew",
}
