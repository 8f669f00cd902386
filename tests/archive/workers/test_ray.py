"""The crew of a cluster: what it does about nodes that differ, go, come back or say nothing.

Most of it is tried on a Ray that is played here; the slow tests start real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from deepscan.archive.journal import read_journal
from deepscan.archive.run import Ways, scan_archive
from deepscan.archive.workers import ray, ray_actor
from deepscan.archive.workers.contract import Done, Lost
from deepscan.archive.workers.local import LocalCrew
from deepscan.archive.workers.ray import RayCrew, place_of
from deepscan.archive.workers.ray_actor import Outpost, facts_of
from deepscan.archive.workers.worker import (
    error_outcome,
    pack,
    task_from_json,
    task_to_json,
    unpack,
)
from deepscan.errors import EngineError, UsageError
from deepscan.options import ScanOptions
from deepscan.types import Reason
from tests.archive.workers.test_local import CONTROLS, FAKE, alive, children_of, task_of
from tests.conftest import make_face_clip

ROOT = Path(__file__).parents[3]
REASON = Reason("corrupt", "a test")
FACTS = facts_of("msccnet-s")


# A Ray that is played


class RayError(Exception):
    pass


class ActorDiedError(RayError):
    pass


class ActorUnavailableError(RayError):
    pass


@dataclass(eq=False)
class Node:
    """A node as a test plays it: what its actors say, and what is done to them."""

    name: str
    address: str | None = None
    cpus: int = 1
    gpus: int = 0
    engine: str = "fake"
    passed: bool = True
    score: float = 0.9
    facts: dict = field(default_factory=dict)
    refuses: tuple[str, str] | None = None
    marks: bool = True
    sees: bool = True
    alive: bool = True
    error: RayError | None = None  # what becomes of calls
    silent: bool = False
    actors: list = field(default_factory=list)


class Actor:
    """Plays an outpost: says what its node is told to say, finishes tasks when it is told to."""

    def __init__(self, node, order):
        (self.order,) = unpack(bytearray(order))
        self.node, self.said, self.tasks, self.killed, self.beats = node, b"", {}, False, 0
        self.listen = SimpleNamespace(remote=lambda timeout: self)
        self.submit = SimpleNamespace(remote=self._submit)
        self.beat = SimpleNamespace(remote=self._beat)
        node.actors.append(self)
        marks = Path(self.order["marks"])
        assert (marks / "run").read_text() == self.order["token"]
        if node.refuses:
            self.say("refused", error=node.refuses[0], text=node.refuses[1])
            return
        if node.marks:
            (marks / self.order["mark"]).write_text(self.order["token"])
        self.say("facts", facts={**FACTS, **node.facts}, mark=self.order["mark"])
        self.say(
            "ready",
            engine=node.engine,
            why="played",
            slots=self.order["jobs"],
            controls=[["known", node.score]],
            passed=node.passed,
        )

    def say(self, kind, **values):
        self.said += pack({"kind": kind, **values})

    def _beat(self):
        self.beats += 1

    def _submit(self, data):
        (message,) = unpack(bytearray(data))
        number, task = message["number"], task_from_json(message["task"])
        if self.node.sees or message["sure"]:
            self.tasks[number] = task
        else:
            self.say("unseen", number=number)

    def finish(self):
        for number, task in self.tasks.items():
            self.say("done", number=number, outcome=error_outcome(task, REASON).to_json())
        self.tasks.clear()
        self.say("busy", seconds={"network": 1.0})


class PlayedRay:
    """As much of Ray as the crew asks for."""

    exceptions = SimpleNamespace(
        RayError=RayError,
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
        assert kind is Outpost
        return self

    def options(self, *, scheduling_strategy, **claims):
        self.claims.append((scheduling_strategy, claims["num_cpus"], claims["num_gpus"]))
        node = self.played[scheduling_strategy]
        return SimpleNamespace(remote=lambda order: Actor(node, order))

    def wait(self, refs, *, num_returns, timeout):
        ready = [a for a in refs if (a.said or a.node.error) and not a.node.silent]
        if not ready:
            time.sleep(min(timeout, 0.02))
        ready = ready[:num_returns]
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, actor):
        if actor.node.error:
            raise actor.node.error
        said, actor.said = actor.said, b""
        return said

    def kill(self, actor, *, no_restart):
        actor.killed = True


@pytest.fixture
def crew_on(tmp_path, monkeypatch):
    """Makes a crew on nodes that are played."""
    monkeypatch.setattr(ray_actor, "VISIBLE", 0.3)
    monkeypatch.setattr(ray, "LOOK_AROUND", 0.05)
    monkeypatch.setattr(ray, "REST", 0.05)
    crews = []
    (tmp_path / "out").mkdir()

    def make(*nodes, options=None, **wanted):
        monkeypatch.setattr(ray, "_import_ray", lambda: PlayedRay(*nodes))
        given = {"results": tmp_path / "out", "jobs": 1, **wanted}
        crews.append(RayCrew(options or ScanOptions(), **given))
        return crews[-1]

    yield make
    for crew in crews:
        crew.close()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def tasks(tmp_path):
    made = []
    for number in range(4):
        path = tmp_path / f"f{number}.mp4"
        path.write_bytes(b"x")
        made.append(task_of(path, tmp_path / "out" / str(number)))
    return made


def hear(crew, count, seconds=5.0):
    """The ends that come until there are so many."""
    ends, until = [], time.monotonic() + seconds
    while len(ends) < count:
        assert time.monotonic() < until, ends
        ends += [event for event in crew.wait(0.1) if isinstance(event, Done | Lost)]
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
    assert place_of(given) == place


@pytest.mark.parametrize(
    "given",
    ["", "rays", "rayhead:1", "ray:", "ray://", "ray:head", "ray://auto", "slurm", "ray:a:b"],
)
def test_what_is_no_address(given, tmp_path):
    with pytest.raises(UsageError, match="ray://HOST:PORT"):
        RayCrew(ScanOptions(), results=tmp_path, address=given)


def test_a_missing_ray_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UsageError, match=r"pip install '\.\[cluster\]'"),
        RayCrew(ScanOptions(), results=tmp_path) as crew,
    ):
        crew.start()


def test_nothing_is_reported_to_anybody(crew_on, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    crew_on(Node("a")).start()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


# Who takes part


def test_every_node_without_gpus_has_one_actor(crew_on):
    crew = crew_on(Node("a", cpus=8), Node("b", cpus=2), Node("c", cpus=0), jobs=3)
    assert crew.start().slots == 6
    assert crew._ray.claims == [("a", 8, 0), ("b", 2, 0)]


def test_where_there_are_gpus_each_has_an_actor(crew_on):
    a, b = Node("a", cpus=9, gpus=2), Node("b", cpus=64)
    crew = crew_on(a, b)
    assert crew.start().slots == 2
    assert crew._ray.claims == [("a", 4, 1), ("a", 4, 1)]
    assert {actor.order["device"] for actor in a.actors} == {"cuda:0"}


@pytest.mark.parametrize(
    ("engine", "devices"), [("openvino", ()), ("torch-cpu-fp32", ()), ("auto", ("cpu",))]
)
def test_gpus_are_left_alone_if_something_else_is_asked_for(crew_on, engine, devices):
    node = Node("a", cpus=4, gpus=2)
    crew_on(node, options=ScanOptions(engine=engine), devices=devices).start()
    assert [actor.order["device"] for actor in node.actors] == ["cpu"]


def test_two_nodes_may_have_one_address(crew_on):
    nodes = Node("a", "10.0.0.1"), Node("b", "10.0.0.1", score=0.2)
    crewed = crew_on(*nodes).start()
    assert crewed.slots == 2
    assert crewed.controls == (("10.0.0.1/a known", 0.9), ("10.0.0.1/b known", 0.2))


def test_two_devices_are_two_actors_on_every_node(crew_on):
    crew = crew_on(Node("a", cpus=8), Node("b", cpus=1), devices=("cpu", "cpu"))
    assert crew.start().slots == 3
    assert crew._ray.claims == [("a", 4, 0), ("a", 4, 0), ("b", 1, 0)]


@pytest.mark.parametrize(
    "wanted", [{"options": ScanOptions(engine="tensorrt")}, {"devices": ("cuda",)}]
)
def test_a_cluster_without_what_is_asked_for(crew_on, wanted):
    with pytest.raises(EngineError, match="offers a GPU"):
        crew_on(Node("a"), **wanted).start()


# Nodes that must not take part


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"deepscan": "0.0.9"}, "deepscan 0.0.9 there, "),
        ({"weights of msccnet-s": "f" * 64}, "weights of msccnet-s ffffffffffff there"),
        ({"torch": "1.0"}, "torch 1.0 there"),
        ({"source": "0" * 64}, "source 000000000000 there"),
    ],
)
def test_a_node_that_would_give_other_results_is_named(crew_on, facts, words):
    with pytest.raises(UsageError, match=f"node b .*{words}"):
        crew_on(Node("a"), Node("b", facts=facts)).start()


def test_a_node_that_does_not_share_the_results_folder_is_named(crew_on):
    with pytest.raises(UsageError, match=r"node b wrote .* storage that all nodes share"):
        crew_on(Node("a"), Node("b", marks=False)).start()


@pytest.mark.parametrize("name", ["EngineError", "ModelError", "UsageError", "LimitError", "Odd"])
def test_what_a_node_refuses_is_told_with_its_name(crew_on, name):
    with pytest.raises((EngineError, UsageError, Exception), match="node a: no GPU driver"):
        crew_on(Node("a", refuses=(name, "no GPU driver"))).start()


def test_nodes_with_different_engines_do_not_belong_together(crew_on):
    with pytest.raises(EngineError, match=r"a: fake, b: other.*--engine"):
        crew_on(Node("a"), Node("b", engine="other")).start()


def test_known_crops_are_told_once_where_all_agree(crew_on):
    assert crew_on(Node("a"), Node("b")).start().controls == (("known", 0.9),)


def test_known_crops_are_told_by_node_where_they_differ(crew_on):
    crewed = crew_on(Node("a"), Node("b", score=0.2, passed=False)).start()
    assert crewed.controls == (("a known", 0.9), ("b known", 0.2))
    assert not crewed.controls_passed


# Nodes that go


def test_the_files_of_a_node_that_goes_come_back_when_it_can_write_no_more(crew_on, tasks):
    a, b = Node("a"), Node("b")
    crew = crew_on(a, b, silence=1.0)
    crew.start()
    for task in tasks[:2]:
        crew.submit(task)
    a.alive, a.error = False, ActorDiedError("its node died")
    b.actors[0].finish()
    (done,) = hear(crew, 1)
    assert isinstance(done, Done)
    began = time.monotonic()
    (lost,) = hear(crew, 1)
    assert time.monotonic() - began > 0.4  # the fence of half the silence
    assert isinstance(lost, Lost)
    assert (lost.reason.code, lost.reason.text) == ("node_lost", "node a was lost")
    assert a.actors[0].killed and len(a.actors) == 1
    crew.submit(lost.task)
    assert list(b.actors[0].tasks.values()) == [lost.task]


def test_a_node_that_says_nothing_is_given_up(crew_on, tasks):
    a, b = Node("a"), Node("b")
    crew = crew_on(a, b, silence=0.5)
    crew.start()
    crew.submit(tasks[0])
    worker = next(node for node in (a, b) if node.actors[0].tasks)
    other = b if worker is a else a
    worker.silent = True
    other.error = None
    ends, until = [], time.monotonic() + 5
    while not ends and time.monotonic() < until:
        other.actors[-1].say("busy", seconds={})
        ends += [event for event in crew.wait(0.05) if isinstance(event, Lost)]
    assert ends[0].reason.code == "node_lost" and "said nothing" in ends[0].reason.text
    assert worker.actors[0].killed


def test_an_actor_that_dies_on_a_living_node_is_replaced(crew_on, tasks):
    node = Node("a")
    crew = crew_on(node, silence=5.0)
    crew.start()
    crew.submit(tasks[0])
    node.error = ActorDiedError("killed for its memory")
    (lost,) = hear(crew, 1)
    assert lost.reason.code == "worker_crash" and "killed for its memory" in lost.reason.text
    node.error = None
    crew.submit(tasks[1])
    while len(node.actors) < 2 or not node.actors[1].tasks:
        crew.wait(0.05)
    node.actors[1].finish()
    (done,) = hear(crew, 1)
    assert done.task == tasks[1]
    assert crew.busy() == {"network": 1.0}


def test_a_node_that_comes_later_takes_part(crew_on, tasks):
    a, b = Node("a"), Node("b", alive=False)
    crew = crew_on(a, b, jobs=2)
    crew.start()
    for task in tasks[:2]:
        crew.submit(task)
    assert len(a.actors[0].tasks) == 2
    b.alive, a.alive, a.error = True, False, ActorDiedError("its node died")
    crew._silence, crew._order["fence"] = 1.0, 0.1
    for lost in hear(crew, 2):
        crew.submit(lost.task)
    while not b.actors or len(b.actors[0].tasks) < 2:
        crew.wait(0.05)
    b.actors[0].finish()
    assert {event.task for event in hear(crew, 2)} == set(tasks[:2])


@pytest.mark.parametrize(
    "odd", [{"engine": "other"}, {"passed": False}, {"facts": {"deepscan": "9"}}, {"marks": False}]
)
def test_a_node_that_comes_later_and_does_not_fit_is_left_out(crew_on, odd, caplog):
    a, b = Node("a"), Node("b", alive=False, **odd)
    crew = crew_on(a, b)
    crew.start()
    b.alive = True
    until = time.monotonic() + 5
    while not (b.actors and b.actors[0].killed):
        assert time.monotonic() < until
        crew.wait(0.05)
    crew.wait(0.2)
    assert len(b.actors) == 1 and "node b" in caplog.text and "goes on without it" in caplog.text


def test_a_node_that_does_not_see_the_archive_gets_no_more_files(crew_on, tasks, caplog):
    a, b = Node("a", sees=False), Node("b")
    crew = crew_on(a, b)
    crew.start()
    for task in tasks[:2]:
        crew.submit(task)
    done = []
    while len(done) < 2:
        b.actors[0].finish()
        done += [event for event in crew.wait(0.1) if isinstance(event, Done)]
    assert {event.task for event in done} == set(tasks[:2])
    assert "node a does not see" in caplog.text and not a.actors[0].tasks


def test_no_node_sees_the_archive(crew_on, tasks):
    crew = crew_on(Node("a", sees=False))
    crew.start()
    crew.submit(tasks[0])
    with pytest.raises(EngineError, match="no node of the Ray cluster sees"):
        hear(crew, 1)


def test_a_file_that_is_gone_is_not_the_nodes_fault(crew_on, tasks):
    node = Node("a", sees=False)
    crew = crew_on(node)
    crew.start()
    tasks[0].item.path.unlink()
    crew.submit(tasks[0])
    while not node.actors[0].tasks:
        crew.wait(0.05)
    node.actors[0].finish()
    assert isinstance(hear(crew, 1)[0], Done)


def test_a_run_without_any_node_ends(crew_on, tasks, monkeypatch):
    monkeypatch.setattr(ray, "NOBODY", 0.3)
    node = Node("a")
    crew = crew_on(node)
    crew.start()
    node.alive, node.error = False, ActorDiedError("its node died")
    with pytest.raises(EngineError, match="no node of the Ray cluster has worked"):
        hear(crew, 1)


def test_actors_hear_that_the_run_lives_while_it_does_something_else(crew_on):
    node = Node("a")
    crew_on(node, silence=0.5).start()
    time.sleep(0.5)
    assert node.actors[0].beats >= 2


# The actor, without Ray


def order_of(folder, **wanted):
    crew = RayCrew(
        ScanOptions(), results=folder, jobs=1, scanner=FAKE, controls=CONTROLS, silence=600.0
    )
    more = {"device": "cpu", "marks": str(folder), "mark": "m", "token": "t"}
    return pack({"kind": "order", **crew._order, **more, **wanted})


def listen(post, kind, seconds=30.0):
    """The first message of a kind."""
    until = time.monotonic() + seconds
    while True:
        heard = list(unpack(bytearray(post.listen(0.5))))
        for message in heard:
            if message["kind"] == kind:
                return message
        assert time.monotonic() < until, heard


@pytest.fixture
def end(monkeypatch):
    """Lets an actor of this process tell that it would end the process."""
    codes = []
    monkeypatch.setattr(ray_actor.os, "_exit", codes.append)
    monkeypatch.setattr(ray_actor, "VISIBLE", 0.3)
    return codes


def test_an_actor_leaves_its_mark_and_scans(tmp_path, end, monkeypatch):
    (tmp_path / "run").write_text("t")
    crews = []
    real = LocalCrew.__init__
    monkeypatch.setattr(
        LocalCrew, "__init__", lambda self, *a, **k: (crews.append(self), real(self, *a, **k))[1]
    )
    post = Outpost(order_of(tmp_path))
    try:
        facts = listen(post, "facts")
        assert facts["facts"] == facts_of("msccnet-s") and (tmp_path / "m").read_text() == "t"
        ready = listen(post, "ready")
        assert (ready["engine"], ready["slots"], ready["passed"]) == ("fake", 1, True)
        task = task_of(make_face_clip(tmp_path / "a.mp4"), tmp_path / "out")
        message = {"kind": "task", "number": 7, "sure": False, "task": task_to_json(task)}
        post.submit(pack(message))
        done = listen(post, "done")
        assert done["number"] == 7 and done["outcome"]["label"] == "no-evidence"
        task.item.path.unlink()
        post.submit(pack({**message, "number": 8}))
        assert listen(post, "unseen")["number"] == 8
    finally:
        post.close()
        crews[0].close()


@pytest.mark.parametrize("said", [None, "another"])
def test_an_actor_that_does_not_find_the_runs_folder_says_so(tmp_path, end, said):
    if said:
        (tmp_path / "run").write_text(said)
    post = Outpost(order_of(tmp_path))
    refused = listen(post, "refused")
    post.close()
    assert refused["error"] == "UsageError" and "storage that all nodes share" in refused["text"]


def test_an_actor_that_hears_nothing_ends_itself(tmp_path, end):
    Outpost(order_of(tmp_path, fence=0.3))
    until = time.monotonic() + 5
    while not end:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert end == [1]


def test_an_actor_that_was_closed_leaves_its_process_alone(tmp_path, end):
    post = Outpost(order_of(tmp_path, fence=0.3))
    post.close()
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
    ways = Ways(reports=("jsonl",), write_found=("frames",), min_free=0)
    options = ScanOptions()
    crew = LocalCrew(options, **given)
    scan_archive([str(archive)], local, options=options, crew=crew, ways=ways)

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
