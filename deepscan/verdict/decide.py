"""Turn scores over time into a verdict, by arithmetic alone.

The rule, in order:

1. For each face track the logits of the network's scores are averaged over a window of
   `Calibration.window` seconds round every sighting. A calibration fitted on held-out people turns
   the average into a natural log-likelihood ratio (LLR), on the scale of the quality band (size,
   sharpness, detail) that the window's medians lie in. Outside of all bands nothing is known about
   scores, so such a window is not judged. A track with so few sightings that their mean strays like
   single pictures (short, or with a long stride) is judged on the scale of those. Where a sampled
   file was looked at closely, the answer is one for the samples and one for each close span.
2. Every window that does not overlap another is one more chance of a false alarm. The number of
   looks is the sum over tracks of max(1, judged seconds / window), where a sighting stands for the
   time to the next one but for no more than a window: a pause is no chance. From the tail of the
   LLR of unmanipulated windows, P(LLR > x) = q exp(-(x - u) / b), the threshold is set so that the
   expected number of false alarms in the whole file stays at the stated rate:
   x(looks) = u + b ln(looks q / rate). More faces and longer files need stronger evidence. Each
   band has its own tail, so every window has the same chance of a false alarm, rate / looks, in
   every band, and the chances of windows of several bands add up to the same rate.
3. Windows over the threshold join to intervals, which reach as far as the windows beside them stay
   over the review point; a manipulated interval whose mask is empty is a conflict between the two
   heads and only suspicious.
4. The label follows from the intervals, and from what was not seen: a damaged file, low coverage, a
   face outside of the bands or a model below its floor can never end as no-evidence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deepscan.options import ScanOptions
from deepscan.types import (
    CalibrationInfo,
    Coverage,
    EngineInfo,
    FaceTrack,
    Interval,
    Label,
    ModelInfo,
    ReadReport,
    Reason,
    Verdict,
    VideoInfo,
)
from deepscan.verdict.calibration import Calibration, Floats, sigmoid
from deepscan.verdict.evidence import Evidence, TrackEvidence, TrackWindows, looks_of, windows_of

Part = TypeVar("Part", Interval, FaceTrack)

MODEL_FLOOR = 0.75  # AUC below which a model may not decide
EMPTY_MASK = 0.002  # share of the crop below which a mask counts as empty
OUTSIDE = "out_of_domain"  # code of a face that no quality band holds
JOIN_GAP = 0.5  # seconds between two intervals of one face that are reported as one


def decide(
    evidence: Evidence,
    report: ReadReport,
    calibration: Calibration | None,
    options: ScanOptions,
    *,
    model: ModelInfo,
    engine: EngineInfo,
    video: VideoInfo,
    failure: Reason | None = None,
) -> Verdict:
    """Apply the rule in this module's docstring.

    Args:
        evidence: scores and coverage of all frames.
        report: the reader's account; an incomplete reading forbids no-evidence.
        calibration: None if the model has none: a judged face is then inconclusive.
        failure: the error that stopped the reading after some frames; the label is then error, and
            intervals found before it are kept.
    """
    if calibration is None:
        return _without_calibration(
            evidence, report, options, model=model, engine=engine, video=video, failure=failure
        )
    calibration = calibration.at(options.false_alarm_rate)
    still, step = video.still, evidence.step
    seen = windows_of(evidence, calibration, still=still)
    looks = looks_of(seen.values())
    levels = {alone: calibration.points_by_band(looks, still=alone) for alone in (False, True)}
    tracks: list[FaceTrack] = []
    intervals: list[Interval] = []
    disagree: list[Interval] = []  # over the operating point, but with an empty mask
    nearest = -math.inf, levels[still][0]
    for track_id, windows in seen.items():
        by_scale = levels[True][windows.bands], levels[False][windows.bands]
        points = np.where(windows.alone[:, None], *by_scale)
        tracks.append(_track(track_id, windows, calibration.window, step))
        over, empty, weak = _intervals(track_id, windows, points, step)
        intervals += [*over, *empty, *weak]
        disagree += empty
        if windows.inside.any():
            margin = np.where(windows.inside, windows.llr - points[:, 0], -np.inf)
            peak = int(margin.argmax())
            nearest = max(nearest, (float(margin[peak]), points[peak]), key=lambda pair: pair[0])
    coverage = _in_bands(evidence.coverage(report), seen)
    unknown = sum(each.unknown(still=still) for each in seen.values())
    limits = _limits(coverage, evidence.beyond_limit, unknown, report, model, options)
    label, reasons = _label(intervals, disagree, coverage, limits, report, model, options)
    label, reasons = _noted(label, reasons, evidence, failure)
    best = [track.llr for track in tracks if track.llr is not None]
    operating, review = (float(point) for point in nearest[1])
    stated = calibration.stated
    return Verdict(
        label=label,
        intervals=_told(sorted(intervals, key=lambda i: (i.start, i.track_id)), calibration),
        tracks=_told(tracks, calibration),
        coverage=coverage,
        score=sigmoid(max(best)) if best else None,
        looks=looks,
        reasons=tuple(reasons),
        calibration=CalibrationInfo(
            name=calibration.name,
            population=calibration.population,
            operating_point=sigmoid(operating),
            review_point=sigmoid(review),
            false_alarm_rate=stated.share,
            false_alarm_interval=stated.interval,
            clips=calibration.clips,
            measured_on=stated.on,
        ),
        model=model,
        engine=engine,
        video=video,
        measured=tuple(each.at(calibration.rate) for each in calibration.material),
    )


def _without_calibration(
    evidence: Evidence,
    report: ReadReport,
    options: ScanOptions,
    *,
    model: ModelInfo,
    engine: EngineInfo,
    video: VideoInfo,
    failure: Reason | None,
) -> Verdict:
    """The verdict of a model without a calibration."""
    coverage = evidence.coverage(report)
    limits = _limits(coverage, evidence.beyond_limit, 0, report, model, options)
    if coverage.faces_scored:
        text = (
            f"the model {model.name} is not calibrated, so nothing follows from its scores. Run: "
            f"deepscan model calibrate {model.name} --real FOLDER --to NAME"
        )
        limits.insert(0, Reason("not_calibrated", text))
    label, reasons = _label([], [], coverage, limits, report, model, options)
    label, reasons = _noted(label, reasons, evidence, failure)
    return Verdict(
        label=label,
        intervals=(),
        tracks=tuple(
            _unjudged(track_id, series, evidence.step)
            for track_id, series in sorted(evidence.tracks.items())
        ),
        coverage=coverage,
        score=None,
        looks=1.0,
        reasons=tuple(reasons),
        calibration=None,
        model=model,
        engine=engine,
        video=video,
    )


def _told(parts: Iterable[Part], calibration: Calibration) -> tuple[Part, ...]:
    """Intervals or tracks, without a likelihood ratio where none was fitted."""
    if calibration.likelihood_ratio:
        return tuple(parts)
    return tuple(replace(part, llr=None) for part in parts)


def _noted(
    label: Label, reasons: list[Reason], evidence: Evidence, failure: Reason | None
) -> tuple[Label, list[Reason]]:
    """Add the error that stopped the reading, and the turned faces, to label and reasons."""
    if failure is not None:
        label, reasons = Label.ERROR, [failure, *(r for r in reasons if r.code != "complete")]
    turned = [
        Reason(
            "turned_face", f"face {track} is not upright: it was judged turned by {turn} degrees"
        )
        for track, turn in sorted(evidence.turned.items())
    ]
    return label, [*reasons, *turned]


def _track(track_id: int, windows: TrackWindows, window: float, step: float) -> FaceTrack:
    series, times = windows.series, windows.times
    peak = int(np.nanargmax(windows.llr)) if windows.inside.any() else None
    near = np.abs(times - times[peak]) <= window / 2 if peak is not None else None
    unscored = Counter(series.unscored)
    outside = int((~windows.inside).sum())
    if outside:
        unscored[OUTSIDE] += outside
    return replace(
        _unjudged(track_id, series, step),
        scored=len(times) - outside,
        score=None if peak is None else sigmoid(float(windows.llr[peak])),
        llr=None if peak is None else float(windows.llr[peak]),
        mask_share=_share(windows.shares[near]) if near is not None else None,
        unscored=tuple(sorted(unscored.items())),
    )


def _unjudged(track_id: int, series: TrackEvidence, step: float) -> FaceTrack:
    """A face as it was seen, without what follows from its scores."""
    return FaceTrack(
        track_id=track_id,
        start=series.times[0],
        end=series.times[-1] + step,
        frames=len(series.times),
        scored=len(series.scored),
        score=None,
        llr=None,
        size=float(np.median(np.array(series.sizes))),
        sharpness=float(np.median(np.array(series.sharpness or [0.0]))),
        mask_share=None,
        unscored=tuple(sorted(series.unscored.items())),
    )


def _share(shares: Floats) -> float | None:
    """The mean; None of a model that has no mask."""
    mean = float(shares.mean())
    return None if math.isnan(mean) else mean


def _in_bands(coverage: Coverage, seen: Mapping[int, TrackWindows]) -> Coverage:
    """The ledger without the sightings that lie outside of the calibration's bands."""
    outside = sum(int((~each.inside).sum()) for each in seen.values())
    if not outside:
        return coverage
    left_out = {
        float(time)
        for each in seen.values()
        for time in each.times[~each.inside & (np.array(each.series.whole) > 0)]
    }
    judged = {float(time) for each in seen.values() for time in each.times}
    still_judged = {float(time) for each in seen.values() for time in each.times[each.inside]}
    unscored = Counter(dict(coverage.faces_unscored))
    unscored[OUTSIDE] += outside
    return replace(
        coverage,
        analysed=coverage.analysed - len(left_out),
        faces_scored=coverage.faces_scored - outside,
        faces_unscored=tuple(sorted(unscored.items())),
        seconds_scored=coverage.seconds_scored * len(still_judged) / len(judged),
    )


def _intervals(
    track_id: int, windows: TrackWindows, points: Floats, step: float
) -> tuple[list[Interval], list[Interval], list[Interval]]:
    """Stretches with a window over the operating point, the same with an empty mask, and others.

    Each reaches as far as its windows stay over the review point: a window that lies half in a
    manipulated stretch says less than one inside, though the stretch begins in its middle.
    `points` (N, 2) are the operating and the review point of each window's band.
    """
    times, llr = windows.times, windows.llr

    def interval(start: int, stop: int, label: Label) -> Interval:
        peak = float(np.nanmax(llr[start:stop]))
        end = float(times[stop - 1]) + step
        return Interval(float(times[start]), end, track_id, sigmoid(peak), peak, label)

    over: list[Interval] = []
    empty: list[Interval] = []
    weak: list[Interval] = []
    strong = _runs(llr >= points[:, 0], times)
    for start, stop in _runs(llr >= points[:, 1], times):
        within = [(first, last) for first, last in strong if start <= first and last <= stop]
        if not within:
            weak.append(interval(start, stop, Label.SUSPICIOUS))
        elif all(float(windows.shares[first:last].mean()) < EMPTY_MASK for first, last in within):
            empty.append(interval(start, stop, Label.SUSPICIOUS))
        else:
            over.append(interval(start, stop, Label.MANIPULATED))
    return over, empty, weak


def _runs(over: NDArray[np.bool_], times: Floats) -> list[tuple[int, int]]:
    """Index ranges [start, stop) of runs of True; runs less than JOIN_GAP seconds apart are one."""
    runs: list[tuple[int, int]] = []
    for index in np.flatnonzero(over).tolist():
        if runs and (runs[-1][1] == index or times[index] - times[runs[-1][1] - 1] < JOIN_GAP):
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs


def _label(
    intervals: list[Interval],
    disagree: list[Interval],
    coverage: Coverage,
    limits: list[Reason],
    report: ReadReport,
    model: ModelInfo,
    options: ScanOptions,
) -> tuple[Label, list[Reason]]:
    """The label and every reason that bears on it, the deciding one first."""
    manipulated = [i for i in intervals if i.label is Label.MANIPULATED]
    suspicious = [i for i in intervals if i.label is Label.SUSPICIOUS]
    if coverage.faces_scored and _below_floor(model):
        return Label.INCONCLUSIVE, limits
    if manipulated:
        text = f"{_count(manipulated)} above the operating point"
        return Label.MANIPULATED, [Reason("over_operating_point", text), *limits]
    if coverage.faces == 0 and not limits:
        return Label.NOT_APPLICABLE, [Reason("no_face", "no face was found in any frame")]
    small = dict(coverage.faces_unscored).get("too_small", 0)
    if coverage.faces and small == coverage.faces and report.complete:
        text = f"all {small} face sightings are smaller than {options.min_face} pixels"
        return Label.NOT_APPLICABLE, [Reason("no_analysable_face", text)]
    if limits:
        return Label.INCONCLUSIVE, limits
    if suspicious:
        weak = [i for i in suspicious if i not in disagree]
        reasons = []
        if disagree:
            text = f"{_count(disagree)} above the operating point, but the mask there is empty"
            reasons.append(Reason("heads_disagree", text))
        if weak:
            text = f"{_count(weak)} above the review point only"
            reasons.append(Reason("over_review_point", text))
        return Label.SUSPICIOUS, reasons
    text = "nothing above the review point; the coverage says what was looked at"
    return Label.NO_EVIDENCE, [Reason("complete", text)]


def _limits(
    coverage: Coverage,
    beyond: int,
    unknown: int,
    report: ReadReport,
    model: ModelInfo,
    options: ScanOptions,
) -> list[Reason]:
    """Everything that forbids no-evidence."""
    limits = []
    if coverage.faces_scored and _below_floor(model):  # without a face it had no say
        text = f"the model's measured AUC {model.auc:.3f} is below the floor of {MODEL_FLOOR}"
        limits.append(Reason("model_floor", text))
    if not report.complete:
        limits.append(Reason("partial", "not all of the file was read: " + _listed(report.reasons)))
    unscored = dict(coverage.faces_unscored)
    if beyond:
        text = f"{beyond} sightings of faces beyond the limit, of which none was judged"
        limits.append(Reason("limit_faces", text))
    outside = unscored.get(OUTSIDE, 0)
    if unknown or (outside and not coverage.faces_scored):
        text = (
            f"{outside} face sightings are smaller, more blurred or more compressed than the "
            "faces that the model was calibrated on"
        )
        limits.append(Reason(OUTSIDE, text))
    # At least one, also for those who ask for no coverage at all.
    if coverage.faces_scored < max(options.min_coverage * coverage.faces, min(coverage.faces, 1)):
        counts = ", ".join(f"{count} {reason}" for reason, count in coverage.faces_unscored)
        text = f"only {coverage.faces_scored} of {coverage.faces} face sightings were judged"
        limits.append(Reason("low_coverage", f"{text} ({counts})" if counts else text))
    return limits


def _below_floor(model: ModelInfo) -> bool:
    # NaN counts as below the floor; without a measured AUC the calibration alone decides.
    return model.auc is not None and not model.auc >= MODEL_FLOOR


def _listed(reasons: tuple[str, ...]) -> str:
    return "; ".join(reasons) if reasons else "the reader gave no reason"


def _count(intervals: list[Interval]) -> str:
    faces = len({i.track_id for i in intervals})
    return (
        f"{len(intervals)} interval{'s' * (len(intervals) != 1)} of "
        f"{faces} face{'s' * (faces != 1)}"
    )
