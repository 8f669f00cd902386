"""Model processes: what they give, and what becomes of files when they die, hang or lie."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from deepscan.archive.records import InputFile
from deepscan.archive.workers.contract import PoolSettings, Task, TaskDone, TaskLost, TaskProgress
from deepscan.archive.workers.local import LocalPool, _visible_devices
from deepscan.archive.workers.messages import (
    options_from_json,
    pack,
    task_from_json,
    task_to_json,
    unpack,
)
from deepscan.archive.workers.worker import failure_reason
from deepscan.errors import DecoderCrash, EngineError, ModelError, OutputError
from deepscan.options import Limits, ScanOptions
from deepscan.types import Label
from tests.conftest import make_face_clip

FAKE = "tests.conftest:fake_scanner"
WILLING = "tests.archive.parts:willing"
CONTROLS = "tests.archive.parts:no_controls"


def file_of(path, name=None):
    facts = path.stat()
    identity = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return InputFile(name or path.name, path, identity)


def task_of(path, folder, **wanted):
    return Task(
        **{
            "file": file_of(path),
            "folder": folder,
            "write": ("record",),
            "write_found": ("frames",),
            "options": ScanOptions(),
            **wanted,
        }
    )


def pool_of(scanner=FAKE, **wanted):
    return LocalPool(
        PoolSettings(ScanOptions(), **{"scanner": scanner, "controls": CONTROLS, **wanted})
    )


def finish(pool, count, seconds=60):
    """The events until so many tasks came back."""
    events, until = [], time.monotonic() + seconds
    while sum(not isinstance(event, TaskProgress) for event in events) < count:
        assert time.monotonic() < until, events
        events += pool.wait(0.5)
    return events


def ends(events):
    return {e.task.file.name: e for e in events if not isinstance(e, TaskProgress)}


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# The language


def test_messages_pass_whole_and_in_pieces(tmp_path):
    messages = [{"kind": "beat"}, {"kind": "log", "text": "a\udcff\u202e\n" * 1000}]
    data = b"".join(map(pack, messages))
    heard, found = bytearray(), []
    for place in range(0, len(data), 7):
        heard += data[place : place + 7]
        found += unpack(heard)
    assert found == messages and not heard


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", pack([1]), pack({"a": 1}), b"\0\0\0\1{"])
def test_nonsense_is_no_message(data):
    with pytest.raises(ValueError):
        list(unpack(bytearray(data)))


def test_a_task_comes_back_as_it_went(tmp_path):
    task = Task(
        InputFile("a/b\udcff.mp4", tmp_path / "b\udcff.mp4", (1, 2, 3, 4), "s3://x/b"),
        tmp_path / "out",
        ("record",),
        ("overlay", "masks"),
        ScanOptions(stride=3, limits=Limits(frames=7), end=4.5),
        attempt=2,
    )
    (message,) = unpack(bytearray(pack({"kind": "task", "task": task_to_json(task)})))
    assert task_from_json(message["task"]) == task
    assert options_from_json(message["task"]["options"]) == task.options


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineError("x"), "engine"),
        (OutputError("x"), "output_error"),
        (DecoderCrash("x"), "decoder_crash"),
        (MemoryError(), "worker_crash"),
        (RuntimeError("x"), "worker_crash"),
        (OSError(28, "No space left on device"), "disk_full"),
        (OSError(24, "Too many open files"), "worker_crash"),
    ],
)
def test_losses_have_reasons(error, code):
    assert failure_reason(error).code == code


def test_a_full_disk_is_seen_through_other_errors():
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise OutputError("r.json cannot be written") from error
    except OutputError as error:
        assert failure_reason(error).code == "disk_full"


# Scans


def test_files_are_scanned_side_by_side(tmp_path):
    paths = [
        make_face_clip(tmp_path / "forged.mp4", forged=range(20)),
        make_face_clip(tmp_path / "honest.mp4"),
    ]
    paths.append(tmp_path / "junk.mp4")
    paths[-1].write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(2000))
    with pool_of(jobs=2) as pool:
        pool_info = pool.start()
        assert (pool_info.engine, pool_info.slots) == ("fake", 2)
        assert (pool_info.controls, pool_info.controls_passed) == ((("known", 0.97),), True)
        events = []
        for path in paths:
            while pool._workers[0].room == 0:
                events += pool.wait(1.0)
            pool.submit(task_of(path, tmp_path / "out" / path.stem))
        found = ends(events + finish(pool, 3 - len(ends(events))))
        busy = pool.busy()
    outcomes = {name: event.outcome for name, event in found.items()}
    forged, honest, junk = (outcomes[path.name] for path in paths)
    assert (forged.label, honest.label, junk.label) == (
        Label.MANIPULATED, Label.NO_EVIDENCE, Label.ERROR,
    )  # fmt: skip
    assert {w.kind for w in forged.outputs} == {"record", "frames"}
    assert {w.kind for w in honest.outputs} == {"record"} == {w.kind for w in junk.outputs}
    for name, outcome in outcomes.items():
        for written in outcome.outputs:
            path = tmp_path / "out" / Path(name).stem / written.path
            assert path.stat().st_size == written.size
    assert forged.frames == 20 and forged.intervals and forged.score > 0.9
    assert forged.sha256 and junk.sha256 and junk.size == 2012 and junk.started
    assert busy["decode"] > 0 and busy["network"] > 0


def test_a_folder_that_takes_nothing_is_not_left(tmp_path):
    path = make_face_clip(tmp_path / "a.mp4")
    with pool_of(jobs=1) as pool:
        pool.start()
        pool.submit(task_of(path, tmp_path / "out" / "a", write=()))
        (event,) = ends(finish(pool, 1)).values()
    assert event.outcome.outputs == () and event.outcome.folder is None
    assert not (tmp_path / "out" / "a").exists()


def test_a_process_that_dies_loses_its_tasks_and_comes_back(tmp_path):
    good = make_face_clip(tmp_path / "good.mp4")
    bad = tmp_path / "abort.mp4"
    bad.write_bytes(good.read_bytes())
    with pool_of(WILLING, jobs=1) as pool:
        pool.start()
        pool.submit(task_of(bad, tmp_path / "bad"))
        (lost,) = ends(finish(pool, 1)).values()
        assert isinstance(lost, TaskLost)
        assert lost.reason.code == "worker_crash" and "signal 6" in lost.reason.text
        pool.submit(task_of(good, tmp_path / "good"))  # while it is starting again
        (done,) = ends(finish(pool, 1)).values()
        assert isinstance(done, TaskDone) and done.outcome.label is Label.NO_EVIDENCE


@pytest.mark.parametrize(
    ("name", "code"), [("bug.mp4", "worker_crash"), ("engine.mp4", "engine"),
                       ("full.mp4", "disk_full")],
)  # fmt: skip
def test_an_error_in_a_scan_is_a_loss_with_its_reason(tmp_path, name, code):
    path = tmp_path / name
    path.write_bytes(b"x")
    with pool_of(WILLING, jobs=1) as pool:
        pool.start()
        pool.submit(task_of(path, tmp_path / "out"))
        (lost,) = ends(finish(pool, 1)).values()
    assert isinstance(lost, TaskLost) and lost.reason.code == code


def test_a_file_that_hangs_is_given_up(tmp_path):
    path = tmp_path / "hang.mp4"
    path.write_bytes(b"x")
    with pool_of(WILLING, jobs=1, progress_timeout=1.0) as pool:
        pool.start()
        pool.submit(task_of(path, tmp_path / "out"))
        (lost,) = ends(finish(pool, 1)).values()
    assert isinstance(lost, TaskLost) and lost.reason.code == "worker_hang"


def test_a_process_that_is_stopped_is_given_up(tmp_path):
    path = tmp_path / "hang.mp4"
    path.write_bytes(b"x")
    with pool_of(WILLING, jobs=1, heartbeat_timeout=3.0) as pool:
        pool.start()
        pool.submit(task_of(path, tmp_path / "out"))
        os.kill(pool._workers[0].process.pid, 19)
        (lost,) = ends(finish(pool, 1)).values()
    assert isinstance(lost, TaskLost) and "no heartbeat" in lost.reason.text


def test_closing_ends_everything(tmp_path):
    pool = pool_of("tests.archive.parts:slow_scanner", jobs=2)
    pool.start()
    pid = pool._workers[0].process.pid
    path = make_face_clip(tmp_path / "a.mp4", frames=100)
    pool.submit(task_of(path, tmp_path / "out"))
    while not pool.wait(1.0):
        pass
    children = children_of(pid)
    assert children
    pool.close()
    pool.close()
    until = time.monotonic() + 10
    while any(map(alive, [pid, *children])):
        assert time.monotonic() < until
        time.sleep(0.05)


def children_of(pid):
    """Every process below one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(path.parent.name)
            found += [child, *children_of(child)]
    return found


# Engines that do not come


def test_no_engine_is_told_as_such():
    with (
        pool_of("tests.archive.parts:no_engine") as pool,
        pytest.raises(EngineError, match="no en"),
    ):
        pool.start()


def test_an_engine_that_dies_at_start_ends_the_run(monkeypatch):
    monkeypatch.setattr("deepscan.archive.workers.local.RESTART_DELAY", 0.01)
    with (
        pool_of("tests.archive.parts:start_failures") as pool,
        pytest.raises(EngineError, match="3 times before its engine was loaded"),
    ):
        pool.start()


def test_a_model_that_is_not_there():
    with (
        LocalPool(PoolSettings(ScanOptions(model="oracle"))) as pool,
        pytest.raises(ModelError, match="oracle"),
    ):
        pool.start()


def test_bad_controls_are_told():
    with pool_of(controls="tests.archive.parts:bad_controls") as pool:
        assert not pool.start().controls_passed


def test_a_named_device_must_be_the_engines(tmp_path):
    with (
        pool_of(devices=("cuda:0",)) as pool,
        pytest.raises(EngineError, match="does not run on cuda:0"),
    ):
        pool.start()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="only Linux tells")
@pytest.mark.parametrize(("given", "expected"), [(None, b"2"), ("5", b"5")])
def test_a_model_process_keeps_less_freed_memory(monkeypatch, given, expected):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if given is not None:
        monkeypatch.setenv("MALLOC_ARENA_MAX", given)
    with pool_of(jobs=1) as pool:
        pool.start()
        environment = Path(f"/proc/{pool._workers[0].process.pid}/environ").read_bytes()
    assert b"MALLOC_ARENA_MAX=" + expected in environment.split(b"\0")


def test_two_devices_are_two_processes(tmp_path):
    with pool_of(devices=("cpu", "cpu"), jobs=1) as pool:
        pool_info = pool.start()
        assert pool_info.slots == 2
        assert len({worker.process.pid for worker in pool._workers}) == 2


@pytest.mark.parametrize(
    ("visible", "device", "seen"),
    [
        ("", "cuda:1", "1"), ("", "cuda", "0"), ("3,5", "cuda:1", "5"), ("0", "cpu", ""),
        ("GPU-a,GPU-b", "cuda:0", "GPU-a"),
    ],
)  # fmt: skip
def test_what_a_process_sees_of_the_devices(monkeypatch, visible, device, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _visible_devices(device) == {"CUDA_VISIBLE_DEVICES": seen}
    assert _visible_devices(None) == {}


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with pytest.raises(EngineError, match="cuda:2"):
        _visible_devices("cuda:2")
