"""The worker pool of a Ray cluster: a model process on each GPU, or on each node without one.

On every node an actor (ray_actor.py) holds a local pool for one device; this module assigns the
tasks. Actors write directly to the results folder, which all nodes share; Ray transfers a few
hundred bytes per file.

An actor without contact to the run exits before the run gives its files to another, so no file is
written by two. Ray's own retries (`max_task_retries`) do not wait for that; and a file that may
have killed its process is retried alone, with a line in the journal.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import threading
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepscan.archive.options import FILES_CUDA
from deepscan.archive.workers.contract import (
    NODE_LOST,
    PolledPool,
    PoolInfo,
    PoolSettings,
    Task,
    TaskLost,
    combined_info,
)
from deepscan.archive.workers.messages import error_named, log_level
from deepscan.archive.workers.ray_actor import (
    RUN,
    News,
    Result,
    ScanActor,
    facts_of,
    holds_text,
    is_there,
)
from deepscan.archive.workers.ray_cluster import Cluster, NodeError, ray_address
from deepscan.errors import DeepscanError, EngineError, OutputError, UsageError, system_errors_as
from deepscan.types import Reason

logger = logging.getLogger(__name__)

NEWS_TIMEOUT = 1.0  # seconds that an actor waits for news before it returns none
PLACEMENT_TIMEOUT = 180.0  # seconds for Ray to start an actor: imports on a busy or cold machine
NODE_CHECK_INTERVAL = 5.0  # seconds between two checks for new nodes
RESTART_DELAY, MAX_RESTART_DELAY = 1.0, 600.0  # seconds before a failed actor is replaced
NO_NODE_TIMEOUT = 600.0  # seconds without a working actor after which the run ends
OTHER_CALLS = 3  # concurrent calls of an actor besides its scans: start, news and a heartbeat

ActorKey = tuple[str, int]
"""A node's id, and the number of the actor on it."""


class RayPool(PolledPool):
    """Model processes on the nodes of a Ray cluster; see the contract in contract.py."""

    def __init__(self, settings: PoolSettings, *, results: Path, address: str = "ray") -> None:
        """
        Args:
            settings: `devices` are what every node runs; "cuda:0" stands for any one GPU. Without
                devices each GPU of the cluster has a process, and if it has none each node.
            results: the results folder, under the same path on every node.
            address: as `ray_cluster.ADDRESS_HELP` says.

        Raises:
            UsageError: the address is invalid.
        """
        super().__init__()
        self._cluster = Cluster(ray_address(address))
        self._settings = settings
        self._heartbeat_timeout = settings.heartbeat_timeout
        # The name marks a leftover, so the next run removes it if this one is killed.
        self._marks = results.resolve() / f".nodes.tmp.{os.getpid()}"
        self._config: dict[str, Any] = {
            **asdict(settings),
            "device": "cpu",
            "level": log_level(),
            "fence": settings.heartbeat_timeout / 2,
            "marks": os.fspath(self._marks),
            "token": secrets.token_hex(16),
        }
        self._facts: dict[str, str] = {}
        self._actors: dict[ActorKey, _ActorHandle] = {}
        self._ending: list[_ActorHandle] = []  # given up, but perhaps still working
        self._placement = _Placement()
        self._waiting: deque[Task] = deque()
        self._busy: dict[str, float] = {}  # of actors that are gone
        self._info: PoolInfo | None = None  # once all actors are ready
        self._closed = threading.Event()

    def start(self) -> PoolInfo:
        """Connect, start an actor for each device and wait until all of them are ready.

        Raises:
            UsageError: Ray is missing, the cluster cannot be reached, or a node does not see the
                results folder, or has another deepscan or other weights.
            EngineError, ModelError: no network can run on one of the nodes.
        """
        self._facts = facts_of(self._settings.options.model)
        self._cluster.connect()
        self._write_mark()
        self._config["device"] = "cuda:0" if self._wants_gpus() else "cpu"
        self._start_actors()
        threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True).start()
        if not self._actors:
            what = "GPU" if self._config["device"] != "cpu" else "CPU"
            raise EngineError(
                f"no node of the Ray cluster offers a {what}: see `ray status`, or name the device"
            )
        while any(actor.info is None for actor in self._actors.values()):
            self._poll(0.5)
        if not self._actors:
            raise EngineError("no node of the Ray cluster could start a model process: see the log")
        ready = [(each.label, each.info) for _, each in sorted(self._actors.items()) if each.info]
        self._info = combined_info("nodes", ready)
        self._events.clear()
        return self._info

    def submit(self, task: Task) -> None:
        """Give a task to the actor with the most free slots; without one it waits."""
        self._waiting.append(task)
        self._submit_waiting()

    def busy(self) -> dict[str, float]:
        """Seconds of work by stage over all tasks that are done."""
        total = Counter(self._busy)
        for actor in self._actors.values():
            total.update(actor.busy)
        return dict(total)

    def close(self) -> None:
        """Kill every actor with its processes, and a Ray instance that this run has started."""
        self._closed.set()
        for actor in self._actors.values():
            self._cluster.kill(actor.actor)
        self._actors.clear()
        self._ending.clear()
        self._cluster.close()
        shutil.rmtree(self._marks, ignore_errors=True)

    # Placing actors

    def _wants_gpus(self) -> bool:
        if self._settings.devices:
            kinds = {device.partition(":")[0] for device in self._settings.devices}
            if len(kinds) > 1:
                raise UsageError(
                    "on a cluster all devices are of one kind: --device cpu, or --device cuda:0"
                )
            return kinds == {"cuda"}
        engine = self._settings.options.engine
        if engine.startswith("openvino") or "-cpu" in engine:
            return False
        if engine.startswith("tensorrt") or "cuda" in engine:
            return True
        return any(node["Resources"].get("GPU", 0) >= 1 for node in self._cluster.nodes())

    def _shares(self, node: dict[str, Any]) -> tuple[int, int]:
        """The number of actors for a node, and the number of CPUs that each claims."""
        resources = node["Resources"]
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if self._config["device"] != "cpu":
            count = min(gpus, len(self._settings.devices) or gpus)
            return count, cpus // gpus if gpus else 0
        count = min(cpus, len(self._settings.devices) or 1)
        return count, cpus // count if count else 0

    def _start_actors(self) -> None:
        """Start actors on nodes without one: at first, and when nodes join or return."""
        self._placement.checked()
        nodes = self._cluster.nodes()
        addresses = Counter(node["NodeManagerAddress"] for node in nodes)
        for node in nodes:
            name = node["NodeManagerAddress"]
            if addresses[name] > 1:
                name += f"/{node['NodeID'][:8]}"
            count, cpus = self._shares(node)
            for place in range(count):
                key = (node["NodeID"], place)
                if key not in self._actors and self._placement.allows(key):
                    label = name + (f"#{place + 1}" if count > 1 else "")
                    self._actors[key] = self._start_actor(key, label, cpus)

    def _start_actor(self, key: ActorKey, label: str, cpus: int) -> _ActorHandle:
        config = {**self._config, "mark": f"{key[0]}-{key[1]}-{secrets.token_hex(4)}"}
        actor = self._cluster.start_actor(
            ScanActor,
            key[0],
            config,
            num_cpus=cpus,
            num_gpus=0 if config["device"] == "cpu" else 1,
            max_concurrency=(config["jobs"] or FILES_CUDA) + OTHER_CALLS,
        )
        handle = _ActorHandle(key, label, actor)
        handle.call("check")
        handle.call("news", NEWS_TIMEOUT)
        return handle

    def _write_mark(self) -> None:
        """Write a file into the results folder that every node has to see."""
        with system_errors_as(OutputError, f"{self._marks} cannot be written"):
            self._marks.mkdir(parents=True, exist_ok=True)
            (self._marks / RUN).write_text(self._config["token"])

    # Calls

    def _poll(self, timeout: float) -> None:
        """Wait for at most `timeout` seconds for results of calls, then check the actors."""
        calls = {
            ref: (actor, name, task)
            for actor in self._actors.values()
            for ref, (name, task) in actor.calls.items()
        }
        if not calls:
            time.sleep(timeout)
        for ref in self._cluster.ready(list(calls), timeout) if calls else ():
            actor, name, task = calls[ref]
            if self._actors.get(actor.key) is not actor:  # given up a moment ago
                continue
            del actor.calls[ref]
            try:
                value = self._cluster.result(ref)
            except NodeError as error:
                self._unreachable(actor, error)
            except Exception as error:
                self._failed(actor, error)
            else:
                actor.last_answer_at, actor.placed = time.monotonic(), True
                self._answered(actor, name, task, value)
        self._check_actors()
        self._submit_waiting()

    def _answered(self, actor: _ActorHandle, name: str, task: Task | None, value: Any) -> None:
        if name == "news":
            self._take_news(actor, value)
            actor.call("news", NEWS_TIMEOUT)
        elif name == "scan" and task is not None:
            self._take_result(actor, task, value)
        else:
            try:
                if name == "check":
                    self._check_facts(actor, *value)
                    actor.call("start")
                else:
                    self._check_info(actor, value)
            except DeepscanError as error:  # raised at the start; later the node is left out
                if self._info is None:
                    raise
                self._placement.exclude(actor.key)
                why = f"{error}; the run continues without it"
                self._give_up(actor, NODE_LOST, why, ended=True)

    def _take_news(self, actor: _ActorHandle, news: News) -> None:
        progress, log = news
        self._events += [event for event in progress if event.task in actor.tasks]
        for level, text in log:
            logger.log(level, "node %s: %s", actor.label, text)

    def _take_result(self, actor: _ActorHandle, task: Task, result: Result | None) -> None:
        actor.tasks.discard(task)
        if result is None:
            self._unseen(actor, task)
            return
        event, actor.busy = result
        if isinstance(event, TaskLost):
            reason = Reason(event.reason.code, f"node {actor.label}: {event.reason.text}")
            event = TaskLost(task, reason)
        self._events.append(event)

    def _check_facts(self, actor: _ActorHandle, theirs: dict[str, str], mark: str) -> None:
        """Raise UsageError for a node that gives other results or does not share the storage."""
        ours = self._facts
        differ = [name for name in ours if theirs.get(name) != ours[name]]
        if differ:
            told = "; ".join(
                f"{name} {_short(theirs.get(name))} there, {_short(ours[name])} here"
                for name in differ
            )
            raise UsageError(
                f"node {actor.label} would give other results: {told}. Install the same on all "
                "nodes"
            )
        if not holds_text(self._marks / Path(mark).name, self._config["token"]):
            raise UsageError(
                f"node {actor.label} wrote into {self._marks.parent}, which is not visible here: "
                "the results folder must lie on storage that all nodes share, under one path"
            )

    def _check_info(self, actor: _ActorHandle, info: PoolInfo) -> None:
        """Raise EngineError for a later node that does not fit the others."""
        if self._info is not None and info.engine != self._info.engine:
            raise EngineError(
                f"node {actor.label} runs the engine {info.engine}, the others {self._info.engine}"
            )
        if self._info is not None and not info.controls_passed:
            raise EngineError(f"node {actor.label} does not score known crops as expected")
        actor.info = info
        self._placement.succeeded(actor.key)

    # Failures

    def _failed(self, actor: _ActorHandle, error: Exception) -> None:
        """Handle a pool that cannot work (any more); its processes have ended."""
        told = error_named(type(error).__name__, f"node {actor.label}: {error}")
        if self._info is None or len(self._actors) == 1:
            raise told from error
        self._give_up(actor, NODE_LOST, str(told), ended=True)

    def _unreachable(self, actor: _ActorHandle, error: NodeError) -> None:
        """Handle an actor that cannot answer: its node was lost, or only the actor."""
        alive = actor.key[0] in {node["NodeID"] for node in self._cluster.nodes()}
        if not alive or error.unreachable:
            self._give_up(actor, NODE_LOST, f"node {actor.label} was lost")
        elif self._info is None:
            text = str(error)[-300:]
            raise EngineError(f"node {actor.label} cannot run deepscan: {text}") from error
        else:
            why = f"node {actor.label}: the actor died: {str(error)[:200]}"
            self._give_up(actor, "worker_crash", why, ended=True)

    def _unseen(self, actor: _ActorHandle, task: Task) -> None:
        """Handle a file that a node does not see: retire the node, unless the file is gone."""
        path = task.file.path
        if not is_there(path):
            actor.scan(task, even_if_missing=True)
            return
        self._placement.exclude(actor.key)
        actor.retired = True
        self._waiting.appendleft(task)
        logger.warning(
            "node %s does not see %s and gets no more files: the archive must be there under the "
            "same path",
            actor.label,
            path,
        )
        if all(each.retired for each in self._actors.values()):
            raise EngineError(
                f"no node of the Ray cluster sees {path}: the archive must lie on storage that all "
                "nodes share, under one path"
            )

    def _check_actors(self) -> None:
        now = time.monotonic()
        for actor in list(self._actors.values()):
            allowed = self._heartbeat_timeout
            problem = "did not answer"
            if not actor.placed:
                allowed = max(PLACEMENT_TIMEOUT, allowed)
                problem = "has had no resources for an actor"
            if now - actor.last_answer_at > allowed:
                why = f"node {actor.label} {problem} for {allowed:.0f} s"
                self._give_up(actor, NODE_LOST, why)
        for actor in list(self._ending):
            if now >= actor.ended_by:
                self._ending.remove(actor)
                self._return_tasks(actor)
        if self._info is None:
            return
        if self._placement.check_is_due():
            self._start_actors()
        if self._placement.seconds_without_actors(self._any_ready()) > NO_NODE_TIMEOUT:
            raise EngineError(f"no node of the Ray cluster has worked for {NO_NODE_TIMEOUT:.0f} s")

    def _any_ready(self) -> bool:
        """True if an actor is ready; one that was only requested may never start."""
        return any(actor.info is not None for actor in self._actors.values())

    def _give_up(self, actor: _ActorHandle, code: str, why: str, *, ended: bool = False) -> None:
        """Give up an actor.

        Its tasks are lost at once if its work has `ended` for certain, else when it must have
        exited for lack of contact.
        """
        if self._actors.get(actor.key) is not actor:  # given up for another of its calls
            return
        del self._actors[actor.key]
        self._cluster.kill(actor.actor)
        self._busy = dict(Counter(self._busy) + Counter(actor.busy))
        self._placement.failed(actor.key)
        actor.reason = Reason(code, why)
        logger.warning("%s", why)
        if ended or not actor.tasks:
            self._return_tasks(actor)
        else:
            actor.ended_by = time.monotonic() + 1.2 * self._config["fence"]
            self._ending.append(actor)

    def _return_tasks(self, actor: _ActorHandle) -> None:
        assert actor.reason is not None
        self._events += [TaskLost(task, actor.reason) for task in actor.tasks]
        actor.tasks.clear()

    def _submit_waiting(self) -> None:
        while self._waiting:
            actor = max(self._actors.values(), key=lambda each: each.room, default=None)
            if actor is None or actor.room <= 0:
                return
            actor.scan(self._waiting.popleft())

    def _send_heartbeats(self) -> None:
        """Send heartbeats to the actors, also while the run hashes a large file."""
        while not self._closed.wait(self._heartbeat_timeout / 10):
            for actor in list(self._actors.values()):
                with contextlib.suppress(Exception):  # its other calls will report it
                    actor.actor.heartbeat.remote()


@dataclass(eq=False)
class _ActorHandle:
    """One actor as seen by the run. Times are by the monotonic clock."""

    key: ActorKey
    label: str
    actor: Any
    calls: dict[Any, tuple[str, Task | None]] = field(default_factory=dict)  # pending, by ref
    last_answer_at: float = field(default_factory=time.monotonic)
    placed: bool = False
    info: PoolInfo | None = None  # once it is ready
    retired: bool = False
    reason: Reason | None = None  # why it was given up ...
    ended_by: float = 0.0  # ... and when it must have exited
    tasks: set[Task] = field(default_factory=set)
    busy: dict[str, float] = field(default_factory=dict)

    @property
    def room(self) -> int:
        return 0 if self.info is None or self.retired else self.info.slots - len(self.tasks)

    def call(self, method: str, *args: Any, task: Task | None = None, **values: Any) -> None:
        self.calls[getattr(self.actor, method).remote(*args, **values)] = method, task

    def scan(self, task: Task, *, even_if_missing: bool = False) -> None:
        self.tasks.add(task)
        self.call("scan", task, task=task, even_if_missing=even_if_missing)


class _Placement:
    """Decides which nodes may get an actor, and when. Times are by the monotonic clock."""

    def __init__(self) -> None:
        self._excluded: set[str] = set()
        self._delays: dict[ActorKey, float] = {}  # seconds before the next try
        self._not_before: dict[ActorKey, float] = {}
        self._next_check = 0.0
        self._alone_since: float | None = None

    def allows(self, key: ActorKey) -> bool:
        return key[0] not in self._excluded and time.monotonic() >= self._not_before.get(key, 0.0)

    def exclude(self, key: ActorKey) -> None:
        """Never ask this node again."""
        self._excluded.add(key[0])

    def failed(self, key: ActorKey) -> None:
        """Wait before the next actor there, longer each time."""
        delay = self._delays.get(key, RESTART_DELAY)
        self._delays[key] = min(MAX_RESTART_DELAY, 2 * delay)
        self._not_before[key] = time.monotonic() + delay

    def succeeded(self, key: ActorKey) -> None:
        self._delays.pop(key, None)

    def checked(self) -> None:
        self._next_check = time.monotonic() + NODE_CHECK_INTERVAL

    def check_is_due(self) -> bool:
        return time.monotonic() >= self._next_check

    def seconds_without_actors(self, any_actors: bool) -> float:
        if any_actors:
            self._alone_since = None
            return 0.0
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        return now - self._alone_since


def _short(fact: object) -> str:
    """Shorten a fact for people: the start of a hash is enough."""
    return "missing" if fact is None else str(fact)[:12]
