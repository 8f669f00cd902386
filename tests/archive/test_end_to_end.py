"""Whole runs with real model processes: fakes inside, the model that ships, kills at any time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

import deepscan
from deepscan.archive.journal import read_journal
from deepscan.archive.options import ArchiveOptions
from deepscan.archive.run import scan_archive
from deepscan.archive.workers.contract import PoolSettings
from deepscan.archive.workers.local import LocalPool
from deepscan.options import ScanOptions
from deepscan.types import Label
from tests.archive.workers.test_local import alive, children_of
from tests.conftest import make_face_clip

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "deepscan" / "schemas" / "result-1.json").read_text())


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Twelve clips of different contents, one of them forged, a twin and a broken file."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "sub").mkdir()
    for number in range(12):
        forged = range(20) if number == 5 else ()
        make_face_clip(folder / f"clip{number:02d}.mp4", frames=20 + number, forged=forged)
    (folder / "sub" / "twin.mp4").write_bytes((folder / "clip00.mp4").read_bytes())
    (folder / "junk.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 8)
    return folder


def check_results(out, archive):
    """Every file has exactly one outcome, and all that the journal names is there as it says."""
    import hashlib

    results = read_journal(out)
    files = sorted(
        path.relative_to(archive).as_posix() for path in archive.rglob("*") if path.is_file()
    )
    assert [outcome.name for outcome in results.outcomes] == files
    assert results.finished and results.superseded == ()
    named = set()
    for outcome in results.outcomes:
        assert any(written.kind == "record" for written in outcome.outputs), outcome.name
        for written in outcome.outputs:
            data = (out / written.path).read_bytes()
            assert hashlib.sha256(data).hexdigest() == written.sha256
            named.add(written.path)
        record = json.loads((out / outcome.outputs[-1].path).read_bytes())
        jsonschema.Draft202012Validator(SCHEMA).validate(record)
        assert record["verdict"]["label"] == outcome.label
    left = {
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.is_file() and len(path.relative_to(out).parts) > 1
    }
    assert left == named  # nothing half-written, nothing that nobody knows
    labels = {outcome.name: outcome.label for outcome in results.outcomes}
    assert labels["clip05.mp4"] is Label.MANIPULATED and labels["junk.mp4"] is Label.ERROR
    twin = next(outcome for outcome in results.outcomes if outcome.name == "sub/twin.mp4")
    assert twin.same_as == "clip00.mp4"
    return results


def start(archive, out):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.archive.killed", str(archive), str(out)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_run_with_real_processes(archive, tmp_path):
    options = ScanOptions()
    ended = scan_archive(
        [str(archive)],
        tmp_path / "out",
        options=options,
        pool=LocalPool(
            PoolSettings(
                options,
                scanner="tests.conftest:fake_scanner",
                controls="tests.archive.parts:no_controls",
            )
        ),
        archive_options=ArchiveOptions(reports=("jsonl",), min_free=0),
    )
    assert ended.exit_code == 2
    results = check_results(tmp_path / "out", archive)
    found = next(o for o in results.outcomes if o.label is Label.MANIPULATED)
    assert {written.kind for written in found.outputs} == {
        "overlay", "masks", "frames", "html", "record",
    }  # fmt: skip
    assert results.run.controls == (("known", 0.97),)


def test_files_that_kill_their_process_cost_nobody_else_anything(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate(("abort", "good", "zebra")):
        make_face_clip(folder / f"{name}.mp4", frames=10 + number)
    options = ScanOptions()
    ended = scan_archive(
        [str(folder)],
        tmp_path / "out",
        options=options,
        pool=LocalPool(
            PoolSettings(
                options,
                jobs=4,
                scanner="tests.archive.parts:willing",
                controls="tests.archive.parts:no_controls",
            )
        ),
        archive_options=ArchiveOptions(reports=(), min_free=0),
    )
    labels = {outcome.name: str(outcome.label) for outcome in ended.outcomes}
    assert labels == {
        "abort.mp4": "error", "good.mp4": "no-evidence", "zebra.mp4": "no-evidence",
    }  # fmt: skip
    broken = ended.outcomes[0]
    assert broken.reasons[0].code == "worker_crash" and "signal 6" in broken.reasons[0].text
    record = json.loads((tmp_path / "out" / broken.outputs[0].path).read_bytes())
    jsonschema.Draft202012Validator(SCHEMA).validate(record)


def kill_and_resume(archive, out, moments):
    """Kill runs at the given moments after their start, then let one end; how often each began."""
    for moment in moments:
        process = start(archive, out)
        try:
            time.sleep(moment)
            below = children_of(process.pid)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stderr.close()
        until = time.monotonic() + 20
        while any(map(alive, below)):  # the model process and its decoders end with the run
            assert time.monotonic() < until
            time.sleep(0.02)
    process = start(archive, out)
    _, told = process.communicate(timeout=170)
    assert process.returncode == 0, told
    check_results(out, archive)
    lines = (out / "journal.jsonl").read_bytes().splitlines()
    entries = [json.loads(line) for line in lines]
    done = Counter(entry["outcome"]["name"] for entry in entries if entry["kind"] == "done")
    assert set(done.values()) == {1}  # nothing was done twice that had been written down
    assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))


def test_killed_three_times_at_random(archive, tmp_path):
    moments = random.Random(5)
    kill_and_resume(archive, tmp_path / "out", [moments.uniform(0.3, 2.5) for _ in range(3)])


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_a_hundred_times_at_random(archive, tmp_path):
    moments = random.Random(100)
    for number in range(20):
        out = tmp_path / f"out{number}"
        kill_and_resume(archive, out, [moments.uniform(0.2, 4.0) for _ in range(5)])


@pytest.mark.parametrize(("sent", "within"), [(signal.SIGTERM, 5.0), (signal.SIGINT, 60.0)])
def test_signals_end_a_run_that_can_be_gone_on_with(archive, tmp_path, sent, within):
    out = tmp_path / "out"
    script = (
        "import deepscan.archive.workers.local as local, tests.archive.parts\n"
        "from dataclasses import replace\n"
        "real = local.LocalPool\n"
        "def make(given):\n"
        "    return real(replace(given, scanner='tests.archive.parts:gated_scanner',\n"
        "                        controls='tests.archive.parts:no_controls'))\n"
        "local.LocalPool = make\n"
        "from deepscan.cli.scan import run\n"
        "run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(archive), "--out", str(out), "--report", "jsonl"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "GATE": str(tmp_path / "gate")},
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not list(out.glob("clip*/result.json")):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        below = children_of(process.pid)
        process.send_signal(sent)
        (tmp_path / "gate").touch()  # the run had not ended, however late we are
        began = time.monotonic()
        told, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - began < within
    assert process.returncode == 130
    assert "interrupted" in errors
    assert not any(map(alive, below))
    results = read_journal(out)
    assert not results.finished and 0 < len(results.outcomes) < 14
    if sent == signal.SIGINT:
        assert "stopping" in errors and told.splitlines()[-1].startswith(
            f"{len(results.outcomes)} file"
        )
        assert (out / "results.jsonl").is_file()
    assert list(out.rglob(".*part*")) == []


def test_the_model_that_ships(tmp_path, shipped_model):
    """The whole program as people start it: clips without faces, a picture, a broken file."""
    folder = tmp_path / "in"
    folder.mkdir()
    make_face_clip(folder / "a.mp4", frames=10)
    make_face_clip(folder / "b.mkv", frames=12, forged=range(12))
    (folder / "junk.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(2000))
    (folder / "twin.mp4").write_bytes((folder / "a.mp4").read_bytes())
    out = tmp_path / "out"
    command = [sys.executable, "-m", "deepscan", str(folder), "--out", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert ran.returncode == 2, ran.stderr
    assert ran.stdout.splitlines()[-1].startswith("4 files: ")
    assert "junk.mp4: error, corrupt: " in ran.stdout
    results = read_journal(out)
    assert len(results.outcomes) == 4 and results.finished
    assert results.run.model == shipped_model and results.run.controls_passed
    assert results.run.controls
    records = [json.loads((out / o.outputs[-1].path).read_bytes()) for o in results.outcomes]
    for record in records:
        jsonschema.Draft202012Validator(SCHEMA).validate(record)
    for name in ("results.csv", "results.jsonl", "results.sarif", "results.junit.xml"):
        assert (out / name).is_file(), ran.stderr
    again = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert (again.returncode, again.stdout) == (2, ran.stdout)
    assert os.path.samefile(results.folder, out)
    assert deepscan.__version__ == results.run.version
