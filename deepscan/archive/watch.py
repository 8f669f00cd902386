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
from deepscan.archive.options import ArchiveOptions
from deepscan.archive.records import InputFile
from deepscan.archive.workers.contract import PoolInfo, WorkerPool
from deepscan.errors import DeepscanError, UsageError

logger = logging.getLogger(__name__)

INTERVAL = 2.0  # seconds between two listings
SETTLE_TIME = 10.0  # seconds without a change of size or time after which a file is whole
BATCH = 256  # files of one scan; each is looked for among all files of the inbox

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
    settled: float = SETTLE_TIME,
    stop: Event | None = None,
    archive_options: ArchiveOptions | None = None,
    clock: Callable[[], float] = time.monotonic,
    on_look: Callable[[int], None] | None = None,
) -> int:
    """Look for files until `stop` is set, and scan those that have stopped growing.

    A file that changes later is scanned again. Whoever sets `stop` while a scan is under way ends
    that too, by its `StopRequest`.

    Args:
        inputs: folders; they need not hold anything yet.
        out: the results folder, which is not looked into.
        scan_once: called with patterns for files that are whole and new, or have changed.
        interval: seconds between two listings.
        settled: seconds that a file must have kept its size, time and place on the disk.
        archive_options: which files are looked for.
        clock: tells seconds, never backwards.
        on_look: called after each listing with the number of files that are new or have changed.

    Returns:
        How many scans there were.

    Raises:
        UsageError: an input is no folder.
        DeepscanError: as `scan_once` raises it.
    """
    _check(inputs)
    stop = stop or Event()
    archive_options = archive_options or ArchiveOptions()
    seen: dict[str, _Seen] = {}
    scanned: dict[str, _State] = {}
    scans = 0
    last_error = ""
    while not stop.is_set():
        try:
            found = _list(inputs, out, archive_options, clock())
            last_error = ""
        except (DeepscanError, OSError) as error:  # a share that is away for a while
            if str(error) != last_error:
                last_error = str(error)
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
        if on_look is not None:
            on_look(sum(scanned.get(name) != each.state for name, each in seen.items()))
        batch = due[:BATCH]
        if batch:
            scans += 1
            try:
                keep_running = scan_once(tuple(_exact_pattern(seen[name].below) for name in batch))
            except UsageError:
                # Nothing was left to scan: somebody took the files away again.
                if any(n in batch for n in _list(inputs, out, archive_options, 0.0)):
                    raise
                keep_running = True
            if not keep_running:
                break
            # As they were before the scan: what changed meanwhile has its turn again.
            scanned |= {name: seen[name].state for name in batch}
        if len(due) == len(batch):
            stop.wait(interval)
    return scans


class ReusedPool:
    """A pool for all runs of a watch: its models are loaded once, and no run closes it."""

    def __init__(self, pool: WorkerPool) -> None:
        """`pool` is closed by whoever made it, when the watch has ended."""
        self._pool_info: PoolInfo | None = None
        self._start = pool.start
        self.submit, self.wait, self.busy = pool.submit, pool.wait, pool.busy

    def start(self) -> PoolInfo:
        """Start the pool the first time; later, say what it said then."""
        if self._pool_info is None:
            self._pool_info = self._start()
        return self._pool_info

    def close(self) -> None:
        """Nothing: the pool stays for the next run."""


def _check(inputs: Sequence[str]) -> None:
    for text in inputs:
        if not Path(text).is_dir():
            raise UsageError(f"{text} is no folder: a watch needs a folder to look into")


def _list(
    inputs: Sequence[str],
    out: Path,
    archive_options: ArchiveOptions,
    now: float,
) -> dict[str, _Seen]:
    """What a run would list now, by name."""
    _check(inputs)
    listing = list_inputs(
        inputs,
        include=archive_options.include,
        exclude=archive_options.exclude,
        follow_links=archive_options.follow_links,
        skip=out,
    )
    roots = [os.path.join(os.path.realpath(text), "") for text in inputs]
    found: dict[str, _Seen] = {}
    for entry in listing:
        state: _State
        if isinstance(entry, InputFile):
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


def _exact_pattern(path: str) -> str:
    """A pattern that matches this path and no other; "./" keeps it from matching at any depth."""
    return "./" + "".join(f"[{char}]" if char in "*?[" else char for char in path)
