"""Long media: a scan that was killed goes on at the last border, and says the same in the end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepscan.errors import DecoderCrash, EngineError, OutputError
from deepscan.scan import segments
from deepscan.scan.frame_store import FrameStore
from deepscan.scan.pass_result import PassResult
from deepscan.sinks.masks import read_masks
from deepscan.sinks.record import digest_of
from deepscan.types import Label
from tests.conftest import blue_engine, draw_face, fake_scanner, judge_blue, make_face_clip
from tests.scan.test_frame_store import results
from tests.scan.test_scanner import HERE, dying, outputs_in, scan, valid

ROOT = Path(__file__).parents[2]
SEGMENT = 1.0
KINDS = ("masks", "frames", "record")


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_LENGTH", SEGMENT)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Four seconds and a bit: four borders."""
    return make_face_clip(tmp_path_factory.mktemp("c") / "a.mp4", frames=110, forged=range(60, 90))


def written(folder):
    """All that a scan wrote, without what differs between any two runs."""
    masks = [
        (mask.index, mask.pts, mask.probability.tobytes(), mask.analysed.tobytes())
        for mask in read_masks(folder / "r.masks.mkv")  # whose container holds a random number
    ]
    frames = (folder / "r.frames.jsonl").read_bytes()
    return {"digest": digest_of(valid(folder / "r.json")), "frames": frames, "masks": masks}


@pytest.fixture
def unbroken(long, tmp_path):
    folder = tmp_path / "unbroken"
    folder.mkdir()
    scan(long, outputs_in(folder, *KINDS))
    return written(folder)


class Stop(BaseException):
    """Ends a scan as a Ctrl-C would."""


def stop_at(count):
    def progress(stage, done, *_):
        if stage == "analysing" and done == count:
            raise Stop

    return progress


@pytest.mark.parametrize("frames", [24, 26, 60, 101, 110])
def test_an_interrupted_scan_ends_as_an_unbroken_one(long, tmp_path, unbroken, frames):
    folder, checkpoint = tmp_path / "out", tmp_path / "check" / "point"
    folder.mkdir()
    with pytest.raises(Stop):
        scan(long, outputs_in(folder, *KINDS), progress=stop_at(frames), checkpoint=checkpoint)
    assert (checkpoint / "mark.json").exists() == (frames > 25)
    judged = []

    def judge(crops):
        judged.append(len(crops))
        return judge_blue(crops)

    with fake_scanner(HERE, engine=blue_engine(judge=judge)) as scanner:
        outcome = scanner.scan(long, outputs_in(folder, *KINDS), checkpoint=checkpoint)
    assert outcome.label is Label.MANIPULATED
    assert sum(judged) == 110 - (frames - 1) // 25 * 25  # what lay before the border was kept
    assert written(folder) == unbroken
    assert not checkpoint.exists()


def test_a_scan_with_a_checkpoint_says_the_same(long, tmp_path, unbroken):
    folder = tmp_path / "out"
    folder.mkdir()
    scan(long, outputs_in(folder, *KINDS), checkpoint=tmp_path / "c")
    assert written(folder) == unbroken
    assert not (tmp_path / "c").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from deepscan.scan import segments
segments.SEGMENT_LENGTH = 1.0
from tests.scan.test_resume import KINDS
from tests.scan.test_scanner import HERE, outputs_in
from tests.conftest import fake_scanner
clip, folder, checkpoint = map(Path, sys.argv[1:4])
def progress(stage, done, *_):
    if (stage, done) == ("analysing", int(sys.argv[4])):
        os.kill(os.getpid(), signal.SIGKILL)
with fake_scanner(HERE) as scanner:
    scanner.scan(clip, outputs_in(folder, *KINDS), checkpoint=checkpoint, progress=progress)
"""


def test_after_a_kill_the_scan_goes_on(long, tmp_path, unbroken):
    folder, checkpoint = tmp_path / "out", tmp_path / "checkpoint"
    folder.mkdir()
    for last in (40, 80):  # twice, and once before the border after which it goes on
        ran = subprocess.run(
            [sys.executable, "-c", KILLED, str(long), str(folder), str(checkpoint), str(last)],
            cwd=ROOT, timeout=120, check=False,
        )  # fmt: skip
        assert ran.returncode == -signal.SIGKILL
        mark = json.loads((checkpoint / "mark.json").read_text())
        assert mark["state"] == {"border": float(last // 25)}
        assert (checkpoint / "results").stat().st_mode & 0o777 == 0o600
    scan(long, outputs_in(folder, *KINDS), checkpoint=checkpoint)
    assert written(folder) == unbroken


def interrupted(clip, checkpoint, options=HERE, frames=60):
    with pytest.raises(Stop):
        scan(clip, options=options, progress=stop_at(frames), checkpoint=checkpoint)
    assert (checkpoint / "mark.json").exists()


def looked_at(clip, checkpoint, options=HERE, weights=None):
    """How many faces a scan judges."""
    judged = []

    def judge(crops):
        judged.append(len(crops))
        return judge_blue(crops)

    engine = blue_engine(judge=judge)
    engine.model = weights or engine.model
    with fake_scanner(options, engine=engine) as scanner:
        scanner.scan(clip, checkpoint=checkpoint)
    return sum(judged)


@pytest.mark.parametrize("change", ["settings", "content", "weights", "results", "mark", "empty"])
def test_a_stale_or_damaged_checkpoint_is_not_used(long, tmp_path, change):
    checkpoint = tmp_path / "c"
    interrupted(long, checkpoint)
    options, clip, weights = HERE, long, None
    if change == "settings":
        options = replace(HERE, crop_scale=1.4)
    elif change == "content":
        clip = make_face_clip(tmp_path / "b.mp4", frames=110)
    elif change == "weights":
        weights = replace(blue_engine().model, sha256="1" * 64)
    elif change == "results":
        data = bytearray((checkpoint / "results").read_bytes())
        data[len(data) // 3] ^= 1
        (checkpoint / "results").write_bytes(data)
    elif change == "mark":
        (checkpoint / "mark.json").write_text('{"key": 7')
    elif change == "empty":
        (checkpoint / "results").write_bytes(b"")
    assert looked_at(clip, checkpoint, options, weights) == 110


def test_the_same_checkpoint_is_used(long, tmp_path):
    interrupted(long, tmp_path / "c")
    assert looked_at(long, tmp_path / "c") == 110 - 50


def test_what_lies_behind_the_mark_is_dropped(long, tmp_path):
    interrupted(long, tmp_path / "c")
    with (tmp_path / "c" / "results").open("ab") as file:
        file.write(b"\xff" * 1000)  # half a frame that a kill cut off
    assert looked_at(long, tmp_path / "c") == 110 - 50


def test_an_error_of_the_file_ends_its_checkpoint(long, tmp_path, monkeypatch):
    monkeypatch.setattr("deepscan.scan.scanner.open_video", dying(60, DecoderCrash("it died")))
    outcome = scan(long, checkpoint=tmp_path / "c")
    assert outcome.label is Label.ERROR
    assert not (tmp_path / "c").exists()


def test_an_error_of_the_engine_keeps_it(long, tmp_path):
    count = []

    def judge(crops):
        count.append(len(crops))
        if sum(count) > 60:
            raise EngineError("the device is gone")
        return judge_blue(crops)

    with (
        fake_scanner(HERE, engine=blue_engine(judge=judge)) as scanner,
        pytest.raises(EngineError),
    ):
        scanner.scan(long, checkpoint=tmp_path / "c")
    assert looked_at(long, tmp_path / "c") == 110 - 50


def test_short_media_leaves_no_checkpoint(clips, tmp_path):
    seen = []

    def look(*_):
        seen.append((tmp_path / "c").exists())

    scan(clips["honest"], progress=look, checkpoint=tmp_path / "c")
    assert seen and not any(seen)


def test_two_scans_do_not_share_a_checkpoint(tmp_path):
    with FrameStore(tmp_path / "c", "key"), pytest.raises(OutputError, match="another scan"):
        FrameStore(tmp_path / "c", "key")


def test_a_checkpoint_is_no_link(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "c" / "results").symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError):
        FrameStore(tmp_path / "c", "key")
    assert (tmp_path / "mine").read_text() == "mine"


def test_evidence_from_the_spool_is_the_same_to_the_last_bit():
    with FrameStore() as store:
        live, again = PassResult(store), PassResult()
        for result in results(30):
            live.add(result)
        for stored in store.results():
            again.add_stored(stored)
    assert vars(again.evidence) == vars(live.evidence)
    assert (again.sampled, again.tracks) == (live.sampled, live.tracks)


def test_a_face_stays_one_track_across_borders(long, tmp_path):
    (track,) = scan(long).scan.verdict.tracks
    assert (track.start, track.end) == (0.0, pytest.approx(4.4))
    assert track.frames == 110


def test_another_face_behind_a_border_is_another_track(tmp_path):
    def draw(index):
        picture = draw_face(0)
        return picture if index < 25 else np.roll(picture, 70, axis=1)

    clip = make_face_clip(tmp_path / "a.mp4", frames=50, draw=draw)
    tracks = scan(clip).scan.verdict.tracks
    assert [(track.track_id, track.frames) for track in tracks] == [(0, 25), (1, 25)]


def test_it_works_over_a_part_and_a_stride(long, tmp_path):
    options = replace(HERE, start=1.5, end=3.7, stride=3)
    whole = scan(long, options=options)
    interrupted(long, tmp_path / "c", options, frames=90)
    resumed = scan(long, options=options, checkpoint=tmp_path / "c")
    assert resumed.scan.verdict == whole.scan.verdict


def test_isolated_too(long, tmp_path, unbroken):
    folder = tmp_path / "out"
    folder.mkdir()
    options = replace(HERE, isolate=True, decoder="pyav")
    with pytest.raises(Stop):
        scan(long, options=options, progress=stop_at(60), checkpoint=tmp_path / "c")
    outcome = scan(long, outputs_in(folder, *KINDS), options, checkpoint=tmp_path / "c")
    assert outcome.label is Label.MANIPULATED
    assert (folder / "r.frames.jsonl").read_bytes() == unbroken["frames"]
