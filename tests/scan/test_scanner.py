"""A scan as a whole, with fakes: files whole or absent, and nothing passed off as clean."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import av
import jsonschema
import numpy as np
import pytest

import deepscan.files
import deepscan.scan.scanner
import deepscan.scan.write
from deepscan import files
from deepscan.errors import (
    CorruptError,
    DecoderCrash,
    EngineError,
    LimitError,
    NoVideoError,
    OutputError,
    UnreadableError,
    UsageError,
)
from deepscan.files import check_outputs
from deepscan.options import Limits, ScanOptions
from deepscan.scan.scanner import Scanner, analyze_video, scan_paths, scan_video
from deepscan.sinks import SINKS, sink_class
from deepscan.sinks.masks import read_masks
from deepscan.sinks.record import digest_of, manifest_of
from deepscan.types import Box, Label, Scanned, Skipped
from deepscan.video import open_video
from deepscan.video.verdict_video_mark import MARK
from tests.conftest import (
    CALIBRATION,
    FORGED_BLUE,
    HONEST_BLUE,
    blue_engine,
    fake_scanner,
    make_face_clip,
)
from tests.fakes import FakeDetector
from tests.media import FACE_COLOUR

SUFFIXES = {
    "overlay": ".mp4",
    "masks": ".masks.mkv",
    "frames": ".frames.jsonl",
    "html": ".html",
    "record": ".json",
}
HERE = ScanOptions(isolate=False)  # decoding in a process of its own has tests of its own
SCHEMAS = Path(deepscan.__file__).parent / "schemas"


def outputs_in(folder, *kinds, stem="r"):
    return {kind: folder / (stem + SUFFIXES[kind]) for kind in kinds or SUFFIXES}


def scan(path, outputs=None, options=HERE, **rest):
    with fake_scanner(options) as scanner:
        return scanner.scan(path, outputs, **rest)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def codes(outcome):
    return [reason.code for reason in outcome.scan.verdict.reasons]


def valid(path):
    record = json.loads(path.read_text())
    schema = json.loads((SCHEMAS / "result-1.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(record)
    assert record["digest"] == digest_of(record)
    assert record["manifest"] == manifest_of(record)
    return record


def times(path):
    with av.open(str(path)) as video:
        return [frame.time for frame in video.decode(video=0)]


# What comes out


@pytest.mark.parametrize("isolate", [False, True])
def test_everything_that_is_written(clips, tmp_path, isolate):
    targets = outputs_in(tmp_path)
    outcome = scan(clips["forged"], targets, ScanOptions(isolate=isolate))
    assert outcome.label is Label.MANIPULATED
    assert names(tmp_path) == sorted(path.name for path in targets.values())
    assert [output.kind for output in outcome.outputs] == list(SINKS)
    for output in outcome.outputs:
        data = output.path.read_bytes()
        assert output.sha256 == hashlib.sha256(data).hexdigest()
        assert output.size == len(data)
        assert output.path == targets[output.kind]

    record = valid(targets["record"])
    listed = {each["file"]: each["sha256"] for each in record["outputs"]}
    assert listed == {o.path.name: o.sha256 for o in outcome.outputs if o.kind != "record"}
    whole = clips["forged"].read_bytes()
    assert record["input"]["sha256"] == hashlib.sha256(whole).hexdigest()
    assert record["input"]["size"] == len(whole)
    assert record["verdict"]["label"] == "manipulated"
    assert record["coverage"]["frames_decoded"] == 20
    assert record["settings"]["min_face"] == 40
    assert record["settings"]["limits.frames"] == Limits().frames

    source = times(clips["forged"])
    masks = list(read_masks(targets["masks"]))
    lines = [json.loads(line) for line in targets["frames"].read_text().splitlines()]
    assert len(source) == len(masks) == len(lines) - 1 == 20
    assert times(targets["overlay"]) == pytest.approx(source, abs=1e-3)
    assert [mask.time for mask in masks] == pytest.approx(source, abs=1e-3)
    assert [line["time"] for line in lines[1:]] == pytest.approx(source, abs=1e-3)
    assert masks[5].analysed.any() and not masks[5].analysed.all()
    assert np.nanmax(masks[5].probability) > 0.9
    assert outcome.scan.verdict.model.name in targets["html"].read_text()


def test_the_same_file_has_the_same_digest(clips, tmp_path):
    records = []
    for stem in ("one", "two"):
        targets = outputs_in(tmp_path, "record", "frames", stem=stem)
        scan(clips["forged"], targets)
        records.append(valid(targets["record"]))
    assert records[0]["digest"] == records[1]["digest"]
    assert records[0]["manifest"] != records[1]["manifest"]  # the names of outputs differ


@pytest.mark.parametrize("kinds", [["record"], ["masks"], ["overlay"], ["frames", "html"]])
def test_only_what_was_asked_for(clips, tmp_path, kinds):
    outcome = scan(clips["honest"], outputs_in(tmp_path, *kinds))
    assert names(tmp_path) == sorted("r" + SUFFIXES[kind] for kind in kinds)
    assert {output.kind for output in outcome.outputs} == set(kinds)


@pytest.mark.parametrize(
    ("kinds", "times"), [(["html"], 1), (["html", "masks", "frames"], 1), (["html", "overlay"], 2)]
)
def test_a_page_alone_reads_its_input_once(clips, tmp_path, monkeypatch, kinds, times):
    opened = []

    def counted(*given, **options):
        opened.append(given)
        return open_video(*given, **options)

    monkeypatch.setattr(deepscan.scan.scanner, "open_video", counted)
    outcome = scan(clips["forged"], outputs_in(tmp_path, *kinds))
    assert len(opened) == times and outcome.label is Label.MANIPULATED
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/jpeg") >= 3  # portrait, strongest frame, the same with its mask


def test_nothing_is_written_unasked(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert scan(clips["honest"]).label is Label.NO_EVIDENCE
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "label", "code"),
    [
        ("honest", Label.NO_EVIDENCE, "complete"),
        ("forged", Label.MANIPULATED, "over_operating_point"),
        ("no_face", Label.NOT_APPLICABLE, "no_face"),
        ("cut_off", Label.INCONCLUSIVE, "partial"),
        ("still", Label.MANIPULATED, "over_operating_point"),
    ],
)
def test_files_that_give_a_verdict(clips, name, label, code):
    outcome = scan(clips[name])
    assert outcome.label is label
    assert codes(outcome)[0] == code


def test_a_still_picture(clips, tmp_path):
    targets = outputs_in(tmp_path)
    outcome = scan(clips["still"], targets)
    assert outcome.scan.verdict.video.still
    assert outcome.scan.verdict.coverage.decoded == 1
    assert len(list(read_masks(targets["masks"]))) == 1
    assert len(times(targets["overlay"])) > 1  # a person has to see it
    valid(targets["record"])


def test_forged_seconds_are_told_with_their_place(tmp_path):
    clip = make_face_clip(tmp_path / "a.mp4", frames=100, forged=range(50, 100))
    targets = outputs_in(tmp_path, "record")
    (interval,) = scan(clip, targets).scan.verdict.intervals
    assert interval.start == pytest.approx(2, abs=0.5)
    assert interval.end == pytest.approx(4)
    (told,) = valid(targets["record"])["verdict"]["intervals"]
    ticks = told["start"]["pts"] / told["start"]["seconds"]
    with av.open(str(clip)) as video:
        assert ticks == pytest.approx(1 / float(video.streams.video[0].time_base), rel=1e-3)


def test_a_verdict_video_is_named_and_judged_all_the_same(tmp_path):
    """One that lies in the archive. The mark can be forged, so it excuses nothing."""
    clip = make_face_clip(tmp_path / "a.mp4", forged=range(20))
    with fake_scanner(ScanOptions()) as scanner:
        first = scanner.scan(clip, {"overlay": tmp_path / "verdict.mp4"})
        again = scanner.scan(tmp_path / "verdict.mp4")
    assert "verdict_video" not in [each.code for each in first.scan.verdict.reasons]
    assert "verdict_video" in [each.code for each in again.scan.verdict.reasons]
    assert again.scan.verdict.tracks and again.scan.report.decoded == 20  # it was looked at
    marked = tmp_path / "forged.mp4"  # somebody writes the mark into a manipulated file
    with av.open(str(clip)) as source, av.open(str(marked), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        target.metadata["comment"] = MARK
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    with fake_scanner(ScanOptions()) as scanner:
        found = scanner.scan(marked).scan.verdict
    assert found.label is Label.MANIPULATED
    assert "verdict_video" in [each.code for each in found.reasons]


def test_progress_is_told_for_both_passes(clips, tmp_path):
    told = []
    scan(clips["honest"], outputs_in(tmp_path, "frames"), progress=lambda *p: told.append(p))
    assert [(stage, done) for stage, done, _, _ in told] == [
        *(("analysing", n) for n in range(1, 21)),
        *(("writing", n) for n in range(1, 21)),
    ]
    assert told[19][2] == pytest.approx(0.76)
    assert told[-1][3] == pytest.approx(0.8)


def test_the_record_says_where_the_time_went(clips, tmp_path):
    outcome = scan(clips["honest"], outputs_in(tmp_path))
    stages = dict(outcome.scan.timings)
    assert {"hash", "open", "decode", "detect", "network", "overlay", "masks"} <= set(stages)
    assert all(seconds >= 0 for seconds in stages.values())


def test_a_link_is_followed_once(clips, tmp_path):
    link = tmp_path / "link.mp4"
    link.symlink_to(clips["forged"])
    targets = outputs_in(tmp_path)
    outcome = scan(link, targets)
    assert outcome.label is Label.MANIPULATED
    assert outcome.scan.path == link
    with av.open(str(targets["overlay"])) as video:
        assert video.streams.audio  # the sound is found behind the link, too


# Files that cannot be judged


@pytest.mark.parametrize(
    ("name", "label", "code", "error"),
    [
        ("junk", Label.ERROR, "corrupt", CorruptError),
        ("sound", Label.NOT_APPLICABLE, "no_video", NoVideoError),
        ("missing", Label.ERROR, "unreadable", UnreadableError),
        ("empty", Label.ERROR, "corrupt", CorruptError),
    ],
)
def test_a_bad_file_leaves_a_record_and_nothing_else(
    clips, tmp_path, fakes, name, label, code, error
):
    path = clips.get(name, tmp_path / "in" / name)
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "empty").touch()
    targets = outputs_in(tmp_path / "out")
    outcome = scan(path, targets)
    assert isinstance(outcome, Skipped)
    assert (outcome.label, outcome.reason.code) == (label, code)
    assert names(tmp_path / "out") == ["r.json"]
    (output,) = outcome.outputs
    assert output.sha256 == hashlib.sha256(targets["record"].read_bytes()).hexdigest()
    record = valid(targets["record"])
    assert record["verdict"]["label"] == str(label)
    assert record["coverage"] is None
    with pytest.raises(error) as raised:
        scan_video(path, HERE)
    assert raised.value.reason == code


def test_what_is_known_of_a_bad_file_is_recorded(clips, tmp_path):
    targets = outputs_in(tmp_path, "record")
    scan(clips["junk"], targets)
    record = valid(targets["record"])
    assert record["input"]["sha256"] == hashlib.sha256(clips["junk"].read_bytes()).hexdigest()
    assert record["run"]["started"]
    assert record["settings"]["min_face"] == 40


def test_a_limit_is_an_error(clips):
    options = replace(HERE, limits=replace(Limits(), file_size=100))
    outcome = scan(clips["honest"], options=options)
    assert (outcome.label, outcome.reason.code) == (Label.ERROR, "limit_size")


def dying(after, error):
    """An open_video whose reader fails after some frames."""
    real = deepscan.scan.scanner.open_video

    class Reader:
        def __init__(self, reader):
            self._reader = reader
            self.info = reader.info

        def frames(self):
            for frame in self._reader.frames():
                if frame.index == after:
                    raise error
                yield frame

        def report(self):
            report = self._reader.report()
            return replace(report, complete=False, reasons=("stopped",))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._reader.close()

    return lambda *args, **rest: Reader(real(*args, **rest))


def test_what_was_found_before_a_crash_stands(tmp_path, monkeypatch):
    clip = make_face_clip(tmp_path / "a.mp4", frames=80, forged=range(80))
    crash = DecoderCrash("the decoder died")
    monkeypatch.setattr(deepscan.scan.scanner, "open_video", dying(70, crash))
    (tmp_path / "out").mkdir()
    targets = outputs_in(tmp_path / "out")
    outcome = scan(clip, targets)
    assert outcome.label is Label.ERROR
    assert codes(outcome)[0] == "decoder_crash"
    assert [interval.label for interval in outcome.scan.verdict.intervals] == [Label.MANIPULATED]
    assert outcome.scan.verdict.coverage.decoded == 70  # not one frame that came is lost
    assert names(tmp_path / "out") == sorted(path.name for path in targets.values())
    assert valid(targets["record"])["verdict"]["intervals"]


def test_a_crash_before_any_result_is_an_error(clips, monkeypatch):
    monkeypatch.setattr(
        deepscan.scan.scanner, "open_video", dying(0, LimitError("limit_time", "slow"))
    )
    outcome = scan(clips["forged"])
    assert isinstance(outcome, Skipped)
    assert (outcome.label, outcome.reason.code) == (Label.ERROR, "limit_time")


def test_a_file_that_changes_is_not_clean(tmp_path):
    clip = make_face_clip(tmp_path / "a.mp4")

    def touch(stage, done, *_):
        if done == 20 and stage == "analysing":
            os.utime(clip, (1, 1))

    (tmp_path / "out").mkdir()
    outcome = scan(clip, outputs_in(tmp_path / "out"), progress=touch)
    assert outcome.label is Label.INCONCLUSIVE
    assert codes(outcome) == ["partial"]
    assert "changed" in outcome.scan.verdict.reasons[0].text


def test_a_file_replaced_between_the_passes_is_an_error_of_that_file(tmp_path):
    clip = make_face_clip(tmp_path / "a.mp4")
    other = make_face_clip(tmp_path / "other.mp4", rate=10)

    def swap(stage, done, *_):
        if stage == "analysing" and done == 20:
            os.replace(other, clip)

    (tmp_path / "out").mkdir()
    outcome = scan(clip, outputs_in(tmp_path / "out"), progress=swap)
    assert isinstance(outcome, Skipped)
    assert outcome.label is Label.ERROR
    assert "changed" in outcome.reason.text
    assert names(tmp_path / "out") == ["r.json"]


# Whole or absent


class Failing:
    """A sink that fails where it is told to, after having written something."""

    suffix = ".txt"
    needs_images = False
    where = ""
    error: BaseException = OutputError("no space left")

    def __init__(self, path, scan):
        self._file = path.open("w")
        self._file.write("half a truth")
        self._fail("open")

    def write(self, result):
        self._fail("write" if result.frame.index == 7 else "")

    def close(self, made=()):
        self._fail("close")
        self._file.close()

    def abort(self):
        self._file.close()

    def _fail(self, where):
        if where == Failing.where:
            self._file.flush()
            raise Failing.error


@pytest.mark.parametrize("where", ["open", "write", "close"])
@pytest.mark.parametrize("error", [OutputError("no space left"), KeyboardInterrupt()])
def test_a_sink_that_fails_leaves_nothing(clips, tmp_path, monkeypatch, where, error):
    order = ["overlay", "masks", "failing", "frames", "html", "record"]
    table = {**SINKS, "failing": "tests.scan.test_scanner:Failing"}
    for module in (deepscan.scan.write, deepscan.sinks):
        monkeypatch.setattr(module, "SINKS", {kind: table[kind] for kind in order})
    monkeypatch.setattr(Failing, "where", where)
    monkeypatch.setattr(Failing, "error", error)
    threads = threading.active_count()
    targets = {**outputs_in(tmp_path), "failing": tmp_path / "r.txt"}
    with pytest.raises(type(error)):
        scan(clips["honest"], targets)
    assert names(tmp_path) == []
    assert threading.active_count() == threads


def test_a_record_that_cannot_be_written_leaves_nothing(clips, tmp_path, monkeypatch):
    def fail(path, record):
        path.write_text("half a tru")
        raise OutputError("no space left")

    monkeypatch.setattr(deepscan.scan.scanner, "write_record", fail)
    with pytest.raises(OutputError):
        scan(clips["junk"], outputs_in(tmp_path))
    assert names(tmp_path) == []


def test_an_engine_that_fails_leaves_nothing(clips, tmp_path):
    def judge(crops):
        raise EngineError("the device is gone")

    with (
        fake_scanner(HERE, engine=blue_engine(judge=judge)) as scanner,
        pytest.raises(EngineError),
    ):
        scanner.scan(clips["honest"], outputs_in(tmp_path))
    assert names(tmp_path) == []


def test_whoever_stops_watching_leaves_no_thread(clips, tmp_path):
    threads = threading.active_count()

    def stop(stage, done, *_):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(clips["honest"], outputs_in(tmp_path), progress=stop)
    assert threading.active_count() == threads
    assert names(tmp_path) == []


def test_nothing_is_overwritten_unasked(clips, tmp_path):
    targets = outputs_in(tmp_path)
    targets["html"].write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        scan(clips["honest"], targets)
    assert names(tmp_path) == ["r.html"]
    assert targets["html"].read_text() == "mine"
    scan(clips["honest"], targets, force=True)
    assert targets["html"].read_text() != "mine"
    assert len(names(tmp_path)) == len(targets)


def test_a_failed_scan_keeps_the_old_result(clips, tmp_path, monkeypatch):
    monkeypatch.setitem(SINKS, "failing", "tests.scan.test_scanner:Failing")
    monkeypatch.setattr(Failing, "where", "close")
    target = tmp_path / "r.txt"
    target.write_text("old")
    with pytest.raises(OutputError):
        scan(clips["honest"], {"failing": target}, force=True)
    assert names(tmp_path) == ["r.txt"]
    assert target.read_text() == "old"


def test_the_longest_name_that_the_disk_takes(clips, tmp_path):
    for kind, suffix in SUFFIXES.items():
        target = tmp_path / ("ä" * ((255 - len(suffix)) // 2) + suffix)
        scan(clips["honest"], {kind: target})
        assert target.is_file()


def test_an_input_is_never_an_output(tmp_path):
    inputs = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for path in inputs:
        path.write_bytes(b"mine")
    (tmp_path / "soft.mp4").symlink_to(inputs[1])
    os.link(inputs[1], tmp_path / "hard.mp4")
    for name in ("a.mp4", "b.mp4", "soft.mp4", "hard.mp4"):
        with pytest.raises(UsageError, match="is an input"):
            check_outputs({"overlay": tmp_path / name}, inputs, force=True)


def test_what_cannot_work_is_refused_before_any_work(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    for target in (tmp_path / "no" / "r.mp4", tmp_path / "folder.mp4", tmp_path / "file" / "r.mp4"):
        with pytest.raises(OutputError):
            check_outputs({"overlay": target}, [], force=True)
    with pytest.raises(UsageError, match="there are"):
        sink_class("poem")
    same = tmp_path / "r.mp4"
    with pytest.raises(UsageError, match="one name"):
        check_outputs({"overlay": same, "html": same}, [], force=True)


def test_a_full_disk_is_said_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MIN_FREE", 2**70)
    with pytest.raises(OutputError, match="is full: name another folder"):
        check_outputs({"overlay": tmp_path / "result.mp4"}, [], force=False)


# Several files, and what a scanner holds


def test_one_bad_file_does_not_end_the_run(clips, tmp_path, fakes):
    paths = [clips["honest"], clips["junk"], tmp_path / "missing.mp4", clips["forged"]]
    outcomes = list(
        scan_paths(paths, HERE, outputs=lambda path: outputs_in(tmp_path, "record", stem=path.stem))
    )
    assert [outcome.label for outcome in outcomes] == [
        Label.NO_EVIDENCE,
        Label.ERROR,
        Label.ERROR,
        Label.MANIPULATED,
    ]
    assert [outcome.path for outcome in outcomes] == paths
    assert names(tmp_path) == sorted(f"{path.stem}.json" for path in paths)


def test_a_scanner_gives_everything_back():
    engine, detector = blue_engine(), FakeDetector()
    with Scanner(HERE, engine=engine, detector=detector, calibration=CALIBRATION):
        assert not engine.closed
    assert engine.closed and detector.closed


def test_a_scanner_that_cannot_be_built_gives_back_what_it_had():
    engine = blue_engine()
    with pytest.raises(UsageError, match="there are mtcnn"):
        Scanner(replace(HERE, detector="psychic"), engine=engine, calibration=CALIBRATION)
    assert engine.closed


def test_scanning_again_with_one_scanner(clips):
    with fake_scanner(HERE) as scanner:
        labels = [scanner.scan(clips[name]).label for name in ("forged", "honest", "forged")]
    assert labels == [Label.MANIPULATED, Label.NO_EVIDENCE, Label.MANIPULATED]


def test_scan_video_and_analyze_video(clips, fakes):
    assert scan_video(str(clips["forged"]), HERE).label is Label.MANIPULATED
    results = list(analyze_video(clips["forged"], HERE))
    assert len(results) == 20
    assert results[0].frame.image.shape == (120, 160, 3)
    assert all(result.faces[0].score > 0.9 for result in results)
    for _ in analyze_video(clips["forged"], HERE):
        break
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_a_stride_judges_every_nth_frame(clips, tmp_path):
    outcome = scan(clips["forged"], outputs_in(tmp_path, "masks"), replace(HERE, stride=4))
    assert isinstance(outcome, Scanned)
    assert outcome.scan.verdict.coverage.analysed == 5
    masks = list(read_masks(tmp_path / "r.masks.mkv"))
    assert [mask.analysed.any() for mask in masks] == [index % 4 == 0 for index in range(20)]


# With the weights that ship


def test_a_real_face_with_the_shipped_model(shipped_model, tmp_path):
    """Real MTCNN, the default engine and the weights that ship, on a portrait of the NASA."""
    from skimage import data

    from tests.media import make_video

    portrait = np.ascontiguousarray(data.astronaut()[10:250, 100:420])

    def draw(index):
        return np.roll(portrait, index, axis=1)

    clip = make_video(tmp_path / "a.mp4", frames=12, size=(320, 240), draw=draw)
    targets = outputs_in(tmp_path, stem="result")
    with Scanner(ScanOptions()) as scanner:
        outcome = scanner.scan(clip, targets)
    verdict = outcome.scan.verdict
    assert verdict.model.name == shipped_model
    assert verdict.coverage.faces_scored >= 10
    assert len([track for track in verdict.tracks if track.scored]) == 1
    assert verdict.score is not None and 0 <= verdict.score <= 1
    record = valid(targets["record"])
    assert record["model"]["sha256"] == verdict.model.sha256
    assert len(list(read_masks(targets["masks"]))) == 12


def test_an_engine_put_in_its_place_stays(clips):
    """Several scans share one engine that way; only the scanner's own may be replaced."""
    with Scanner(ScanOptions(), detector=FakeDetector()) as scanner:
        own, shared = scanner.engine, blue_engine()
        scanner.engine = shared
        scanner.scan(clips["honest"])
        assert scanner.engine is shared is not own


@pytest.mark.parametrize(("forged", "label"), [(None, Label.NO_EVIDENCE), (65, Label.MANIPULATED)])
def test_a_crowd_takes_turns_and_is_judged(tmp_path, forged, label):
    """66 faces where 64 are judged in a frame: every one has its turns, and the file a verdict."""
    side = 60
    boxes = [
        Box(x, y, x + side, y + side) for y in range(20, 620, 105) for x in range(20, 1160, 105)
    ]

    def crowd(index):
        image = np.full((660, 1200, 3), 70, np.uint8)
        for place, box in enumerate(boxes):
            blue = FORGED_BLUE if place == forged else HONEST_BLUE
            image[box.y1 : box.y2, box.x1 : box.x2] = (*FACE_COLOUR[:2], blue)
        return image

    path = make_face_clip(tmp_path / "crowd.mp4", draw=crowd, size=(1200, 660), frames=20)
    detector = FakeDetector(lambda image: boxes if len(image) == 660 else [], max_faces=256)
    with fake_scanner(HERE, detector=detector) as scanner:
        outcome = scanner.scan(path)
    assert outcome.label is label
    coverage = outcome.scan.verdict.coverage
    assert coverage.faces == 66 * 20 and coverage.faces_scored == 64 * 20
    assert all(track.scored >= 18 for track in outcome.scan.verdict.tracks)


def test_sound_that_is_encoded_anew_is_said_in_record_and_page(tmp_path):
    schema = json.loads((SCHEMAS / "result-1.json").read_text())
    for audio, told in (("pcm_s16le", True), ("aac", False)):
        path = make_face_clip(tmp_path / "clip.mkv", audio=audio)
        outcome = scan(path, outputs_in(tmp_path, "overlay", "html", "record", stem=audio))
        record = json.loads((tmp_path / f"{audio}.json").read_text())
        jsonschema.validate(record, schema)
        (video,) = (each for each in record["outputs"] if each["kind"] == "overlay")
        note = "sound encoded as AAC: MP4 cannot hold pcm_s16le"
        assert video.get("notes") == ([note] if told else None)
        assert (note in (tmp_path / f"{audio}.html").read_text()) == told
        assert outcome.label is Label.NO_EVIDENCE
