"""The lock of a results folder: one owner, who is named, and who may die at any time."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deepscan.archive import lock as locks
from deepscan.archive.lock import DOWNLOADS, LOCK, Lock, sweep
from deepscan.errors import OutputError
from deepscan.files import part_name

HOLD = """
import sys, time
from pathlib import Path
from deepscan.archive.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    return child


def end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


def test_a_second_run_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    child = hold(tmp_path)
    try:
        with pytest.raises(OutputError) as refused, Lock(tmp_path):
            pass
        for part in (str(tmp_path), f"process {child.pid}", socket.gethostname(), "deepscan"):
            assert part in str(refused.value)
    finally:
        end(child)


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    end(hold(tmp_path))
    with Lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_it_can_be_taken_again_once_it_is_given_back(tmp_path: Path) -> None:
    for _ in range(2):
        with Lock(tmp_path), pytest.raises(OutputError), Lock(tmp_path):
            pass
    assert (tmp_path / LOCK).read_bytes() == b""


def test_a_forked_worker_does_not_keep_it(tmp_path: Path) -> None:
    ready, told = os.pipe()
    with Lock(tmp_path):
        worker = os.fork()
        if worker == 0:
            os.write(told, b"x")
            signal.pause()
            os._exit(0)
        os.read(ready, 1)
    try:
        with Lock(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        os.close(ready)
        os.close(told)


def test_the_lock_is_never_a_link_and_needs_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / LOCK).symlink_to(target)
    with pytest.raises(OutputError, match="link"), Lock(tmp_path):
        pass
    assert target.read_text() == "precious"
    with pytest.raises(OutputError, match="locked"), Lock(tmp_path / "missing"):
        pass


def test_without_locks_in_the_file_system_the_owner_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    dead = hold(tmp_path)
    end(dead)
    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    said = (tmp_path / LOCK).read_text()
    with Lock(tmp_path), pytest.raises(OutputError, match=f"process {os.getpid()}"), Lock(tmp_path):
        pass
    (tmp_path / LOCK).write_text(json.dumps({**json.loads(said), "host": "elsewhere"}))
    with pytest.raises(OutputError, match="elsewhere"), Lock(tmp_path):
        pass


def test_sweep_removes_leftovers_and_nothing_else(tmp_path: Path) -> None:
    leaf = tmp_path / "tree" / "clip-0123abcd"
    leaf.mkdir(parents=True)
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    kept = [
        leaf / "result.json",
        leaf / "take.part.mp4",
        tmp_path / "journal.jsonl",
        tmp_path / LOCK,
        outside / part_name(Path("a.mp4")).name,
    ]
    gone = [
        part_name(leaf / "result.mp4"),
        part_name(tmp_path / "summary.html"),
        part_name(leaf / "bare"),
        leaf / ".result.tmp.1234",
    ]
    for path in (*kept, *gone):
        path.write_bytes(b"x")
    (leaf / ".masks.tmp.77").mkdir()
    (leaf / ".masks.tmp.77" / "0.png").write_bytes(b"x")
    (tmp_path / DOWNLOADS).mkdir()
    (tmp_path / DOWNLOADS / "a.mp4").write_bytes(b"x")
    (tmp_path / "link").symlink_to(outside)
    part_name(leaf / "linked.mp4").symlink_to(kept[0])
    assert sweep(tmp_path) == len(gone) + 3
    assert all(path.exists() for path in kept) and not any(path.exists() for path in gone)
    assert not (tmp_path / DOWNLOADS).exists() and not (leaf / ".masks.tmp.77").exists()
    assert sweep(tmp_path) == 0
