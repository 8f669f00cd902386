"""Triage: few looks first, every frame where those left doubt, and what was left undone is said."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from deepscan.engines.engine import Predictions
from deepscan.errors import DecoderCrash
from deepscan.scan import triage
from deepscan.scan.triage import Budget, UncertainSpan, _affordable, _joined, uncertain_spans
from deepscan.sinks.masks import read_masks
from deepscan.types import Box, Face, FaceCrop, FacePrediction, Frame, FrameResult, Label
from deepscan.verdict.evidence import Evidence, windows_of
from tests.conftest import CALIBRATION, blue_engine, fake_scanner, make_face_clip
from tests.scan.test_scanner import HERE, codes, dying, outputs_in, scan, valid

TRIAGE = replace(HERE, triage=True)


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    """Eight seconds, forged from 3 s to 5 s."""
    folder = tmp_path_factory.mktemp("c")
    return make_face_clip(folder / "a.mp4", frames=200, forged=range(75, 125))


def counting(judged, **wanted):
    """An engine that says how many faces it was given."""
    from tests.conftest import judge_blue

    def judge(crops):
        judged.append(len(crops))
        return judge_blue(crops)

    return blue_engine(judge=judge, **wanted)


def text_of(outcome, code):
    (text,) = [each.text for each in outcome.scan.verdict.reasons if each.code == code]
    return text


def test_dense_where_it_is_uncertain_and_nowhere_else(forged, tmp_path):
    judged = []
    targets = outputs_in(tmp_path, "masks", "frames", "record")
    with fake_scanner(TRIAGE, engine=counting(judged)) as scanner:
        outcome = scanner.scan(forged, targets)
    verdict = outcome.scan.verdict
    assert verdict.label is Label.MANIPULATED
    assert codes(outcome) == ["over_operating_point", "triage"]
    assert "2 frames per second" in text_of(outcome, "triage")
    looked = [mask.analysed.any() for mask in read_masks(targets["masks"])]
    assert len(looked) == 200
    assert all(looked[75:125])
    assert [index for index in range(200) if looked[index]][:4] == [0, 13, 25, 38]
    assert verdict.coverage.analysed == sum(looked) < 140
    assert sum(judged) < 160
    (interval,) = [each for each in verdict.intervals if each.label is Label.MANIPULATED]
    assert interval.start == pytest.approx(3, abs=0.5)
    assert interval.end == pytest.approx(5, abs=0.5)
    valid(targets["record"])


def test_faces_are_numbered_as_in_a_plain_scan(forged, tmp_path):
    plain = scan(forged).scan.verdict
    targets = outputs_in(tmp_path, "frames", "record")
    triaged = scan(forged, targets, options=TRIAGE).scan.verdict

    def found(verdict):
        return [(each.track_id, each.label) for each in verdict.intervals]

    assert found(triaged) == found(plain) == [(0, Label.MANIPULATED)]
    ids = [track.track_id for track in triaged.tracks]
    assert ids == [track.track_id for track in plain.tracks]
    for of_plain, of_triaged in zip(plain.tracks, triaged.tracks, strict=True):
        assert of_triaged.start == pytest.approx(of_plain.start, abs=0.5)
        assert of_triaged.end == pytest.approx(of_plain.end, abs=0.5)
    lines = [json.loads(line) for line in targets["frames"].read_text().splitlines()]
    named = {face["track"] for line in lines for face in line.get("faces", ())}
    assert named == set(ids)
    valid(targets["record"])


def test_dense_and_coarse_sightings_of_a_face_have_scales_of_their_own():
    """The rule asks how many sightings a window has: the answer is not one for both kinds."""
    evidence = evidence_of([0.05] * 20)
    for index in range(100):
        add_face(evidence, 10 + index / 25, 0.05)
    for score in [0.05] * 20:
        add_face(evidence, evidence.last + 0.5, score)
    evidence.close = ((10.0, 14.0),)
    (windows,) = windows_of(evidence, CALIBRATION, still=False).values()
    close = (windows.times >= 10) & (windows.times < 14)
    assert close.sum() == 100 and len(close) == 140
    assert windows.alone[~close].all() and not windows.alone[close].any()


def test_nothing_in_doubt_needs_no_second_reading(tmp_path):
    clip = make_face_clip(tmp_path / "a.mp4", frames=100)
    judged = []
    with fake_scanner(TRIAGE, engine=counting(judged)) as scanner:
        outcome = scanner.scan(clip)
    assert outcome.label is Label.NO_EVIDENCE
    assert sum(judged) == 8
    assert outcome.scan.verdict.coverage.analysed == 8
    assert codes(outcome) == ["complete", "triage"]


def test_one_odd_look_is_settled_by_the_others(tmp_path):
    """A single forged frame just where the coarse pass looks is doubt, and no finding."""
    clip = make_face_clip(tmp_path / "a.mp4", frames=150, forged=[63])
    outcome = scan(clip, options=TRIAGE)
    assert outcome.label is Label.NO_EVIDENCE
    assert "all frames of 1 span" in text_of(outcome, "triage")


class Clock:
    """A budget in crops instead of seconds: what it says depends on no machine."""

    def __init__(self, judged, most):
        self._judged, self._most = judged, most

    @property
    def left(self):
        return float(self._most - sum(self._judged))

    @property
    def used_up(self):
        return self.left <= 0


def with_budget(clip, most, monkeypatch, **parts):
    judged = []
    monkeypatch.setattr("deepscan.scan.scanner.Budget", lambda seconds: Clock(judged, most))
    with fake_scanner(replace(TRIAGE, budget=1.0), engine=counting(judged)) as scanner:
        return scanner.scan(clip, **parts)


def test_a_budget_that_ends_in_the_coarse_pass(tmp_path, monkeypatch):
    clip = make_face_clip(tmp_path / "a.mp4", frames=400)
    outcome = with_budget(clip, 10, monkeypatch)
    assert outcome.label is Label.INCONCLUSIVE
    assert {"budget", "partial"} < set(codes(outcome))
    assert "nothing after that was analysed" in text_of(outcome, "budget")
    assert outcome.scan.verdict.coverage.decoded < 400


def test_a_budget_that_ends_before_the_dense_pass(tmp_path, monkeypatch):
    clip = make_face_clip(tmp_path / "a.mp4", frames=150, forged=[63])
    outcome = with_budget(clip, 20, monkeypatch)  # 12 looks and a few
    verdict = outcome.scan.verdict
    assert outcome.label is Label.INCONCLUSIVE
    assert codes(outcome)[0] == "budget" and "complete" not in codes(outcome)
    assert "before all frames of 1 span" in text_of(outcome, "budget")
    assert verdict.coverage.decoded == 150
    assert verdict.coverage.analysed == 12  # half a segment is none


def test_a_finding_stands_whatever_the_budget(forged, monkeypatch):
    outcome = with_budget(forged, 25, monkeypatch)
    assert outcome.label is Label.MANIPULATED
    assert "budget" in codes(outcome)


def evidence_of(scores):
    """One face, looked at twice a second."""
    evidence = Evidence()
    for index, score in enumerate(scores):
        add_face(evidence, index / 2, score)
    return evidence


def add_face(evidence, time, score):
    face = Face(Box(0, 0, 60, 60), 1.0, None, 0)
    crop = FaceCrop(face, Box(0, 0, 80, 80), np.zeros((8, 8, 3), np.uint8), 99.0)
    mask = np.full((4, 4), score, np.float32)
    index = evidence.frames
    frame = Frame(index, index, time, np.zeros((0, 0, 3), np.uint8))
    evidence.add(FrameResult(frame, (FacePrediction(crop, score, mask),)))


def test_the_most_uncertain_comes_first():
    scores = [0.05] * 40
    scores[10], scores[20], scores[30] = 0.98, 0.85, 0.97
    found = uncertain_spans(evidence_of(scores), CALIBRATION, TRIAGE)
    assert [(doubt.start, doubt.end) for doubt in found] == [(9, 11), (14, 16), (4, 6)]
    assert found[0].distance < found[1].distance < found[2].distance
    part = replace(TRIAGE, start=9.5, end=14.5)
    found = uncertain_spans(evidence_of(scores), CALIBRATION, part)
    assert {(doubt.start, doubt.end) for doubt in found} >= {(9.5, 11), (14, 14.5)}
    assert uncertain_spans(evidence_of([0.05] * 40), CALIBRATION, TRIAGE) == ()
    assert uncertain_spans(Evidence(), CALIBRATION, TRIAGE) == ()


def test_with_time_for_one_stretch_the_other_is_left(tmp_path, monkeypatch):
    clip = make_face_clip(tmp_path / "a.mp4", frames=300, forged=[63, 225])
    targets = outputs_in(tmp_path, "masks")
    outcome = with_budget(clip, 100, monkeypatch, outputs=targets)
    looked = [mask.analysed.any() for mask in read_masks(targets["masks"])]
    assert all(looked[38:88])
    assert sum(looked[200:250]) == 4
    assert "before all frames of 1 span" in text_of(outcome, "budget")
    assert outcome.label is Label.INCONCLUSIVE


@pytest.mark.parametrize("budget", [None, 0.0, 3600.0])
def test_without_a_limit_all_doubts_are_settled(forged, budget):
    outcome = scan(forged, options=replace(TRIAGE, budget=budget))
    assert codes(outcome) == ["over_operating_point", "triage"]


def test_a_budget_alone_means_triage(clips):
    assert "triage" in codes(scan(clips["honest"], options=replace(HERE, budget=3600.0)))
    assert "triage" not in codes(scan(clips["honest"], options=replace(HERE, budget=0.0)))


def test_a_still_and_a_slow_clip_are_looked_at_as_ever(clips, tmp_path):
    outcome = scan(clips["still"], options=TRIAGE)
    assert codes(outcome) == ["over_operating_point"]
    slow = make_face_clip(tmp_path / "slow.mp4", rate=2, frames=6)
    outcome = scan(slow, options=TRIAGE)
    assert outcome.scan.verdict.coverage.analysed == 6


def test_a_crash_in_the_second_reading_is_an_error(forged, monkeypatch):
    import deepscan.scan.scanner

    real, crashing = deepscan.scan.scanner.open_video, None
    opened = []

    def open_again(*args, **rest):
        opened.append(args)
        return (crashing if len(opened) > 1 else real)(*args, **rest)

    crashing = dying(90, DecoderCrash("it died"))
    monkeypatch.setattr(deepscan.scan.scanner, "open_video", open_again)
    outcome = scan(forged, options=TRIAGE)
    assert outcome.label is Label.ERROR
    assert codes(outcome)[0] == "decoder_crash"
    assert "budget" not in codes(outcome)
    assert len(opened) == 2


def test_only_within_the_part_that_was_asked_for(forged, tmp_path):
    targets = outputs_in(tmp_path, "masks")
    scan(forged, targets, replace(TRIAGE, start=4.0, end=6.0))
    looked = [mask.analysed.any() for mask in read_masks(targets["masks"])]
    assert not any(looked[:100]) and not any(looked[150:])
    assert all(looked[100:125])


@pytest.mark.parametrize(
    ("stride", "expected"),
    [(1, [0, 13, 25, 38]), (2, [0, 14, 26, 38]), (5, [0, 15, 25, 40]), (30, [0, 30])],
)
def test_the_coarse_pass_keeps_the_stride(tmp_path, stride, expected):
    clip = make_face_clip(tmp_path / "a.mp4", frames=50)
    targets = outputs_in(tmp_path, "masks")
    scan(clip, targets, replace(TRIAGE, stride=stride))
    looked = [mask.analysed.any() for mask in read_masks(targets["masks"])]
    assert [index for index in range(50) if looked[index]] == expected


def test_a_rate_that_lies_hides_nothing(tmp_path):
    """Frames that come in bursts, or a header that says 1000 a second: time is what counts."""
    clip = make_face_clip(tmp_path / "a.mp4", frames=60, vfr=True)
    found = scan(clip, options=TRIAGE).scan.verdict.coverage
    assert found.seconds > 4
    assert found.analysed >= found.seconds * 1.5


def spans(*values):
    return [UncertainSpan(*each) for each in values]


def test_spans_that_touch_are_one():
    near = [
        UncertainSpan(4, 6, 1.0),
        UncertainSpan(0, 2, 0.5),
        UncertainSpan(1, 3, 0.2),
        UncertainSpan(6, 7, 3.0),
    ]
    assert list(_joined(near)) == spans((0, 3, 0.2), (4, 7, 1.0))
    assert list(_joined([])) == []


def test_as_many_as_there_is_time_for():
    waiting = [
        UncertainSpan(90, 92, 0.1),
        UncertainSpan(10, 12, 0.2),
        UncertainSpan(50, 60, 0.3),
        UncertainSpan(0, 1, 0.4),
    ]
    assert _affordable(waiting, 0.1, 1.0, float("inf")) == sorted(waiting, key=lambda d: d.start)
    assert _affordable(waiting, 0.1, 1.0, 0.001) == waiting[:1]
    assert _affordable(waiting, 0.1, 1.0, 13.5) == [waiting[1], waiting[0]]


def test_a_budget_is_wall_time():
    assert not Budget(None).used_up and not Budget(0).used_up
    assert Budget(1e-9).used_up
    assert 50 < Budget(60).left <= 60


def test_a_face_that_no_band_holds_is_not_looked_at_twice(tmp_path, monkeypatch):
    def nothing_known(self, qualities):
        return np.full(len(qualities), -1, np.intp)

    monkeypatch.setattr(type(CALIBRATION), "bands_of", nothing_known)
    clip = make_face_clip(tmp_path / "a.mp4", frames=100, forged=range(100))
    outcome = scan(clip, options=TRIAGE)
    assert outcome.scan.verdict.coverage.decoded == 100
    assert "all frames" not in text_of(outcome, "triage")
    assert outcome.label is Label.INCONCLUSIVE


def test_scores_of_a_coarse_pass_alone_are_judged_as_single_pictures(tmp_path):
    """Two sightings a window stray: an honest face whose scores do must not become a finding."""
    rng = np.random.default_rng(3)

    def stray(crops):
        scores = 1 / (1 + np.exp(-rng.normal(-1.0, 1.5, len(crops))))
        masks = np.zeros((len(crops), 16, 16), np.float32) + scores[:, None, None]
        return Predictions(scores.astype(np.float32), masks.astype(np.float32))

    wide = replace(CALIBRATION.still, tail=replace(CALIBRATION.still.tail, u=2.0, b=1.0))
    calibration = replace(CALIBRATION, still=wide)
    clip = make_face_clip(tmp_path / "a.mp4", frames=150)
    with fake_scanner(TRIAGE, engine=blue_engine(judge=stray), calibration=calibration) as scanner:
        outcome = scanner.scan(clip)
    assert outcome.label is not Label.MANIPULATED
    assert triage.COARSE_RATE * calibration.window < 6


def test_the_second_reading_shows_signs_of_life(forged):
    told = []
    scan(forged, options=TRIAGE, progress=lambda *said: told.append(said))
    assert {stage for stage, *_ in told} == {"analysing"}
    assert [done for _, done, *_ in told][:200] == list(range(1, 201))
    again = [done for _, done, *_ in told][200:]
    assert again == list(range(1, len(again) + 1)) and 100 < len(again) <= 200
