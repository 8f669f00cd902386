"""The pool of a cluster: what it does about nodes that differ, go, come back or say nothing.

Most of it is tried on a Ray that is played here; the slow tests start real ones.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from deepscan.archive.journal import read_journal
from deepscan.archive.options import ArchiveOptions
from deepscan.archive.run import scan_archive
from deepscan.archive.workers import ray, ray_actor, ray_cluster
from deepscan.archive.workers.contract import PoolInfo, PoolSettings, TaskDone, TaskLost
from deepscan.archive.workers.local import LocalPool
from deepscan.archive.workers.ray import RayPool
from deepscan.archive.workers.ray_actor import ScanActor, facts_of
from deepscan.archive.workers.ray_cluster import ray_address
from deepscan.archive.workers.worker import error_outcome
from deepscan.errors import EngineError, LimitError, ModelError, UsageError
from deepscan.options import DEFAULT_MODEL, ScanOptions
from deepscan.types import Reason
from tests.archive.workers.test_local import CONTROLS, FAKE, alive, children_of, task_of
from tests.conftest import make_face_clip

ROOT = Path(__file__).parents[3]
REASON = Reason("corrupt", "a test")
FACTS = facts_of(DEFAULT_MODEL)


# A Ray that is played


class RayError(Exception):
    pass


class ActorDiedError(RayError):
    pass


class ActorUnavailableError(RayError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(f"a traceback: {cause}")
        self.cause = cause


@dataclass(eq=False)
class Node:
    """A node as a test plays it: what its actors give, and what is done to them."""

    name: str
    address: str | None = None
    cpus: int = 1
    gpus: int = 0
    engine: str = "fake"
    passed: bool = True
    score: float = 0.9
    facts: dict = field(default_factory=dict)
    fails: Exception | None = None  # what starting the engine raises
    marks: bool = True
    sees: bool = True
    alive: bool = True
    error: RayError | None = None  # what becomes of calls
    silent: bool = False
    actors: list = field(default_factory=list)


@dataclass(eq=False)
class Call:
    """A call of an actor under way; it has ended once it has a value or an error."""

    node: Node
    ended: bool = False
    value: object = None
    error: Exception | None = None

    def end(self, value=None, error=None):
        self.ended, self.value, self.error = True, value, error
        return self


class Actor:
    """Plays a ScanActor: gives what its node is told to give, finishes tasks when it is told to."""

    def __init__(self, node, config):
        self.config, self.node = config, node
        self.tasks, self.killed, self.heartbeats, self.asked = {}, False, 0, []
        for name in ("check", "start", "scan", "news", "heartbeat"):
            setattr(self, name, SimpleNamespace(remote=getattr(self, f"_{name}")))
        node.actors.append(self)
        marks = Path(config["marks"])
        assert (marks / "run").read_text() == config["token"]
        if node.marks:
            (marks / config["mark"]).write_text(config["token"])

    def _check(self):
        return Call(self.node).end(({**FACTS, **self.node.facts}, self.config["mark"]))

    def _start(self):
        node = self.node
        if node.fails:
            return Call(node).end(error=RayTaskError(node.fails))
        controls = (("known", node.score),)
        slots = self.config["jobs"]
        return Call(node).end(PoolInfo(node.engine, "played", slots, controls, node.passed))

    def _scan(self, task, *, even_if_missing):
        call = Call(self.node)
        if not self.node.sees and not even_if_missing:
            return call.end(None)
        self.tasks[task] = call
        return call

    def _news(self, timeout):
        self.asked.append(Call(self.node))
        return self.asked[-1]

    def _heartbeat(self):
        self.heartbeats += 1

    def say_nothing_new(self):
        for call in self.asked:
            call.end(([], []))

    def finish(self):
        for task, call in self.tasks.items():
            call.end((TaskDone(task, error_outcome(task, REASON)), {"network": 1.0}))
        self.tasks.clear()


class PlayedRay:
    """As much of Ray as the pool asks for."""

    exceptions = SimpleNamespace(
        RayError=RayError,
        RayTaskError=RayTaskError,
        ActorDiedError=ActorDiedError,
        ActorUnavailableError=ActorUnavailableError,
    )
    util = SimpleNamespace(
        scheduling_strategies=SimpleNamespace(
            NodeAffinitySchedulingStrategy=lambda node, soft: node
        )
    )

    def __init__(self, *nodes):
        self.played = {node.name: node for node in nodes}
        self.claims = []

    def is_initialized(self):
        return True

    def nodes(self):
        return [
            {
                "NodeID": node.name,
                "Alive": node.alive,
                "NodeManagerAddress": node.address or node.name,
                "Resources": {"CPU": float(node.cpus), "GPU": float(node.gpus)},
            }
            for node in self.played.values()
        ]

    def remote(self, kind):
        assert kind is ScanActor
        return self

    def options(self, *, scheduling_strategy, **claims):
        assert claims["max_restarts"] == claims["max_task_retries"] == 0
        self.claims.append((scheduling_strategy, claims["num_cpus"], claims["num_gpus"]))
        node = self.played[scheduling_strategy]
        return SimpleNamespace(remote=lambda config: Actor(node, config))

    def wait(self, calls, *, num_returns, timeout):
        ready = [c for c in calls if (c.ended or c.node.error) and not c.node.silent]
        if not ready:
            time.sleep(min(timeout, 0.02))
        ready = ready[:num_returns]
        return ready, [call for call in calls if call not in ready]

    def get(self, call):
        if call.node.error or call.error:
            raise call.node.error or call.error
        return call.value

    def kill(self, actor, *, no_restart):
        actor.killed = True


@pytest.fixture
def pool_on(tmp_path, monkeypatch):
    """Makes a pool on nodes that are played."""
    monkeypatch.setattr(ray_actor, "VISIBLE", 0.3)
    monkeypatch.setattr(ray, "NODE_CHECK_INTERVAL", 0.05)
    monkeypatch.setattr(ray, "RESTART_DELAY", 0.05)
    pools = []
    (tmp_path / "out").mkdir()

    def make(*nodes, options=None, **wanted):
        monkeypatch.setattr(ray_cluster, "_import_ray", lambda: PlayedRay(*nodes))
        settings = PoolSettings(options or ScanOptions(), **{"jobs": 1, **wanted})
        pools.append(RayPool(settings, results=tmp_path / "out"))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def tasks(tmp_path):
    made = []
    for number in range(4):
        path = tmp_path / f"f{number}.mp4"
        path.write_bytes(b"x")
        made.append(task_of(path, tmp_path / "out" / str(number)))
    return made


def ends_of(pool, count, seconds=5.0):
    """The ends that come until there are so many."""
    ends, until = [], time.monotonic() + seconds
    while len(ends) < count:
        assert time.monotonic() < until, ends
        ends += [event for event in pool.wait(0.1) if isinstance(event, TaskDone | TaskLost)]
    return ends


# Addresses, and a Ray that is not there


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("ray", "local"), ("ray:auto", "auto"), ("ray:head:6379", "head:6379"),
        ("ray:[fe80::1]:6379", "[fe80::1]:6379"), ("ray://10.0.0.1:10001", "ray://10.0.0.1:10001"),
    ],
)  # fmt: skip
def test_addresses(given, place):
    assert ray_address(given) == place


@pytest.mark.parametrize(
    "given",
    ["", "rays", "rayhead:1", "ray:", "ray://", "ray:head", "ray://auto", "slurm", "ray:a:b"],
)
def test_what_is_no_address(given, tmp_path):
    with pytest.raises(UsageError, match="ray://HOST:PORT"):
        RayPool(PoolSettings(ScanOptions()), results=tmp_path, address=given)


def test_a_missing_ray_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UsageError, match=r"pip install '\.\[cluster\]'"),
        RayPool(PoolSettings(ScanOptions()), results=tmp_path) as pool,
    ):
        pool.start()


def test_nothing_is_reported_to_anybody(pool_on, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    pool_on(Node("a")).start()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


# Who takes part


def test_every_node_without_gpus_has_one_actor(pool_on):
    pool = pool_on(Node("a", cpus=8), Node("b", cpus=2), Node("c", cpus=0), jobs=3)
    assert pool.start().slots == 6
    assert pool._cluster._ray.claims == [("a", 8, 0), ("b", 2, 0)]


def test_where_there_are_gpus_each_has_an_actor(pool_on):
    a, b = Node("a", cpus=9, gpus=2), Node("b", cpus=64)
    pool = pool_on(a, b)
    assert pool.start().slots == 2
    assert pool._cluster._ray.claims == [("a", 4, 1), ("a", 4, 1)]
    assert {actor.config["device"] for actor in a.actors} == {"cuda:0"}


@pytest.mark.parametrize(
    ("engine", "devices"), [("openvino", ()), ("torch-cpu-fp32", ()), ("auto", ("cpu",))]
)
def test_gpus_are_left_alone_if_something_else_is_asked_for(pool_on, engine, devices):
    node = Node("a", cpus=4, gpus=2)
    pool_on(node, options=ScanOptions(engine=engine), devices=devices).start()
    assert [actor.config["device"] for actor in node.actors] == ["cpu"]


def test_two_nodes_may_have_one_address(pool_on):
    nodes = Node("a", "10.0.0.1"), Node("b", "10.0.0.1", score=0.2)
    pool_info = pool_on(*nodes).start()
    assert pool_info.slots == 2
    assert pool_info.controls == (("10.0.0.1/a known", 0.9), ("10.0.0.1/b known", 0.2))


def test_two_devices_are_two_actors_on_every_node(pool_on):
    pool = pool_on(Node("a", cpus=8), Node("b", cpus=1), devices=("cpu", "cpu"))
    assert pool.start().slots == 3
    assert pool._cluster._ray.claims == [("a", 4, 0), ("a", 4, 0), ("b", 1, 0)]


@pytest.mark.parametrize(
    "wanted", [{"options": ScanOptions(engine="tensorrt")}, {"devices": ("cuda",)}]
)
def test_a_cluster_without_what_is_asked_for(pool_on, wanted):
    with pytest.raises(EngineError, match="offers a GPU"):
        pool_on(Node("a"), **wanted).start()


# Nodes that must not take part


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"deepscan": "0.0.9"}, "deepscan 0.0.9 there, "),
        (
            {f"weights of {DEFAULT_MODEL}": "f" * 64},
            f"weights of {DEFAULT_MODEL} ffffffffffff there",
        ),
        ({"torch": "1.0"}, "torch 1.0 there"),
        ({"source": "0" * 64}, "source 000000000000 there"),
    ],
)
def test_a_node_that_would_give_other_results_is_named(pool_on, facts, words):
    with pytest.raises(UsageError, match=f"node b .*{words}"):
        pool_on(Node("a"), Node("b", facts=facts)).start()


def test_a_node_that_does_not_share_the_results_folder_is_named(pool_on):
    with pytest.raises(UsageError, match=r"node b wrote .* storage that all nodes share"):
        pool_on(Node("a"), Node("b", marks=False)).start()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EngineError("no GPU driver"), EngineError),
        (ModelError("no GPU driver"), ModelError),
        (LimitError("limit_size", "no GPU driver"), EngineError),
        (OSError("no GPU driver"), EngineError),
    ],
)
def test_what_a_node_raises_is_told_with_its_name(pool_on, error, kind):
    with pytest.raises(kind, match="node a: no GPU driver"):
        pool_on(Node("a", fails=error)).start()


def test_nodes_with_different_engines_do_not_belong_together(pool_on):
    with pytest.raises(EngineError, match=r"a: fake, b: other.*--engine"):
        pool_on(Node("a"), Node("b", engine="other")).start()


def test_known_crops_are_told_once_where_all_agree(pool_on):
    assert pool_on(Node("a"), Node("b")).start().controls == (("known", 0.9),)


def test_known_crops_are_told_by_node_where_they_differ(pool_on):
    pool_info = pool_on(Node("a"), Node("b", score=0.2, passed=False)).start()
    assert pool_info.controls == (("a known", 0.9), ("b known", 0.2))
    assert not pool_info.controls_passed


# Nodes that go


def test_the_files_of_a_node_that_goes_come_back_when_it_can_write_no_more(pool_on, tasks):
    a, b = Node("a"), Node("b")
    pool = pool_on(a, b, heartbeat_timeout=1.0)
    pool.start()
    for task in tasks[:2]:
        pool.submit(task)
    a.alive, a.error = False, ActorDiedError("its node died")
    b.actors[0].finish()
    (done,) = ends_of(pool, 1)
    assert isinstance(done, TaskDone)
    began = time.monotonic()
    (lost,) = ends_of(pool, 1)
    assert time.monotonic() - began > 0.4  # the fence of half the timeout
    assert isinstance(lost, TaskLost)
    assert (lost.reason.code, lost.reason.text) == ("node_lost", "node a was lost")
    assert a.actors[0].killed and len(a.actors) == 1
    pool.submit(lost.task)
    assert list(b.actors[0].tasks) == [lost.task]


def test_a_node_that_says_nothing_is_given_up(pool_on, tasks):
    a, b = Node("a"), Node("b")
    pool = pool_on(a, b, heartbeat_timeout=0.5)
    pool.start()
    pool.submit(tasks[0])
    worker = next(node for node in (a, b) if node.actors[0].tasks)
    other = b if worker is a else a
    worker.silent = True
    other.error = None
    ends, until = [], time.monotonic() + 5
    while not ends and time.monotonic() < until:
        other.actors[-1].say_nothing_new()
        ends += [event for event in pool.wait(0.05) if isinstance(event, TaskLost)]
    assert ends[0].reason.code == "node_lost" and "did not answer" in ends[0].reason.text
    assert worker.actors[0].killed


def test_an_actor_that_dies_on_a_living_node_is_replaced(pool_on, tasks):
    node = Node("a")
    pool = pool_on(node, heartbeat_timeout=5.0)
    pool.start()
    pool.submit(tasks[0])
    node.error = ActorDiedError("killed for its memory")
    (lost,) = ends_of(pool, 1)
    assert lost.reason.code == "worker_crash" and "killed for its memory" in lost.reason.text
    node.error = None
    pool.submit(tasks[1])
    while len(node.actors) < 2 or not node.actors[1].tasks:
        pool.wait(0.05)
    node.actors[1].finish()
    (done,) = ends_of(pool, 1)
    assert done.task == tasks[1]
    assert pool.busy() == {"network": 1.0}


def test_a_node_that_comes_later_takes_part(pool_on, tasks):
    a, b = Node("a"), Node("b", alive=False)
    pool = pool_on(a, b, jobs=2)
    pool.start()
    for task in tasks[:2]:
        pool.submit(task)
    assert len(a.actors[0].tasks) == 2
    b.alive, a.alive, a.error = True, False, ActorDiedError("its node died")
    pool._heartbeat_timeout, pool._config["fence"] = 1.0, 0.1
    for lost in ends_of(pool, 2):
        pool.submit(lost.task)
    while not b.actors or len(b.actors[0].tasks) < 2:
        pool.wait(0.05)
    b.actors[0].finish()
    assert {event.task for event in ends_of(pool, 2)} == set(tasks[:2])


@pytest.mark.parametrize(
    "odd", [{"engine": "other"}, {"passed": False}, {"facts": {"deepscan": "9"}}, {"marks": False}]
)
def test_a_node_that_comes_later_and_does_not_fit_is_left_out(pool_on, odd, caplog):
    a, b = Node("a"), Node("b", alive=False, **odd)
    pool = pool_on(a, b)
    pool.start()
    b.alive = True
    until = time.monotonic() + 5
    while not (b.actors and b.actors[0].killed):
        assert time.monotonic() < until
        pool.wait(0.05)
    pool.wait(0.2)
    assert len(b.actors) == 1 and "node b" in caplog.text and "continues without it" in caplog.text


def test_a_node_that_does_not_see_the_archive_gets_no_more_files(pool_on, tasks, caplog):
    a, b = Node("a", sees=False), Node("b")
    pool = pool_on(a, b)
    pool.start()
    for task in tasks[:2]:
        pool.submit(task)
    done = []
    while len(done) < 2:
        b.actors[0].finish()
        done += [event for event in pool.wait(0.1) if isinstance(event, TaskDone)]
    assert {event.task for event in done} == set(tasks[:2])
    assert "node a does not see" in caplog.text and not a.actors[0].tasks


def test_no_node_sees_the_archive(pool_on, tasks):
    pool = pool_on(Node("a", sees=False))
    pool.start()
    pool.submit(tasks[0])
    with pytest.raises(EngineError, match="no node of the Ray cluster sees"):
        ends_of(pool, 1)


def test_a_file_that_is_gone_is_not_the_nodes_fault(pool_on, tasks):
    node = Node("a", sees=False)
    pool = pool_on(node)
    pool.start()
    tasks[0].file.path.unlink()
    pool.submit(tasks[0])
    while not node.actors[0].tasks:
        pool.wait(0.05)
    node.actors[0].finish()
    assert isinstance(ends_of(pool, 1)[0], TaskDone)


def test_a_run_without_any_node_ends(pool_on, tasks, monkeypatch):
    monkeypatch.setattr(ray, "NO_NODE_TIMEOUT", 0.3)
    node = Node("a")
    pool = pool_on(node)
    pool.start()
    node.alive, node.error = False, ActorDiedError("its node died")
    with pytest.raises(EngineError, match="no node of the Ray cluster has worked"):
        ends_of(pool, 1)


def test_a_run_whose_nodes_say_nothing_ends_though_they_are_alive(pool_on, tasks, monkeypatch):
    """As it is where the way to them is lost: actors are asked for again and again."""
    monkeypatch.setattr(ray, "NO_NODE_TIMEOUT", 1.0)
    monkeypatch.setattr(ray, "PLACEMENT_TIMEOUT", 0.2)
    node = Node("a")
    pool = pool_on(node, heartbeat_timeout=0.2)
    pool.start()
    node.silent = True
    with pytest.raises(EngineError, match="no node of the Ray cluster has worked"):
        ends_of(pool, 1)
    assert len(node.actors) > 2


def test_a_run_without_its_own_node_ends(pool_on, tasks):
    own, other = Node("own"), Node("other")
    pool = pool_on(own, other)
    pool.start()
    pool._cluster._own_node = "own"
    own.alive = False
    with pytest.raises(EngineError, match="own node of the Ray cluster was lost"):
        ends_of(pool, 1)


@pytest.mark.parametrize("address", ["ray:127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_nothing_answers_at_an_address(address, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_cluster, "CONNECT_TIMEOUT", 3.0)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody listens there
        pool = RayPool(
            PoolSettings(ScanOptions()),
            results=tmp_path,
            address=address.format(held.getsockname()[1]),
        )
        with pytest.raises(UsageError, match="no Ray cluster answers at"):
            pool.start()


def test_actors_hear_that_the_run_lives_while_it_does_something_else(pool_on):
    node = Node("a")
    pool_on(node, heartbeat_timeout=0.5).start()
    time.sleep(0.5)
    assert node.actors[0].heartbeats >= 2


# The actor, without Ray


def config_of(folder, **wanted):
    pool = RayPool(
        PoolSettings(
            ScanOptions(), jobs=1, scanner=FAKE, controls=CONTROLS, heartbeat_timeout=600.0
        ),
        results=folder,
    )
    return {**pool._config, "marks": str(folder), "mark": "m", "token": "t", **wanted}


@pytest.fixture
def end(monkeypatch):
    """Lets an actor of this process tell that it would end the process."""
    codes = []
    monkeypatch.setattr(ray_actor.os, "_exit", codes.append)
    monkeypatch.setattr(ray_actor, "VISIBLE", 0.3)
    return codes


def test_an_actor_leaves_its_mark_and_scans(tmp_path, end):
    (tmp_path / "run").write_text("t")
    actor = ScanActor(config_of(tmp_path))
    try:
        assert actor.check() == (facts_of(DEFAULT_MODEL), "m")
        assert (tmp_path / "m").read_text() == "t"
        info = actor.start()
        assert (info.engine, info.slots, info.controls_passed) == ("fake", 1, True)
        task = task_of(make_face_clip(tmp_path / "a.mp4"), tmp_path / "out")
        done, busy = actor.scan(task)
        assert done.task == task and done.outcome.label == "no-evidence"
        assert busy["network"] >= 0.0
        progress, log = actor.news(0.0)
        assert all(event.task == task for event in progress) and log == []
        task.file.path.unlink()
        assert actor.scan(task) is None
        done, _ = actor.scan(task, even_if_missing=True)
        assert done.outcome.label == "error"
    finally:
        actor.close()


def test_an_actor_without_workers_says_so(tmp_path, end):
    actor = ScanActor(config_of(tmp_path))
    try:
        actor.start()
        actor._pool._workers[0].start_failures = 2
        actor._pool._workers[0].loaded = False
        actor._pool._workers[0].process.kill()
        with pytest.raises(EngineError, match="the model process died"):
            actor.scan(task_of(make_face_clip(tmp_path / "a.mp4"), tmp_path / "out"))
        with pytest.raises(EngineError, match="the model process died"):
            while True:
                actor.news(0.1)
    finally:
        actor.close()


@pytest.mark.parametrize("said", [None, "another"])
def test_an_actor_that_does_not_find_the_runs_folder_says_so(tmp_path, end, said):
    if said:
        (tmp_path / "run").write_text(said)
    actor = ScanActor(config_of(tmp_path))
    with pytest.raises(UsageError, match="storage that all nodes share"):
        actor.check()
    actor.close()


def test_an_actor_that_hears_nothing_ends_itself(tmp_path, end):
    ScanActor(config_of(tmp_path, fence=0.3))
    until = time.monotonic() + 5
    while not end:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert end == [1]


def test_an_actor_that_was_closed_leaves_its_process_alone(tmp_path, end):
    actor = ScanActor(config_of(tmp_path, fence=0.3))
    actor.close()
    time.sleep(1.0)
    assert end == []


# Real clusters

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Six clips, one forged, and a broken file."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(6):
        forged = range(90) if number == 3 else ()
        make_face_clip(folder / f"clip{number}.mp4", frames=80 + number, forged=forged)
    (folder / "junk.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 8)
    return folder


def started(archive, out, *address):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.archive.clustered", str(archive), str(out), *address],
        cwd=ROOT,
        env={**os.environ, **QUIET},
        start_new_session=True,
    )


def until_done(out, count, process, *, under_way, seconds=150):
    """Wait until the journal holds so many outcomes, while so many files are in flight."""
    until = time.monotonic() + seconds
    while True:
        assert process.poll() is None and time.monotonic() < until
        journal = out / "journal.jsonl"
        told = journal.read_bytes() if journal.exists() else b""
        done = told.count(b'"kind":"done"')
        if done >= count and told.count(b'"kind":"started"') == done + under_way:
            return
        time.sleep(0.1)


def lines_of(out):
    """results.jsonl without what no two runs have in common: moments, and hashes over them."""
    lines = []
    for line in (out / "results.jsonl").read_text().splitlines():
        values = json.loads(line)
        del values["started"], values["took"]
        for output in values["outputs"]:
            if output["kind"] == "record":  # it holds times
                del output["sha256"], output["size"]
        lines.append(json.dumps(values, sort_keys=True))
    return lines


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_node_is_killed_in_mid_run_and_nothing_is_lost(archive, tmp_path, monkeypatch):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    utils = pytest.importorskip("ray.cluster_utils")
    local, out = tmp_path / "local", tmp_path / "out"
    given = {"jobs": 1, "scanner": "tests.archive.parts:slow_scanner", "controls": CONTROLS}
    archive_options = ArchiveOptions(reports=("jsonl",), write_found=("frames",), min_free=0)
    options = ScanOptions()
    pool = LocalPool(PoolSettings(options, **given))
    scan_archive([str(archive)], local, options=options, pool=pool, archive_options=archive_options)

    store = 80 * 2**20
    head = {"num_cpus": 0, "object_store_memory": store, "include_dashboard": False}
    nodes = utils.Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        victim, _ = [nodes.add_node(num_cpus=1, object_store_memory=store) for _ in range(2)]
        run = started(archive, out, f"ray:{nodes.address}")
        try:
            until_done(out, 2, run, under_way=2)
            below = [pid for info in victim.live_processes() for pid in children_of(info[1].pid)]
            nodes.remove_node(victim, allow_graceful=False)
            assert run.wait(240) == 0
        finally:
            run.kill()
            run.wait()
        assert below and not any(map(alive, below))
    finally:
        nodes.shutdown()
    results = read_journal(out)
    assert results.finished and results.superseded == ()
    assert [outcome.name for outcome in results.outcomes] == sorted(
        path.name for path in archive.iterdir()
    )
    assert "node_lost" in (out / "journal.jsonl").read_text()
    assert lines_of(out) == lines_of(local)
    assert not list(out.glob(".nodes*"))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM])
def test_a_run_whose_own_node_is_lost_ends(tmp_path, monkeypatch, number):
    """The head's service lives, the node that the run hangs on does not."""
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    utils = pytest.importorskip("ray.cluster_utils")
    archive, out, store = tmp_path / "in", tmp_path / "out", 80 * 2**20
    archive.mkdir()
    for place in range(6):
        make_face_clip(archive / f"clip{place:02}.mp4", frames=20 + place)
    monkeypatch.setenv("SCANNER", "tests.archive.parts:gated_scanner")
    monkeypatch.setenv("GATE", str(tmp_path / "never"))  # nothing but the first clip ever ends
    head = {"num_cpus": 0, "object_store_memory": store, "include_dashboard": False}
    nodes = utils.Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        others = [nodes.add_node(num_cpus=1, object_store_memory=store) for _ in range(2)]
        told = (
            "import ray, sys; ray.init(sys.argv[1]); print(ray.get_runtime_context().get_node_id())"
        )
        own = subprocess.run(
            [sys.executable, "-c", told, nodes.address], capture_output=True, text=True, check=True
        ).stdout.strip()
        run = started(archive, out, f"ray:{nodes.address}")
        try:
            until_done(out, 1, run, under_way=2)
            each = next(n for n in (nodes.head_node, *others) if n.node_id == own)
            each.kill_raylet()
            lost = time.monotonic()
            if number is not None:
                time.sleep(2)
                run.send_signal(number)
            code = run.wait(150)
            took = time.monotonic() - lost
        finally:
            run.kill()
            run.wait()
    finally:
        nodes.shutdown()
    assert code == (130 if number == signal.SIGTERM else 1)  # 1: the error, as a traceback
    assert took < (7 if number == signal.SIGTERM else 120)
    assert read_journal(out).outcomes


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_no_process_behind(archive, tmp_path, number):
    out = tmp_path / "out"
    run = started(archive, out)
    try:
        until_done(out, 1, run, under_way=1)
        below = children_of(run.pid)
        assert len(below) > 5
        # As a terminal does it: everything in the group gets the signal. Once more: leave at once.
        os.killpg(run.pid, number)
        if number == signal.SIGINT:
            time.sleep(0.5)
            os.killpg(run.pid, number)
        code = run.wait(60)
    finally:
        run.kill()
    assert code == (-9 if number == signal.SIGKILL else 130)
    until = time.monotonic() + 60
    while any(map(alive, below)):
        assert time.monotonic() < until, [p for p in below if alive(p)]
        time.sleep(0.2)
    if number != signal.SIGKILL:
        assert not list(out.glob(".nodes*"))
    assert read_journal(out).outcomes
