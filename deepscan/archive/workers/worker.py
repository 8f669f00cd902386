"""The model process: one engine, several files at once, and the language it speaks with the run.

Messages are JSON objects with a length before each, over one socket. The process ends as soon as
that socket does, whatever it is doing: no work outlives the run, also not one that was killed.
The run's side imports only the language from here; engines are imported when work begins.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import queue
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepscan.archive.records import Item, Outcome, Written
from deepscan.archive.workers.contract import Task
from deepscan.errors import DeepscanError, EngineError, OutputError, VideoError
from deepscan.options import Limits, ScanOptions
from deepscan.types import Label, Reason, Scanned, Skipped

if TYPE_CHECKING:
    from deepscan.archive.workers.batching import SharedEngine
    from deepscan.engines.engine import Engine
    from deepscan.scan.scanner import Progress, Scanner

logger = logging.getLogger(__name__)

LENGTH = struct.Struct("!I")
LARGEST = 64 * 2**20  # bytes of a message; an outcome with 100,000 intervals has 15 MB
BEAT = 1.0  # seconds between two signs of life
TELL = 0.25  # seconds between two words about the progress of a task
FILES_CPU, FILES_CUDA = 2, 4  # in flight: one decodes while the other is judged
STEM = "result"
CHECKPOINT = ".checkpoint"  # in a task's folder: where a long file goes on after a kill

DISK = "disk_full"  # reason of a loss that meets every file
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

Message = dict[str, Any]
Controls = tuple[tuple[tuple[str, float], ...], bool]
"""How known crops scored, name -> score, and whether that was as it must be."""


# The language


def pack(message: Message) -> bytes:
    """A message with its length before it. Names that are no UTF-8 pass unharmed."""
    data = json.dumps(message, allow_nan=False).encode("ascii")
    return LENGTH.pack(len(data)) + data


def unpack(heard: bytearray) -> Iterator[Message]:
    """Take whole messages from the front of what was heard.

    Raises:
        ValueError: these are no messages.
    """
    while len(heard) >= LENGTH.size:
        (length,) = LENGTH.unpack_from(heard)
        if length > LARGEST:
            raise ValueError(f"a message of {length} bytes")
        if len(heard) < LENGTH.size + length:
            return
        message = json.loads(heard[LENGTH.size : LENGTH.size + length])
        del heard[: LENGTH.size + length]
        if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
            raise ValueError("a message without a kind")
        yield message


def task_to_json(task: Task) -> Message:
    """A task as a message holds it."""
    item = {**asdict(task.item), "path": str(task.item.path)}
    return {**asdict(task), "item": item, "folder": str(task.folder)}


def task_from_json(values: Mapping[str, Any]) -> Task:
    """The task that `task_to_json` gave.

    Raises:
        KeyError, TypeError: it is not one.
    """
    item = dict(values["item"])
    identity = item["identity"]
    return Task(
        item=Item(
            name=item["name"],
            path=Path(item["path"]),
            identity=None if identity is None else tuple(identity),
            address=item["address"],
        ),
        folder=Path(values["folder"]),
        write=tuple(values["write"]),
        write_found=tuple(values["write_found"]),
        options=options_from_json(values["options"]),
        attempt=values["attempt"],
    )


def options_from_json(values: Mapping[str, Any]) -> ScanOptions:
    """The options that `asdict` gave.

    Raises:
        KeyError, TypeError: it is not one.
    """
    return ScanOptions(**{**values, "limits": Limits(**values["limits"])})


# One task


def scan_task(scanner: Scanner, task: Task, progress: Progress) -> tuple[Outcome, Message]:
    """Scan the file of a task; its outcome, and the seconds of work by stage.

    Paths in the outcome are as in `outcome_of`.

    Raises:
        DeepscanError: the file has no outcome: the engine or the disk failed.
    """
    began, started = time.monotonic(), now()
    checkpoint = task.folder / CHECKPOINT
    try:
        task.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{task.folder} cannot be made: {error.strerror}") from error
    try:
        found = scanner.scan(
            task.item.path,
            outputs_of(task.folder, task.write),
            if_found=outputs_of(task.folder, task.write_found),
            force=True,  # what is there was left by a run that was killed before it could say so
            progress=progress,
            checkpoint=checkpoint,
        )
        shutil.rmtree(checkpoint, ignore_errors=True)  # also one of an error; it has its outcome
    finally:
        with contextlib.suppress(OSError):  # not empty: outputs lie in it
            task.folder.rmdir()
    busy = dict(found.scan.timings) if isinstance(found, Scanned) else {}
    return outcome_of(task, found, started, time.monotonic() - began), busy


def now() -> str:
    """The time as records name it: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def outputs_of(folder: Path, sinks: tuple[str, ...]) -> dict[str, Path]:
    """Sink -> the file in the folder that it writes."""
    from deepscan.sinks import sink_class

    return {name: folder / (STEM + sink_class(name).suffix) for name in sinks}


def outcome_of(task: Task, found: Scanned | Skipped, started: str, took: float) -> Outcome:
    """What the journal keeps of a scan.

    The paths of outputs are relative to the task's folder and `folder` is "."; only the run knows
    where that lies. `key` is left to the run as well.
    """
    written = tuple(
        Written(output.kind, output.path.name, output.sha256, output.size)
        for output in found.outputs
    )
    item = task.item
    if isinstance(found, Skipped):
        sha256, size = _content(item.path, task.options.limits)
        return Outcome(
            name=item.name,
            path=item.address or str(item.path),
            label=found.label,
            reasons=(found.reason,),
            identity=item.identity,
            sha256=sha256,
            size=size,
            folder="." if written else None,
            outputs=written,
            started=started,
            took=round(took, 3),
        )
    scan, verdict = found.scan, found.scan.verdict
    coverage = verdict.coverage
    return Outcome(
        name=item.name,
        path=item.address or str(item.path),
        label=verdict.label,
        reasons=verdict.reasons,
        identity=item.identity,
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
        folder="." if written else None,
        outputs=written,
        started=started,
        took=round(took, 3),
        provenance=None if scan.provenance is None else scan.provenance.state,
    )


def _content(path: Path, limits: Limits) -> tuple[str | None, int | None]:
    from deepscan.video.input_file import hash_file

    size = None
    with contextlib.suppress(OSError, VideoError):
        size = path.stat().st_size
        return hash_file(path, limits), size
    return None, size


def reason_of_loss(error: Exception) -> Reason:
    """Why a task has no outcome: a full disk, the engine, the output, or a bug."""
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


def score_probe(engine: Engine, options: ScanOptions) -> Controls:
    """Score the crops of the self-test and compare with what the model's card expects.

    Raises:
        EngineError: the engine failed.
        ModelError: there is no such card.
    """
    from deepscan.engines.parity import SEED, selftest_scores
    from deepscan.models.weights import read_card

    expected = read_card(options.model).values.get("selftest")
    scores = selftest_scores(engine)
    named = tuple((f"probe-{place:02d}", score) for place, score in enumerate(scores, start=1))
    if not isinstance(expected, dict):
        logger.warning("the card of %s holds no scores of known crops", options.model)
        return named, True
    passed = (
        expected.get("seed") == SEED
        and len(expected["scores"]) == len(scores)
        and all(
            abs(a - b) <= expected["tolerance"]
            for a, b in zip(expected["scores"], scores, strict=True)
        )
    )
    return named, passed


# The process


def main(descriptor: int) -> None:
    """Serve the run at the other end of a socket until that is closed."""
    with socket.socket(fileno=descriptor) as line:
        _Hand(line).serve()


class _Hand:
    """The process's side: one thread listens, one for each file in flight scans."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._saying = threading.Lock()
        self._tasks: queue.Queue[tuple[int, Task]] = queue.Queue()

    def serve(self) -> None:
        messages = self._hear()
        order = next(messages)
        logging.getLogger("deepscan").setLevel(order["level"])
        logging.getLogger().addHandler(Relay(self._say))
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        threading.Thread(target=self._work, args=(order,), name="first", daemon=True).start()
        for message in messages:
            self._tasks.put((message["number"], task_from_json(message["task"])))

    def _hear(self) -> Iterator[Message]:
        heard = bytearray()
        while True:
            try:
                data = self._line.recv(2**16)
            except OSError:
                data = b""
            if not data:
                os._exit(0)  # threads may be deep in native code; nothing may hold us back
            heard += data
            yield from unpack(heard)

    def _say(self, kind: str, **values: Any) -> None:
        data = pack({"kind": kind, **values})
        with self._saying, contextlib.suppress(OSError):  # who listens will see that we are gone
            self._line.sendall(data)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            self._say("beat")

    def _work(self, order: Message) -> None:
        """Load the engine, prove it, then scan in as many threads as files are in flight."""
        from deepscan.archive.workers.batching import SharedEngine

        try:
            options = options_from_json(order["options"])
            make = _named(order["scanner"])
            scanner: Scanner = make(options)
            engine = scanner.engine
            device = order["device"]
            if device is not None and (device != "cpu") != ("cuda" in engine.name):
                raise EngineError(
                    f"engine {engine.name} does not run on {device}: name another with --engine"
                )
            controls, passed = _named(order["controls"])(engine, options)
        except Exception as error:
            if not isinstance(error, DeepscanError):
                logger.exception("the model process cannot start")
            self._say("refused", error=type(error).__name__, text=str(error))
            return
        jobs = order["jobs"] or (FILES_CUDA if "cuda" in engine.name else FILES_CPU)
        shared = SharedEngine(engine)
        scanner.engine = shared.seat()
        self._say(
            "ready",
            engine=engine.name,
            why=engine.info.reason,
            jobs=jobs,
            controls=controls,
            passed=passed,
        )
        for place in range(1, jobs):
            threading.Thread(
                target=self._scan, args=(make, shared, None), name=f"file-{place}", daemon=True
            ).start()
        self._scan(make, shared, scanner)

    def _scan(
        self, make: Callable[..., Scanner], shared: SharedEngine, scanner: Scanner | None
    ) -> None:
        """Scan one file after the other with a face detector of our own."""
        while True:
            number, task = self._tasks.get()
            try:
                if scanner is None or scanner.options != task.options:
                    scanner = make(task.options, engine=shared.seat())
                with shared.at_work():
                    outcome, busy = scan_task(scanner, task, self._telling(number))
                # What the scan took for the network's time holds waiting for the others.
                busy["network"] = shared.take_seconds()
                self._say("done", number=number, outcome=outcome.to_json(), busy=busy)
            except Exception as error:
                expected = isinstance(error, (DeepscanError, OSError))
                level = logging.DEBUG if expected else logging.ERROR
                logger.log(level, "%s: the scan failed", task.item.path, exc_info=True)
                reason = reason_of_loss(error)
                self._say("lost", number=number, code=reason.code, text=reason.text)
                if isinstance(error, EngineError) and "cuda" in shared.engine.name:
                    # An error of the device stays with the process: only a new one is sound.
                    os._exit(1)

    def _telling(self, number: int) -> Progress:
        last = 0.0

        def tell(stage: str, frames: int, seconds: float, duration: float | None) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= TELL:
                last = now
                self._say(
                    "progressed",
                    number=number,
                    stage=stage,
                    frames=frames,
                    time=seconds,
                    duration=duration,
                )

        return tell


class Relay(logging.Handler):
    """Log lines go to the run, which knows how to show them."""

    def __init__(self, say: Callable[..., None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say("log", level=record.levelno, text=self.format(record))


def _named(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def error_outcome(task: Task, reason: Reason) -> Outcome:
    """The outcome of a task that nobody could finish."""
    item = task.item
    return Outcome(
        name=item.name,
        path=item.address or str(item.path),
        label=Label.ERROR,
        reasons=(reason,),
        identity=item.identity,
        size=item.identity[2] if item.identity else None,
        started=now(),
    )
