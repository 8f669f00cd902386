"""The worker pool of this machine: a model process for each device, restarted if it fails.

The process of the run imports neither torch nor a decoder, so a crash of native code only affects a
model process. If that dies or hangs, its files are retried.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import subprocess
import time
from dataclasses import asdict
from typing import Any

from deepscan.archive.records import Outcome
from deepscan.archive.workers.contract import (
    PolledPool,
    PoolInfo,
    PoolSettings,
    Task,
    TaskDone,
    TaskLost,
    TaskProgress,
    combined_info,
)
from deepscan.archive.workers.messages import Channel, Message, error_named, log_level, task_to_json
from deepscan.errors import EngineError
from deepscan.types import Reason
from deepscan.video.isolation.launcher import StderrTail, start_interpreter

# glibc keeps freed memory for each of a dozen threads: 400 MB instead of 300.
MEMORY = {"MALLOC_ARENA_MAX": "2"}

logger = logging.getLogger(__name__)

START_TIMEOUT = 1800.0  # seconds until an engine is loaded: TensorRT may have to build it first
SLOWEST_READ = 10 * 2**20  # bytes a second: hashing shows no progress, so large files get more time
MAX_START_FAILURES = 3  # deaths in a row before the engine is loaded that end the run
RESTART_DELAY, MAX_RESTART_DELAY = 0.5, 60.0  # seconds before a dead process is started again


class LocalPool(PolledPool):
    """Model processes on this machine; see the contract in contract.py."""

    def __init__(self, settings: PoolSettings) -> None:
        """Without devices there is one process, whose engine chooses the device."""
        super().__init__()
        self._settings = settings
        self._selector = selectors.DefaultSelector()
        self._busy: dict[str, float] = {}
        self._workers = [
            WorkerHandle(
                device,
                {**asdict(settings), "device": device, "level": log_level()},
                self._selector,
            )
            for device in (settings.devices or (None,))
        ]

    def start(self) -> PoolInfo:
        """Start a process for each device and wait until all of them are ready.

        Raises:
            EngineError, ModelError: no network can run on one of the devices.
        """
        for worker in self._workers:
            worker.start()
        while any(worker.ready is None for worker in self._workers):
            self._poll(0.5)
        ready = [(str(each.device), each.ready) for each in self._workers if each.ready is not None]
        return combined_info("devices", ready)

    def submit(self, task: Task) -> None:
        """Give a task to the process with the most free slots."""
        max(self._workers, key=lambda each: each.room).submit(task)

    def busy(self) -> dict[str, float]:
        """Seconds of work by stage over all finished tasks."""
        return dict(self._busy)

    def close(self) -> None:
        """Kill every process and wait for its end; its decoders end too."""
        for worker in self._workers:
            worker.kill()
        self._selector.close()

    def _poll(self, timeout: float) -> None:
        """Receive messages for at most `timeout` seconds, then check the processes."""
        for key, _ in self._selector.select(timeout):
            worker, is_channel = key.data
            if worker.process is None:  # it was killed a moment ago
                continue
            if not is_channel:
                worker.read_stderr()
                continue
            try:
                for message in worker.receive():
                    self._handle(worker, message)
            except ValueError as error:
                self._restart(worker, f"the model process sent an invalid message ({error})")
            else:
                if worker.closed:
                    self._restart(worker, worker.exit_reason())
        for worker in self._workers:
            self._check(worker)

    def _check(self, worker: WorkerHandle) -> None:
        """Start a process whose delay is over; restart one that is silent or stuck."""
        now = time.monotonic()
        if worker.process is None:
            if now >= worker.not_before:
                worker.start()
            return
        silent = now - worker.last_message_at
        if silent > self._settings.heartbeat_timeout:
            self._restart(worker, f"the model process sent no heartbeat for {silent:.0f} s")
        elif not worker.loaded and now - worker.started_at > START_TIMEOUT:
            self._restart(worker, f"the engine was not loaded within {START_TIMEOUT:.0f} s")
        else:
            for number, task in worker.tasks.items():
                size = task.file.identity[2] if task.file.identity else 0
                allowed = self._settings.progress_timeout + size / SLOWEST_READ
                if now - worker.last_progress.get(number, now) > allowed:
                    self._restart(worker, f"no progress for {allowed:.0f} s", hung=number)
                    break

    def _handle(self, worker: WorkerHandle, message: Message) -> None:
        kind = message["kind"]
        if kind == "ready":
            if worker.ready is not None and not message["passed"]:
                raise EngineError(
                    "the engine no longer scores known crops as expected: run `deepscan doctor`"
                )
            worker.engine_loaded(message)
        elif kind == "failed":
            raise error_named(message["error"], message["text"])
        elif kind == "log":
            logger.log(message["level"], "%s", message["text"])
        elif kind == "progress" and message["number"] in worker.tasks:
            number = message["number"]
            worker.last_progress[number] = time.monotonic()
            values = {key: message[key] for key in ("stage", "frames", "time", "duration")}
            self._events.append(TaskProgress(worker.tasks[number], **values))
        elif kind in ("done", "lost") and message["number"] in worker.tasks:
            task = worker.remove(message["number"])
            if kind == "lost":
                self._events.append(TaskLost(task, Reason(message["code"], message["text"])))
                return
            for stage, seconds in message["busy"].items():
                self._busy[stage] = self._busy.get(stage, 0.0) + seconds
            self._events.append(TaskDone(task, Outcome.from_json(message["outcome"])))

    def _restart(self, worker: WorkerHandle, why: str, hung: int | None = None) -> None:
        """Kill a process; its tasks are lost, and a new process starts after a delay."""
        was_loaded = worker.loaded
        worker.kill()
        for number, task in worker.tasks.items():
            code = "worker_hang" if number == hung else "worker_crash"
            self._events.append(TaskLost(task, Reason(code, why)))
        worker.tasks.clear()
        worker.last_progress.clear()
        worker.start_failures = 0 if was_loaded else worker.start_failures + 1
        if worker.start_failures >= MAX_START_FAILURES:
            raise EngineError(f"{why}, {worker.start_failures} times before its engine was loaded")
        worker.not_before = time.monotonic() + min(
            MAX_RESTART_DELAY, RESTART_DELAY * 2 ** min(worker.start_failures, 10)
        )
        logger.warning("%s; it is restarted", why)


class WorkerHandle:
    """One model process as seen by the run. Times are by the monotonic clock."""

    def __init__(
        self, device: str | None, config: dict[str, Any], selector: selectors.BaseSelector
    ) -> None:
        self.device = device
        self.ready: PoolInfo | None = None  # as it was ready first; kept over restarts
        self.process: subprocess.Popen[bytes] | None = None
        self.loaded = False
        self.started_at = self.last_message_at = self.not_before = 0.0
        self.start_failures = 0
        self.tasks: dict[int, Task] = {}
        self.last_progress: dict[int, float] = {}  # when each task last made progress
        self._config = config
        self._selector = selector
        self._count = 0
        self._stderr: StderrTail
        self._channel: Channel

    @property
    def room(self) -> int:
        return (self.ready.slots if self.ready else 0) - len(self.tasks)

    @property
    def closed(self) -> bool:
        return self._channel.closed

    def start(self) -> None:
        """Start the process; it loads its engine before it takes tasks."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = start_interpreter(
                    "deepscan.archive.workers.worker",
                    str(theirs.fileno()),
                    (theirs.fileno(),),
                    stderr=subprocess.PIPE,
                    environment={**MEMORY, **os.environ, **_visible_devices(self.device)},
                )
            except OSError as error:
                ours.close()
                raise EngineError(f"a model process cannot be started: {error}") from error
        assert self.process.stderr is not None
        self._stderr = StderrTail(self.process.stderr, self._selector)
        self._channel = Channel(ours)
        self.loaded = False
        self.started_at = self.last_message_at = time.monotonic()
        self._selector.register(ours, selectors.EVENT_READ, (self, True))
        self._selector.register(self.process.stderr, selectors.EVENT_READ, (self, False))
        self._channel.send("start", **self._config)
        for number, task in self.tasks.items():  # submitted while there was no process
            self._send(number, task)

    def submit(self, task: Task) -> None:
        self._count += 1
        self.tasks[self._count] = task
        if self.process is not None:
            self._send(self._count, task)

    def remove(self, number: int) -> Task:
        self.last_progress.pop(number, None)
        return self.tasks.pop(number)

    def engine_loaded(self, message: Message) -> None:
        """Record that the process is ready and starts on its tasks."""
        self.ready = self.ready or PoolInfo(
            engine=message["engine"],
            engine_reason=message["why"],
            slots=message["jobs"],
            controls=tuple((name, score) for name, score in message["controls"]),
            controls_passed=message["passed"],
        )
        self.loaded = True
        self.start_failures = 0
        self.last_progress = dict.fromkeys(self.tasks, time.monotonic())

    def receive(self) -> list[Message]:
        """Receive the messages that have arrived.

        Raises:
            ValueError: the data is no message.
        """
        self.last_message_at = time.monotonic()
        return self._channel.receive()

    def read_stderr(self) -> None:
        self._stderr.read()

    def exit_reason(self) -> str:
        """A text on the death of the process, with the last line of its stderr."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5.0)
        code = self.process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        return f"the model process died with {how}{self._stderr.last_line()}"

    def kill(self) -> None:
        """Kill the process if it runs, and close its ends."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        for end in (self._channel.socket, self.process.stderr):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(end)
            end.close()
        self.process = None

    def _send(self, number: int, task: Task) -> None:
        self._channel.send("task", number=number, task=task_to_json(task))
        if self.loaded:
            self.last_progress[number] = time.monotonic()


def _visible_devices(device: str | None) -> dict[str, str]:
    """Environment variables with which a process sees only its device."""
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
