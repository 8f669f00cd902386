"""The fork server: workers come from it quickly, share nothing, and outlive neither it nor us."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from deepscan import errors
from deepscan.options import Limits
from deepscan.video import open_video
from deepscan.video.isolation import launcher
from deepscan.video.isolation.launcher import LOST, Forkserver
from tests.video.isolation.test_reader import _runs, isolated, offspring

Clip = Callable[..., Path]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="there is a fork server on Linux only"
)


@pytest.fixture
def forkserver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forkserver]:
    """A forkserver of the test's own, ended afterwards."""
    own = Forkserver()
    monkeypatch.setattr(launcher, "_FORKSERVER", own)
    yield own
    own.close()


def number_of(forkserver: Forkserver) -> int:
    server = forkserver.server()
    assert server is not None
    return server._process.pid


def count(path: Path) -> int:
    with open_video(path) as reader:
        return sum(1 for _ in reader.frames())


def gone(process: str | int) -> bool:
    deadline = time.monotonic() + 10
    while _runs(str(process)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_one_fork_server_forks_all_workers(clip: Clip, forkserver: Forkserver) -> None:
    path = clip("h264.mp4")
    server = number_of(forkserver)
    with isolated(path) as one, isolated(path) as other:
        workers = offspring(server)
        assert len(workers) == 2
        frames, others = one.frames(), other.frames()
        next(frames), next(others)
        for worker in workers:
            # Its own files only: nothing of the other worker, fork server or this process.
            held = {os.readlink(file) for file in Path(f"/proc/{worker}/fd").iterdir()}
            kinds = sorted(name.split(":")[0].removesuffix(str(path)) for name in held)
            assert kinds == ["", "/dev/null", "/memfd", "pipe", "pipe", "socket"]
            assert "Seccomp:\t2" in Path(f"/proc/{worker}/status").read_text()
        assert sum(1 for _ in frames) == sum(1 for _ in others) == 19
    assert offspring(server) == []
    assert number_of(forkserver) == server


def test_many_files_cost_one_interpreter(
    clip: Clip, forkserver: Forkserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    real = launcher.start_interpreter

    def note(module: str, *rest: Any, **streams: Any) -> Any:
        started.append(module.rpartition(".")[2])
        return real(module, *rest, **streams)

    monkeypatch.setattr(launcher, "start_interpreter", note)
    path = clip("h264.mp4")
    assert [count(path) for _ in range(5)] == [20] * 5
    assert started == ["forkserver"]


def test_many_threads_may_open_files(clip: Clip, forkserver: Forkserver) -> None:
    path = clip("h264.mp4")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(count, [path] * 40)) == [20] * 40
    assert offspring(number_of(forkserver)) == []


def test_a_dead_fork_server_is_replaced(
    clip: Clip, forkserver: Forkserver, caplog: pytest.LogCaptureFixture
) -> None:
    path = clip("h264.mp4")
    first = number_of(forkserver)
    os.kill(first, signal.SIGKILL)
    assert gone(first)
    with caplog.at_level(logging.WARNING):
        assert count(path) == 20
    assert "is replaced" in caplog.text
    assert number_of(forkserver) != first


def test_workers_die_with_the_fork_server_and_cost_their_file(
    clip: Clip, forkserver: Forkserver
) -> None:
    with isolated(clip("long.mp4", frames=300), Limits(idle=20)) as reader:
        frames = reader.frames()
        next(frames)
        server = number_of(forkserver)
        (worker,) = offspring(server)
        os.kill(server, signal.SIGKILL)
        with pytest.raises(errors.DecoderCrash, match="together with the fork server"):
            list(frames)
        assert reader._worker._process.wait(0) == LOST
        assert gone(worker)
    assert count(clip("h264.mp4")) == 20


def test_ending_the_nursery_ends_all_workers(clip: Clip, forkserver: Forkserver) -> None:
    with isolated(clip("long.mp4", frames=300)) as reader:
        next(reader.frames())
        processes = [str(number_of(forkserver)), *offspring(number_of(forkserver))]
        forkserver.close()
        assert all(map(gone, processes))


@pytest.mark.parametrize("trouble", ["dies", "cannot start"])
def test_without_a_fork_server_files_are_read_all_the_same(
    trouble: str,
    clip: Clip,
    forkserver: Forkserver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = launcher.start_interpreter

    def fail(module: str, *rest: Any, **streams: Any) -> Any:
        if module.endswith("forkserver"):
            if trouble == "cannot start":
                raise OSError("no more processes")
            return real("no_such_module", *rest, **streams)
        return real(module, *rest, **streams)

    monkeypatch.setattr(launcher, "start_interpreter", fail)
    monkeypatch.setattr(launcher, "MODULE", "tests.video.isolation.failing_{}")
    with caplog.at_level(logging.WARNING):
        assert count(clip("h264.mp4")) == count(clip("h264.mp4")) == 20
    told = [
        record.message for record in caplog.records if "starts a new interpreter" in record.message
    ]
    assert len(told) == 1  # once a program
    with pytest.raises(errors.DecoderCrash), isolated(clip("h264.mp4"), fault="crash 3") as bad:
        list(bad.frames())


def idle_descriptors(server: int) -> set[int]:
    """The numbers that are taken once the line of the last worker is closed."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        files = {}
        for file in Path(f"/proc/{server}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed just now
                files[int(file.name)] = os.readlink(file)
        if sum(name.startswith("socket:") for name in files.values()) == 3:
            return set(files)
        time.sleep(0.02)
    raise AssertionError(files)


def test_one_job_too_many_harms_no_other(
    clip: Clip, forkserver: Forkserver, caplog: pytest.LogCaptureFixture
) -> None:
    path = clip("h264.mp4")
    assert count(path) == 20
    server = number_of(forkserver)
    taken = idle_descriptors(server)
    free = (number for number in range(1000) if number not in taken)
    room = list(islice(free, 7))[6]  # six descriptors make a job, and each worker keeps one
    resource.prlimit(server, resource.RLIMIT_NOFILE, (room, room))
    with isolated(path) as one, isolated(path) as other:  # the second has to go another way
        assert "Too many open files" in caplog.text
        assert sum(1 for _ in one.frames()) == sum(1 for _ in other.frames()) == 20
    assert number_of(forkserver) == server


def test_a_fork_server_that_does_not_answer_is_passed_over(
    clip: Clip, forkserver: Forkserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clip("h264.mp4")
    server = number_of(forkserver)
    monkeypatch.setattr(launcher, "START_UP", 0.2)
    os.kill(server, signal.SIGSTOP)
    try:
        assert count(path) == 20
    finally:
        os.kill(server, signal.SIGCONT)
    assert number_of(forkserver) == server
    assert count(path) == 20
    deadline = time.monotonic() + 10
    while offspring(server) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert offspring(server) == []  # the job that came too late was dropped


def test_a_fork_of_the_program_gets_a_fork_server_of_its_own(clip: Clip) -> None:
    script = (
        "import os, sys; from pathlib import Path; from deepscan.video import open_video\n"
        "from deepscan.video.isolation.launcher import _FORKSERVER\n"
        "def count():\n"
        "    with open_video(Path(sys.argv[1])) as reader: return len(list(reader.frames()))\n"
        "assert count() == 20\n"
        "first = _FORKSERVER.server()._process.pid\n"
        "child = os.fork()\n"
        "assert count() == 20\n"
        "own = _FORKSERVER.server()._process.pid\n"
        "if child: assert own == first and os.waitpid(child, 0)[1] == 0\n"
        "else: assert own != first\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(clip("h264.mp4"))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
