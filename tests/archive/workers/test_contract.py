"""What every crew of the table must do, whoever does the work behind it."""

from __future__ import annotations

import os
from importlib import import_module

import pytest

from deepscan.archive.workers.contract import CREWS, Done, Lost, Progressed
from deepscan.errors import EngineError, ModelError
from deepscan.options import ScanOptions
from deepscan.types import Label
from tests.archive.workers.test_local import CONTROLS, FAKE, WILLING, ends, finish, item_of, task_of
from tests.conftest import make_face_clip

pytestmark = pytest.mark.timeout(240)

PARTS = "tests.archive.parts"
# A Ray instance takes half a minute to start on a small machine.
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name == "ray")) for name in CREWS]


@pytest.fixture(scope="module", params=NAMES)
def kind(request, ray_instance):
    """The class of a crew, and what it needs beyond the options."""
    module, _, name = CREWS[request.param].partition(":")
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
def crew_of(kind, tmp_path):
    """Makes crews of fakes, and closes them at the end."""
    name, build = kind
    made = []

    def make(scanner=FAKE, options=None, **wanted):
        given = {"scanner": scanner, "controls": CONTROLS, "jobs": 1, **wanted}
        if name == "ray":
            (tmp_path / "out").mkdir(exist_ok=True)
            given["results"] = tmp_path / "out"
        made.append(build(options or ScanOptions(), **given))
        return made[-1]

    yield make
    for crew in made:
        crew.close()


def test_it_says_who_scores_and_how_known_crops_scored(crew_of):
    crew = crew_of(jobs=2)
    crewed = crew.start()
    assert (crewed.engine, crewed.engine_reason) == ("fake", "a fake for tests")
    assert crewed.slots == 2
    assert (crewed.controls, crewed.controls_passed) == ((("known", 0.97),), True)
    assert crew.wait(0.0) == []


def test_every_task_has_one_end_and_its_outputs(crew_of, tmp_path):
    paths = [
        make_face_clip(tmp_path / "forged.mp4", forged=range(20)),
        make_face_clip(tmp_path / "honest.mp4"),
        tmp_path / "junk.mp4",
        make_face_clip(tmp_path / "odd.mp4").rename(tmp_path / "odd\udcff\u202e\n.mp4"),
    ]
    paths[2].write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(2000))
    crew = crew_of(jobs=2)
    slots = crew.start().slots
    events, waiting, under_way = [], list(enumerate(paths)), 0
    while waiting or under_way:
        while waiting and under_way < slots:
            place, path = waiting.pop(0)
            crew.submit(task_of(path, tmp_path / "out" / str(place)))
            under_way += 1
        new = crew.wait(30.0)
        assert new
        under_way -= sum(not isinstance(event, Progressed) for event in new)
        events += new
    done = [event for event in events if not isinstance(event, Progressed)]
    assert sorted(event.task.item.path for event in done) == sorted(paths)
    outcomes = {event.task.item.path: event.outcome for event in done}
    forged, honest, junk, odd = (outcomes[path] for path in paths)
    labels = [Label.MANIPULATED, Label.NO_EVIDENCE, Label.ERROR, Label.NO_EVIDENCE]
    assert [each.label for each in (forged, honest, junk, odd)] == labels
    assert {written.kind for written in forged.outputs} == {"record", "frames"}
    assert odd.sha256 == honest.sha256 and odd.name == paths[3].name
    for place, path in enumerate(paths):
        outcome = outcomes[path]
        assert outcome.identity == item_of(path).identity
        for written in outcome.outputs:
            assert (tmp_path / "out" / str(place) / written.path).stat().st_size == written.size
    assert crew.busy()["decode"] > 0


def test_what_dies_with_a_file_comes_back(crew_of, tmp_path):
    good = make_face_clip(tmp_path / "good.mp4")
    bad = tmp_path / "abort.mp4"
    bad.write_bytes(good.read_bytes())
    crew = crew_of(WILLING)
    crew.start()
    crew.submit(task_of(bad, tmp_path / "out" / "bad"))
    (lost,) = ends(finish(crew, 1)).values()
    assert isinstance(lost, Lost) and lost.reason.code == "worker_crash"
    assert "signal 6" in lost.reason.text
    crew.submit(task_of(good, tmp_path / "out" / "good"))
    (done,) = ends(finish(crew, 1)).values()
    assert isinstance(done, Done) and done.outcome.label is Label.NO_EVIDENCE


def test_errors_in_a_scan_are_losses_with_reasons(crew_of, tmp_path):
    crew = crew_of(WILLING)
    crew.start()
    found = {}
    for name in ("bug.mp4", "engine.mp4", "full.mp4"):
        (tmp_path / name).write_bytes(b"x")
        crew.submit(task_of(tmp_path / name, tmp_path / "out" / name))
        (lost,) = ends(finish(crew, 1)).values()
        found[name] = lost.reason.code
    assert found == {"bug.mp4": "worker_crash", "engine.mp4": "engine", "full.mp4": "disk_full"}


def test_a_file_that_is_gone_is_told_as_such(crew_of, tmp_path):
    path = make_face_clip(tmp_path / "gone.mp4")
    task = task_of(path, tmp_path / "out" / "gone")
    path.unlink()
    crew = crew_of()
    crew.start()
    crew.submit(task)
    (done,) = ends(finish(crew, 1)).values()
    assert (done.outcome.label, done.outcome.reasons[0].code) == (Label.ERROR, "unreadable")


def test_a_file_that_hangs_is_given_up(crew_of, tmp_path):
    path = tmp_path / "hang.mp4"
    path.write_bytes(b"x")
    crew = crew_of(WILLING, task_silence=1.0)
    crew.start()
    crew.submit(task_of(path, tmp_path / "out" / "hang"))
    (lost,) = ends(finish(crew, 1)).values()
    assert isinstance(lost, Lost) and lost.reason.code == "worker_hang"


def test_a_network_that_cannot_run_is_told(crew_of):
    with pytest.raises(EngineError, match="no engine runs here"):
        crew_of(f"{PARTS}:no_engine").start()


def test_a_model_that_is_not_there_is_told(crew_of):
    with pytest.raises(ModelError, match="oracle"):
        crew_of("deepscan.scan.scanner:Scanner", ScanOptions(model="oracle")).start()


def test_known_crops_that_score_otherwise_are_told(crew_of):
    assert not crew_of(controls=f"{PARTS}:bad_controls").start().controls_passed


def test_closing_ends_work_under_way_and_may_be_repeated(crew_of, tmp_path):
    crew = crew_of(f"{PARTS}:slow_scanner")
    crew.start()
    path = make_face_clip(tmp_path / "long.mp4", frames=60)
    crew.submit(task_of(path, tmp_path / "out" / "long"))
    assert isinstance(crew.wait(30.0)[0], Progressed)
    crew.close()
    crew.close()
