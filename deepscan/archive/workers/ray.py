"""The crew of a Ray cluster: a model process on each GPU, or on each node that has none.

On every node an actor (ray_actor.py) holds the crew of that machine for one device; this side only
says who gets which task. What an actor writes goes straight to the results folder, which all nodes
share; Ray carries a few hundred bytes a file. An actor that hears nothing from the run ends itself
before the run gives its files to somebody else: no file is ever written by two.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from deepscan import errors
from deepscan.archive.records import Outcome
from deepscan.archive.workers.contract import Crewed, Done, Event, Lost, Progressed, Task
from deepscan.archive.workers.local import CONTROLS, SCANNER, TASK_SILENCE
from deepscan.archive.workers.ray_actor import RUN, Outpost, facts_of, is_there, says
from deepscan.archive.workers.worker import Message, pack, task_to_json, unpack
from deepscan.errors import DeepscanError, EngineError, OutputError, UsageError
from deepscan.options import ScanOptions
from deepscan.types import Reason

logger = logging.getLogger(__name__)

ADDRESS = re.compile(r"ray(://|:)((?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5})")
ADDRESS_HELP = (
    "ray (an instance on this machine), ray:HOST:PORT or ray:auto (a cluster that this machine is "
    "part of) or ray://HOST:PORT (a Ray client's connection)"
)
SILENCE = 60.0  # seconds without a sign of life from an actor that answers every second
LISTEN = 1.0  # seconds that an actor waits for news before it says that there are none
PLACING = 180.0  # seconds for Ray to start an actor: workers import on a busy or cold machine
LOOK_AROUND = 5.0  # seconds between two looks for nodes that came
REST, LONGEST_REST = 1.0, 600.0  # seconds before an actor that failed is started again
NOBODY = 600.0  # seconds without any actor that end the run
OBJECT_STORE = 80 * 2**20  # bytes: Ray's least; nothing large passes through it
NODE_LOST = "node_lost"


class RayCrew:
    """Model processes on the nodes of a Ray cluster; see the contract in contract.py."""

    def __init__(
        self,
        options: ScanOptions,
        *,
        results: Path,
        address: str = "ray",
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
            results: the results folder, under the same path on every node.
            address: as `ADDRESS_HELP` says.
            jobs: files in flight for each device; by default 2 on a CPU, 4 on CUDA.
            devices: what every node runs, one process each: "cpu", or "cuda:0" for any one GPU. By
                default each GPU of the cluster, and if it has none a process on each node.
            scanner: "module:function" that makes a scanner of options and, later, an `engine`.
            controls: "module:function" that scores known crops with an engine and options.
            silence: seconds without a sign of life after which an actor is given up.
            task_silence: seconds without progress of a file after which its process is given up.

        Raises:
            UsageError: such an address cannot be.
        """
        self._place = place_of(address)
        self._options = options
        self._results = results.resolve()
        self._devices = tuple(devices)
        self._silence = silence
        self._order: Message = {
            "options": asdict(options),
            "jobs": jobs,
            "scanner": scanner,
            "controls": controls,
            "level": logging.getLogger("deepscan").getEffectiveLevel(),
            "task_silence": task_silence,
            "fence": silence / 2,
        }
        self._facts: dict[str, str] = {}
        self._token = secrets.token_hex(16)
        # Named as what a killed run leaves: the next run sweeps it away.
        self._marks = self._results / f".nodes.tmp.{os.getpid()}"
        self._ray: Any = None
        self._own: Path | None = None  # the folder of a Ray instance that is ours
        self._connected = False
        self._posts: dict[tuple[str, int], _Post] = {}
        self._leaving: list[_Post] = []
        self._waiting: deque[Task] = deque()
        self._events: list[Event] = []
        self._busy: dict[str, float] = {}  # of actors that are gone
        self._engine: str | None = None
        self._on_gpus = False
        self._started = False
        self._unfit: set[str] = set()  # nodes that nobody asks again
        self._rests: dict[tuple[str, int], float] = {}  # seconds before the next try
        self._not_before: dict[tuple[str, int], float] = {}
        self._look_at = 0.0
        self._alone_since: float | None = None
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> Crewed:
        """Connect, start an actor for each device and wait until all of them stand.

        Raises:
            UsageError: Ray is missing, the cluster cannot be reached, or a node does not see the
                results folder, or has another deepscan or other weights.
            EngineError, ModelError: no network can run on one of the nodes.
        """
        self._facts = facts_of(self._options.model)
        self._connect()
        self._mark()
        self._on_gpus = self._choose_gpus()
        self._recruit()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        if not self._posts:
            what = "GPU" if self._on_gpus else "CPU"
            raise EngineError(
                f"no node of the Ray cluster offers a {what}: see `ray status`, or name the device"
            )
        while any(post.ready is None for post in self._posts.values()):
            self._attend(0.5)
        if not self._posts:
            raise EngineError("no node of the Ray cluster could start a model process: see the log")
        self._started = True
        self._events.clear()
        posts = [self._posts[key] for key in sorted(self._posts)]
        ready = [(post.label, post.ready) for post in posts if post.ready is not None]
        engines = sorted({str(each["engine"]) for _, each in ready})
        if len(engines) > 1:
            told = ", ".join(f"{label}: {each['engine']}" for label, each in ready)
            raise EngineError(
                f"the nodes run different engines ({told}), whose results do not belong together: "
                "name one with --engine"
            )
        self._engine = engines[0]
        scores = [(label, tuple((n, s) for n, s in each["controls"])) for label, each in ready]
        agree = len({given for _, given in scores}) == 1
        return Crewed(
            engine=self._engine,
            engine_reason=ready[0][1]["why"],
            slots=sum(each["slots"] for _, each in ready),
            controls=scores[0][1]
            if agree
            else tuple((f"{label} {n}", score) for label, given in scores for n, score in given),
            controls_passed=all(each["passed"] for _, each in ready),
        )

    def submit(self, task: Task) -> None:
        """Give a task to the actor with most room; it waits here if a node has gone."""
        self._waiting.append(task)
        self._hand_out()

    def wait(self, timeout: float) -> list[Event]:
        """What has happened; at least one event unless the time passes.

        Raises:
            EngineError: no actor stands any more, or the cluster has gone.
        """
        until = time.monotonic() + timeout
        while True:
            self._attend(0.0 if self._events else max(0.0, min(until - time.monotonic(), 0.5)))
            if self._events or time.monotonic() >= until:
                events, self._events = self._events, []
                return events

    def busy(self) -> dict[str, float]:
        """Seconds of work by stage over all tasks that are done."""
        total = dict(self._busy)
        for post in self._posts.values():
            _add(total, post.busy)
        return total

    def close(self) -> None:
        """Kill every actor, whose processes end with it, and a Ray instance that is ours."""
        self._closed.set()
        for post in self._posts.values():
            self._kill(post)
        self._posts.clear()
        self._leaving.clear()
        if self._connected:
            self._connected = False
            try:
                self._ray.shutdown()
            except Exception:  # its processes are its children, and end with this one
                logger.warning("Ray did not shut down cleanly", exc_info=True)
        shutil.rmtree(self._marks, ignore_errors=True)
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            self._own = None

    # The cluster

    def _connect(self) -> None:
        """Join the cluster, or start an instance; nothing is reported to anybody."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # Who hides GPUs from an actor without one: the crew there does it; else Ray warns of it.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self._ray = ray = _import_ray()
        if ray.is_initialized():
            return  # by the program that we are part of: it will shut it down
        wanted: dict[str, Any] = {"address": self._place, "log_to_driver": False}
        if self._place == "local":
            self._own = Path(tempfile.mkdtemp(prefix="deepscan-ray-"))
            wanted |= {
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE,
                "_temp_dir": os.fspath(self._own),
            }
        handler = None
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(logging_level=logging.ERROR, **wanted)
        except ImportError as error:
            raise UsageError(
                f"{self._place}: a client's connection needs more of Ray ({error}): pip install "
                "'ray[client]', or run on a node of the cluster with --cluster ray:auto"
            ) from error
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            why = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(
                f"the Ray cluster {self._place} cannot be reached: {why[0][:300]}. Give "
                f"{ADDRESS_HELP}"
            ) from error
        finally:
            if handler is not None:  # Ray puts its own in the place of whoever runs this
                signal.signal(signal.SIGTERM, handler)
        self._connected = True

    def _nodes(self) -> list[dict[str, Any]]:
        try:
            nodes: list[dict[str, Any]] = self._ray.nodes()
        except Exception as error:  # Ray has no one class for a lost connection
            raise EngineError(f"the Ray cluster has gone: {error}") from error
        return [node for node in nodes if node["Alive"]]

    def _choose_gpus(self) -> bool:
        if self._devices:
            kinds = {device.partition(":")[0] for device in self._devices}
            if len(kinds) > 1:
                raise UsageError(
                    "on a cluster all devices are of one kind: --device cpu, or --device cuda:0"
                )
            return kinds == {"cuda"}
        engine = self._options.engine
        if engine.startswith("openvino") or "-cpu" in engine:
            return False
        if engine.startswith("tensorrt") or "cuda" in engine:
            return True
        return any(node["Resources"].get("GPU", 0) >= 1 for node in self._nodes())

    def _shares(self, node: dict[str, Any]) -> tuple[int, int]:
        """How many actors a node takes, and how many CPUs each of them claims."""
        resources = node["Resources"]
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if self._on_gpus:
            count = min(gpus, len(self._devices) or gpus)
            return count, cpus // gpus if gpus else 0
        count = min(cpus, len(self._devices) or 1)
        return count, cpus // count if count else 0

    def _recruit(self) -> None:
        """Start actors where a node has none: at first, and when nodes come or come back."""
        now = time.monotonic()
        self._look_at = now + LOOK_AROUND
        nodes = self._nodes()
        addresses = Counter(node["NodeManagerAddress"] for node in nodes)
        for node in nodes:
            if node["NodeID"] in self._unfit:
                continue
            name = node["NodeManagerAddress"]
            if addresses[name] > 1:
                name += f"/{node['NodeID'][:8]}"
            count, cpus = self._shares(node)
            for place in range(count):
                key = (node["NodeID"], place)
                if key not in self._posts and now >= self._not_before.get(key, 0.0):
                    label = name + (f"#{place + 1}" if count > 1 else "")
                    self._posts[key] = self._post(key, label, cpus)

    def _post(self, key: tuple[str, int], label: str, cpus: int) -> _Post:
        strategies = self._ray.util.scheduling_strategies
        post = _Post(key, label, actor=None)
        order = {
            **self._order,
            "device": "cuda:0" if self._on_gpus else "cpu",
            "marks": os.fspath(self._marks),
            "mark": f"{key[0]}-{key[1]}-{secrets.token_hex(4)}",
            "token": self._token,
        }
        post.actor = (
            self._ray.remote(Outpost)
            .options(
                num_cpus=cpus,
                num_gpus=1 if self._on_gpus else 0,
                max_restarts=0,
                max_concurrency=2,  # one call listens, one brings a task
                scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(key[0], soft=False),
            )
            .remote(pack({"kind": "order", **order}))
        )
        post.listen()
        return post

    # The storage

    def _mark(self) -> None:
        """Leave a word in the results folder, for every node to find."""
        try:
            self._marks.mkdir(parents=True, exist_ok=True)
            (self._marks / RUN).write_text(self._token)
        except OSError as error:
            raise OutputError(f"{self._marks} cannot be written: {error.strerror}") from error

    def _check_mark(self, post: _Post, name: str) -> None:
        """See whether a node's word has come.

        Raises:
            UsageError: it has not.
        """
        if not says(self._marks / Path(name).name, self._token):
            raise UsageError(
                f"node {post.label} wrote into {self._results}, and nothing of it is seen here: "
                "the results folder must lie on storage that all nodes share, under one path"
            )

    # The actors

    def _attend(self, timeout: float) -> None:
        """Listen for that long at most, then look after the actors."""
        refs = {post.ref: post for post in self._posts.values() if post.ref is not None}
        ready: list[Any] = []
        if refs:
            ready, rest = self._wait_for(list(refs), 1, timeout)
            if ready and rest:
                ready += self._wait_for(rest, len(rest), 0.0)[0]
        else:
            time.sleep(timeout)
        for ref in ready:
            post = refs[ref]
            if self._posts.get(post.key) is not post:  # it was given up a moment ago
                continue
            try:
                heard = bytearray(self._ray.get(ref))
            except self._ray.exceptions.RayError as error:
                self._broken(post, error)
                continue
            post.heard_at, post.placed = time.monotonic(), True
            for message in unpack(heard):
                self._take(post, message)
            if self._posts.get(post.key) is post:
                post.listen()
        self._look_after()
        self._hand_out()

    def _wait_for(self, refs: list[Any], count: int, timeout: float) -> tuple[list[Any], list[Any]]:
        try:
            ready, rest = self._ray.wait(refs, num_returns=count, timeout=timeout)
        except Exception as error:  # Ray has no one class for a lost connection
            raise EngineError(f"the Ray cluster has gone: {error}") from error
        return list(ready), list(rest)

    def _beat(self) -> None:
        """Let the actors know that the run lives, also while it hashes a large file."""
        while not self._closed.wait(self._silence / 10):
            for post in list(self._posts.values()):
                with contextlib.suppress(Exception):  # who waits for the actor will see it
                    post.actor.beat.remote()

    def _look_after(self) -> None:
        now = time.monotonic()
        for post in list(self._posts.values()):
            allowed = self._silence if post.placed else max(PLACING, self._silence)
            if now - post.heard_at > allowed:
                why = (
                    f"node {post.label} said nothing for {allowed:.0f} s"
                    if post.placed
                    else f"node {post.label} has had no room for an actor for {allowed:.0f} s"
                )
                self._lose(post, NODE_LOST, why)
        for post in list(self._leaving):
            if now >= post.ended_by:
                self._leaving.remove(post)
                self._give_back(post)
        if self._started and now >= self._look_at:
            self._recruit()
        if self._posts:
            self._alone_since = None
        elif self._started:
            self._alone_since = self._alone_since or now
            if now - self._alone_since > NOBODY:
                raise EngineError(f"no node of the Ray cluster has worked for {NOBODY:.0f} s")

    def _take(self, post: _Post, message: Message) -> None:
        kind = message["kind"]
        if kind == "facts":
            self._rejecting(post, lambda: self._check_facts(post, message))
        elif kind == "ready":
            self._rejecting(post, lambda: self._check_ready(post, message))
        elif kind == "refused":
            self._refused(post, message)
        elif kind == "log":
            logger.log(message["level"], "node %s: %s", post.label, message["text"])
        elif kind == "busy":
            post.busy = message["seconds"]
        elif kind == "unseen" and message["number"] in post.tasks:
            self._unseen(post, message["number"])
        elif kind == "progressed" and message["number"] in post.tasks:
            values = {k: message[k] for k in ("stage", "frames", "time", "duration")}
            self._events.append(Progressed(post.tasks[message["number"]], **values))
        elif kind == "done" and message["number"] in post.tasks:
            task = post.tasks.pop(message["number"])
            self._events.append(Done(task, Outcome.from_json(message["outcome"])))
        elif kind == "lost" and message["number"] in post.tasks:
            task = post.tasks.pop(message["number"])
            text = f"node {post.label}: {message['text']}"
            self._events.append(Lost(task, Reason(message["code"], text)))

    def _rejecting(self, post: _Post, check: Callable[[], None]) -> None:
        """An error of a node ends the start; later the run goes on without that node."""
        try:
            check()
        except DeepscanError as error:
            if not self._started:
                raise
            self._unfit.add(post.key[0])
            self._lose(post, NODE_LOST, f"{error}; the run goes on without it", ended=True)

    def _check_facts(self, post: _Post, message: Message) -> None:
        ours, theirs = self._facts, message["facts"]
        differ = [name for name in ours if theirs.get(name) != ours[name]]
        if differ:
            told = "; ".join(
                f"{name} {_short(theirs.get(name))} there, {_short(ours[name])} here"
                for name in differ
            )
            raise UsageError(
                f"node {post.label} would give other results: {told}. Install the same on all nodes"
            )
        self._check_mark(post, message["mark"])

    def _check_ready(self, post: _Post, message: Message) -> None:
        if self._engine is not None and message["engine"] != self._engine:
            raise EngineError(
                f"node {post.label} runs the engine {message['engine']}, the others {self._engine}"
            )
        if self._engine is not None and not message["passed"]:
            raise EngineError(f"node {post.label} does not score known crops as it should")
        post.ready = message
        self._rests.pop(post.key, None)

    def _refused(self, post: _Post, message: Message) -> None:
        """The actor's crew cannot work, or not any more; none of its processes is left."""
        kind = getattr(errors, message["error"], EngineError)
        if not (isinstance(kind, type) and issubclass(kind, DeepscanError)):
            kind = EngineError
        error: DeepscanError
        try:
            error = kind(f"node {post.label}: {message['text']}")
        except TypeError:  # one with more arguments
            error = EngineError(f"node {post.label}: {message['text']}")
        if not self._started or len(self._posts) == 1:
            raise error
        self._lose(post, NODE_LOST, str(error), ended=True)

    def _unseen(self, post: _Post, number: int) -> None:
        """A node does not see a file: it is not asked again, unless the file is really gone."""
        task = post.tasks.pop(number)
        if not is_there(task.item.path):
            post.give(task, sure=True)
            return
        self._unfit.add(post.key[0])
        post.retired = True
        self._waiting.appendleft(task)
        logger.warning(
            "node %s does not see %s and gets no more files: the archive must be there under the "
            "same path",
            post.label,
            task.item.path,
        )
        if all(each.retired for each in self._posts.values()):
            raise EngineError(
                f"no node of the Ray cluster sees {task.item.path}: the archive must lie on "
                "storage that all nodes share, under one path"
            )

    def _broken(self, post: _Post, error: Exception) -> None:
        """Ray says that an actor cannot answer: the node went, or only the actor on it."""
        text = " ".join(str(error).split())
        there = post.key[0] in {node["NodeID"] for node in self._nodes()}
        if not there or isinstance(error, self._ray.exceptions.ActorUnavailableError):
            self._lose(post, NODE_LOST, f"node {post.label} was lost")
        elif not self._started:
            raise EngineError(f"node {post.label} cannot run deepscan: {text[-300:]}") from error
        else:
            why = f"node {post.label}: the actor died: {text[:200]}"
            self._lose(post, "worker_crash", why, ended=True)

    def _lose(self, post: _Post, code: str, why: str, *, ended: bool = False) -> None:
        """Give an actor up.

        Its tasks come back at once if its work has surely `ended`, else when it has ended itself
        for want of a word from here.
        """
        del self._posts[post.key]
        self._kill(post)
        _add(self._busy, post.busy)
        rest = self._rests.get(post.key, REST)
        self._rests[post.key] = min(LONGEST_REST, 2 * rest)
        self._not_before[post.key] = time.monotonic() + rest
        post.reason = Reason(code, why)
        logger.warning("%s", why)
        if ended or not post.tasks:
            self._give_back(post)
        else:
            post.ended_by = time.monotonic() + 1.2 * self._order["fence"]
            self._leaving.append(post)

    def _give_back(self, post: _Post) -> None:
        assert post.reason is not None
        self._events += [Lost(task, post.reason) for task in post.tasks.values()]
        post.tasks.clear()

    def _hand_out(self) -> None:
        while self._waiting:
            post = max(self._posts.values(), key=lambda each: each.room, default=None)
            if post is None or post.room <= 0:
                return
            post.give(self._waiting.popleft())

    def _kill(self, post: _Post) -> None:
        try:
            self._ray.kill(post.actor, no_restart=True)
        except Exception as error:  # with its node or the cluster it has gone already
            logger.debug("node %s: %s", post.label, error)


@dataclass(eq=False)
class _Post:
    """One actor as the run sees it. Moments are by the monotonic clock."""

    key: tuple[str, int]  # node and place on it
    label: str
    actor: Any
    ref: Any = None  # of the answer that is awaited
    heard_at: float = field(default_factory=time.monotonic)
    placed: bool = False
    ready: Message | None = None
    retired: bool = False
    reason: Reason | None = None  # why it was given up ...
    ended_by: float = 0.0  # ... and when it has surely ended itself
    tasks: dict[int, Task] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)
    numbers: int = 0

    @property
    def room(self) -> int:
        if self.ready is None or self.retired:
            return 0
        return int(self.ready["slots"]) - len(self.tasks)

    def listen(self) -> None:
        self.ref = self.actor.listen.remote(LISTEN)

    def give(self, task: Task, *, sure: bool = False) -> None:
        """Hand a task over; `sure` if its file is to be scanned even if it is not there."""
        self.numbers += 1
        self.tasks[self.numbers] = task
        message = {"kind": "task", "number": self.numbers, "sure": sure, "task": task_to_json(task)}
        self.actor.submit.remote(pack(message))  # if it fails, listening will fail too


def place_of(address: str) -> str:
    """What Ray calls the cluster that `--cluster` names: "local", "auto", "host:port", "ray://...".

    Raises:
        UsageError: it is none of these.
    """
    if address == "ray":
        return "local"
    if address == "ray:auto":
        return "auto"
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise UsageError(f"no cluster {address!r}: give {ADDRESS_HELP}")
    return address if found[1] == "://" else found[2]


def _short(fact: object) -> str:
    """A fact for people: the front of a hash is enough."""
    return "missing" if fact is None else str(fact)[:12]


def _add(total: dict[str, float], more: dict[str, float]) -> None:
    for stage, seconds in more.items():
        total[stage] = total.get(stage, 0.0) + seconds


def _import_ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise UsageError(
            f"--cluster needs Ray ({error}): pip install '.[cluster]' in deepscan's checkout"
        ) from error
