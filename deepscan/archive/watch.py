"""Watches folders and scans files as they arrive, until it is stopped.

The folders are listed at intervals, since notifications of the kernel do not cover network shares.
A file is scanned when it has stopped growing. Each scan is an ordinary run on the results folder,
whose journal prevents that a file is scanned twice; this module only decides when a run starts and
which files it scans.
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
from deepscan.errors import DeepscanError, OutputError, UsageError, system_errors_as

logger = logging.getLogger(__name__)

INTERVAL = 2.0  # seconds between two listings
SETTLE_TIME = 10.0  # seconds without a change of size or time after which a file is complete
BATCH = 256  # files of one scan; each is one pattern, matched against every file

ScanOnce = Callable[[tuple[str, ...]], bool]
"""Scans only the inputs that match these include patterns; False ends the watch."""

_State = tuple[object, ...]  # of an entry: its identity, or why it is skipped


@dataclass(frozen=True, slots=True)
class _Seen:
    state: _State
    below: str  # its path from the named folder on
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
    """List files until `stop` is set, and scan those that have stopped growing.

    A file that changes later is scanned again. To stop during a scan, end that by its `StopRequest`
    as well.

    Args:
        inputs: folders; they may be empty.
        out: the results folder, which is made if it is missing and not listed.
        scan_once: called with patterns for complete files that are new or have changed.
        interval: seconds between two listings.
        settled: seconds that a file must have kept its size, time and inode.
        archive_options: selects the files.
        clock: seconds, monotonic.
        on_look: called after each listing with the number of files that are new or have changed.

    Returns:
        The number of scans.

    Raises:
        UsageError: an input is no folder.
        OutputError: the results folder cannot be made.
        DeepscanError: from `scan_once`.
    """
    _check(inputs)
    with system_errors_as(OutputError, f"the results folder {out} cannot be made"):
        out.mkdir(parents=True, exist_ok=True)
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
        except (DeepscanError, OSError) as error:  # such as a share that is temporarily offline
            if str(error) != last_error:
                last_error = str(error)
                logger.warning("%s; retrying every %g s", error, interval)
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
                # Nothing to scan: the files may have been removed again.
                if any(n in batch for n in _list(inputs, out, archive_options, 0.0)):
                    raise
                keep_running = True
            if not keep_running:
                break
            # The state before the scan: a file that changed since is scanned again.
            scanned |= {name: seen[name].state for name in batch}
        if len(due) == len(batch):
            stop.wait(interval)
    return scans


class ReusedPool:
    """A pool for all runs of a watch: models are loaded once, and no run closes it."""

    def __init__(self, pool: WorkerPool) -> None:
        """The caller closes `pool` after the watch."""
        self._pool_info: PoolInfo | None = None
        self._start = pool.start
        self.submit, self.wait, self.busy = pool.submit, pool.wait, pool.busy

    def start(self) -> PoolInfo:
        """Start the pool the first time; later return the same info."""
        if self._pool_info is None:
            self._pool_info = self._start()
        return self._pool_info

    def close(self) -> None:
        """Do nothing: the next run uses the pool again."""


def _check(inputs: Sequence[str]) -> None:
    for text in inputs:
        if not Path(text).is_dir():
            raise UsageError(f"{text} is no folder: --watch needs folders")


def _list(
    inputs: Sequence[str],
    out: Path,
    archive_options: ArchiveOptions,
    now: float,
) -> dict[str, _Seen]:
    """List the files that a run would list now, by name."""
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
        if len(roots) > 1:  # names then start with the folder's name, patterns do not
            path = str(entry.path)
            root = next((root for root in roots if path.startswith(root)), None)
            below = path[len(root) :] if root else entry.name.partition("/")[2]
        found[entry.name] = _Seen(state, below, now)
    return found


def _exact_pattern(path: str) -> str:
    """A pattern that matches only this path; "./" restricts it to the top level."""
    return "./" + "".join(f"[{char}]" if char in "*?[" else char for char in path)
