"""From scores over time to a verdict: pure arithmetic over what was seen.

The rule, in order:

1. For each face track the logits of the network's scores are averaged over a window of
   `Calibration.window` seconds round every sighting. A calibration fitted on held-out people turns
   the average into a natural log-likelihood ratio (LLR). A track with so few sightings that their
   mean strays like single pictures (short, or with a long stride) is judged on the scale of those.
2. Every window that does not overlap another is one more chance of a false alarm. The number of
   looks is the sum over tracks of max(1, judged seconds / window), where a sighting stands for the
   time to the next one but for no more than a window: a pause is no chance. From the tail of the
   LLR of unmanipulated windows, P(LLR > x) = q exp(-(x - u) / b), the threshold is set so that the
   expected number of false alarms in the whole file stays at the stated rate:
   x(looks) = u + b ln(looks q / rate). More faces and longer files need stronger evidence.
3. Windows over the threshold join to intervals; a manipulated interval whose mask is empty is a
   conflict between the two heads and only suspicious.
4. The label follows from the intervals, and from what was not seen: a damaged file, low coverage, a
   model below its floor can never end as no-evidence.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscan.errors import ModelError
from deepscan.options import ScanOptions
from deepscan.types import (
    CalibrationInfo,
    Coverage,
    EngineInfo,
    FaceTrack,
    FrameResult,
    Interval,
    Label,
    ModelInfo,
    ReadReport,
    Reason,
    Verdict,
    VideoInfo,
)

LOGIT_LIMIT = 8.0  # scores of exactly 0 or 1 are not infinitely sure
MODEL_FLOOR = 0.75  # AUC below which a model may not decide
EMPTY_MASK = 0.002  # share of the crop below which a mask counts as empty
ONE_FRAME = 0.04  # seconds that a single picture counts for
MIN_SIGHTINGS = 6  # a window, for the scale of windows; half of what calibration clips have
JOIN_GAP = 0.5  # seconds between two intervals of one face that are told as one
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tail:
    """Upper tail of the LLR of unmanipulated windows: P(LLR > x) = q exp(-(x - u) / b), x >= u."""

    u: float
    q: float
    b: float

    def threshold(self, looks: float, rate: float) -> float:
        """The LLR that unmanipulated material exceeds in a share `rate` of files of so many looks.

        Never below u, where nothing is known of the tail.
        """
        return self.u + max(0.0, self.b * math.log(looks * self.q / rate))


@dataclass(frozen=True, slots=True)
class Scale:
    """LLR = slope * mean logit + offset, and the tail that unmanipulated windows have on it."""

    slope: float
    offset: float
    tail: Tail

    def llr(self, logit: Floats) -> Floats:
        return self.slope * logit + self.offset


@dataclass(frozen=True, slots=True)
class Calibration:
    """Two scales, for windows of a moving face and for single pictures, and what they promise."""

    name: str
    population: str
    window: float  # seconds
    clip: Scale
    still: Scale
    rate: float  # false alarms a file at the operating point
    review_rate: float  # and at the review threshold
    measured: float
    measured_interval: tuple[float, float]
    clips: int

    def __post_init__(self) -> None:
        """A threshold that is NaN, or a slope that turns the polarity round, would find nothing.

        Raises:
            ValueError: a number cannot be meant.
        """
        for scale in (self.clip, self.still):
            tail = scale.tail
            sound = 0 < tail.q <= 1 and 0 < tail.b < math.inf and math.isfinite(tail.u)
            if not (sound and 0 < scale.slope < math.inf and math.isfinite(scale.offset)):
                raise ValueError(f"no scale of evidence: {scale}")
        if not (0 < self.window < math.inf and 0 < self.rate <= self.review_rate < 1):
            raise ValueError(f"window {self.window}, rates {self.rate} and {self.review_rate}")

    @classmethod
    def from_card(cls, values: Mapping[str, Any]) -> Calibration:
        """Read the calibration of a model card.

        Raises:
            ModelError: the card has none, or it is damaged.
        """
        try:
            given = values["calibration"]
            scales = {
                kind: Scale(
                    float(given[kind]["slope"]),
                    float(given[kind]["offset"]),
                    Tail(**{key: float(given[kind]["tail"][key]) for key in ("u", "q", "b")}),
                )
                for kind in ("clip", "still")
            }
            low, high = given["measured_interval"]
            return cls(
                name=str(given["name"]),
                population=str(given["population"]),
                window=float(given["window"]),
                clip=scales["clip"],
                still=scales["still"],
                rate=float(given["rate"]),
                review_rate=float(given["review_rate"]),
                measured=float(given["measured"]),
                measured_interval=(float(low), float(high)),
                clips=int(given["clips"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the model card has no usable calibration ({error!r}): without one no verdict "
                "can be given; calibrate the weights with `python -m train.calibrate`"
            ) from error

    def points(self, looks: float, *, still: bool) -> tuple[float, float]:
        """Operating point and review point, as LLR, for so many looks."""
        tail = (self.still if still else self.clip).tail
        return tail.threshold(looks, self.rate), tail.threshold(looks, self.review_rate)


@dataclass(slots=True)
class _Series:
    """What is kept of one track: a few numbers for every sighting."""

    times: array[float] = field(default_factory=lambda: array("d"))
    sizes: array[float] = field(default_factory=lambda: array("f"))
    judged: array[float] = field(default_factory=lambda: array("d"))  # times of scored sightings
    logits: array[float] = field(default_factory=lambda: array("f"))
    shares: array[float] = field(default_factory=lambda: array("f"))
    sharpness: array[float] = field(default_factory=lambda: array("f"))
    unscored: Counter[str] = field(default_factory=Counter)


class Evidence:
    """Gathers frame results as they pass and keeps about 40 bytes for every face in a frame."""

    def __init__(self) -> None:
        self.tracks: dict[int, _Series] = {}
        self.frames = 0
        self.with_face = 0
        self.analysed = 0
        self.unscored: Counter[str] = Counter()
        self.faces = 0
        self.scored = 0
        self.first: float | None = None
        self.last = 0.0
        self._judged_seconds = 0.0  # up to the last frame
        self._last_judged = False

    def add(self, result: FrameResult) -> None:
        """Take the next frame."""
        time = result.frame.time
        if self.first is None:
            self.first = time
        elif self._last_judged:
            self._judged_seconds += time - self.last
        self.last = time
        self._last_judged = bool(result.faces)
        self.frames += 1
        self.faces += len(result.faces) + len(result.unscored)
        self.scored += len(result.faces)
        self.with_face += bool(result.faces or result.unscored)
        self.analysed += result.analysed and not result.unscored
        for face in result.faces:
            series = self._series(face.crop.face.track_id)
            series.times.append(time)
            series.sizes.append(max(face.crop.face.box.width, face.crop.face.box.height))
            series.judged.append(time)
            series.logits.append(logit(face.score))
            series.shares.append(float((face.mask > 0.5).mean()))
            series.sharpness.append(face.crop.sharpness)
        for unscored in result.unscored:
            self.unscored[unscored.reason] += 1
            if unscored.face.track_id is None:
                continue
            series = self._series(unscored.face.track_id)
            series.times.append(time)
            series.sizes.append(max(unscored.face.box.width, unscored.face.box.height))
            series.unscored[unscored.reason] += 1

    def _series(self, track_id: int | None) -> _Series:
        assert track_id is not None, "find_faces names every face that it hands on"
        return self.tracks.setdefault(track_id, _Series())

    @property
    def step(self) -> float:
        """Mean seconds from frame to frame: how long the last one is shown."""
        if self.first is None or self.frames < 2:
            return ONE_FRAME
        return (self.last - self.first) / (self.frames - 1)

    def coverage(self, report: ReadReport) -> Coverage:
        """The ledger of what was looked at."""
        return Coverage(
            decoded=self.frames,
            failed=report.failed,
            with_face=self.with_face,
            analysed=self.analysed,
            faces=self.faces,
            faces_scored=self.scored,
            faces_unscored=tuple(sorted(self.unscored.items())),
            seconds=0.0 if self.first is None else self.last - self.first + self.step,
            seconds_scored=self._judged_seconds + (self.step if self._last_judged else 0.0),
            complete=report.complete,
        )


def logit(score: float) -> float:
    """ln(p / (1 - p)), limited to +-LOGIT_LIMIT."""
    if score <= 0.0:
        return -LOGIT_LIMIT
    if score >= 1.0:
        return LOGIT_LIMIT
    return max(-LOGIT_LIMIT, min(LOGIT_LIMIT, math.log(score / (1 - score))))


def sigmoid(llr: float) -> float:
    """P(manipulated) at even prior odds."""
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, llr))))


def smooth(times: Floats, values: Floats, window: float) -> Floats:
    """Mean of the values within window / 2 on both sides of each time; times rise.

    At the ends of a track the window is moved inwards, so that it is as long as elsewhere.
    """
    if len(times) == 0:
        return values
    starts = np.clip(times - window / 2, times[0], max(times[0], times[-1] - window))
    slack = 1e-9
    low = np.searchsorted(times, starts - slack, side="left")
    high = np.searchsorted(times, starts + window + slack, side="right")
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means: Floats = (sums[high] - sums[low]) / (high - low)
    return means


def looks_of(evidence: Evidence, window: float) -> float:
    """Independent chances of a false alarm: judged seconds in windows, at least one a track."""
    looks = 0.0
    for series in evidence.tracks.values():
        if series.judged:
            looks += max(1.0, _windows_of(series, evidence.step, window))
    return max(1.0, looks)


def _windows_of(series: _Series, step: float, window: float) -> float:
    """Judged time of a track in windows; may be less than one."""
    times = np.array(series.judged)
    shown = np.diff(times, append=times[-1:] + step)
    return float(np.minimum(shown, window).sum()) / window


def judge(
    evidence: Evidence,
    report: ReadReport,
    calibration: Calibration,
    options: ScanOptions,
    *,
    model: ModelInfo,
    engine: EngineInfo,
    video: VideoInfo,
    failure: Reason | None = None,
) -> Verdict:
    """Apply the rule in this module's docstring.

    Args:
        evidence: everything that was seen.
        report: the reader's account; an incomplete reading forbids no-evidence.
        failure: what stopped the reading after some frames; the label is then error, and what was
            found until there stands.
    """
    still = video.still
    looks = looks_of(evidence, calibration.window)
    operating, review = calibration.points(looks, still=still)
    tracks: list[FaceTrack] = []
    intervals: list[Interval] = []
    disagree: list[Interval] = []  # over the operating point, but with an empty mask
    for track_id, series in sorted(evidence.tracks.items()):
        windows = _windows_of(series, evidence.step, calibration.window)
        alone = still or len(series.judged) < MIN_SIGHTINGS * max(1.0, windows)
        scale = calibration.still if alone else calibration.clip
        points = calibration.points(looks, still=alone)
        track, found = _judge_track(
            track_id, series, scale, calibration.window, *points, evidence.step
        )
        tracks.append(track)
        intervals += found
        disagree += [i for i in found if i.label is Label.SUSPICIOUS and i.llr >= points[0]]
    coverage = evidence.coverage(report)
    label, reasons = _label(intervals, disagree, coverage, report, model, options)
    if failure is not None:
        label, reasons = Label.ERROR, [failure, *(r for r in reasons if r.code != "complete")]
    best = [track.llr for track in tracks if track.llr is not None]
    return Verdict(
        label=label,
        intervals=tuple(sorted(intervals, key=lambda i: (i.start, i.track_id))),
        tracks=tuple(tracks),
        coverage=coverage,
        score=sigmoid(max(best)) if best else None,
        looks=looks,
        reasons=tuple(reasons),
        calibration=CalibrationInfo(
            name=calibration.name,
            population=calibration.population,
            operating_point=sigmoid(operating),
            review_point=sigmoid(review),
            false_alarm_rate=calibration.measured,
            false_alarm_interval=calibration.measured_interval,
            clips=calibration.clips,
        ),
        model=model,
        engine=engine,
        video=video,
    )


def _judge_track(
    track_id: int,
    series: _Series,
    scale: Scale,
    window: float,
    operating: float,
    review: float,
    step: float,
) -> tuple[FaceTrack, list[Interval]]:
    judged = np.array(series.judged)
    llr = scale.llr(smooth(judged, np.array(series.logits, np.float64), window))
    shares = np.array(series.shares, np.float64)
    intervals = _intervals(track_id, judged, llr, shares, operating, review, step)
    peak = int(llr.argmax()) if len(llr) else None
    near = np.abs(judged - judged[peak]) <= window / 2 if peak is not None else None
    track = FaceTrack(
        track_id=track_id,
        start=series.times[0],
        end=series.times[-1] + step,
        frames=len(series.times),
        scored=len(series.judged),
        score=None if peak is None else sigmoid(float(llr[peak])),
        llr=None if peak is None else float(llr[peak]),
        size=float(np.median(np.array(series.sizes))),
        sharpness=float(np.median(np.array(series.sharpness))) if series.sharpness else 0.0,
        mask_share=None if near is None else float(shares[near].mean()),
        unscored=tuple(sorted(series.unscored.items())),
    )
    return track, intervals


def _intervals(
    track_id: int,
    times: Floats,
    llr: Floats,
    shares: Floats,
    operating: float,
    review: float,
    step: float,
) -> list[Interval]:
    """Stretches over the operating point, and those that only pass the review point."""
    intervals: list[Interval] = []
    for start, stop in _runs(llr >= operating, times):
        peak = float(llr[start:stop].max())
        empty = float(shares[start:stop].mean()) < EMPTY_MASK
        label = Label.SUSPICIOUS if empty else Label.MANIPULATED
        intervals.append(
            Interval(
                float(times[start]),
                float(times[stop - 1]) + step,
                track_id,
                sigmoid(peak),
                peak,
                label,
            )
        )
    for start, stop in _runs(llr >= review, times):
        first, last = float(times[start]), float(times[stop - 1]) + step
        if any(i.start < last and first < i.end for i in intervals):
            continue
        peak = float(llr[start:stop].max())
        intervals.append(Interval(first, last, track_id, sigmoid(peak), peak, Label.SUSPICIOUS))
    return intervals


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
    report: ReadReport,
    model: ModelInfo,
    options: ScanOptions,
) -> tuple[Label, list[Reason]]:
    """The label and every reason that bears on it, the deciding one first."""
    limits = _limits(coverage, report, model, options)
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
    coverage: Coverage, report: ReadReport, model: ModelInfo, options: ScanOptions
) -> list[Reason]:
    """Everything that forbids no-evidence."""
    limits = []
    if coverage.faces_scored and _below_floor(model):  # without a face it had no say
        text = f"the model's measured AUC {model.auc:.3f} is below the floor of {MODEL_FLOOR}"
        limits.append(Reason("model_floor", text))
    if not report.complete:
        limits.append(Reason("partial", "not all of the file was read: " + _listed(report.reasons)))
    unscored = dict(coverage.faces_unscored)
    if unscored.get("limit_faces"):
        text = f"{unscored['limit_faces']} face sightings beyond the limit were not judged"
        limits.append(Reason("limit_faces", text))
    # At least one, also for those who ask for no coverage at all.
    if coverage.faces_scored < max(options.min_coverage * coverage.faces, min(coverage.faces, 1)):
        told = ", ".join(f"{count} {reason}" for reason, count in coverage.faces_unscored)
        text = f"only {coverage.faces_scored} of {coverage.faces} face sightings were judged"
        limits.append(Reason("low_coverage", f"{text} ({told})" if told else text))
    return limits


def _below_floor(model: ModelInfo) -> bool:
    return not model.auc >= MODEL_FLOOR  # NaN is below everything


def _listed(reasons: tuple[str, ...]) -> str:
    return "; ".join(reasons) if reasons else "the reader gave no reason"


def _count(intervals: list[Interval]) -> str:
    faces = len({i.track_id for i in intervals})
    return (
        f"{len(intervals)} interval{'s' * (len(intervals) != 1)} of "
        f"{faces} face{'s' * (faces != 1)}"
    )
