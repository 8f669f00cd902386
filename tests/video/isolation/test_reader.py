"""Decoding in a worker process: same frames, and whatever becomes of it costs one file."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepscan import errors
from deepscan.options import Limits
from deepscan.video import open_video
from deepscan.video.contract import ReadOptions
from deepscan.video.input_file import open_source
from deepscan.video.isolation import launcher, protocol
from deepscan.video.isolation.launcher import _FORKSERVER
from deepscan.video.isolation.protocol import ProtocolError
from deepscan.video.isolation.reader import IsolatedReader
from tests.drawn import read_number

Clip = Callable[..., Path]


def descriptors() -> set[str]:
    return set(os.listdir("/dev/fd"))


def children() -> int:
    """How many processes there are under this one, unreaped too, beside the fork server."""
    server = _FORKSERVER.server()
    if server is not None:
        return len(set(offspring(os.getpid())) - {str(server._process.pid)})
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return 1 if found is None or found.si_pid else 0


@contextmanager
def nothing_left() -> Iterator[None]:
    gc.collect()
    before = descriptors()
    yield
    gc.collect()
    assert descriptors() == before
    assert children() == 0


@contextmanager
def isolated(
    path: Path, limits: Limits | None = None, fault: str | None = None
) -> Iterator[IsolatedReader]:
    """A reader in a worker process; a `fault` needs the fixture `failing`."""
    limits = limits or Limits()
    source = open_source(path, limits)
    try:
        with IsolatedReader(source, ReadOptions("pyav", limits, fault)) as reader:
            yield reader
    finally:
        os.close(source.descriptor)


@pytest.mark.parametrize("name", ["h264.mp4", "h264.avi", "turned.mkv", "odd.mkv", "vfr.mp4"])
def test_frames_are_those_of_the_same_process(name: str, clip: Clip) -> None:
    special: dict[str, dict[str, Any]] = {
        "turned.mkv": {"rotation": 90},
        "odd.mkv": {"codec": "ffv1", "size": (161, 121)},
        "vfr.mp4": {"vfr": True},
    }
    path = clip(name, frames=40, **special.get(name, {}))
    with nothing_left():
        with open_video(path) as reader:
            info, frames = reader.info, list(reader.frames())
            report = reader.report()
        with open_video(path, isolate=False) as reader:
            assert reader.info == info
            for frame, other in zip(frames, reader.frames(), strict=True):
                assert (frame.index, frame.pts, frame.time) == (
                    other.index,
                    other.pts,
                    other.time,
                )
                assert np.array_equal(frame.image, other.image)
                assert not frame.image.flags.writeable
            assert reader.report() == report


def test_stills_and_refusals_come_through(tmp_path: Path) -> None:
    from PIL import Image as Pillow

    Pillow.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "still.png")
    with nothing_left():
        with open_video(tmp_path / "still.png") as reader:
            assert reader.info.still
            assert [frame.image[0, 0].tolist() for frame in reader.frames()] == [[200, 10, 10]]
            assert reader.report().complete
        (tmp_path / "text.mp4").write_bytes(b"hello world\n" * 500)
        with pytest.raises(errors.UnsupportedError, match=r"text\.mp4"):
            open_video(tmp_path / "text.mp4")
        with pytest.raises(errors.CorruptError, match="empty file"):
            (tmp_path / "empty.mp4").touch()
            open_video(tmp_path / "empty.mp4")


def test_limits_come_through(clip: Clip) -> None:
    path = clip("h264.mp4")
    seen: list[int] = []
    with (
        nothing_left(),
        pytest.raises(errors.LimitError) as stopped,
        open_video(path, limits=Limits(frames=7)) as reader,
    ):
        seen.extend(frame.index for frame in reader.frames())
    assert stopped.value.reason == "limit_frames"
    assert seen == list(range(7))
    assert reader.report().decoded == 7
    assert not reader.report().complete


@pytest.fixture(scope="module")
def failing() -> Iterator[None]:
    """Workers fail where `isolated` says so; others work as usual."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "MODULE", "tests.video.isolation.failing_{}")
        _FORKSERVER.close()
        _FORKSERVER.server()  # its descriptors are not what a test leaves behind
        yield
        _FORKSERVER.close()


@pytest.mark.parametrize(
    ("fault", "error", "reason"),
    [
        ("crash", errors.DecoderCrash, "decoder_crash"),
        ("exit", errors.DecoderCrash, "decoder_crash"),
        ("garbage", errors.DecoderCrash, "decoder_crash"),
        ("hang", errors.DecoderHang, "decoder_hang"),
        ("memory", errors.LimitError, "limit_memory"),
    ],
)
def test_a_failing_worker_costs_one_file(
    fault: str, error: type[errors.VideoError], reason: str, clip: Clip, failing: None
) -> None:
    path = clip("h264.mp4")
    numbers: list[int | None] = []
    with nothing_left():
        with pytest.raises(error) as seen, isolated(path, Limits(idle=2), f"{fault} 5") as reader:
            frames = reader.frames()
            numbers.extend(read_number(frame.image) for frame in frames)
        report = reader.report()
    assert numbers == [0, 1, 2, 3, 4]
    assert seen.value.reason == reason
    assert str(path) in str(seen.value)
    assert (report.decoded, report.complete) == (5, False)


def test_the_wall_limit_counts_waiting_only(clip: Clip, failing: None) -> None:
    limits = Limits(time_floor=1.5, time_factor=0.1, idle=30)
    with isolated(clip("h264.mp4"), limits) as reader:
        for frame in reader.frames():
            if frame.index in (2, 3):
                time.sleep(0.9)  # a slow consumer is not a hang
    assert reader.report().complete
    began = time.monotonic()
    with (
        pytest.raises(errors.LimitError) as seen,
        isolated(clip("h264.mp4"), limits, "hang 3") as reader,
    ):
        list(reader.frames())
    assert seen.value.reason == "limit_time"
    assert time.monotonic() - began < 10


def test_a_slow_consumer_holds_the_worker_back(clip: Clip) -> None:
    with isolated(clip("h264.mp4", frames=300), Limits(idle=1)) as reader:
        frames = reader.frames()
        next(frames)
        time.sleep(1.5)
        assert sum(1 for _ in frames) == 299
    assert reader.report().complete


def test_a_reader_left_early_leaves_nothing(clip: Clip) -> None:
    with nothing_left():
        with open_video(clip("h264.mp4")) as reader:
            frame = next(iter(reader.frames()))
        assert read_number(frame.image) == 0
        reader.close()
        open_video(clip("h264.mp4"))  # never closed
        gc.collect()


def test_too_little_memory_is_a_limit(clip: Clip) -> None:
    path = clip("large.mp4", size=(1920, 1080), frames=3)
    with pytest.raises(errors.LimitError) as seen, isolated(path, Limits(memory=2**28)) as reader:
        list(reader.frames())
    assert seen.value.reason == "limit_memory"


def test_memory_that_cannot_be_shared_is_a_limit(clip: Clip) -> None:
    path = clip("large.mp4", size=(1920, 1080), frames=3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with isolated(path) as reader:  # the process that starts decoders must have come before
        list(reader.frames())
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(errors.LimitError, match="ulimit -f") as seen, isolated(path) as reader:
            list(reader.frames())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert seen.value.reason == "limit_memory"


def test_the_worker_has_given_up_its_rights(clip: Clip) -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc here")
    with isolated(clip("h264.mp4", frames=200)) as reader:
        frames = reader.frames()
        next(frames)
        process = offspring(os.getpid())[-1]
        said = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{process}/status").read_text().splitlines()
            if ":\t" in line
        )
        limits = Path(f"/proc/{process}/limits").read_text()
        mapped = Path(f"/proc/{process}/maps").read_text()
    assert said["NoNewPrivs"].strip() == "1"
    assert "Max file size             0                    0" in limits
    assert "Max core file size        0                    0" in limits
    assert "torch" not in mapped


def test_a_locked_down_process_can_reach_nothing(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("the lock is a Linux one")
    script = textwrap.dedent(
        """
        import os, socket, subprocess, sys
        from deepscan.video.isolation.sandbox import lock_down
        level = lock_down()
        def attempt(act):
            try:
                act()
            except OSError as error:
                return type(error).__name__
            return "allowed"
        print(level)
        print(attempt(lambda: open(sys.argv[1])))
        print(attempt(lambda: os.listdir("/")))
        print(attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        print(attempt(lambda: socket.socket(socket.AF_UNIX)))
        print(attempt(lambda: os.execv("/bin/true", ["true"])))
        """
    )
    secret = tmp_path / "secret"
    secret.write_text("x")
    done = subprocess.run(
        [sys.executable, "-c", script, str(secret)], capture_output=True, text=True, check=True
    )
    level, *answers = done.stdout.split()
    paths, calls = answers[:2], answers[2:]
    assert paths == ["PermissionError" if "landlock" in level else "allowed"] * 2
    if "seccomp" in level:
        assert calls == ["PermissionError"] * 3


def test_the_parent_imports_no_decoder(clip: Clip) -> None:
    script = (
        "import sys; from pathlib import Path; from deepscan.video import open_video\n"
        "with open_video(Path(sys.argv[1])) as reader: print(len(list(reader.frames())))\n"
        "print([name for name in ('av', 'decord', 'torch', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(clip("h264.mp4"))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["20", "[]"]


def test_a_module_in_the_current_folder_is_not_imported(clip: Clip, tmp_path: Path) -> None:
    (tmp_path / "av.py").write_text("raise SystemExit('hijacked')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('hijacked')")
    script = (
        "import sys; sys.path = [entry for entry in sys.path if entry]\n"
        "from pathlib import Path; from deepscan.video import open_video\n"
        "with open_video(Path(sys.argv[1])) as reader: print(len(list(reader.frames())))"
    )
    root = Path(protocol.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, str(clip("h264.mp4"))],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.stdout.split() == ["20"]


def test_the_worker_dies_with_its_parent(clip: Clip) -> None:
    script = (
        "import sys, time; from pathlib import Path; from deepscan.video import open_video\n"
        "reader = open_video(Path(sys.argv[1])); frames = reader.frames(); next(frames)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(clip("long.mp4", frames=300))],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        workers = offspring(parent.pid)
        assert len(workers) == 2 or not Path("/proc").exists()  # the fork server and its worker
        parent.kill()
    deadline = time.monotonic() + 10
    alive = list(workers)
    while alive and time.monotonic() < deadline:
        alive = [pid for pid in alive if _runs(pid)]
        time.sleep(0.05)
    assert not alive


def offspring(parent: int | str) -> list[str]:
    """The processes that a process has started, and those that these have, the youngest last."""
    families = Path(f"/proc/{parent}/task").glob("*/children")
    found = sorted(" ".join(family.read_text() for family in families).split(), key=int)
    return [*found, *(young for child in found for young in offspring(child))]


def _runs(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_decord_dying_on_opening_lets_pyav_take_over(
    clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepscan.video import open as opening_of
    from deepscan.video.readers.choose import choose_reader as choose

    path = clip("h264.mp4")
    asked = []

    def opening(source, wish, *given, **named):  # type: ignore[no-untyped-def]
        asked.append(wish.decoder)
        if wish.decoder != "pyav":
            raise errors.DecoderCrash("decord died")
        return choose(source, wish, *given, **named)

    monkeypatch.setattr(opening_of, "choose_reader", opening)
    with open_video(path, isolate=False) as reader:
        assert len(list(reader.frames())) == 20
        assert "decord died" in reader.report().decoder_reason
    assert asked == ["auto", "pyav"]
    with pytest.raises(errors.DecoderCrash):
        open_video(path, decoder="decord", isolate=False)


# Words from the worker


def test_info_survives_the_journey(clip: Clip) -> None:
    with open_video(clip("h264.mp4"), decoder="pyav", isolate=False) as reader:
        info = reader.info
    assert protocol.unpack_info(protocol.pack_info(info), info.path, Limits()) == info


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"width": 1.5},
        {"width": 10**9},
        {"height": True},
        {"duration": float("nan")},
        {"duration": "long"},
        {"frame_rate": [25, 0]},
        {"time_base": [1]},
        {"codec": 7},
        {"codec": "x" * 10_000},
        {"audio": ["aac"] * 1000},
        {"colour": None},
        {"still": 0},
    ],
)
def test_no_bad_info_is_believed(change: dict[str, object], clip: Clip) -> None:
    import json

    with open_video(clip("h264.mp4"), decoder="pyav", isolate=False) as reader:
        said = json.loads(protocol.pack_info(reader.info))
    with pytest.raises(ProtocolError):
        protocol.unpack_info(json.dumps(said | change).encode(), Path("x"), Limits())


@given(st.binary(max_size=200))
def test_noise_is_never_believed(noise: bytes) -> None:
    for unpack in (
        lambda: protocol.unpack_info(noise, Path("x"), Limits()),
        lambda: protocol.unpack_report(noise, 0),
        lambda: protocol.unpack_failure(noise, 0),
    ):
        with pytest.raises(ProtocolError):
            unpack()


def test_a_report_cannot_claim_other_frames(clip: Clip) -> None:
    with open_video(clip("h264.mp4"), decoder="pyav", isolate=False) as reader:
        list(reader.frames())
        said = protocol.pack_report(reader.report())
    assert protocol.unpack_report(said, 20) == reader.report()
    with pytest.raises(ProtocolError):
        protocol.unpack_report(said, 3)
    lie = replace(reader.report(), reasons=("short",))
    with pytest.raises(ProtocolError):
        protocol.unpack_report(protocol.pack_report(lie), 20)


# Random damage


@pytest.fixture(scope="module")
def small(clip: Clip) -> dict[str, bytes]:
    names: dict[str, dict[str, Any]] = {
        "h264.mp4": {},
        "vp9.webm": {"codec": "libvpx-vp9"},
        "mpeg4.avi": {"codec": "mpeg4"},
    }
    return {
        name: clip(name, frames=8, size=(64, 48), **wanted).read_bytes()
        for name, wanted in names.items()
    }


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_random_damage_ends_in_frames_or_an_error(
    data: st.DataObject, small: dict[str, bytes], tmp_path: Path
) -> None:
    name = data.draw(st.sampled_from(sorted(small)))
    damaged = bytearray(small[name])
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(1, len(damaged))) :]
    path = tmp_path / name
    path.write_bytes(damaged)
    try:
        with open_video(path, limits=Limits(idle=20)) as reader:
            last = -1
            for frame in reader.frames():
                assert frame.pts > last or last == -1
                last = frame.pts
                assert frame.image.shape == (reader.info.height, reader.info.width, 3)
            report = reader.report()
    except errors.VideoError as error:
        assert str(path) in str(error)
        return
    assert report.decoded > 0
    assert report.complete or report.reasons
