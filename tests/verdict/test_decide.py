"""The verdict: what is found, what may never be concluded, and the promise about false alarms."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscan.errors import ModelError, UsageError
from deepscan.options import ScanOptions
from deepscan.types import (
    Box,
    Colour,
    EngineInfo,
    Face,
    FaceCrop,
    FacePrediction,
    Frame,
    FrameResult,
    Label,
    ModelInfo,
    ReadReport,
    Reason,
    UnscoredFace,
    VideoInfo,
)
from deepscan.verdict.calibration import LOGIT_LIMIT, Band, Calibration, Scale, Tail, logit, sigmoid
from deepscan.verdict.decide import MODEL_FLOOR, decide
from deepscan.verdict.evidence import Evidence, looks_of, medians, smooth, windows_of
from tests.conftest import CALIBRATION, HIGH, LOW, SCALE

BLANK = np.zeros((0, 0, 3), np.uint8)
FULL, EMPTY = np.ones((4, 4), np.float32), np.zeros((4, 4), np.float32)
MODEL = ModelInfo("fake", "0" * 64, 64, 0.9, (0.85, 0.95), "drawn faces")
ENGINE = EngineInfo("fake", "a fake")
VIDEO = VideoInfo(
    Path("a.mp4"), "mp4", "h264", "yuv420p", 160, 120, Fraction(25), Fraction(1, 12800), None, 0,
    Fraction(1), Colour("bt709", False, "bt709", "bt709", True), (), False, "pyav", "asked for",
)  # fmt: skip
WHOLE = ReadReport(100, 0, True, (), "pyav", "asked for")
RATE = 25
MIDDLE = 0.72  # llr 0.94: between the review point and the operating point of one or two looks
SURE = 0.999


def result(time, scores=(), unscored=(), mask=None, looked=True):
    """A frame where track n has the n-th score (None: it is not there)."""
    faces = tuple(
        FacePrediction(
            FaceCrop(Face(Box(0, 0, 60, 50), 0.99, None, track), Box(0, 0, 78, 78), BLANK, 200.0),
            score,
            (FULL if score > 0.5 else EMPTY) if mask is None else mask,
        )
        for track, score in enumerate(scores)
        if score is not None
    )
    return FrameResult(Frame(round(time * RATE), 0, time, BLANK), faces, unscored, looked)


def not_judged(reason, track=50):
    return UnscoredFace(Face(Box(0, 0, 20, 20), 0.95, None, track), reason)


def evidence_of(results):
    evidence = Evidence()
    for each in results:
        evidence.add(each)
    return evidence


def steady(seconds, *scores, rate=RATE, **rest):
    """The same scores in every frame."""
    return [result(index / rate, scores, **rest) for index in range(round(seconds * rate))]


def verdict_of(results, report=WHOLE, calibration=CALIBRATION, options=None, **rest):
    evidence = results if isinstance(results, Evidence) else evidence_of(results)
    given = {"model": MODEL, "engine": ENGINE, "video": VIDEO, **rest}
    return decide(evidence, report, calibration, options or ScanOptions(), **given)


def codes(verdict):
    return [reason.code for reason in verdict.reasons]


PARTIAL = replace(WHOLE, complete=False, reasons=("short: 60 of 100 frames",))
WEAK = replace(MODEL, auc=MODEL_FLOOR - 0.01)


@pytest.mark.parametrize(
    ("results", "given", "label", "reasons"),
    [
        (steady(2, HIGH), {}, Label.MANIPULATED, ["over_operating_point"]),
        (steady(2, MIDDLE), {}, Label.SUSPICIOUS, ["over_review_point"]),
        (steady(2, HIGH, mask=EMPTY), {}, Label.SUSPICIOUS, ["heads_disagree"]),
        (steady(2, LOW), {}, Label.NO_EVIDENCE, ["complete"]),
        (steady(2), {}, Label.NOT_APPLICABLE, ["no_face"]),
        (
            steady(2, unscored=(not_judged("too_small"),)),
            {},
            Label.NOT_APPLICABLE,
            ["no_analysable_face"],
        ),
        (steady(2, LOW), {"report": PARTIAL}, Label.INCONCLUSIVE, ["partial"]),
        (steady(2, MIDDLE), {"report": PARTIAL}, Label.INCONCLUSIVE, ["partial"]),
        (steady(2), {"report": PARTIAL}, Label.INCONCLUSIVE, ["partial"]),
        (
            steady(2, unscored=(not_judged("too_small"),)),
            {"report": PARTIAL},
            Label.INCONCLUSIVE,
            ["partial", "low_coverage"],
        ),
        (
            steady(2, HIGH),
            {"report": PARTIAL},
            Label.MANIPULATED,
            ["over_operating_point", "partial"],
        ),
        (steady(2, LOW), {"model": WEAK}, Label.INCONCLUSIVE, ["model_floor"]),
        (steady(2, HIGH), {"model": WEAK}, Label.INCONCLUSIVE, ["model_floor"]),
        (steady(2), {"model": WEAK}, Label.NOT_APPLICABLE, ["no_face"]),  # it had no say
        (
            steady(2, LOW),
            {"model": replace(MODEL, auc=math.nan)},
            Label.INCONCLUSIVE,
            ["model_floor"],
        ),
        (
            steady(2, LOW, unscored=(not_judged("limit_faces", None),)),
            {},
            Label.INCONCLUSIVE,
            ["limit_faces"],
        ),
        (  # one that was judged in other frames, and one that never was
            [*steady(2, LOW), result(2.0, unscored=(not_judged("limit_faces", 0),))],
            {},
            Label.NO_EVIDENCE,
            ["complete"],
        ),
        (
            [*steady(2, LOW), result(2.0, unscored=(not_judged("limit_faces", 1),))],
            {},
            Label.INCONCLUSIVE,
            ["limit_faces"],
        ),
        (
            steady(2, LOW, unscored=(not_judged("too_blurred"), not_judged("too_blurred", 51))),
            {},
            Label.INCONCLUSIVE,
            ["low_coverage"],
        ),
        (
            steady(2, unscored=(not_judged("too_blurred"),)),
            {"options": ScanOptions(min_coverage=0.0)},
            Label.INCONCLUSIVE,
            ["low_coverage"],
        ),
        (
            steady(2, LOW),
            {"failure": Reason("decoder_crash", "died"), "report": PARTIAL},
            Label.ERROR,
            ["decoder_crash", "partial"],
        ),
        (
            steady(2, LOW),
            {"failure": Reason("decoder_crash", "died")},
            Label.ERROR,
            ["decoder_crash"],
        ),
    ],
)
def test_every_label_has_its_reasons(results, given, label, reasons):
    verdict = verdict_of(results, **given)
    assert verdict.label is label
    assert codes(verdict) == reasons
    assert all(reason.text for reason in verdict.reasons)


def test_all_labels_were_reached_above():
    table = test_every_label_has_its_reasons.pytestmark[0].args[1]
    assert {row[2] for row in table} == set(Label)


frame_kinds = st.sampled_from(["low", "small", "blurred", "limit", "nothing", "skipped"])


@given(
    st.lists(frame_kinds, min_size=1, max_size=30),
    st.booleans(),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.sampled_from([0.6, 0.9]),
)
@settings(max_examples=200, deadline=None)
def test_no_evidence_is_never_the_default(kinds, complete, min_coverage, auc):
    made = {
        "low": {"scores": (LOW,)},
        "small": {"unscored": (not_judged("too_small"),)},
        "blurred": {"unscored": (not_judged("too_blurred"),)},
        "limit": {"unscored": (not_judged("limit_faces"),)},
        "nothing": {},
        "skipped": {"looked": False},
    }
    verdict = verdict_of(
        [result(index / RATE, **made[kind]) for index, kind in enumerate(kinds)],
        report=replace(WHOLE, complete=complete),
        options=ScanOptions(min_coverage=min_coverage),
        model=replace(MODEL, auc=auc),
    )
    faces = sum(kind in ("low", "small", "blurred", "limit") for kind in kinds)
    if verdict.label is Label.NO_EVIDENCE:
        assert complete
        assert auc >= MODEL_FLOOR
        assert "limit" not in kinds
        assert kinds.count("low") >= max(1, min_coverage * faces)
    assert verdict.label is not Label.MANIPULATED
    assert verdict.coverage.decoded == len(kinds)
    assert verdict.coverage.faces == faces
    assert verdict.coverage.analysed == kinds.count("low") + kinds.count("nothing")


# Where and when


def test_three_seconds_in_ten_minutes_are_found():
    rng = np.random.default_rng(1)
    low = [sigmoid(value) for value in rng.normal(-3, 1, 600 * RATE)]
    results = [
        result(index / RATE, (SURE if 300 <= index / RATE < 303 else low[index],))
        for index in range(600 * RATE)
    ]
    verdict = verdict_of(results)
    assert verdict.label is Label.MANIPULATED
    (interval,) = [i for i in verdict.intervals if i.label is Label.MANIPULATED]
    assert interval.start == pytest.approx(300, abs=CALIBRATION.window / 2)
    assert interval.end == pytest.approx(303, abs=CALIBRATION.window / 2)
    assert verdict.looks == pytest.approx(600)
    assert verdict.score == pytest.approx(SURE)


def test_two_faces_are_two_stories():
    results = [
        result(i / RATE, (HIGH if i < 50 else LOW, LOW if i < 75 else HIGH)) for i in range(125)
    ]
    verdict = verdict_of(results)
    found = [(i.track_id, i.start, i.end) for i in verdict.intervals]
    assert [track for track, _, _ in found] == [0, 1]
    assert found[0][1:] == pytest.approx((0, 2), abs=0.5)
    assert found[1][1:] == pytest.approx((3, 5), abs=0.5)
    assert [track.scored for track in verdict.tracks] == [125, 125]
    assert verdict.looks == pytest.approx(10)


def test_a_forged_face_is_not_outvoted_by_honest_ones():
    verdict = verdict_of(steady(2, HIGH, *[LOW] * 20))
    assert verdict.label is Label.MANIPULATED
    assert {interval.track_id for interval in verdict.intervals} == {0}


def test_gaps_are_joined_and_long_ones_are_not():
    def with_gap(seconds):
        gap = round(seconds * RATE)
        absent = [result((50 + i) / RATE) for i in range(gap)]
        after = [result((50 + gap + i) / RATE, (HIGH,)) for i in range(50)]
        return verdict_of(steady(2, HIGH) + absent + after)

    # A face that is away is not judged: over and over again are the same interval.
    assert len(with_gap(0.3).intervals) == 1

    def with_doubt(seconds):
        dip = round(seconds * RATE)
        scores = [HIGH] * 50 + [LOW] * dip + [HIGH] * 50
        results = [result(i / RATE, (score,)) for i, score in enumerate(scores)]
        sharp = replace(CALIBRATION, window=0.3, rate=0.05)
        return verdict_of(results, calibration=sharp)

    assert len(with_doubt(0.2).intervals) == 1
    assert len(with_doubt(1.0).intervals) == 2


def test_an_interval_reaches_as_far_as_there_is_some_evidence():
    def spans(beside):
        scores = [LOW] * 50 + [beside] * 50 + [SURE] * 50 + [beside] * 50 + [LOW] * 50
        # Longer than a window: what is beside is judged for itself too.
        sharp = replace(CALIBRATION, window=0.2, rate=0.0005)
        verdict = verdict_of(
            [result(i / RATE, (score,)) for i, score in enumerate(scores)], calibration=sharp
        )
        return [(i.start, i.end, i.label) for i in verdict.intervals], verdict

    (alone,), _ = spans(LOW)
    (wide,), verdict = spans(HIGH)
    assert alone == (pytest.approx(4, abs=0.1), pytest.approx(6, abs=0.1), Label.MANIPULATED)
    assert wide == (pytest.approx(2, abs=0.1), pytest.approx(8, abs=0.1), Label.MANIPULATED)
    assert verdict.label is Label.MANIPULATED


def test_a_weaker_stretch_beside_a_strong_one_is_told_too():
    scores = [HIGH] * 50 + [LOW] * 100 + [MIDDLE + 0.2] * 50
    calibration = replace(CALIBRATION, rate=0.001)
    verdict = verdict_of(
        [result(i / RATE, (s,)) for i, s in enumerate(scores)], calibration=calibration
    )
    assert [i.label for i in verdict.intervals] == [Label.MANIPULATED, Label.SUSPICIOUS]
    assert verdict.label is Label.MANIPULATED


def test_both_reasons_of_suspicion_are_named():
    empty = [result(i / RATE, (HIGH,), mask=EMPTY) for i in range(50)]
    low = [result(i / RATE, (LOW,)) for i in range(50, 150)]
    weak = [result(i / RATE, (0.8,)) for i in range(150, 200)]
    verdict = verdict_of(empty + low + weak, calibration=replace(CALIBRATION, rate=0.001))
    assert verdict.label is Label.SUSPICIOUS
    assert codes(verdict) == ["heads_disagree", "over_review_point"]


def test_what_was_found_before_a_failure_stands():
    verdict = verdict_of(steady(2, HIGH), failure=Reason("limit_time", "too slow"), report=PARTIAL)
    assert verdict.label is Label.ERROR
    assert codes(verdict) == ["limit_time", "over_operating_point", "partial"]
    assert len(verdict.intervals) == 1


def test_a_picture_is_judged_on_its_own_scale():
    still = Scale(1.0, 0.0, Tail(3.0, 0.1, 0.5))  # single pictures stray further
    calibration = replace(CALIBRATION, still=still)
    results = [result(0.0, (HIGH,))]
    assert verdict_of(steady(2, HIGH), calibration=calibration).label is Label.MANIPULATED
    picture = verdict_of(results, calibration=calibration, video=replace(VIDEO, still=True))
    assert picture.label is Label.SUSPICIOUS
    assert picture.looks == 1
    sure = verdict_of(
        [result(0.0, (SURE,))], calibration=calibration, video=replace(VIDEO, still=True)
    )
    assert sure.label is Label.MANIPULATED
    assert sure.intervals[0].end > sure.intervals[0].start


def test_few_sightings_are_judged_like_pictures():
    still = Scale(1.0, 0.0, Tail(3.0, 0.1, 0.5))
    calibration = replace(CALIBRATION, still=still)
    moment = [result(i / RATE, (HIGH if i < 5 else None,)) for i in range(100)]
    assert verdict_of(moment, calibration=calibration).label is Label.SUSPICIOUS
    longer = [result(i / RATE, (HIGH if i < 6 else None,)) for i in range(100)]
    assert verdict_of(longer, calibration=calibration).label is Label.MANIPULATED
    frames = [result(i / RATE, (0.985,) if i % 8 == 0 else ()) for i in range(50)]
    assert verdict_of(frames, calibration=calibration).label is Label.SUSPICIOUS
    assert verdict_of(steady(2, 0.985), calibration=calibration).label is Label.MANIPULATED


def test_many_short_tracks_keep_the_promise():
    """A face that is lost and found again all the time: every track is one frame long."""
    rng = np.random.default_rng(3)
    files, faces, rate = 300, 20, 0.05
    still = Scale(1.0, 0.0, Tail(0.9, 0.1, 0.9))  # single frames stray further than their means
    calibration = replace(CALIBRATION, still=still, rate=rate, review_rate=0.2)
    found = 0
    for row in windows_of_unmanipulated(rng, still.tail, (files, faces)):
        results = [
            result(i / RATE, [None] * i + [sigmoid(llr)], mask=FULL) for i, llr in enumerate(row)
        ]
        found += verdict_of(results, calibration=calibration).label is Label.MANIPULATED
    assert 0 < found / files <= rate + margin(rate, files)


def test_the_figures_of_tracks_and_coverage():
    results = [
        *(result(i / RATE, (HIGH,)) for i in range(10)),
        *(result(i / RATE, (), (not_judged("too_blurred", 0),)) for i in range(10, 15)),
        *(result(i / RATE, ()) for i in range(15, 20)),
    ]
    verdict = verdict_of(results)
    (track,) = verdict.tracks
    assert (track.start, track.frames, track.scored) == (0, 15, 10)
    assert track.end == pytest.approx(15 / RATE)
    assert track.unscored == (("too_blurred", 5),)
    assert track.mask_share == 1.0
    assert track.score == pytest.approx(HIGH)
    coverage = verdict.coverage
    assert coverage.seconds == pytest.approx(20 / RATE)
    assert coverage.seconds_scored == pytest.approx(10 / RATE)
    assert (coverage.with_face, coverage.faces, coverage.faces_scored) == (15, 15, 10)
    assert coverage.faces_unscored == (("too_blurred", 5),)


def test_a_face_never_judged_has_no_score():
    verdict = verdict_of(steady(1, unscored=(not_judged("too_blurred", 4),)))
    (track,) = verdict.tracks
    assert (track.score, track.llr, track.mask_share) == (None, None, None)
    assert verdict.score is None


# Scores and smoothing


def test_polarity():
    scores = np.linspace(0, 1, 101)
    logits = [logit(score) for score in scores]
    assert all(a <= b for a, b in pairwise(logits))
    assert SCALE.llr(np.array([logit(HIGH)]))[0] > 0 > SCALE.llr(np.array([logit(LOW)]))[0]
    assert sigmoid(logit(0.8)) == pytest.approx(0.8)


def test_scores_of_exactly_0_and_1_are_not_infinitely_sure():
    assert logit(0.0) == -LOGIT_LIMIT
    assert logit(1.0) == LOGIT_LIMIT
    assert verdict_of(steady(2, 1.0)).label is Label.MANIPULATED
    low = verdict_of(steady(2, 0.0))
    assert low.label is Label.NO_EVIDENCE
    assert math.isfinite(low.tracks[0].llr)
    # One frame of certainty does not make a second of doubt certain.
    spike = [result(i / RATE, (1.0 if i == 25 else LOW,)) for i in range(50)]
    assert verdict_of(spike).label is Label.NO_EVIDENCE


@given(
    st.lists(st.floats(0.01, 2.0), min_size=1, max_size=60),
    st.floats(0.05, 3.0),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_smooth_is_the_mean_over_the_window(steps, window, seed):
    times = np.cumsum(steps)
    values = np.random.default_rng(seed).normal(size=len(times))
    means = smooth(times, values, window)
    for time, mean in zip(times, means, strict=True):
        start = min(max(time - window / 2, times[0]), max(times[0], times[-1] - window))
        inside = (times >= start - 1e-9) & (times <= start + window + 1e-9)
        assert mean == pytest.approx(values[inside].mean(), abs=1e-9)


def test_smoothing_nothing_gives_nothing():
    assert len(smooth(np.array([]), np.array([]), 1.0)) == 0


# Looks, and what the threshold promises


def looks(results):
    return looks_of(windows_of(evidence_of(results), CALIBRATION, still=False).values())


def test_looks_are_windows_of_judged_time():
    assert looks([]) == 1
    assert looks(steady(0.2, LOW)) == 1
    assert looks(steady(30, LOW)) == pytest.approx(30)
    assert looks(steady(30, LOW, LOW)) == pytest.approx(60)
    assert looks(steady(30, LOW, rate=5)) == pytest.approx(30)  # as many with a stride of 5
    skipped = [
        result(i / RATE, (LOW,) if i % 5 == 0 else (), looked=i % 5 == 0) for i in range(30 * RATE)
    ]
    assert looks(skipped) == pytest.approx(30, abs=0.2)


def test_a_pause_cannot_be_used_to_raise_the_threshold():
    quick = steady(5, LOW)
    assert looks([*quick, result(4000.0, (LOW,))]) <= looks(quick) + 2


tails = st.builds(Tail, st.floats(-5, 5), st.floats(0.01, 1.0), st.floats(0.01, 5.0))


@given(tails, st.floats(1, 1e6), st.floats(1, 100), st.floats(1e-4, 0.2))
def test_more_looks_never_lower_the_threshold(tail, looks, more, rate):
    assert tail.threshold(looks * more, rate) >= tail.threshold(looks, rate) >= tail.u
    assert tail.threshold(looks, rate) >= tail.threshold(looks, min(0.5, rate * 2))


def windows_of_unmanipulated(rng, tail, shape):
    """LLRs as the stated tail says, something below u otherwise."""
    over = rng.random(shape) < tail.q
    return np.where(over, tail.u + rng.exponential(tail.b, shape), tail.u - 1)


def margin(rate, files):
    """Three standard deviations of a binomial share."""
    return 3 * math.sqrt(rate * (1 - rate) / files)


@pytest.mark.parametrize("looks", [1, 10, 1000])
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_false_alarms_stay_at_the_stated_rate_however_many_looks(looks, rate):
    rng = np.random.default_rng(looks)
    tail, files = Tail(0.4, 0.1, 0.7), 5000
    highest = windows_of_unmanipulated(rng, tail, (files, looks)).max(axis=1)
    share = (highest >= tail.threshold(looks, rate)).mean()
    assert share <= rate + margin(rate, files)
    assert share >= rate - margin(rate, files) - rate * rate  # the promise is not empty either
    without = (highest >= tail.threshold(1, rate)).mean()
    if looks == 1000:
        assert without > 0.9


@pytest.mark.parametrize("faces", [1, 20])
def test_the_label_keeps_the_promise_too(faces):
    """Twenty faces, each seen for one window: what is manipulated by chance."""
    rng = np.random.default_rng(faces)
    files, rate = 400, 0.05
    calibration = replace(CALIBRATION, rate=rate, review_rate=0.2)
    llrs = windows_of_unmanipulated(rng, SCALE.tail, (files, faces))
    found = reviewed = 0
    for row in llrs:
        label = verdict_of(steady(0.04, *map(sigmoid, row), mask=FULL), calibration=calibration)
        found += label.label is Label.MANIPULATED
        reviewed += label.label in (Label.MANIPULATED, Label.SUSPICIOUS)
    assert found / files <= rate + margin(rate, files)
    assert found > 0
    assert reviewed / files <= 0.2 + margin(0.2, files)
    naive = (llrs.max(axis=1) >= SCALE.tail.threshold(1, rate)).mean()
    if faces == 20:
        assert naive > 5 * rate


def test_the_verdict_says_which_points_it_used():
    one, many = verdict_of(steady(1, LOW)), verdict_of(steady(60, LOW))
    operating, review = CALIBRATION.points(60, still=False)
    assert many.calibration.operating_point == pytest.approx(sigmoid(operating))
    assert many.calibration.review_point == pytest.approx(sigmoid(review))
    assert many.calibration.operating_point > one.calibration.operating_point
    assert many.calibration.false_alarm_rate == CALIBRATION.measured


# The calibration of a card


def card(**changed):
    values = json.loads(json.dumps(asdict(CALIBRATION)))
    values.update(changed)
    return {"calibration": values}


def test_a_calibration_survives_its_card():
    assert Calibration.from_card(card()) == CALIBRATION


def scale_with(**changed):
    values = asdict(SCALE)
    for key, value in changed.items():
        (values["tail"] if key in values["tail"] else values)[key] = value
    return values


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"calibration": None},
        card(window=0),
        card(window=math.nan),
        card(rate=0),
        card(rate=0.2, review_rate=0.1),
        card(measured_interval=[0.1]),
        card(clip=scale_with(slope=-1.0)),
        card(clip=scale_with(slope=math.nan)),
        card(still=scale_with(offset=math.inf)),
        card(still=scale_with(u=math.nan)),
        card(clip=scale_with(q=0.0)),
        card(clip=scale_with(q=1.5)),
        card(clip=scale_with(b=0.0)),
        card(clip=scale_with(b=math.inf)),
    ],
)
def test_a_damaged_calibration_is_refused(values):
    with pytest.raises(ModelError, match="calibration"):
        Calibration.from_card(values)


def test_a_card_without_bands_is_one_band():
    old = card()
    del old["calibration"]["bands"], old["calibration"]["alarms"]
    calibration = Calibration.from_card(old)
    assert calibration == CALIBRATION
    (only,) = calibration.every_band
    assert only.clip == SCALE and only.clips == CALIBRATION.clips
    assert calibration.bands_of(np.array([[1.0, 0.0, 0.0], [9e4, 9e4, 1.0]])).tolist() == [0, 0]


# Material whose truth is known

MATERIAL = [
    {"name": "live swap", "manipulated": True, "files": 4, "groups": 3, "alarms": [0.004, 0.03]},
    {"name": "real pictures", "manipulated": False, "files": 200, "groups": 150,
     "alarms": [0.003, 0.004, 0.005, 0.02]},
    {"name": "real clips", "manipulated": False, "files": 12, "groups": 10, "alarms": [0.001]},
    {"name": "newer pictures", "manipulated": False, "files": 300, "groups": 300, "seen": True,
     "alarms": [0.001] * 30},
]  # fmt: skip


def with_material(given=MATERIAL):
    values = card()
    values["calibration"] |= {"material": given, "made_of": "made clips"}
    return Calibration.from_card(values)


def test_a_verdict_counts_what_its_operating_point_finds_and_calls_wrongly():
    calibration = with_material()
    verdict = verdict_of(lasting(2, (0, 0.1, 100, 50)), calibration=calibration)
    assert [(each.name, each.called, each.files) for each in verdict.measured] == [
        ("live swap", 1, 4), ("real pictures", 3, 200), ("real clips", 1, 12),
        ("newer pictures", 30, 300),
    ]  # fmt: skip
    # With another operating point the counts are others.
    strict = replace(calibration, alarms=(0.002,)).at(0.004)
    assert [each.at(strict.rate).called for each in strict.material] == [1, 2, 1, 30]


def test_the_stated_rate_is_that_of_the_material_that_shows_more():
    calibration = with_material()
    assert calibration.measured < 3 / 200
    info = verdict_of(lasting(2, (0, 0.1, 100, 50)), calibration=calibration).calibration
    assert info.false_alarm_rate == 3 / 200
    assert info.false_alarm_interval[0] < 3 / 200 < info.false_alarm_interval[1]
    assert info.measured_on == "200 real pictures"  # 12 clips are no rate, seen pictures no proof
    info = verdict_of(
        lasting(2, (0, 0.1, 100, 50)), calibration=with_material(MATERIAL[:1])
    ).calibration
    assert info.false_alarm_rate == CALIBRATION.measured
    assert info.measured_on == f"{CALIBRATION.clips} made clips"


@pytest.mark.parametrize("wrong", [{"files": 0}, {"groups": 9}, {"alarms": [0.2, 0.1]}])
def test_damaged_material_is_refused(wrong):
    with pytest.raises(ModelError, match="calibration"):
        with_material([MATERIAL[0] | wrong])


# Quality bands

STRICT = Scale(1.0, -1.0, Tail(0.5, 0.1, 1.5))  # small faces: less evidence, a longer tail
SMALL = Band((40.0, 80.0), (10.0, None), (0.0, None), STRICT, STRICT, 120)
LARGE = Band((80.0, None), (10.0, None), (0.0, None), SCALE, SCALE, 380)
BANDED = replace(CALIBRATION, bands=(SMALL, LARGE), alarms=(0.002, 0.009, 0.03, 0.2))


def sized(time, *faces):
    """A frame of faces (track, score, size in pixels, sharpness)."""
    found = tuple(
        FacePrediction(
            FaceCrop(
                Face(Box(0, 0, size, size), 0.99, None, track),
                Box(0, 0, size, size),
                BLANK,
                sharpness,
            ),
            score,
            FULL,
        )
        for track, score, size, sharpness in faces
    )
    return FrameResult(Frame(round(time * RATE), 0, time, BLANK), found, (), True)


def lasting(seconds, *faces):
    return [sized(index / RATE, *faces) for index in range(round(seconds * RATE))]


def test_each_band_has_its_own_scale_and_point():
    # The same score in both bands: enough for a large face, not for a small one.
    score = sigmoid(3.0)
    large = verdict_of(lasting(2, (0, score, 120, 90)), calibration=BANDED)
    small = verdict_of(lasting(2, (0, score, 60, 90)), calibration=BANDED)
    assert large.label is Label.MANIPULATED and large.tracks[0].llr == pytest.approx(3.0, abs=1e-4)
    assert small.label is not Label.MANIPULATED
    assert small.tracks[0].llr == pytest.approx(2.0, abs=1e-4)
    operating, review = BANDED.points(2, still=False, band=0)
    assert small.calibration.operating_point == pytest.approx(sigmoid(operating))
    assert small.calibration.review_point == pytest.approx(sigmoid(review))


def test_a_window_takes_the_band_of_its_median():
    # Ten large frames in 25 do not lift a small face into the band of large ones.
    frames = [
        sized(index / RATE, (0, sigmoid(3.0), 120 if index % 5 < 2 else 60, 90))
        for index in range(50)
    ]
    verdict = verdict_of(frames, calibration=BANDED)
    assert verdict.tracks[0].llr == pytest.approx(2.0, abs=1e-4)


@given(
    values=st.lists(st.floats(0, 100), min_size=1, max_size=40),
    window=st.floats(0.05, 3.0),
)
@settings(max_examples=50, deadline=None)
def test_medians_are_those_of_the_windows_of_the_means(values, window):
    times = np.arange(len(values)) / RATE
    found = medians(times, np.array(values)[:, None], window)[:, 0]
    assert min(values) <= found.min() and found.max() <= max(values)
    constant = smooth(times, np.ones(len(values)), window)
    assert constant == pytest.approx(1.0)
    if window >= len(values) / RATE:
        assert found == pytest.approx(np.median(values))


@pytest.mark.parametrize(("size", "sharpness"), [(30, 90), (120, 4)])
def test_outside_of_the_bands_nothing_is_judged(size, sharpness):
    verdict = verdict_of(lasting(2, (0, SURE, size, sharpness)), calibration=BANDED)
    assert verdict.label is Label.INCONCLUSIVE
    assert codes(verdict)[0] == "out_of_domain"
    assert not verdict.intervals and verdict.score is None
    (track,) = verdict.tracks
    assert (track.score, track.llr, track.scored) == (None, None, 0)
    assert track.unscored == (("out_of_domain", 50),)
    assert verdict.coverage.faces_scored == 0
    assert verdict.coverage.faces_unscored == (("out_of_domain", 50),)
    assert verdict.coverage.analysed == 0 and verdict.coverage.seconds_scored == 0


def test_a_finding_stands_beside_a_face_outside_of_the_bands():
    verdict = verdict_of(lasting(2, (0, SURE, 120, 90), (1, SURE, 30, 90)), calibration=BANDED)
    assert verdict.label is Label.MANIPULATED
    assert codes(verdict) == ["over_operating_point", "out_of_domain"]
    assert {interval.track_id for interval in verdict.intervals} == {0}
    quiet = verdict_of(lasting(2, (0, LOW, 120, 90), (1, LOW, 30, 90)), calibration=BANDED)
    assert quiet.label is Label.INCONCLUSIVE and codes(quiet) == ["out_of_domain"]


def test_a_glimpse_outside_of_the_bands_only_counts_as_not_judged():
    frames = lasting(4, (0, LOW, 120, 90))
    frames[10] = sized(10 / RATE, (0, LOW, 120, 90), (1, LOW, 30, 90))
    verdict = verdict_of(frames, calibration=BANDED)
    assert verdict.label is Label.NO_EVIDENCE
    assert verdict.coverage.faces_unscored == (("out_of_domain", 1),)
    assert verdict.coverage.analysed == 99
    still = verdict_of(
        [sized(0.0, (0, LOW, 120, 90), (1, LOW, 30, 90))],
        calibration=BANDED,
        video=replace(VIDEO, still=True),
    )
    assert still.label is Label.INCONCLUSIVE and codes(still) == ["out_of_domain"]


def test_windows_outside_of_the_bands_are_no_looks():
    inside = lasting(4, (0, LOW, 120, 90))
    both = lasting(4, (0, LOW, 120, 90), (1, LOW, 30, 90))
    assert verdict_of(both, calibration=BANDED).looks == pytest.approx(
        verdict_of(inside, calibration=BANDED).looks
    )


def test_false_alarms_over_faces_of_several_bands_stay_at_the_rate():
    rng = np.random.default_rng(4)
    files, rate = 1500, 0.1
    calibration = replace(BANDED, rate=rate, review_rate=0.2)
    # Draws from each band's own tail: u + Exp(b) with probability q, below u otherwise.
    alarms = 0
    for _ in range(files):
        faces = []
        for track in range(10):
            band = (SMALL, LARGE)[track % 2]
            tail = band.still.tail
            llr = tail.u + (rng.exponential(tail.b) if rng.random() < tail.q else -1.0)
            logit_ = (llr - band.still.offset) / band.still.slope
            faces.append((track, sigmoid(logit_), 60 if track % 2 == 0 else 120, 90))
        verdict = verdict_of([sized(0.0, *faces)], calibration=calibration)
        alarms += verdict.label is Label.MANIPULATED
    assert alarms / files <= rate + margin(rate, files)
    assert alarms / files > 0.4 * rate


@pytest.mark.parametrize(
    "ranges",
    [{"size": (-1.0, None)}, {"sharpness": (5.0, 5.0)}, {"detail": (math.nan, None)}],
)
def test_a_band_that_holds_nothing_is_refused(ranges):
    with pytest.raises(ValueError, match="no range of quality"):
        replace(BANDED, bands=(replace(SMALL, **ranges),))


def test_bands_survive_their_card():
    values = {"calibration": json.loads(json.dumps(asdict(BANDED), allow_nan=False))}
    assert Calibration.from_card(values) == BANDED


# Another false-alarm rate


def test_a_lower_rate_asks_for_more_evidence_and_says_what_was_measured():
    clips = lasting(2, (0, sigmoid(1.5), 120, 90))
    usual = verdict_of(clips, calibration=BANDED)
    strict = verdict_of(clips, calibration=BANDED, options=ScanOptions(false_alarm_rate=0.002))
    assert usual.label is Label.MANIPULATED and strict.label is Label.SUSPICIOUS
    assert strict.calibration.operating_point > usual.calibration.operating_point
    assert strict.calibration.false_alarm_rate == pytest.approx(1 / 500)  # one of 500 clips
    low, high = strict.calibration.false_alarm_interval
    assert low < 1 / 500 < high
    assert "2 false alarms in 1000" in strict.calibration.name
    loose = verdict_of(clips, calibration=BANDED, options=ScanOptions(false_alarm_rate=0.08))
    assert loose.calibration.false_alarm_rate == pytest.approx(3 / 500)
    assert loose.calibration.review_point == pytest.approx(loose.calibration.operating_point)


@pytest.mark.parametrize("rate", [0.0019, 0.11, 0.0, -0.1, math.nan, 2.0])
def test_a_rate_that_the_clips_cannot_support_is_refused(rate):
    with pytest.raises(UsageError, match="500 unmanipulated clips"):
        BANDED.at(rate)


def test_a_card_without_single_clips_has_one_rate_only():
    assert CALIBRATION.at(None) is CALIBRATION and CALIBRATION.at(0.01) is CALIBRATION
    with pytest.raises(UsageError, match="holds no single clips"):
        CALIBRATION.at(0.005)


@given(
    looks=st.floats(1, 1e4),
    rate=st.floats(1e-4, 0.09),
    tail=st.sampled_from([SCALE.tail, STRICT.tail]),
)
def test_the_rate_of_an_llr_is_where_the_threshold_passes_it(looks, rate, tail):
    threshold = tail.threshold(looks, rate)
    if threshold > tail.u:
        (found,) = tail.rate(looks, np.array([threshold]))
        assert found == pytest.approx(rate)
    below = tail.rate(looks, np.array([tail.u - 1.0]))
    assert math.isinf(below[0])
