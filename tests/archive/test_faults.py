"""The world at its worst, met by the whole program: names, links, limits, signals, full disks.

Everything here goes through the command line in processes of its own with real decoders; only the
network is a fake. Each fault has a letter and a number; these are tested here or where it says:

- E1 names that FFmpeg would obey, E2 playlists, E3 links, E4 pipes and sockets, E5 control
  characters, E6 HTML, E7 formulas, E8 names that meet, E9 results inside the inputs, E11 deep trees
  and hard links: `tree` and the tests on it; also test_listing, test_names, test_reports,
  test_summary_page. E10 links where results go: below; also test_lock, test_journal.
- F1 files that vanish, F2 that grow or are replaced, F12 a network that gives no numbers: `world`.
- F3 no permission, F4 no room, F5 no results folder: below; also test_run, test_journal.
- F6 signals: below, at random; also test_end_to_end. F7 kill -9 of the run: test_end_to_end.
- F8 kill -9 of decoders, the process that forks them and the model process: below.
- F9 to F11 engines and weights: test_local, tests/engines, tests/models.
- F13 nobody reads stdout, F14 two runs, F15 a clock that is set, F18 leftovers, F19 a bare
  environment: below; also test_lock, test_cli. F16 other settings: test_run. F17 a damaged
  journal: below and test_journal. F20 no fork beside threads: below.
- A, B, C, D damaged and hostile files: test_mutants, tests/video; A1, A7, C13 and D5 below.
"""

from __future__ import annotations

import csv
import ctypes
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import time
import unicodedata
from contextlib import suppress
from pathlib import Path

import pytest

from deepscan.archive.journal import read_journal
from deepscan.types import Label
from tests.archive.command import (
    SLOW,
    TROUBLED,
    Program,
    check_whole,
    labels_of,
    reasons_of,
    settled_once,
)
from tests.conftest import make_face_clip
from tests.sinks.test_html import parsed

COMMON = ("--min-free", "0", "--report", "jsonl")


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path / "program")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three contents that differ, one of them forged."""
    folder = tmp_path_factory.mktemp("contents")
    make_face_clip(folder / "honest.mp4", frames=12)
    make_face_clip(folder / "forged.mp4", frames=12, forged=range(12))
    make_face_clip(folder / "honest.mkv", frames=13)
    return folder


def copies(clips: Path, folder: Path, count: int, frames: str = "honest.mp4") -> Path:
    """A folder of clips whose contents differ by some bytes that no decoder looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    data = (clips / frames).read_bytes()
    for number in range(count):
        note = b"%08d" % number
        (folder / f"clip{number:02d}.mp4").write_bytes(data + b"\x00\x00\x00\x10free" + note)
    return folder


def lack_power() -> None:
    """For `preexec_fn`: the superuser shall be refused what others are refused."""
    libc = ctypes.CDLL(None)
    for power in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, power, 0, 0, 0)  # PR_CAPBSET_DROP; fails for those who lack it anyway


# Names and trees

HOSTILE = {
    # E1
    b"http:x.mp4": Label.NO_EVIDENCE,
    b"concat:a.mp4": Label.NO_EVIDENCE,
    b"pipe:0.mp4": Label.NO_EVIDENCE,
    b"-i.mp4": Label.NO_EVIDENCE,
    b"%03d.mp4": Label.NO_EVIDENCE,
    # E5
    b"new\nline.mp4": Label.MANIPULATED,
    b"\x1b[2J\x1b]0;owned\x07.mp4": Label.MANIPULATED,
    b"\r.mp4": Label.MANIPULATED,
    "\u202egpj.mp4".encode(): Label.MANIPULATED,
    b"n" * 251 + b".mp4": Label.MANIPULATED,
    b"caf\xe9.mp4": Label.MANIPULATED,
    # E6
    b"<img src=x onerror=alert(1)>.mp4": Label.MANIPULATED,
    b'"onclick="alert(1).mp4': Label.MANIPULATED,
    b"javascript:alert(1).mp4": Label.MANIPULATED,
    # E7
    b"=cmd|' .mp4": Label.MANIPULATED,
    b"+1.mp4": Label.MANIPULATED,
    b"@SUM(A1).mp4": Label.MANIPULATED,
    b"\ttab.mp4": Label.MANIPULATED,
    # E8
    b"a.mp4": Label.NO_EVIDENCE,
    b"a.mkv": Label.NO_EVIDENCE,
    b"A.MP4": Label.NO_EVIDENCE,
    unicodedata.normalize("NFC", "caf\u00e9.mov").encode(): Label.NO_EVIDENCE,
    unicodedata.normalize("NFD", "caf\u00e9.mov").encode(): Label.NO_EVIDENCE,
    # E2, A1, A7, D5
    b"playlist.mp4": Label.ERROR,
    b"cue.mp4": Label.ERROR,
    b"empty.mp4": Label.ERROR,
    b"session.mp4": Label.ERROR,
    b"huge.mp4": Label.ERROR,
    # E3, E4
    b"passwd.mp4": Label.INCONCLUSIVE,
    b"outside.mp4": Label.INCONCLUSIVE,
    b"dangling.mp4": Label.INCONCLUSIVE,
    b"loop.mp4": Label.INCONCLUSIVE,
    b"up.mp4": Label.INCONCLUSIVE,
    b"zero.mp4": Label.INCONCLUSIVE,
    b"fifo.mp4": Label.INCONCLUSIVE,
    b"socket.mp4": Label.INCONCLUSIVE,
    b"folder.mp4/in.mp4": Label.NO_EVIDENCE,
    # E11
    b"hard.mp4": Label.NO_EVIDENCE,
    b"/".join([b"d"] * 65): Label.ERROR,
}
LINKS = {"passwd.mp4", "outside.mp4", "dangling.mp4", "loop.mp4", "up.mp4", "zero.mp4"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory, clips):
    """A folder in which nothing is as it should be, and how its scan ended, two runs on end."""
    place = tmp_path_factory.mktemp("tree")
    folder = place / "in"
    folder.mkdir()
    honest, forged = (clips / "honest.mp4").read_bytes(), (clips / "forged.mp4").read_bytes()
    for number, (name, label) in enumerate(HOSTILE.items()):
        if label in (Label.NO_EVIDENCE, Label.MANIPULATED) and name != b"hard.mp4":
            path = os.fsencode(folder) + b"/" + name
            os.makedirs(os.path.dirname(path), exist_ok=True)
            data = honest if label is Label.NO_EVIDENCE else forged
            Path(os.fsdecode(path)).write_bytes(data + b"\x00\x00\x00\x0cfree%04d" % number)
    shutil.copyfile(clips / "honest.mkv", folder / "a.mkv")
    shutil.copyfile(clips / "forged.mp4", place / "secret.mp4")
    (folder / "playlist.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n../secret.mp4\n#EXT-X-ENDLIST\n"
    )
    (folder / "cue.mp4").write_text("ffconcat version 1.0\nfile '../secret.mp4'\n")
    (folder / "session.mp4").write_text("v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n")
    (folder / "empty.mp4").touch()
    with (folder / "huge.mp4").open("wb") as file:
        file.truncate(2**40)
    for name, target in {
        "passwd": "/etc/passwd", "outside": place / "secret.mp4", "dangling": "nowhere",
        "loop": "loop.mp4", "up": "..", "zero": "/dev/zero",
    }.items():  # fmt: skip
        (folder / f"{name}.mp4").symlink_to(target)
    os.mkfifo(folder / "fifo.mp4")
    os.link(folder / "a.mp4", folder / "hard.mp4")
    (folder / Path(*["d"] * 70)).mkdir(parents=True)
    program = Program(place / "program")
    out = folder / "results"  # E9
    arguments = (folder, "--out", out, "--min-free", "0", "--report", "html,csv,jsonl,sarif,junit",
                 "--write-found", "html")  # fmt: skip
    with socket.socket(socket.AF_UNIX) as server:
        with socket.socket(socket.AF_UNIX):
            here = os.getcwd()
            os.chdir(folder)  # the name of a socket is short
            try:
                server.bind("socket.mp4")
            finally:
                os.chdir(here)
        ran = program.run(*arguments)
        again = program.run(*arguments)
    return out, ran, again


def test_every_hostile_name_has_its_result(tree):
    out, ran, _ = tree
    assert ran.code == 2, ran.err
    results = check_whole(out, {os.fsdecode(name) for name in HOSTILE})
    assert labels_of(results) == {os.fsdecode(name): label for name, label in HOSTILE.items()}
    reasons = reasons_of(results)
    assert {name for name, code in reasons.items() if code == "skipped_symlink"} == LINKS
    specials = {name for name, code in reasons.items() if code == "skipped_special"}
    assert specials == {"fifo.mp4", "socket.mp4"}
    assert reasons["huge.mp4"] == "limit_size" and reasons["empty.mp4"] == "corrupt"
    assert reasons["playlist.mp4"] == reasons["cue.mp4"] == "unsupported"
    assert reasons["session.mp4"] in ("unsupported", "corrupt")
    same = {outcome.name: outcome.same_as for outcome in results.outcomes}
    assert same["hard.mp4"] == "a.mp4"
    folders = [o.folder for o in results.outcomes if o.folder is not None and o.same_as is None]
    plain = {unicodedata.normalize("NFC", folder).casefold() for folder in folders}
    assert len(plain) == len(folders)


def test_results_in_the_inputs_are_not_scanned(tree):
    out, ran, again = tree
    assert (again.code, again.out) == (ran.code, ran.out)
    # What could not be hashed has no key by which to know whether it is the same.
    unknown = {o.name for o in read_journal(out).outcomes if o.sha256 is None and o.folder}
    assert unknown == {"empty.mp4", "huge.mp4"}
    settled = settled_once(out)
    assert {name for name, times in settled.items() if times > 1} <= unknown
    assert "1 results folder" in again.err


def test_nothing_of_a_name_reaches_the_terminal(tree):
    _, ran, again = tree
    for told in (ran.out, ran.err, again.out, again.err):
        assert not [char for char in told if char != "\n" and unicodedata.category(char)[0] == "C"]
    lines = [line for line in ran.out.splitlines() if ": manipulated" in line]
    assert len(lines) == sum(label is Label.MANIPULATED for label in HOSTILE.values())


def test_nothing_of_a_name_reaches_the_pages(tree):
    out, _, _ = tree
    pages = [out / "summary.html", *out.glob("*/*.html")]
    assert len(pages) == 1 + sum(label is Label.MANIPULATED for label in HOSTILE.values())
    for page in pages:
        seen = parsed(page.read_text(encoding="utf-8"))
        assert "default-src 'none'" in seen.policy
        for _, attributes in seen.tags:
            assert not [name for name in attributes if name.startswith("on")]
        assert not [link for link in (*seen.links, *seen.pictures) if link.startswith("java")]
    text = (out / "summary.html").read_text(encoding="utf-8")
    assert "<img src=x" not in text and "&lt;img src=x" in text


def test_no_cell_is_a_formula_and_every_record_has_the_bytes_of_its_name(tree):
    import base64

    out, _, _ = tree
    with (out / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    files = [row for row in rows[1:] if row[0]]  # the last line tells what was passed over
    assert len(files) == len(HOSTILE)
    assert not [cell for row in rows[1:] for cell in row if cell[:1] in tuple("=+@\t\r")]
    for outcome in read_journal(out).outcomes:
        if outcome.folder is None or outcome.same_as is not None:
            continue
        record = json.loads((out / outcome.folder / "result.json").read_bytes())
        given = record["input"]
        if "path_b64" in given:
            assert base64.b64decode(given["path_b64"]).endswith(os.fsencode(outcome.name))
        else:
            assert given["path"].endswith(outcome.name)


@pytest.fixture(scope="module")
def done(tmp_path_factory, clips):
    """A folder of three clips, and the results of a run over it."""
    place = tmp_path_factory.mktemp("done")
    folder = copies(clips, place / "in", 3)
    ran = Program(place / "program").run(folder, "--out", place / "out", *COMMON)
    assert ran.code == 0, ran.err
    return folder, place / "out"


def test_links_are_not_written_through(done, program, tmp_path):
    """E10: whoever plants a link where results go gains nothing."""
    folder, out = done[0], shutil.copytree(done[1], tmp_path / "out")
    outcome = read_journal(out).outcomes[0]
    victim = tmp_path / "victim"
    victim.write_text("precious")
    record = out / outcome.outputs[0].path
    record.unlink()
    record.symlink_to(victim)
    (out / "results.jsonl").unlink()
    (out / "results.jsonl").symlink_to(victim)
    ran = program.run(folder, "--out", out, *COMMON, "--fresh")
    assert ran.code in (0, 2), ran.err
    assert victim.read_text() == "precious"
    (out / ".lock").unlink()
    (out / ".lock").symlink_to(victim)
    ran = program.run(folder, "--out", out, *COMMON)
    assert ran.code == 2 and "symbolic link" in ran.err
    assert victim.read_text() == "precious"


# A world that changes


def test_files_that_change_while_they_are_scanned(clips, program, tmp_path):
    """F1, F2, F12: each is an error or a doubt about that file, and none about the others."""
    folder = copies(clips, tmp_path / "in", 2)
    for number, name in enumerate(("vanishes", "grows", "replaced", "nan")):
        make_face_clip(folder / f"{name}.mp4", frames=20 + number)
    out = tmp_path / "out"
    ran = program.run(folder, "--out", out, *COMMON, scanner=TROUBLED)
    assert ran.code == 2, ran.err
    names = {"clip00.mp4", "clip01.mp4", "vanishes.mp4", "grows.mp4", "replaced.mp4", "nan.mp4"}
    results = check_whole(out, names)
    labels, reasons = labels_of(results), reasons_of(results)
    assert labels["clip00.mp4"] is labels["clip01.mp4"] is Label.NO_EVIDENCE
    assert labels["vanishes.mp4"] is Label.ERROR and reasons["vanishes.mp4"] == "unreadable"
    for name in ("grows.mp4", "replaced.mp4"):
        assert labels[name] in (Label.INCONCLUSIVE, Label.ERROR), (name, reasons[name])
    assert labels["nan.mp4"] is Label.ERROR and reasons["nan.mp4"] == "engine"
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_bytes().splitlines()]
    tried = [line["name"] for line in lines if line["kind"] == "started"]
    assert tried.count("grows.mp4") == 2  # it might have been at its end
    # What had passing causes is looked at again, and is whole now.
    (folder / "vanishes.mp4").write_bytes((clips / "honest.mkv").read_bytes())
    ran = program.run(folder, "--out", out, *COMMON)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1] == "6 files: 6 no-evidence"


def test_what_may_not_be_read_is_an_error(clips, program, tmp_path):
    """F3."""
    folder = copies(clips, tmp_path / "in", 2)
    closed = copies(clips, folder / "closed", 1)
    (folder / "clip01.mp4").chmod(0)
    closed.chmod(0)
    try:
        ran = program.run(folder, "--out", tmp_path / "out", *COMMON, preexec_fn=lack_power)
    finally:
        closed.chmod(0o700)
    assert ran.code == 2, ran.err
    results = check_whole(tmp_path / "out", {"clip00.mp4", "clip01.mp4", "closed"})
    reasons = reasons_of(results)
    assert reasons["clip01.mp4"] == reasons["closed"] == "unreadable"
    assert labels_of(results)["clip00.mp4"] is Label.NO_EVIDENCE


# No room


def test_files_that_cannot_grow_end_the_run_cleanly(clips, program, tmp_path):
    """F4 by a limit on the size of files, which meets whoever writes first."""
    folder = copies(clips, tmp_path / "in", 4, "forged.mp4")
    out = tmp_path / "out"
    ran = program.run(
        folder, "--out", out, *COMMON,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000)),
    )  # fmt: skip
    assert ran.code == 2, ran.err
    assert "bug" not in ran.err and "Traceback" not in ran.err
    assert list(out.rglob("*.part*")) == []
    read_journal(out)
    ran = program.run(folder, "--out", out, *COMMON)
    assert ran.code == 1, ran.err
    results = check_whole(out, {f"clip{number:02d}.mp4" for number in range(4)})
    assert set(labels_of(results).values()) == {Label.MANIPULATED}


def test_a_full_disk_ends_the_run_and_more_room_lets_it_go_on(clips, program, tmp_path):
    """F4 by a file system with room for half of the results."""
    folder = copies(clips, tmp_path / "in", 12, "forged.mp4")
    place, copy = tmp_path / "small", tmp_path / "copy"
    place.mkdir()
    out = place / "out"
    may = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(place)], capture_output=True,
        check=False,
    )  # fmt: skip
    if may.returncode:
        pytest.skip("no file system can be mounted here")
    script = (
        'mount -t tmpfs -o size=200k none "$PLACE" || exit 99\n'
        '"$@"; echo "first $?"\n'
        'find "$PLACE" -name "*.part*" | sed "s/^/left /"\n'
        'mount -o remount,size=60m "$PLACE" || exit 99\n'
        '"$@"; echo "second $?"\n'
        'cp -r "$PLACE/out" "$COPY"\n'
    )
    command = program.command(folder, "--out", out, *COMMON)
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *command], capture_output=True, text=True,
        cwd=Path(__file__).parents[2], timeout=170, check=False,
        env={**program.environment(), "PLACE": str(place), "COPY": str(copy)},
    )  # fmt: skip
    program.check_gone()
    assert "first 2" in ran.stdout and "second 1" in ran.stdout, (ran.stdout, ran.stderr)
    assert "left" not in ran.stdout
    assert "is full" in ran.stderr and "finished files are skipped" in ran.stderr
    results = check_whole(copy, {f"clip{number:02d}.mp4" for number in range(12)})
    assert set(labels_of(results).values()) == {Label.MANIPULATED}
    assert set(settled_once(copy).values()) == {1}


@pytest.mark.parametrize("trouble", ["read-only", "a file", "below a file", "a dangling link"])
def test_without_a_results_folder_nothing_begins(clips, program, tmp_path, trouble):
    """F5: exit 2 before any engine is loaded."""
    folder = copies(clips, tmp_path / "in", 1)
    out = tmp_path / "out"
    if trouble == "read-only":
        out.mkdir(0o500)
    elif trouble == "a file":
        out.touch()
    elif trouble == "below a file":
        (tmp_path / "file").touch()
        out = tmp_path / "file" / "out"
    else:
        out.symlink_to(tmp_path / "nowhere" / "deep")
    began = time.monotonic()
    ran = program.run(folder, "--out", out, *COMMON, preexec_fn=lack_power)
    assert ran.code == 2, ran.err
    assert len(ran.err.splitlines()) == 1 and str(out) in ran.err
    assert "Traceback" not in ran.err and time.monotonic() - began < 60


# Signals


ENDS = {
    "once": ((signal.SIGINT,), 60.0),
    "twice": ((signal.SIGINT, signal.SIGINT), 10.0),
    "terminated": ((signal.SIGTERM,), 10.0),
    "hung up": ((signal.SIGHUP,), 10.0),
}  # signals, and the seconds within which they must have ended the run


def end_at_random(clips, program, tmp_path, seed, count, each, within_first=2.5):
    """F6: exit 130, nothing half-written, no process left, and the next run goes on."""
    folder = copies(clips, tmp_path / "in", count)
    out = tmp_path / "out"
    chance = random.Random(seed)
    for sent, within in [*ENDS.values()] * each:
        process = program.start(folder, "--out", out, *COMMON, scanner=SLOW)
        wait_for_lock(out, process)
        time.sleep(chance.uniform(0.0, within_first))
        began = time.monotonic()
        for number in sent:
            process.send_signal(number)
            time.sleep(0.05)
        ran = program.end(process)
        assert ran.code in (0, 130), ran.err
        assert time.monotonic() - began < within
        assert "Traceback" not in ran.err and "bug" not in ran.err
        assert list(out.rglob("*.part*")) == []
    ran = program.run(folder, "--out", out, *COMMON)
    assert ran.code == 0, ran.err
    check_whole(out, {f"clip{number:02d}.mp4" for number in range(count)})
    assert set(settled_once(out).values()) == {1}


def wait_for_lock(out, process):
    """Until a run has said that the folder is its own."""
    until = time.monotonic() + 60
    while True:
        with suppress(OSError):
            if f'"pid": {process.pid},' in (out / ".lock").read_text():
                return
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)


def test_signals_at_random_moments(clips, program, tmp_path):
    end_at_random(clips, program, tmp_path, seed=1, count=8, each=1, within_first=1.5)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_hundred_signals_at_random_moments(clips, program, tmp_path):
    for seed in range(5):
        end_at_random(clips, program, tmp_path / f"{seed}", seed=seed, count=40, each=5)


def test_processes_that_are_killed_cost_a_second_try(clips, program, tmp_path):
    """F8: the decoder of a file, the process that forks decoders, and the model process."""
    folder = copies(clips, tmp_path / "in", 14)
    out = tmp_path / "out"
    process = program.start(folder, "--out", out, *COMMON, "--jobs", "2", scanner=SLOW)
    killed = []
    until = time.monotonic() + 120
    while len(killed) < 4 and process.poll() is None:
        assert time.monotonic() < until
        wanted = ("decoder", "worker", "forkserver", "decoder")[len(killed)]
        done = len(list(out.glob("*/result.json")))
        if done > 2 * len(killed) and (victim := find(program, wanted)):
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                killed.append(wanted)
        time.sleep(0.01)
    ran = program.end(process)
    assert killed == ["decoder", "worker", "forkserver", "decoder"]
    assert ran.code == 0, (ran.out, ran.err)
    results = check_whole(out, {f"clip{number:02d}.mp4" for number in range(14)})
    assert set(labels_of(results).values()) == {Label.NO_EVIDENCE}
    assert set(settled_once(out).values()) == {1}


def find(program: Program, wanted: str) -> int | None:
    """A process of the run that does what is wanted."""
    processes = program.processes()
    workers = [pid for pid, line in processes.items() if "workers.worker" in line]
    forkservers = [
        pid
        for pid, line in processes.items()
        if "isolation.forkserver" in line and parent_of(pid) in workers
    ]
    decoders = [
        pid
        for pid, line in processes.items()
        if "isolation.forkserver" in line and parent_of(pid) in forkservers
    ]
    found = {"worker": workers, "forkserver": forkservers, "decoder": decoders}[wanted]
    return found[0] if found else None


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def test_forks_without_threads_and_a_clock_that_jumps(clips, program, tmp_path):
    """F15: a day on and a day back at every look. F20: what forks decoders has one thread, and
    Python (3.12 on) sees no fork beside threads anywhere."""
    folder = copies(clips, tmp_path / "in", 3)
    environment = {**program.environment(), "PYTHONWARNINGS": "error:This process"}
    process = program.start(
        "--jump", folder, "--out", tmp_path / "out", *COMMON, scanner=SLOW, env=environment
    )
    threads = set()
    while process.poll() is None:
        forkserver_pid = find(program, "forkserver")
        if forkserver_pid is not None:
            with suppress(OSError):
                threads.add(len(os.listdir(f"/proc/{forkserver_pid}/task")))
        time.sleep(0.05)
    ran = program.end(process)
    assert ran.code == 0, ran.err
    assert threads == {1}
    check_whole(tmp_path / "out", {f"clip{number:02d}.mp4" for number in range(3)})


# Other troubles of a day


def test_nobody_reads_what_is_told(clips, program, tmp_path):
    """F13: the reader of stdout leaves and stderr is closed, or stdout is full."""
    folder = copies(clips, tmp_path / "in", 2, "forged.mp4")
    arguments = (*COMMON, "--write-found", "none")
    process = program.start(
        folder, "--out", tmp_path / "left", *arguments, preexec_fn=lambda: os.close(2), stderr=None
    )
    process.stdout.close()
    process.stdout = None
    assert program.end(process).code == 1
    with open("/dev/full", "wb") as full:
        ran = program.run(folder, "--out", tmp_path / "full", *arguments, stdout=full)
    assert ran.code == 2 and "stdout" in ran.err
    for name in ("left", "full"):
        check_whole(tmp_path / name, {"clip00.mp4", "clip01.mp4"})


def test_two_runs_at_once(clips, program, tmp_path):
    """F14: the second run on one folder is refused; on another folder both work."""
    folder = copies(clips, tmp_path / "in", 5)
    out = tmp_path / "out"
    first = program.start(folder, "--out", out, *COMMON, scanner=SLOW)
    wait_for_lock(out, first)
    other = Program(tmp_path / "other")
    refused = other.run(folder, "--out", out, *COMMON)
    assert refused.code == 2 and f"process {first.pid} on " in refused.err
    assert first.poll() is None
    beside = other.run(folder, "--out", tmp_path / "out2", *COMMON)
    assert beside.code == 0, beside.err
    assert program.end(first).code == 0
    for each in (out, tmp_path / "out2"):
        check_whole(each, {f"clip{number:02d}.mp4" for number in range(5)})


def test_a_damaged_journal_and_leftovers(done, program, tmp_path):
    """F17 and F18."""
    folder, out = done[0], shutil.copytree(done[1], tmp_path / "out")
    journal = out / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"v":1,"kind":"do')  # a torn tail
    (out / "clip00-x").mkdir()
    (out / "clip00-x" / ".result.json.0123abcd.part").write_bytes(b"half")
    (out / ".summary.html.tmp.999999").write_bytes(b"half")
    ran = program.run(folder, "--out", out, *COMMON)
    assert ran.code == 0, ran.err
    assert list(out.rglob("*.part")) == [] and not (out / ".summary.html.tmp.999999").exists()
    lines = whole.splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + b"garbage\n" + b"".join(lines[3:]))
    ran = program.run(folder, "--out", out, *COMMON)
    assert ran.code == 2 and "journal repair" in ran.err


def test_a_bare_environment(clips, tmp_path):
    """F19: locale C, no terminal, no HOME, no TMPDIR that exists, umask 077."""
    folder = copies(clips, tmp_path / "in", 2, "forged.mp4")
    (folder / "caf\u00e9.mp4").write_bytes((clips / "honest.mkv").read_bytes())
    out = tmp_path / "out"
    program = Program(tmp_path / "program")
    ran = subprocess.run(
        program.command(folder, "--out", out, "--min-free", "0"), check=False,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path / "nowhere")},
        cwd=Path(__file__).parents[2], stdin=subprocess.DEVNULL, capture_output=True, timeout=170,
        preexec_fn=lambda: os.umask(0o077),
    )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    results = check_whole(out, {"clip00.mp4", "clip01.mp4", "caf\u00e9.mp4"})
    assert labels_of(results)["caf\u00e9.mp4"] is Label.NO_EVIDENCE
    assert all(path.stat().st_mode & 0o077 == 0 for path in out.rglob("*"))
