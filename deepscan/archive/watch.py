"""An inbox that is scanned as files come in, until somebody ends it.

Files are looked for again and again, since no notice of the kernel reaches across a network share.
A file is taken when it has stopped growing. Each scan is an ordinary run on the results folder, so
its journal sees to it that nothing is scanned twice, whatever happens in between; here only the
time of the next run is chosen, and which files it has to leave alone.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from deepscan.archive.inputs.listing import list_inputs
from deepscan.archive.records import Item
from deepscan.archive.workers.contract import Crew, Crewed, Task
from deepscan.archive.workers.contract import Event as CrewEvent
from deepscan.errors import DeepscanError, UsageError

logger = logging.getLogger(__name__)

INTERVAL = 2.0  # seconds between two looks
SETTLED = 10.0  # seconds without a change of size or time after which a file is whole
AT_ONCE = 256  # files of one scan; each is looked for among all files of the inbox

ScanOnce = Callable[[tuple[str, ...]], bool]
"""Scans, of the inputs, what matches these include patterns and nothing else; False ends the
watch."""

_State = tuple[object, ...]  # of an entry: its identity, or why it is refused


@dataclass(frozen=True, slots=True)
class _Seen:
    state: _State
    below: str  # its path from the folder that was named
    since: float


def watch(
    inputs: Sequence[str],
    out: Path,
    scan_once: ScanOnce,
    *,
    interval: float = INTERVAL,
    settled: float = SETTLED,
    stop: Event | None = None,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    follow_links: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Look for files until `stop` is set, and scan those that have stopped growing.

    A file that changes later is scanned again. Whoever sets `stop` while a scan is under way ends
    that too, by its brake.

    Args:
        inputs: folders; they need not hold anything yet.
        out: the results folder, which is not looked into.
        scan_once: called with patterns for files that are whole and new, or have changed.
        interval: seconds between two looks.
        settled: seconds that a file must have kept its size, time and place on the disk.
        include, exclude, follow_links: as for `list_inputs`.
        clock: tells seconds, never backwards.

    Returns:
        How many scans there were.

    Raises:
        UsageError: an input is no folder.
        DeepscanError: as `scan_once` raises it.
    """
    _check(inputs)
    stop = stop or Event()
    seen: dict[str, _Seen] = {}
    scanned: dict[str, _State] = {}
    scans = 0
    complained = ""
    while not stop.is_set():
        try:
            found = _look(inputs, out, include, exclude, follow_links, clock())
            complained = ""
        except (DeepscanError, OSError) as error:  # a share that is away for a while
            if str(error) != complained:
                complained = str(error)
                logger.warning("%s; looking again every %g s", error, interval)
            stop.wait(interval)
            continue
        seen = {
            name: known if (known := seen.get(name)) and known.state == now.state else now
            for name, now in found.items()
        }
        scanned = {name: state for name, state in scanned.items() if name in seen}
        late = clock() - settled
        due = [n for n, s in seen.items() if s.since <= late and scanned.get(n) != s.state]
        batch = due[:AT_ONCE]
        if batch:
            scans += 1
            try:
                goes_on = scan_once(tuple(_exactly(seen[name].below) for name in batch))
            except UsageError:
                # Nothing was left to scan: somebody took the files away again.
                if any(n in batch for n in _look(inputs, out, include, exclude, follow_links, 0.0)):
                    raise
                goes_on = True
            if not goes_on:
                break
            # As they were before the scan: what changed meanwhile has its turn again.
            scanned |= {name: seen[name].state for name in batch}
        if len(due) == len(batch):
            stop.wait(interval)
    return scans


class KeptCrew:
    """A crew that stays between the runs of a watch: its models are loaded once.

    Give `seat` to each run and close this at the end.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._crewed: Crewed | None = None

    def start(self) -> Crewed:
        """Start the crew the first time; later, say what it said then."""
        if self._crewed is None:
            self._crewed = self._crew.start()
        return self._crewed

    def seat(self) -> Crew:
        """The crew for one run, which may close it."""
        return _Seat(self, self._crew)

    def close(self) -> None:
        self._crew.close()


class _Seat:
    def __init__(self, kept: KeptCrew, crew: Crew) -> None:
        self._kept = kept
        self._crew = crew

    def start(self) -> Crewed:
        return self._kept.start()

    def submit(self, task: Task) -> None:
        self._crew.submit(task)

    def wait(self, timeout: float) -> list[CrewEvent]:
        return self._crew.wait(timeout)

    def busy(self) -> dict[str, float]:
        return self._crew.busy()

    def close(self) -> None:
        """Nothing: the crew stays for the next run."""


def _check(inputs: Sequence[str]) -> None:
    for text in inputs:
        if not Path(text).is_dir():
            raise UsageError(f"{text} is no folder: a watch needs a folder to look into")


def _look(
    inputs: Sequence[str],
    out: Path,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    follow_links: bool,
    now: float,
) -> dict[str, _Seen]:
    """What a run would list now, by name."""
    _check(inputs)
    listing = list_inputs(
        inputs, include=include, exclude=exclude, follow_links=follow_links, skip=out
    )
    roots = [os.path.join(os.path.realpath(text), "") for text in inputs]
    found: dict[str, _Seen] = {}
    for entry in listing:
        state: _State
        if isinstance(entry, Item):
            state = ("file", entry.identity)
        else:
            state = ("refused", entry.label, entry.reason)
        below = entry.name
        if len(roots) > 1:  # names begin with the folder's own then, patterns do not
            path = str(entry.path)
            root = next((root for root in roots if path.startswith(root)), None)
            below = path[len(root) :] if root else entry.name.partition("/")[2]
        found[entry.name] = _Seen(state, below, now)
    return found


def _exactly(path: str) -> str:
    """A pattern that matches this path and no other; "./" keeps it from matching at any depth."""
    return "./" + "".join(f"[{char}]" if char in "*?[" else char for char in path)
