"""The Ray actor on a node of a cluster: a local pool that the run calls remotely.

It uses the pool of local.py, so files are scanned, watched and retried as without a cluster. It
imports neither Ray nor torch; its model process does the work. `check` uses only plain values,
since it verifies that both sides run the same code.
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
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import deepscan
from deepscan.archive.workers.contract import (
    HEARTBEAT_TIMEOUT,
    PoolInfo,
    Task,
    TaskDone,
    TaskLost,
    TaskProgress,
)
from deepscan.archive.workers.local import LocalPool
from deepscan.archive.workers.messages import pool_settings_from_json
from deepscan.archive.workers.worker import LogRelay
from deepscan.engines.packages import ALWAYS
from deepscan.errors import UsageError
from deepscan.models.library import read_card

RUN = "run"  # the file in the results folder that the run writes for the nodes
POOL_WAIT = 0.1  # seconds until the pool gets a new task
VISIBLE = 15.0  # seconds until a file of one machine is visible on another: network storage caches

Result = tuple[TaskDone | TaskLost, dict[str, float]]
"""How a task ended, and the actor's seconds of work by stage so far."""
News = tuple[list[TaskProgress], list[tuple[int, str]]]
"""Progress of tasks, and log lines with their levels, since the last call."""


class ScanActor:
    """Scans for a remote run on one device; exits when the run stops sending heartbeats."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._inbox: queue.SimpleQueue[tuple[Task, Future[Result]]] = queue.SimpleQueue()
        self._progress: list[TaskProgress] = []
        self._log: list[tuple[int, str]] = []
        self._changed = threading.Condition()
        self._last_contact = time.monotonic()
        self._closed = threading.Event()
        self._failure: Exception | None = None
        self._pool: LocalPool | None = None
        logging.getLogger("deepscan").setLevel(config["level"])
        logging.getLogger("deepscan").addHandler(LogRelay(self._log_line))
        threading.Thread(target=self._end_without_contact, name="fence", daemon=True).start()

    def check(self) -> tuple[dict[str, str], str]:
        """Facts that must be equal on all machines, and the name of a mark in the results folder.

        Raises:
            UsageError: the results folder is not the run's.
        """
        config = self._config
        folder = Path(config["marks"])
        shared = "the results folder must lie on storage that all nodes share, under one path"
        if not holds_text(folder / RUN, config["token"]):
            raise UsageError(f"{folder.parent} is not what the run sees there: {shared}")
        try:
            (folder / config["mark"]).write_text(config["token"])
        except OSError as error:
            raise UsageError(
                f"{folder.parent} cannot be written to ({error.strerror}): {shared}"
            ) from error
        return facts_of(config["options"]["model"]), str(config["mark"])

    def start(self) -> PoolInfo:
        """Load the engine.

        Raises:
            EngineError, ModelError: no network can run.
        """
        self._pool = LocalPool(
            replace(
                pool_settings_from_json(self._config),
                devices=(self._config["device"],),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,  # the run's is for the way to this node
            )
        )
        try:
            info = self._pool.start()
        except BaseException:
            self._pool.close()
            raise
        threading.Thread(target=self._work, args=(self._pool,), name="work", daemon=True).start()
        return info

    def scan(self, task: Task, *, even_if_missing: bool = False) -> Result | None:
        """Scan a file; None if it is not visible on this node.

        Raises:
            EngineError: this node cannot scan any more.
        """
        if not even_if_missing and not _appears(task.file.path):
            return None
        future: Future[Result] = Future()
        with self._changed:
            if self._failure is not None:
                raise self._failure
            self._inbox.put((task, future))
        return future.result()

    def news(self, timeout: float) -> News:
        """Progress and log since the last call; empty after `timeout` seconds.

        Raises:
            EngineError: this node cannot scan any more.
        """
        self._last_contact = time.monotonic()
        with self._changed:
            self._changed.wait_for(
                lambda: bool(self._progress or self._log or self._failure), timeout
            )
            news = self._progress, self._log
            if self._failure is not None and not any(news):
                raise self._failure
            self._progress, self._log = [], []
        return news

    def heartbeat(self) -> None:
        """Receive a heartbeat of the run."""
        self._last_contact = time.monotonic()

    def close(self) -> None:
        """End the work but not the process, which may outlive this actor."""
        self._closed.set()

    def _log_line(self, kind: str, *, level: int, text: str) -> None:
        with self._changed:
            self._log.append((level, text))
            self._changed.notify_all()

    def _end_without_contact(self) -> None:
        """Exit when the run is silent: it may have given the files to another node."""
        while time.monotonic() - self._last_contact < self._config["fence"]:
            if self._closed.wait(0.2):
                return
        os._exit(1)  # the model process ends with the socket that we hold

    def _work(self, pool: LocalPool) -> None:
        """Pass tasks to the pool, and its results to the waiting calls."""
        futures: dict[Task, Future[Result]] = {}
        try:
            while not self._closed.is_set():
                while not self._inbox.empty():
                    task, future = self._inbox.get()
                    futures[task] = future
                    pool.submit(task)
                for event in pool.wait(POOL_WAIT):
                    if isinstance(event, TaskProgress):
                        with self._changed:
                            self._progress.append(event)
                            self._changed.notify_all()
                    else:
                        futures.pop(event.task).set_result((event, pool.busy()))
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
                while not self._inbox.empty():
                    futures.update([self._inbox.get()])
            for future in futures.values():
                future.set_exception(error)
        finally:
            pool.close()


def facts_of(model: str) -> dict[str, str]:
    """Facts that must be equal on all machines, so that any of them can scan a file.

    Raises:
        ModelError: there is no such model.
    """
    facts = {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "deepscan": deepscan.__version__,
        "source": _source_hash(),
        f"weights of {model}": read_card(model).sha256,
    }
    for package in ALWAYS:  # build tags ("+cu130") may differ between nodes and the run
        with contextlib.suppress(PackageNotFoundError):
            facts[package] = version(package).partition("+")[0]
    return facts


def _source_hash() -> str:
    """SHA-256 over the program's own files: a version number may name several states of it."""
    root = Path(deepscan.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def holds_text(path: Path, text: str) -> bool:
    """True if a small file holds this text now or soon: network storage may be slow."""
    until = time.monotonic() + VISIBLE
    while True:
        with contextlib.suppress(OSError, ValueError):
            if path.read_text() == text:
                return True
        if time.monotonic() >= until:
            return False
        time.sleep(0.2)


def _appears(path: Path) -> bool:
    """True if a file exists now or soon."""
    for _ in range(10):
        if is_there(path):
            return True
        time.sleep(0.2)
    return False


def is_there(path: Path) -> bool:
    """True if a path exists, readable or not."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True
