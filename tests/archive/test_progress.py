"""What is shown while a run goes on: counts, pace, the bottleneck, and never a raw name."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deepscan.archive import progress
from deepscan.archive.events import Heartbeat, ItemDone, RunStarted, RunStopping
from deepscan.archive.inputs.listing import Counts
from deepscan.archive.progress import LiveView, PlainLog, RunCounter, View, bottleneck, duration
from deepscan.archive.records import InputFile, Outcome
from deepscan.archive.workers.contract import PoolInfo, Task, TaskProgress
from deepscan.options import ScanOptions
from deepscan.types import Label, Reason

CREWED = PoolInfo("fake", "a fake", 2, (), True)
NASTY = "a\x1b[2J\nb\u202e.mp4"


def standing(total):
    return RunStarted(CREWED, total, Counts())


def settled(name, label=Label.NO_EVIDENCE, *, fresh=True, frames=10, score=None):
    reasons = (Reason("complete", "all"),)
    outcome = Outcome(name, f"/in/{name}", label, reasons, frames=frames, score=score)
    return ItemDone(outcome, fresh)


def progressed(name, frames=5, stage="analysing", duration=2.0):
    task = Task(InputFile(name, Path("/in") / name, None), Path("/out"), (), (), ScanOptions())
    return TaskProgress(task, stage, frames, 1.0, duration)


def told(tally, *events):
    for event in events:
        tally.take(event)
    return tally


def test_counts():
    tally = told(
        RunCounter(),
        standing(10),
        settled("a", Label.MANIPULATED),
        settled("b", Label.SUSPICIOUS, fresh=False),
        settled("c", Label.ERROR, frames=0),
        progressed("d", 7),
        progressed("e", 5, "writing"),
        Heartbeat(("d", "e"), {"decode": 3.0, "network": 1.0}),
    )
    assert (tally.settled, tally.fresh, tally.found, tally.failed) == (3, 2, 2, 1)
    assert tally.frames == 10 + 7
    line = tally.line()
    assert "3 of 10 files, 2 in flight, 2 found, 1 failed" in line
    assert "left" in line and "bottleneck: decoding" in line


def test_what_came_back_is_not_in_flight():
    tally = told(RunCounter(), standing(2), progressed("a"), Heartbeat(("a",), {}), settled("a"))
    assert tally.in_flight == {}
    tally.take(Heartbeat((), {}))
    assert tally.line().startswith("1 of 2 files, 0 in flight")


def test_pace_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    tally = told(RunCounter(), standing(100), Heartbeat((), {}))
    assert tally.left is None and tally.rate == 0
    for _ in range(10):
        now[0] += 1
        told(tally, settled("a", frames=50), Heartbeat((), {}))
    assert tally.rate == pytest.approx(50)
    assert tally.left == pytest.approx(90)
    now[0] += 1000
    tally.take(Heartbeat((), {}))
    tally.take(Heartbeat((), {}))
    assert tally.rate < 50
    assert len(tally.recent) <= 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 s"), (89, "89 s"), (120, "2 min"), (3600, "60 min"), (12_000, "3 h 20 min"),
     (260_000, "3 days 0 h")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_bottleneck_has_a_name():
    assert bottleneck({"network": 1.0, "detect": 2.0}) == "face search"
    assert bottleneck({"something new": 1.0}) == "something new"
    assert bottleneck({}) == bottleneck({"decode": 0.0}) == ""


def test_the_plain_log_is_short(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with PlainLog(stream) as log:
        log.take(standing(100))
        for _ in range(100):  # 50 seconds
            now[0] += 0.5
            log.take(progressed("b"))
            log.take(settled("a"))
            log.take(Heartbeat(("b",), {"network": 1.0}))
        log.take(settled("forged.mp4", Label.MANIPULATED, score=0.9999))
        log.take(settled("known.mp4", Label.MANIPULATED, fresh=False))
        log.take(RunStopping(2))
    lines = stream.getvalue().splitlines()
    assert all(line.startswith("deepscan: ") for line in lines)
    assert 5 <= sum("of 100 files" in line for line in lines) <= 6
    assert "deepscan: forged.mp4: manipulated, P(manipulated) >0.99" in lines
    assert not any("known.mp4" in line for line in lines)
    assert "2 files in flight are finished first" in lines[-1]
    assert len(lines) <= 9


def test_the_log_of_a_watch_does_not_announce_its_many_short_runs(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    events = (standing(1), settled("clean.mp4"), Heartbeat((), {}))
    quiet, verbose = io.StringIO(), io.StringIO()
    with PlainLog(quiet, watching=True) as log:
        for event in events:
            log.take(event)
        now[0] += progress.WATCH_EVERY + 1
        log.take(Heartbeat(("long.mp4",), {}))
    with progress.open_view(verbose, quiet=False, verbose=True, watching=True) as log:
        for event in events:
            log.take(event)
    (line,) = quiet.getvalue().splitlines()
    assert line.startswith("deepscan: 1 of 1 file, 1 in flight")
    assert [line.partition(",")[0] for line in verbose.getvalue().splitlines()] == [
        "deepscan: 1 file", "deepscan: clean.mp4: no-evidence",
    ]  # fmt: skip


def test_the_score_of_one_stream_does_not_stand_beside_the_label_of_another():
    reason = Reason("other_stream", "picture stream 2 was judged too: manipulated")
    stream = io.StringIO()
    done = settled("motion.jpg", Label.MANIPULATED, score=0.29)
    other = replace(done.outcome, reasons=(reason,))
    PlainLog(stream).take(replace(done, outcome=other))
    assert stream.getvalue() == "deepscan: motion.jpg: manipulated\n"


def test_names_are_harmless_in_the_log():
    stream = io.StringIO()
    PlainLog(stream).take(settled(NASTY, Label.MANIPULATED))
    assert stream.getvalue().count("\n") == 1
    assert "a\\x1b[2J\\x0ab\\u202e.mp4" in stream.getvalue()


def test_a_log_that_nobody_reads_does_not_end_the_run():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    log = PlainLog(Gone())
    log.take(standing(1))
    log.take(RunStopping(1))
    assert log.tally.stopping


def test_which_view_is_opened():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert isinstance(progress.open_view(Terminal(), quiet=False), LiveView)
    assert isinstance(progress.open_view(io.StringIO(), quiet=False), PlainLog)
    assert type(progress.open_view(Terminal(), quiet=True)) is View
    assert type(progress.open_view(None, quiet=False)) is View
    with progress.open_view(None, quiet=True) as heartbeat_timeout:
        heartbeat_timeout.take(standing(1))


SHOW = """
from tests.archive.test_progress import *
with LiveView() as view:
    view.take(standing(2000))
    for number in range(12):
        view.take(progressed(f"clip{number}.mp4"))
    view.take(progressed(NASTY, duration=None))
    view.take(settled("x", Label.MANIPULATED))
    names = (NASTY, *(f"clip{number}.mp4" for number in range(12)))
    view.take(Heartbeat(names, {"detect": 1.0}))
    view._live.refresh()
    import logging, sys
    print("a line of the log", file=sys.stderr)
"""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals on this system")
def test_the_live_view_on_a_terminal():
    ours, theirs = os.openpty()
    try:
        ran = subprocess.run(
            [sys.executable, "-c", SHOW],
            stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=False,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "30"},
        )  # fmt: skip
        os.set_blocking(ours, False)
        shown = os.read(ours, 2**20).decode(errors="replace")
    finally:
        os.close(ours)
        os.close(theirs)
    assert ran.returncode == 0 and ran.stdout == b"", shown
    assert "1 of 2,000 files" in shown and "bottleneck: face search" in shown
    assert "a\\x1b[2J\\x0ab\\u202e.mp4" in shown and "a\x1b[2J" not in shown
    assert "and 5 more" in shown
    assert "a line of the log" in shown
