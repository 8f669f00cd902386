"""Nothing leaves the machine: a whole scan speaks to nobody, in no process.

The decoder's process is spoken to over a pair of local sockets (AF_UNIX), which lead nowhere else.
What native code does without Python is not noted here; the scan without any network shows that it
needs none.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

WATCH = """
import os, socket, sys

def note(event, args):
    if not event.startswith(("socket.", "urllib.", "http.", "ftplib.", "smtplib.")):
        return
    family = getattr(args[0], "family", None) if args else None
    if event == "socket.__new__":
        family = args[1]
        if family == -1:
            return  # a descriptor that the process was given; it makes no socket
    if family == socket.AF_UNIX:
        event += " local"
    with open(os.environ["PYTHON_OFFLINE_LOG"], "a") as file:
        file.write(f"{os.getpid()} {event} {args[1:]!r}\\n")

sys.addaudithook(note)
with open(os.environ["PYTHON_OFFLINE_LOG"], "a") as file:
    file.write(f"{os.getpid()} watched\\n")
"""


def watched(command, folder):
    """Run Python so that it and every Python process below notes what it does with sockets."""
    (folder / "sitecustomize.py").write_text(WATCH)
    log = folder / "log"
    environment = {
        **os.environ,
        # The decoder's process inherits only what begins with PYTHON.
        "PYTHONPATH": str(folder),
        "PYTHON_OFFLINE_LOG": str(log),
    }
    ran = subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
    )  # fmt: skip
    lines = log.read_text().splitlines()
    processes = {line.split()[0] for line in lines}
    calls = [line for line in lines if not line.endswith(" watched")]
    return ran, processes, calls


def network(calls):
    """What was done with sockets that are not local, without the process."""
    return [call.split(" ", 1)[1] for call in calls if call.split()[2] != "local"]


def test_the_watch_sees_a_network_socket(tmp_path):
    program = (
        "import socket, subprocess, sys\n"
        "socket.socket().close()\n"
        "subprocess.run([sys.executable, '-c', 'import socket; socket.gethostbyname(\"::1\")'])\n"
    )
    _, processes, calls = watched(["-c", program], tmp_path)
    assert len(processes) == 2
    assert [call.split()[0] for call in network(calls)] == [
        "socket.__new__",
        "socket.gethostbyname",
    ]


FAKES = "from tests.conftest import run_with_fakes; run_with_fakes()"


def test_a_scan_with_all_outputs_opens_no_network_socket(clips, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    command = ["-c", FAKES, clips["forged"], "--out", out / "r.mp4"]
    ran, processes, calls = watched(command, tmp_path)
    assert ran.returncode == 1, ran.stderr
    assert len(list(out.iterdir())) == 5
    # This program and the one that decoders are forked off: a fork is watched as its parent is.
    assert len(processes) >= 2
    assert network(calls) == []
    assert calls  # the pair of local sockets


def test_the_installed_program_with_the_shipped_model_speaks_to_nobody(
    shipped_model, clips, tmp_path
):
    command = ["-m", "deepscan", clips["no_face"], "--out", tmp_path / "r.json", "--write", "json"]
    ran, processes, calls = watched(command, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "1 file: 1 not-applicable"
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["model"]["name"] == shipped_model
    assert len(processes) >= 2
    # facenet-pytorch imports urllib3, which tries whether this system knows IPv6: it binds a socket
    # to the machine itself and closes it. Nothing is looked up, connected to or sent.
    probe = [r"socket\.__new__ \(10, .*", r"socket\.bind \(\('::1', 0\),\)"]
    assert [call for call in network(calls) if not any(re.fullmatch(p, call) for p in probe)] == []


def test_a_scan_works_without_a_network(clips):
    """In a network namespace of its own, where there is not even a loopback."""
    apart = ["unshare", "--user", "--map-root-user", "--net"]
    try:
        subprocess.run([*apart, "true"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system does not let users make network namespaces")
    ran = subprocess.run(
        [*apart, sys.executable, "-c", FAKES, str(clips["forged"])],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    assert ran.stdout.endswith("1 file: 1 manipulated\n")
