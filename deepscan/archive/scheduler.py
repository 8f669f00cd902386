"""Schedules the entries of a run: skips finished files, submits, records and retries the others."""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from deepscan.archive import output_paths
from deepscan.archive.events import Heartbeat, ItemDone, OnEvent, RunStopping
from deepscan.archive.inputs.listing import Entry
from deepscan.archive.inputs.prefetcher import Prefetcher
from deepscan.archive.inputs.remote import local_path
from deepscan.archive.journal import Journal, JournalState
from deepscan.archive.lock import DOWNLOADS, sweep
from deepscan.archive.options import ArchiveOptions
from deepscan.archive.records import Baseline, InputFile, Outcome, OutputFile, Run, SkippedEntry
from deepscan.archive.reports import Report
from deepscan.archive.settings_hash import result_key
from deepscan.archive.stop_request import StopRequest
from deepscan.archive.workers.contract import (
    NODE_LOST,
    Task,
    TaskDone,
    TaskLost,
    TaskProgress,
    WorkerPool,
)
from deepscan.archive.workers.worker import DISK, error_outcome, outputs_of
from deepscan.errors import OutputError, UnreadableError, VideoError, system_errors_as
from deepscan.files import atomic_outputs, finished, resolve
from deepscan.options import ScanOptions
from deepscan.types import Label, Reason, Skipped
from deepscan.video.input_file import hash_file, identity_of

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 2  # of a file whose model process died
MAX_NODE_ATTEMPTS = 6  # of a file whose node was lost, which is not the file's fault
REPORT_INTERVAL = 60.0  # seconds between two reports of a run at work ...
REPORT_SHARE = 20  # ... and at least so many times as long as the last ones took
# Reasons that do not depend on the content or may be temporary: the next run retries the file.
_TRANSIENT = {"worker_crash", "worker_hang", NODE_LOST, "engine", "unreadable", "output_error"}
# Another program may have used the memory or killed the decoder: retried once in this run.
_RETRIED = {"decoder_crash", "limit_memory"}


@dataclass(frozen=True, slots=True)
class RunContext:
    """One run: its folder, journal, settings, and callbacks."""

    folder: Path
    journal: Journal
    run: Run
    options: ScanOptions
    archive_options: ArchiveOptions
    stop_request: StopRequest
    on_event: OnEvent

    @property
    def state(self) -> JournalState:
        return self.journal.state

    def in_share(self, content_or_name: str) -> bool:
        """True if a content belongs to this run's shard.

        A file that cannot be hashed is assigned by its name, so that exactly one shard reports it.
        """
        shard = self.archive_options.shard
        return shard is None or shard.contains(content_or_name)


class ReportWriter:
    """Writes the reports from the journal, at intervals and at the end."""

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        reports: list[tuple[str, Report]],
        baseline: Baseline | None = None,
    ) -> None:
        self._folder = folder
        self._journal = journal
        self._reports = reports
        self._baseline = baseline
        self._next = time.monotonic() + REPORT_INTERVAL

    def write_if_due(self) -> None:
        if time.monotonic() >= self._next:
            began = time.monotonic()
            self.write()
            took = time.monotonic() - began
            self._next = time.monotonic() + max(REPORT_INTERVAL, REPORT_SHARE * took)

    def write(self) -> tuple[str, ...]:
        """Write all reports; returns the errors, since a failed report does not end a run."""
        failed = []
        results = replace(self._journal.state.results(self._folder), baseline=self._baseline)
        for name, write in self._reports:
            try:
                write(results, self._folder / name)
            except Exception as error:
                logger.debug("%s", name, exc_info=True)
                failed.append(f"{name}: {error or type(error).__name__}")
        return tuple(failed)


@dataclass(slots=True)
class _InFlight:
    """A submitted task, its result key if known, and duplicates that wait for it."""

    task: Task
    key: str | None
    duplicates: list[InputFile] = field(default_factory=list)


class Scheduler:
    """Decides which files to scan, keeps the workers busy, and records the outcomes."""

    def __init__(
        self, context: RunContext, pool: WorkerPool, slots: int, reports: ReportWriter
    ) -> None:
        """`slots` is the number of tasks that the pool runs at once."""
        self._context = context
        self._pool = pool
        self._slots = slots
        self._reports = reports
        self._prefetcher = Prefetcher(
            context.folder / DOWNLOADS, size=context.options.limits.file_size
        )
        self._listed: set[str] = set()
        self._waiting: deque[Entry] = deque()
        self._in_flight: dict[str, _InFlight] = {}
        self._retries: deque[InputFile | Task] = deque()  # and duplicates of finished files
        self._suspects: deque[Task] = deque()  # may have killed their worker: retried alone
        self._keys: dict[str, str] = {}  # of files that were hashed before their scan
        self._disk_full: OutputError | None = None
        self._told_stopping = False
        known = [*context.state.superseded, *context.state.outcomes.values()]
        self._sizes = {outcome.size for outcome in known}
        self._claimed = {  # folders with a result that must not be overwritten
            outcome.folder
            for outcome in known
            if outcome.folder is not None and outcome.label is not Label.ERROR
        }

    def run(self, entries: Sequence[Entry]) -> None:
        """Process every entry, until all have an outcome or a stop is requested.

        Raises:
            OutputError: the disk is full.
            EngineError: the pool cannot scan any more.
        """
        for entry in self._next(entries):
            if isinstance(entry, SkippedEntry):
                self._record_skipped(entry)
                continue
            task = entry if isinstance(entry, Task) else self._plan(entry)
            if task is not None:
                self._submit(task)
        if self._disk_full is not None:
            raise self._disk_full

    def abandon(self) -> None:
        """Record results that have arrived, then end all work."""
        try:
            for event in self._pool.wait(0.0):
                if isinstance(event, TaskDone) and event.task.file.name in self._in_flight:
                    self._done(event.task, event.outcome)
        finally:
            self._pool.close()

    def outcomes(self) -> tuple[Outcome, ...]:
        """The outcomes of all entries that have one, sorted by name."""
        known = self._context.state.outcomes
        return tuple(known[name] for name in sorted(self._listed) if name in known)

    @property
    def left(self) -> int:
        """The number of entries without an outcome, including those of other shards."""
        in_flight = sum(1 + len(each.duplicates) for each in self._in_flight.values())
        return len(self._waiting) + len(self._retries) + len(self._suspects) + in_flight

    @property
    def listed(self) -> frozenset[str]:
        """The names of all entries so far that belong to this run's shard."""
        return frozenset(self._listed)

    def _next(self, entries: Sequence[Entry]) -> Iterator[Entry | Task]:
        """Yield the next item: retries, then new entries, then suspects one by one."""
        waiting = self._waiting = deque(entries)
        while not self._stopped():
            if self._retries:
                yield self._retries.popleft()
            elif waiting:
                for entry in islice(waiting, 1 + self._slots):
                    if isinstance(entry, InputFile) and entry.address is not None:
                        self._prefetcher.request(entry.address)
                yield waiting.popleft()
            elif self._in_flight:
                self._receive()
            elif self._suspects:
                yield self._suspects.popleft()
                while self._in_flight and not self._stopped():
                    self._receive()
            else:
                return
        self._tell_stopping()
        while self._in_flight:
            self._receive()

    def _tell_stopping(self) -> None:
        if self._context.stop_request.requested and not self._told_stopping:
            self._told_stopping = True
            self._context.on_event(RunStopping(len(self._in_flight)))

    def _stopped(self) -> bool:
        return self._context.stop_request.requested or self._disk_full is not None

    # Planning

    def _record_skipped(self, entry: SkippedEntry) -> None:
        if not self._context.in_share(entry.name):
            return
        self._listed.add(entry.name)
        before = self._context.state.outcomes.get(entry.name)
        if before is not None and (before.label, before.reasons, before.path) == (
            entry.label,
            (entry.reason,),
            str(entry.path),
        ):
            self._context.on_event(ItemDone(before, fresh=False))
        else:
            outcome = Outcome(entry.name, str(entry.path), entry.label, (entry.reason,))
            self._record(outcome, fresh=False)

    def _plan(self, file: InputFile) -> Task | None:
        """The task for a file; None if it needs no scan now."""
        context = self._context
        known = context.state.unchanged(file, context.run.settings_hash)
        if known is not None and not context.archive_options.paranoid and self._is_complete(known):
            if known.sha256 is not None and context.in_share(known.sha256):
                self._listed.add(file.name)
                self._link(file, known)  # its path may have changed
            return None
        if file.address is not None and not self._download(file):
            return None
        sha256 = self._hash_if_needed(file)
        if not context.in_share(sha256 or file.name):
            return None
        self._listed.add(file.name)
        key = None if sha256 is None else result_key(sha256, context.run.settings_hash)
        if key is not None:
            same = context.state.by_key(key)
            if same is not None and self._is_complete(same):
                self._link(file, same)
                return None
            for each in self._in_flight.values():
                if each.key == key:
                    each.duplicates.append(file)
                    return None
            self._keys[file.name] = key
        write, write_found = context.archive_options.write, context.archive_options.write_found
        return Task(
            file=file,
            folder=context.folder / self._output_folder(file, key),
            write=write,
            write_found=tuple(kind for kind in write_found if kind not in write),
            options=context.options,
        )

    def _is_complete(self, outcome: Outcome) -> bool:
        """True if an outcome needs no new scan: it is final, and all wanted outputs exist."""
        if any(reason.code in _TRANSIENT for reason in outcome.reasons):
            return False
        wanted = set(self._context.archive_options.write)
        if outcome.label in (Label.MANIPULATED, Label.SUSPICIOUS):
            wanted |= set(self._context.archive_options.write_found)
        elif outcome.label in (Label.ERROR, Label.NOT_APPLICABLE):
            wanted &= {"record"}  # there may be no frames to show
        if not wanted <= {output.kind for output in outcome.outputs}:
            return False
        return all((self._context.folder / output.path).is_file() for output in outcome.outputs)

    def _hash_if_needed(self, file: InputFile) -> str | None:
        """The SHA-256 of a file if it may save a scan, else None; None also if unreadable."""
        context, archive_options = self._context, self._context.archive_options
        size = _size_of(file)
        known = None if archive_options.paranoid else context.state.sha256_of(file.identity)
        if known is not None:
            self._sizes.add(size)
            return known
        needed = archive_options.paranoid or archive_options.shard is not None
        if not needed and file.identity is not None and size not in self._sizes:
            self._sizes.add(size)  # only files of one size can be duplicates
            return None
        for each in self._in_flight.values():
            if each.key is None and _size_of(each.task.file) == size:
                found = self._hash(each.task.file)
                each.key = None if found is None else result_key(found, context.run.settings_hash)
        return self._hash(file)

    def _hash(self, file: InputFile) -> str | None:
        with suppress(VideoError):  # the scan will report the error
            return hash_file(resolve(file.path), self._context.options.limits)
        return None

    def _download(self, file: InputFile) -> bool:
        """Fetch a remote file; if that fails, record an error and return False."""
        assert file.address is not None
        try:
            while not self._prefetcher.wait(file.address, 0.0 if self._in_flight else 0.5):
                if self._in_flight:
                    self._receive()
            self._prefetcher.take(file.address)
        except VideoError as error:
            if self._context.in_share(file.name):
                self._listed.add(file.name)
                reason = Reason(error.reason, str(error))
                outcome = Outcome(file.name, file.address, Label.ERROR, (reason,))
                self._record(outcome, fresh=False)
            return False
        return True

    def _link(self, file: InputFile, same: Outcome) -> None:
        """Record that a file has the content of an earlier outcome, perhaps its own."""
        outcome = replace(same, identity=file.identity, path=file.address or str(file.path))
        if same.name != file.name:
            outcome = replace(outcome, name=file.name, same_as=same.name, took=0.0)
        self._remove_download(file)
        if outcome == self._context.state.outcomes.get(file.name):
            self._context.on_event(ItemDone(outcome, fresh=False))
        else:
            self._record(outcome, fresh=False)

    def _output_folder(self, file: InputFile, key: str | None) -> str:
        """The folder for a file's outputs; never one with another result of it."""
        before = self._context.state.outcomes.get(file.name)
        own = before is not None and before.same_as is None and key is not None
        if before is not None and own and before.key == key and before.folder is not None:
            return before.folder  # the same result again, with missing outputs
        base = folder = output_paths.folder_of(file.name)
        number = 1
        while folder in self._claimed:
            number += 1
            folder = f"{base}/again-{number}"
        return folder

    # Scanning

    def _submit(self, task: Task) -> None:
        while len(self._in_flight) >= self._slots and not self._stopped():
            self._receive()
        if self._stopped() or not self._has_room():
            self._waiting.appendleft(task.file)  # counted in `left`
            return
        key = self._keys.get(task.file.name)
        with self._context.stop_request.deferred():
            self._context.journal.started(task.file, attempt=task.attempt, key=key)
        self._in_flight[task.file.name] = _InFlight(task, key)
        self._pool.submit(task)

    def _has_room(self) -> bool:
        folder, min_free = self._context.folder, self._context.archive_options.min_free
        with system_errors_as(OutputError, f"the results folder {folder} is gone"):
            free = shutil.disk_usage(folder).free
        if free < min_free:
            self._disk_full = OutputError(
                f"only {free >> 20} MiB are free for {folder}, less than {min_free >> 20} MiB: "
                "free some space and start again; finished files are skipped"
            )
        return self._disk_full is None

    def _receive(self) -> None:
        """Receive the pool's events, record them and pass them on."""
        for event in self._pool.wait(0.5):
            if isinstance(event, TaskProgress):
                self._context.on_event(event)
            elif event.task.file.name in self._in_flight:
                if isinstance(event, TaskDone):
                    self._done(event.task, event.outcome)
                else:
                    self._retry_or_fail(event)
        self._tell_stopping()
        self._context.on_event(Heartbeat(tuple(self._in_flight), self._pool.busy()))
        self._reports.write_if_due()

    def _done(self, task: Task, outcome: Outcome) -> None:
        again = next((each for each in outcome.reasons if each.code in _RETRIED), None)
        if _with_current_identity(task.file) != task.file:
            again = Reason("changed", f"{task.file.path} changed while it was scanned")
        if again is not None and task.attempt < MAX_ATTEMPTS:
            for output in outcome.outputs:  # the next attempt may write others
                with suppress(OSError):
                    (task.folder / output.path).unlink(missing_ok=True)
            self._retry_or_fail(TaskLost(task, again))
            return
        self._keys.pop(task.file.name, None)
        outcome = self._with_run_paths(task, outcome)
        duplicates = self._in_flight.pop(task.file.name).duplicates
        self._record(outcome, fresh=True)
        self._remove_download(task.file)
        self._retries.extend(duplicates)

    def _with_run_paths(self, task: Task, outcome: Outcome) -> Outcome:
        """The outcome for the journal: with its key, and paths relative to the results folder."""
        folder = task.folder.relative_to(self._context.folder).as_posix()
        return replace(
            outcome,
            key=outcome.sha256 and result_key(outcome.sha256, self._context.run.settings_hash),
            folder=folder if outcome.outputs else None,
            outputs=tuple(
                replace(output, path=f"{folder}/{output.path}") for output in outcome.outputs
            ),
        )

    def _retry_or_fail(self, event: TaskLost) -> None:
        """Retry a task that ended without an outcome, or record an error."""
        task, reason = event.task, event.reason
        if reason.code == DISK:
            raise OutputError(
                f"{reason.text}. Free some space and start again: finished files are skipped"
            )
        with self._context.stop_request.deferred():
            self._context.journal.lost(task.file.name, reason, attempt=task.attempt)
        logger.warning("%s: %s", task.file.name, reason.text)
        flight = self._in_flight.pop(task.file.name)
        self._remove_outputs(task)
        file = _with_current_identity(task.file)
        retried = replace(task, file=file, attempt=task.attempt + 1)
        if reason.code == NODE_LOST and task.attempt < MAX_NODE_ATTEMPTS:
            self._retries.append(retried)
        elif reason.code != NODE_LOST and task.attempt < MAX_ATTEMPTS:
            self._suspects.append(retried)
        else:
            self._record(self._error_outcome(task, reason), fresh=True)
            self._remove_download(task.file)
        self._retries.extend(flight.duplicates)

    def _remove_outputs(self, task: Task) -> None:
        """Remove the files of a killed process from a task's folder: half-written ones, and whole
        ones that it had not reported. An earlier result is kept.
        """
        if not task.folder.is_dir():
            return
        sweep(task.folder, deep=False)
        if task.folder.relative_to(self._context.folder).as_posix() not in self._claimed:
            for path in outputs_of(task.folder, task.write + task.write_found).values():
                with suppress(OSError):  # the next attempt overwrites it
                    path.unlink(missing_ok=True)

    def _error_outcome(self, task: Task, reason: Reason) -> Outcome:
        """The outcome of a failed task, with a record if one is wanted."""
        outcome = error_outcome(task, reason)
        if "record" not in task.write:
            return outcome
        from deepscan.sinks.record import error_record, write_record

        final = outputs_of(task.folder, ("record",))["record"]
        record = error_record(
            Skipped(task.file.path, Label.ERROR, reason),
            size=outcome.size,
            settings=self._context.run.settings,
            versions=self._context.run.versions,
        )
        with system_errors_as(OutputError, f"{task.folder} cannot be made"):
            task.folder.mkdir(parents=True, exist_ok=True)
        with atomic_outputs({"record": final}) as parts:
            write_record(parts["record"], record)
            made = finished("record", parts["record"], final)
        output = OutputFile(made.kind, made.path.name, made.sha256, made.size)
        return self._with_run_paths(task, replace(outcome, outputs=(output,)))

    def _record(self, outcome: Outcome, *, fresh: bool) -> None:
        with self._context.stop_request.deferred():
            self._context.journal.done(outcome)
        self._sizes.add(outcome.size)
        if outcome.folder is not None and outcome.label is not Label.ERROR:
            self._claimed.add(outcome.folder)
        self._context.on_event(ItemDone(outcome, fresh=fresh))

    def _remove_download(self, file: InputFile) -> None:
        if file.address is not None:
            with suppress(OSError):
                local_path(file.address, self._context.folder / DOWNLOADS).unlink(missing_ok=True)


def _with_current_identity(file: InputFile) -> InputFile:
    """The file with its current identity; unchanged if it cannot be read."""
    if file.identity is not None:
        with suppress(UnreadableError):
            return replace(file, identity=identity_of(file.path))
    return file


def _size_of(file: InputFile) -> int | None:
    return file.identity[2] if file.identity else None
