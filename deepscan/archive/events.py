"""The events that a run reports while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deepscan.archive.inputs.listing import Counts
from deepscan.archive.records import Outcome
from deepscan.archive.workers.contract import PoolInfo, TaskProgress


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The workers are ready and start on `total` entries; `counts` describes skipped files."""

    pool_info: PoolInfo
    total: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class ItemDone:
    """An entry has its outcome; `fresh` if it was scanned now and is no duplicate."""

    outcome: Outcome
    fresh: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent twice a second: files in flight, and seconds of work so far by stage."""

    in_flight: tuple[str, ...]
    busy: dict[str, float]


@dataclass(frozen=True, slots=True)
class RunStopping:
    """No more files are started; those in flight are finished."""

    in_flight: int


RunEvent = RunStarted | ItemDone | Heartbeat | RunStopping | TaskProgress
OnEvent = Callable[[RunEvent], None]
