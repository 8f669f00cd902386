"""The actor on a node of a cluster: the crew of one machine (local.py), spoken to in messages.

It is the same machinery as without a cluster, so a file is scanned, watched and given up here as it
is there. It imports neither Ray nor torch; the model process below it does the work.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import queue
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import deepscan
from deepscan.archive.workers.contract import Done, Progressed, Task
from deepscan.archive.workers.local import LocalCrew
from deepscan.archive.workers.worker import (
    Message,
    Relay,
    options_from_json,
    pack,
    task_from_json,
    unpack,
)
from deepscan.engines.packages import ALWAYS
from deepscan.errors import DeepscanError, UsageError
from deepscan.models.weights import read_card

logger = logging.getLogger(__name__)

RUN = "run"  # the file in which the run leaves its word for the nodes
TURN = 0.1  # seconds until the crew gets a task that has come
VISIBLE = 15.0  # seconds until what one machine writes is seen by another: network storage caches


class Outpost:
    """Scans for a run somewhere else, on one device; ends itself when that is silent."""

    def __init__(self, order: bytes) -> None:
        """Begin to work; what becomes of it is told to who listens."""
        (self._order,) = unpack(bytearray(order))
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._said = bytearray()
        self._changed = threading.Condition()
        self._heard_at = time.monotonic()
        self._closed = threading.Event()
        logging.getLogger("deepscan").setLevel(self._order["level"])
        logging.getLogger("deepscan").addHandler(Relay(self._say))
        threading.Thread(target=self._fence, name="fence", daemon=True).start()
        threading.Thread(target=self._work, name="work", daemon=True).start()

    def close(self) -> None:
        """Tear down the fence: the process may outlive this actor. Work under way goes on."""
        self._closed.set()

    def submit(self, data: bytes) -> None:
        """Take a task."""
        for message in unpack(bytearray(data)):
            self._inbox.put(message)

    def listen(self, timeout: float) -> bytes:
        """What has been said since the last call; nothing if the time passes."""
        self._heard_at = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: bool(self._said), timeout)
            said = bytes(self._said)
            self._said.clear()
        return said

    def beat(self) -> None:
        """Take notice that the run lives."""
        self._heard_at = time.monotonic()

    def _say(self, kind: str, **values: Any) -> None:
        with self._changed:
            self._said += pack({"kind": kind, **values})
            self._changed.notify_all()

    def _fence(self) -> None:
        """End everything when the run is silent: it may have given our files to others."""
        while time.monotonic() - self._heard_at < self._order["fence"]:
            if self._closed.wait(0.2):
                return
        os._exit(1)  # the model process ends with the socket that we hold

    def _work(self) -> None:
        try:
            self._serve()
        except Exception as error:
            if not isinstance(error, DeepscanError):
                logger.exception("the actor failed")
            self._say("refused", error=type(error).__name__, text=str(error))

    def _serve(self) -> None:
        order = self._order
        options = options_from_json(order["options"])
        self._say("facts", facts=facts_of(options.model), mark=self._mark())
        with LocalCrew(
            options,
            jobs=order["jobs"],
            devices=(order["device"],),
            scanner=order["scanner"],
            controls=order["controls"],
            task_silence=order["task_silence"],
        ) as crew:
            crewed = crew.start()
            self._say(
                "ready",
                engine=crewed.engine,
                why=crewed.engine_reason,
                slots=crewed.slots,
                controls=crewed.controls,
                passed=crewed.controls_passed,
            )
            numbers: dict[Task, int] = {}
            while True:
                self._take_tasks(crew, numbers)
                self._tell(crew, numbers)

    def _take_tasks(self, crew: LocalCrew, numbers: dict[Task, int]) -> None:
        """Hand over what has come; a file that is not seen here is told, not scanned."""
        while not self._inbox.empty():
            message = self._inbox.get()
            task, number = task_from_json(message["task"]), message["number"]
            if message["sure"] or _comes(task.item.path):
                numbers[task] = number
                crew.submit(task)
            else:
                self._say("unseen", number=number)

    def _tell(self, crew: LocalCrew, numbers: dict[Task, int]) -> None:
        """Pass on what has happened."""
        ended = False
        for event in crew.wait(TURN):
            if isinstance(event, Progressed):
                self._say(
                    "progressed",
                    number=numbers[event.task],
                    stage=event.stage,
                    frames=event.frames,
                    time=event.time,
                    duration=event.duration,
                )
                continue
            number, ended = numbers.pop(event.task), True
            if isinstance(event, Done):
                self._say("done", number=number, outcome=event.outcome.to_json())
            else:
                reason = event.reason
                self._say("lost", number=number, code=reason.code, text=reason.text)
        if ended:
            self._say("busy", seconds=crew.busy())

    def _mark(self) -> str:
        """Find the run's word in the results folder and leave one there; gives its name.

        Raises:
            UsageError: the folder is not the run's.
        """
        order = self._order
        folder = Path(order["marks"])
        shared = "the results folder must lie on storage that all nodes share, under one path"
        if not says(folder / RUN, order["token"]):
            raise UsageError(f"{folder.parent} is not what the run sees there: {shared}")
        try:
            (folder / order["mark"]).write_text(order["token"])
        except OSError as error:
            raise UsageError(
                f"{folder.parent} cannot be written to ({error.strerror}): {shared}"
            ) from error
        return str(order["mark"])


def facts_of(model: str) -> dict[str, str]:
    """What must be the same on all machines, so that it does not matter which one scans a file.

    Raises:
        ModelError: there is no such model.
    """
    facts = {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "deepscan": deepscan.__version__,
        "source": _source(),
        f"weights of {model}": read_card(model).sha256,
    }
    for package in ALWAYS:  # build tags ("+cu130") may differ between nodes and the run
        with contextlib.suppress(PackageNotFoundError):
            facts[package] = version(package).partition("+")[0]
    return facts


def _source() -> str:
    """SHA-256 over the program's own files: a version number may name several states of it."""
    root = Path(deepscan.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def says(path: Path, text: str) -> bool:
    """Whether a small file says this, or does so soon: network storage takes its time."""
    until = time.monotonic() + VISIBLE
    while True:
        with contextlib.suppress(OSError, ValueError):
            if path.read_text() == text:
                return True
        if time.monotonic() >= until:
            return False
        time.sleep(0.2)


def _comes(path: Path) -> bool:
    """Whether a file is there, or is soon."""
    for _ in range(10):
        if is_there(path):
            return True
        time.sleep(0.2)
    return False


def is_there(path: Path) -> bool:
    """Whether a name is there, readable or not."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True
