"""The crew of this machine: one model process for each device, watched and started again.

The run's process imports neither torch nor a decoder: what native code does to a model process, it
does not do to the run. A model process that dies or falls silent costs its files one try.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import deepscan
from deepscan import errors
from deepscan.archive.records import Outcome
from deepscan.archive.workers.contract import Crewed, Done, Event, Lost, Progressed, Task
from deepscan.archive.workers.worker import Message, pack, task_to_json, unpack
from deepscan.errors import DeepscanError, EngineError
from deepscan.options import ScanOptions
from deepscan.types import Reason

logger = logging.getLogger(__name__)

SCANNER = "deepscan.scan.scanner:Scanner"
CONTROLS = "deepscan.archive.workers.controls:score_controls"

START_UP = 1800.0  # seconds until an engine stands: TensorRT may have to build it first
SILENCE = 60.0  # seconds without a sign of life from a model process that beats every second
TASK_SILENCE = 600.0  # seconds without progress of one file ...
SLOW_DISK = 10 * 2**20  # ... and one more for each so many bytes: hashing shows no progress
STILLBORN = 3  # deaths in a row before the engine stands that end the run
BACK_OFF, LONGEST_BACK_OFF = 0.5, 60.0  # seconds before a dead process is started again
LAST_WORDS = 8 * 1024  # bytes of a process's stderr that are kept

# -P and an explicit root: the current folder may be full of untrusted files, some named av.py.
START = (
    "import sys; sys.path.append(sys.argv[2]); "
    "from deepscan.archive.workers.worker import main; main(int(sys.argv[1]))"
)


class LocalCrew:
    """Model processes on this machine; see the contract in contract.py."""

    def __init__(
        self,
        options: ScanOptions,
        *,
        jobs: int | None = None,
        devices: Sequence[str] = (),
        scanner: str = SCANNER,
        controls: str = CONTROLS,
        silence: float = SILENCE,
        task_silence: float = TASK_SILENCE,
    ) -> None:
        """
        Args:
            options: which engine, model and face detector to load.
            jobs: files in flight for each device; by default 2 on a CPU, 4 on CUDA.
            devices: "cpu", "cuda:0", ...; one process each. By default one, and its engine chooses.
            scanner: "module:function" that makes a scanner of options and, later, an `engine`.
            controls: "module:function" that scores known crops with an engine and options.
            silence: seconds without a sign of life after which a process is given up.
            task_silence: seconds without progress of a file after which its process is given up.
        """
        self._silence = silence
        self._task_silence = task_silence
        self._selector = selectors.DefaultSelector()
        self._busy: dict[str, float] = {}
        self._hands = [
            _Hand(
                device,
                {
                    "options": asdict(options),
                    "device": device,
                    "jobs": jobs,
                    "scanner": scanner,
                    "controls": controls,
                    "level": logging.getLogger("deepscan").getEffectiveLevel(),
                },
                self._selector,
            )
            for device in (devices or (None,))
        ]
        self._events: list[Event] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> Crewed:
        """Start a process for each device and wait until all of them stand.

        Raises:
            EngineError, ModelError: no network can run on one of the devices.
        """
        for hand in self._hands:
            hand.begin()
        while any(hand.ready is None for hand in self._hands):
            self._attend(0.5)
        stand = [hand.ready for hand in self._hands if hand.ready is not None]
        engines = sorted({ready["engine"] for ready in stand})
        if len(engines) > 1:
            raise EngineError(
                f"the devices run different engines ({', '.join(engines)}), whose results do not "
                "belong together: name one with --engine"
            )
        controls: dict[str, float] = {}
        for hand in self._hands:
            assert hand.ready is not None
            prefix = f"{hand.device} " if len(self._hands) > 1 else ""
            controls |= {prefix + name: score for name, score in hand.ready["controls"]}
        return Crewed(
            engine=engines[0],
            engine_reason=stand[0]["why"],
            slots=sum(ready["jobs"] for ready in stand),
            controls=tuple(controls.items()),
            controls_passed=all(ready["passed"] for ready in stand),
        )

    def submit(self, task: Task) -> None:
        """Give a task to the process with most room."""
        hand = max(self._hands, key=lambda each: each.room)
        hand.take(task)

    def wait(self, timeout: float) -> list[Event]:
        """What has happened; at least one event unless the time passes.

        Raises:
            EngineError: no engine stands any more, or one does not score known crops as it must.
        """
        until = time.monotonic() + timeout
        while True:
            self._attend(0.0 if self._events else max(0.0, min(until - time.monotonic(), 0.5)))
            if self._events or time.monotonic() >= until:
                events, self._events = self._events, []
                return events

    def busy(self) -> dict[str, float]:
        """Seconds of work by stage over all tasks that are done."""
        return dict(self._busy)

    def close(self) -> None:
        """Kill every process and wait for its end; decoders end with it."""
        for hand in self._hands:
            hand.end()
        self._selector.close()

    def _attend(self, timeout: float) -> None:
        """Listen for that long at most, then look after the processes."""
        for key, _ in self._selector.select(timeout):
            hand, is_line = key.data
            if hand.process is None:  # it was given up a moment ago
                continue
            if not is_line:
                hand.read_words()
                continue
            try:
                for message in hand.hear():
                    self._take(hand, message)
            except ValueError as error:
                self._lose(hand, f"the model process spoke nonsense ({error})")
            else:
                if hand.gone:
                    self._lose(hand, hand.obituary())
        for hand in self._hands:
            if hand.process is None:
                if time.monotonic() >= hand.not_before:
                    hand.begin()
                continue
            silent = time.monotonic() - hand.heard_at
            if silent > self._silence:
                self._lose(hand, f"the model process said nothing for {silent:.0f} s")
                continue
            if not hand.standing and time.monotonic() - hand.began_at > START_UP:
                self._lose(hand, f"the engine was not loaded within {START_UP:.0f} s")
                continue
            for number, task in hand.tasks.items():
                size = task.item.identity[2] if task.item.identity else 0
                allowed = self._task_silence + size / SLOW_DISK
                if number in hand.told and time.monotonic() - hand.told[number] > allowed:
                    self._lose(hand, f"no progress for {allowed:.0f} s", hung=number)
                    break

    def _take(self, hand: _Hand, message: Message) -> None:
        kind = message["kind"]
        if kind == "ready":
            if hand.deaths and not message["passed"]:
                raise EngineError(
                    "the engine does not score known crops as it should any more: run "
                    "`deepscan doctor`"
                )
            hand.stand(message)
        elif kind == "refused":
            error = getattr(errors, message["error"], EngineError)
            raise (
                error(message["text"])
                if issubclass(error, DeepscanError)
                else EngineError(message["text"])
            )
        elif kind == "log":
            logger.log(message["level"], "%s", message["text"])
        elif kind == "progressed" and message["number"] in hand.tasks:
            number = message["number"]
            hand.told[number] = time.monotonic()
            self._events.append(
                Progressed(
                    hand.tasks[number],
                    message["stage"],
                    message["frames"],
                    message["time"],
                    message["duration"],
                )
            )
        elif kind in ("done", "lost") and message["number"] in hand.tasks:
            task = hand.drop(message["number"])
            if kind == "lost":
                self._events.append(Lost(task, Reason(message["code"], message["text"])))
                return
            for stage, seconds in message["busy"].items():
                self._busy[stage] = self._busy.get(stage, 0.0) + seconds
            self._events.append(Done(task, Outcome.from_json(message["outcome"])))

    def _lose(self, hand: _Hand, why: str, hung: int | None = None) -> None:
        """End a process; its tasks are lost, and a new one takes its place after a pause."""
        stood = hand.standing
        hand.end()
        for number, task in hand.tasks.items():
            code = "worker_hang" if number == hung else "worker_crash"
            self._events.append(Lost(task, Reason(code, why)))
        hand.tasks.clear()
        hand.told.clear()
        hand.deaths += 1
        hand.stillborn = 0 if stood else hand.stillborn + 1
        if hand.stillborn >= STILLBORN:
            raise EngineError(f"{why}, {hand.stillborn} times before its engine stood")
        hand.not_before = time.monotonic() + min(
            LONGEST_BACK_OFF, BACK_OFF * 2 ** min(hand.stillborn, 10)
        )
        logger.warning("%s; it is started again", why)


class _Hand:
    """One model process as the run sees it."""

    def __init__(
        self, device: str | None, order: dict[str, Any], selector: selectors.BaseSelector
    ) -> None:
        self.device = device
        self.ready: Message | None = None  # what it said when it first stood; kept over restarts
        self.process: subprocess.Popen[bytes] | None = None
        self.gone = False
        self.began_at = self.heard_at = 0.0
        self.not_before = 0.0
        self.deaths = 0
        self.stillborn = 0
        self.tasks: dict[int, Task] = {}
        self.told: dict[int, float] = {}  # when each task last gave a sign of life
        self._order = order
        self._selector = selector
        self.standing = False
        self._numbers = 0
        self._heard = bytearray()
        self._words = bytearray()

    @property
    def room(self) -> int:
        return (self.ready["jobs"] if self.ready else 0) - len(self.tasks)

    def begin(self) -> None:
        """Start the process; it loads its engine before it takes tasks."""
        ours, theirs = socket.socketpair()
        root = Path(deepscan.__file__).resolve().parent.parent
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-c", START, str(theirs.fileno()), os.fspath(root)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, **_seen(self.device)},
                    # Ctrl-C is for the run, which then ends this process.
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise EngineError(f"a model process cannot be started: {error}") from error
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)
        self._line = ours
        self._heard.clear()
        self._words.clear()
        self.gone = self.standing = False
        self.began_at = self.heard_at = time.monotonic()
        self._selector.register(ours, selectors.EVENT_READ, (self, True))
        self._selector.register(self.process.stderr, selectors.EVENT_READ, (self, False))
        self._say({"kind": "start", **self._order})
        for number, task in self.tasks.items():  # handed out while there was no process
            self._give(number, task)

    def take(self, task: Task) -> None:
        self._numbers += 1
        self.tasks[self._numbers] = task
        if self.process is not None:
            self._give(self._numbers, task)

    def drop(self, number: int) -> Task:
        self.told.pop(number, None)
        return self.tasks.pop(number)

    def stand(self, message: Message) -> None:
        """The engine is loaded: work on the tasks begins now."""
        self.ready = self.ready or message
        self.standing = True
        self.stillborn = 0
        self.told = dict.fromkeys(self.tasks, time.monotonic())

    def hear(self) -> list[Message]:
        """The messages that have come; `gone` if there will be no more.

        Raises:
            ValueError: these are no messages.
        """
        try:
            data = self._line.recv(2**20)
        except OSError:
            data = b""
        self.gone = not data
        self.heard_at = time.monotonic()
        self._heard += data
        return list(unpack(self._heard))

    def read_words(self) -> None:
        """Keep the last of what the process writes to stderr; a flood must not fill memory."""
        assert self.process is not None and self.process.stderr is not None
        try:
            data = os.read(self.process.stderr.fileno(), 2**16)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(self.process.stderr)
        self._words = (self._words + data)[-LAST_WORDS:]

    def obituary(self) -> str:
        """How the process died, with its last words."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5.0)
        with contextlib.suppress(KeyError):  # its stderr may be at its end already
            self.read_words()
        words = self._words.decode(errors="replace").strip().splitlines()
        code = self.process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        last = f" ({words[-1][:200]})" if words else ""
        return f"the model process died with {how}{last}"

    def end(self) -> None:
        """Kill the process if it runs, and forget it."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        for end in (self._line, self.process.stderr):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(end)
            end.close()
        self.process = None

    def _give(self, number: int, task: Task) -> None:
        self._say({"number": number, "kind": "task", "task": task_to_json(task)})
        if self.standing:
            self.told[number] = time.monotonic()

    def _say(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # that it is gone shows when it is heard
            self._line.sendall(pack(message))


def _seen(device: str | None) -> dict[str, str]:
    """The environment that lets a process see just its device."""
    if device is None:
        return {}
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    number = int(device.partition(":")[2] or 0)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if not visible:
        return {"CUDA_VISIBLE_DEVICES": str(number)}
    if number >= len(visible):
        raise EngineError(f"there is no {device}: CUDA_VISIBLE_DEVICES names {len(visible)}")
    return {"CUDA_VISIBLE_DEVICES": visible[number]}
