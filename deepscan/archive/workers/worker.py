"""The model process: runs one engine and scans several files at once.

It exits as soon as its socket to the run closes, so no work outlives the run, even if the run is
killed. Engines are imported when work starts.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from deepscan.archive.options import FILES_CPU, FILES_CUDA
from deepscan.archive.records import Outcome, OutputFile
from deepscan.archive.workers.contract import Task
from deepscan.archive.workers.messages import Channel, Message, options_from_json, task_from_json
from deepscan.errors import DeepscanError, EngineError, OutputError, VideoError, system_errors_as
from deepscan.options import Limits
from deepscan.types import Label, Reason, Scanned, Skipped
from deepscan.wording import credentials

if TYPE_CHECKING:
    from deepscan.archive.workers.shared_engine import SharedEngine
    from deepscan.scan.scanner import Progress, Scanner

logger = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 1.0  # seconds between two heartbeats
PROGRESS_INTERVAL = 0.25  # seconds between two reports of a task's progress
STEM = "result"
CHECKPOINT = ".checkpoint"  # in a task's folder: lets a long file resume after a kill

DISK = "disk_full"  # reason of a loss that affects every file
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

# One task


def run_task(scanner: Scanner, task: Task, progress: Progress) -> tuple[Outcome, Message]:
    """Scan the file of a task; returns its outcome, and the seconds of work by stage.

    Paths in the outcome are as in `outcome_of`.

    Raises:
        DeepscanError: the file has no outcome, since the engine or the disk failed.
    """
    began, started = time.monotonic(), now()
    checkpoint = task.folder / CHECKPOINT
    with system_errors_as(OutputError, f"{task.folder} cannot be made"):
        task.folder.mkdir(parents=True, exist_ok=True)
    try:
        found = scanner.scan(
            task.file.path,
            outputs_of(task.folder, task.write),
            if_found=outputs_of(task.folder, task.write_found),
            force=True,  # existing files are leftovers of a killed run
            progress=progress,
            checkpoint=checkpoint,
        )
        shutil.rmtree(checkpoint, ignore_errors=True)  # also after an error of the file
    finally:
        with contextlib.suppress(OSError):  # not empty: it holds outputs
            task.folder.rmdir()
    busy = dict(found.scan.timings) if isinstance(found, Scanned) else {}
    return outcome_of(task, found, started, time.monotonic() - began), busy


def now() -> str:
    """The current time for records: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def outputs_of(folder: Path, sinks: tuple[str, ...]) -> dict[str, Path]:
    """Sink name -> output file in the folder."""
    from deepscan.sinks import sink_class

    return {name: folder / (STEM + sink_class(name).suffix) for name in sinks}


def outcome_of(task: Task, found: Scanned | Skipped, started: str, took: float) -> Outcome:
    """The outcome of a scan for the journal.

    The paths of outputs are relative to the task's folder and `folder` is "."; the run replaces
    both, and sets `key`.
    """
    written = tuple(
        OutputFile(output.kind, output.path.name, output.sha256, output.size)
        for output in found.outputs
    )
    reasons = (found.reason,) if isinstance(found, Skipped) else found.scan.verdict.reasons
    outcome = replace(
        _unscanned(task, found.label, reasons, started),
        folder="." if written else None,
        outputs=written,
        took=round(took, 3),
    )
    if isinstance(found, Skipped):
        sha256, size = _content(task.file.path, task.options.limits)
        return replace(outcome, sha256=sha256, size=size)
    scan, verdict = found.scan, found.scan.verdict
    coverage = verdict.coverage
    return replace(
        outcome,
        sha256=scan.sha256,
        size=scan.size,
        score=verdict.score,
        intervals=verdict.intervals,
        tracks=len(verdict.tracks),
        frames=coverage.decoded,
        seconds=round(coverage.seconds, 3),
        judged=coverage.faces_scored / coverage.faces if coverage.faces else None,
        engine=verdict.engine.name,
        decoder=scan.report.decoder,
        provenance=None if scan.provenance is None else credentials(scan.provenance),
    )


def _content(path: Path, limits: Limits) -> tuple[str | None, int | None]:
    from deepscan.video.input_file import hash_file

    size = None
    with contextlib.suppress(OSError, VideoError):
        size = path.stat().st_size
        return hash_file(path, limits), size
    return None, size


def failure_reason(error: Exception) -> Reason:
    """The reason why a task has no outcome: a full disk, the engine, the output, or a bug."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _DISK_ERRORS:
            return Reason(DISK, str(error))
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, DeepscanError):
        return Reason(error.reason, str(error))
    if isinstance(error, MemoryError):
        return Reason("worker_crash", "the model process ran out of memory")
    if isinstance(error, OSError):  # a limit of the system: on files, processes, descriptors
        return Reason("worker_crash", f"the system refused the model process something: {error}")
    return Reason("worker_crash", f"a bug in the model process: {type(error).__name__}: {error}")


# The process


def main(descriptor: str) -> None:
    """Serve the run at the other end of a socket until that is closed."""
    with socket.socket(fileno=int(descriptor)) as end:
        _Worker(Channel(end)).serve()


class _Worker:
    """The model process: one thread receives, and one for each file in flight scans."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._tasks: queue.Queue[tuple[int, Task]] = queue.Queue()

    def serve(self) -> None:
        messages = self._messages()
        config = next(messages)
        logging.getLogger("deepscan").setLevel(config["level"])
        logging.getLogger().addHandler(LogRelay(self._channel.send))
        for name, target, args in (
            ("heartbeat", self._send_heartbeats, ()),
            ("first", self._work, (config,)),
        ):
            threading.Thread(target=target, args=args, name=name, daemon=True).start()
        for message in messages:
            self._tasks.put((message["number"], task_from_json(message["task"])))

    def _messages(self) -> Iterator[Message]:
        while True:
            yield from self._channel.receive()
            if self._channel.closed:
                os._exit(0)  # threads in native code must not delay the exit

    def _send_heartbeats(self) -> None:
        while True:
            time.sleep(HEARTBEAT_INTERVAL)
            self._channel.send("heartbeat")

    def _work(self, config: Message) -> None:
        """Load the engine, check it, then scan in as many threads as files are in flight."""
        from deepscan.archive.workers.shared_engine import SharedEngine

        try:
            options = options_from_json(config["options"])
            make: Callable[..., Scanner] = resolve_name(config["scanner"])
            scanner = make(options)
            engine = scanner.engine
            device = config["device"]
            if device is not None and (device != "cpu") != ("cuda" in engine.name):
                raise EngineError(
                    f"engine {engine.name} does not run on {device}: name another with --engine"
                )
            controls, passed = resolve_name(config["controls"])(engine, options)
        except Exception as error:
            if not isinstance(error, DeepscanError):
                logger.exception("the model process cannot start")
            self._channel.send("failed", error=type(error).__name__, text=str(error))
            return
        jobs = config["jobs"] or (FILES_CUDA if "cuda" in engine.name else FILES_CPU)
        shared = SharedEngine(engine)
        scanner.engine = shared.client()
        self._channel.send(
            "ready",
            engine=engine.name,
            why=engine.info.reason,
            jobs=jobs,
            controls=controls,
            passed=passed,
        )
        for number in range(1, jobs):
            threading.Thread(
                target=self._scan, args=(make, shared, None), name=f"file-{number}", daemon=True
            ).start()
        self._scan(make, shared, scanner)

    def _scan(
        self, make: Callable[..., Scanner], shared: SharedEngine, scanner: Scanner | None
    ) -> None:
        """Scan one file after the other with this thread's face detector."""
        while True:
            number, task = self._tasks.get()
            try:
                if scanner is None or scanner.options != task.options:
                    scanner = make(task.options, engine=shared.client())
                with shared.active_client():
                    outcome, busy = run_task(scanner, task, self._progress_of(number))
                # The scan's own measurement includes waiting for other scans.
                busy["network"] = shared.take_seconds()
                self._channel.send("done", number=number, outcome=outcome.to_json(), busy=busy)
            except Exception as error:
                expected = isinstance(error, (DeepscanError, OSError))
                level = logging.DEBUG if expected else logging.ERROR
                logger.log(level, "%s: the scan failed", task.file.path, exc_info=True)
                reason = failure_reason(error)
                self._channel.send("lost", number=number, code=reason.code, text=reason.text)
                if isinstance(error, EngineError) and "cuda" in shared.engine.name:
                    # A CUDA error persists in the process: only a new one works.
                    os._exit(1)

    def _progress_of(self, number: int) -> Progress:
        last = 0.0

        def send(stage: str, frames: int, seconds: float, duration: float | None) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= PROGRESS_INTERVAL:
                last = now
                values = {"stage": stage, "frames": frames, "time": seconds, "duration": duration}
                self._channel.send("progress", number=number, **values)

        return send


class LogRelay(logging.Handler):
    """Sends log lines to the run."""

    def __init__(self, send: Callable[..., None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send("log", level=record.levelno, text=self.format(record))


def error_outcome(task: Task, reason: Reason) -> Outcome:
    """The outcome of a task that failed on every attempt."""
    size = task.file.identity[2] if task.file.identity else None
    return replace(_unscanned(task, Label.ERROR, (reason,), now()), size=size)


def _unscanned(task: Task, label: Label, reasons: tuple[Reason, ...], started: str) -> Outcome:
    """An outcome that says which file it is of, and nothing that a scan found."""
    file = task.file
    path = file.address or str(file.path)
    return Outcome(file.name, path, label, reasons, identity=file.identity, started=started)
