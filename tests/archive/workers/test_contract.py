"""What every pool of the table must do, whoever does the work behind it."""

from __future__ import annotations

import os
from importlib import import_module

import pytest

from deepscan.archive.workers import WORKER_POOLS
from deepscan.archive.workers.contract import PoolSettings, TaskDone, TaskLost, TaskProgress
from deepscan.errors import EngineError, ModelError
from deepscan.options import ScanOptions
from deepscan.types import Label
from tests.archive.workers.test_local import CONTROLS, FAKE, WILLING, ends, file_of, finish, task_of
from tests.conftest import make_face_clip

pytestmark = pytest.mark.timeout(240)

PARTS = "tests.archive.parts"
# A Ray instance takes half a minute to start on a small machine.
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name == "ray")) for name in WORKER_POOLS]


@pytest.fixture(scope="module", params=NAMES)
def kind(request, ray_instance):
    """The class of a pool, and what it needs beyond the options."""
    module, _, name = WORKER_POOLS[request.param].partition(":")
    if request.param == "ray":
        ray_instance()
    return request.param, getattr(import_module(module), name)


@pytest.fixture(scope="module")
def ray_instance():
    """Starts one Ray instance for all tests that ask for it."""
    started = []

    def start():
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        ray = pytest.importorskip("ray")
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=80 * 2**20,
        )
        started.append(ray)

    yield start
    for ray in started:
        ray.shutdown()


@pytest.fixture
def pool_of(kind, tmp_path):
    """Makes pools of fakes, and closes them at the end."""
    name, build = kind
    made = []

    def make(scanner=FAKE, options=None, **wanted):
        given = {"scanner": scanner, "controls": CONTROLS, "jobs": 1, **wanted}
        more = {}
        if name == "ray":
            (tmp_path / "out").mkdir(exist_ok=True)
            more["results"] = tmp_path / "out"
        made.append(build(PoolSettings(options or ScanOptions(), **given), **more))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def test_it_says_who_scores_and_how_known_crops_scored(pool_of):
    pool = pool_of(jobs=2)
    pool_info = pool.start()
    assert (pool_info.engine, pool_info.engine_reason) == ("fake", "a fake for tests")
    assert pool_info.slots == 2
    assert (pool_info.controls, pool_info.controls_passed) == ((("known", 0.97),), True)
    assert pool.wait(0.0) == []


def test_every_task_has_one_end_and_its_outputs(pool_of, tmp_path):
    paths = [
        make_face_clip(tmp_path / "forged.mp4", forged=range(20)),
        make_face_clip(tmp_path / "honest.mp4"),
        tmp_path / "junk.mp4",
        make_face_clip(tmp_path / "odd.mp4").rename(tmp_path / "odd\udcff\u202e\n.mp4"),
    ]
    paths[2].write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(2000))
    pool = pool_of(jobs=2)
    slots = pool.start().slots
    events, waiting, under_way = [], list(enumerate(paths)), 0
    while waiting or under_way:
        while waiting and under_way < slots:
            place, path = waiting.pop(0)
            pool.submit(task_of(path, tmp_path / "out" / str(place)))
            under_way += 1
        new = pool.wait(30.0)
        assert new
        under_way -= sum(not isinstance(event, TaskProgress) for event in new)
        events += new
    done = [event for event in events if not isinstance(event, TaskProgress)]
    assert sorted(event.task.file.path for event in done) == sorted(paths)
    outcomes = {event.task.file.path: event.outcome for event in done}
    forged, honest, junk, odd = (outcomes[path] for path in paths)
    labels = [Label.MANIPULATED, Label.NO_EVIDENCE, Label.ERROR, Label.NO_EVIDENCE]
    assert [each.label for each in (forged, honest, junk, odd)] == labels
    assert {written.kind for written in forged.outputs} == {"record", "frames"}
    assert odd.sha256 == honest.sha256 and odd.name == paths[3].name
    for place, path in enumerate(paths):
        outcome = outcomes[path]
        assert outcome.identity == file_of(path).identity
        for written in outcome.outputs:
            assert (tmp_path / "out" / str(place) / written.path).stat().st_size == written.size
    assert pool.busy()["decode"] > 0


def test_what_dies_with_a_file_comes_back(pool_of, tmp_path):
    good = make_face_clip(tmp_path / "good.mp4")
    bad = tmp_path / "abort.mp4"
    bad.write_bytes(good.read_bytes())
    pool = pool_of(WILLING)
    pool.start()
    pool.submit(task_of(bad, tmp_path / "out" / "bad"))
    (lost,) = ends(finish(pool, 1)).values()
    assert isinstance(lost, TaskLost) and lost.reason.code == "worker_crash"
    assert "signal 6" in lost.reason.text
    pool.submit(task_of(good, tmp_path / "out" / "good"))
    (done,) = ends(finish(pool, 1)).values()
    assert isinstance(done, TaskDone) and done.outcome.label is Label.NO_EVIDENCE


def test_errors_in_a_scan_are_losses_with_reasons(pool_of, tmp_path):
    pool = pool_of(WILLING)
    pool.start()
    found = {}
    for name in ("bug.mp4", "engine.mp4", "full.mp4"):
        (tmp_path / name).write_bytes(b"x")
        pool.submit(task_of(tmp_path / name, tmp_path / "out" / name))
        (lost,) = ends(finish(pool, 1)).values()
        found[name] = lost.reason.code
    assert found == {"bug.mp4": "worker_crash", "engine.mp4": "engine", "full.mp4": "disk_full"}


def test_a_file_that_is_gone_is_told_as_such(pool_of, tmp_path):
    path = make_face_clip(tmp_path / "gone.mp4")
    task = task_of(path, tmp_path / "out" / "gone")
    path.unlink()
    pool = pool_of()
    pool.start()
    pool.submit(task)
    (done,) = ends(finish(pool, 1)).values()
    assert (done.outcome.label, done.outcome.reasons[0].code) == (Label.ERROR, "unreadable")


def test_a_file_that_hangs_is_given_up(pool_of, tmp_path):
    path = tmp_path / "hang.mp4"
    path.write_bytes(b"x")
    pool = pool_of(WILLING, progress_timeout=1.0)
    pool.start()
    pool.submit(task_of(path, tmp_path / "out" / "hang"))
    (lost,) = ends(finish(pool, 1)).values()
    assert isinstance(lost, TaskLost) and lost.reason.code == "worker_hang"


def test_a_network_that_cannot_run_is_told(pool_of):
    with pytest.raises(EngineError, match="no engine runs here"):
        pool_of(f"{PARTS}:no_engine").start()


def test_a_model_that_is_not_there_is_told(pool_of):
    with pytest.raises(ModelError, match="oracle"):
        pool_of("deepscan.scan.scanner:Scanner", ScanOptions(model="oracle")).start()


def test_known_crops_that_score_otherwise_are_told(pool_of):
    assert not pool_of(controls=f"{PARTS}:bad_controls").start().controls_passed


def test_closing_ends_work_under_way_and_may_be_repeated(pool_of, tmp_path):
    pool = pool_of(f"{PARTS}:slow_scanner")
    pool.start()
    path = make_face_clip(tmp_path / "long.mp4", frames=60)
    pool.submit(task_of(path, tmp_path / "out" / "long"))
    assert isinstance(pool.wait(30.0)[0], TaskProgress)
    pool.close()
    pool.close()
