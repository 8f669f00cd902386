"""From scores over time to a verdict: pure arithmetic over what was seen.

The rule, in order:

1. For each face track the logits of the network's scores are averaged over a window of
   `Calibration.window` seconds round every sighting. A calibration fitted on held-out people turns
   the average into a natural log-likelihood ratio (LLR), on the scale of the quality band (size,
   sharpness, detail) that the window's medians lie in. Outside of all bands nothing is known about
   scores, so such a window is not judged. A track with so few sightings that their mean strays like
   single pictures (short, or with a long stride) is judged on the scale of those.
2. Every window that does not overlap another is one more chance of a false alarm. The number of
   looks is the sum over tracks of max(1, judged seconds / window), where a sighting stands for the
   time to the next one but for no more than a window: a pause is no chance. From the tail of the
   LLR of unmanipulated windows, P(LLR > x) = q exp(-(x - u) / b), the threshold is set so that the
   expected number of false alarms in the whole file stays at the stated rate:
   x(looks) = u + b ln(looks q / rate). More faces and longer files need stronger evidence. Each
   band has its own tail, so every window has the same chance of a false alarm, rate / looks,
   whatever its band, and the chances of windows of several bands add up to the same rate.
3. Windows over the threshold join to intervals, which reach as far as the windows beside them stay
   over the review point; a manipulated interval whose mask is empty is a conflict between the two
   heads and only suspicious.
4. The label follows from the intervals, and from what was not seen: a damaged file, low coverage, a
   face outside of the bands or a model below its floor can never end as no-evidence.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscan.errors import ModelError, UsageError
from deepscan.faces.quality import detail
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
OUTSIDE = "out_of_domain"  # code of a face that no quality band holds
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

    def rate(self, looks: float, llr: Floats) -> Floats:
        """The lowest rate at which each LLR passes the threshold for so many looks; may pass 1.

        Infinite below u, where no rate lets anything pass.
        """
        over = looks * self.q * np.exp(-np.maximum(llr - self.u, 0.0) / self.b)
        return np.where(llr >= self.u, over, np.inf)


@dataclass(frozen=True, slots=True)
class Scale:
    """LLR = slope * mean logit + offset, and the tail that unmanipulated windows have on it."""

    slope: float
    offset: float
    tail: Tail

    def llr(self, logit: Floats) -> Floats:
        return self.slope * logit + self.offset


Range = tuple[float, float | None]  # [low, high); None: no end


@dataclass(frozen=True, slots=True)
class Band:
    """Faces of one quality, and the scales that were fitted on them.

    `size` is the longer side of the face box in pixels, `sharpness` as `FaceCrop` has it, `detail`
    as `deepscan.faces.quality` measures it. `clips` unmanipulated clips stand behind the tails.
    """

    size: Range
    sharpness: Range
    detail: Range
    clip: Scale
    still: Scale
    clips: int

    def holds(self, qualities: Floats) -> NDArray[np.bool_]:
        """Which rows of (N, 3) qualities (size, sharpness, detail) lie in the band."""
        inside = np.ones(len(qualities), bool)
        for column, (low, high) in enumerate((self.size, self.sharpness, self.detail)):
            inside &= qualities[:, column] >= low
            if high is not None:
                inside &= qualities[:, column] < high
        return inside

    def scale(self, *, still: bool) -> Scale:
        return self.still if still else self.clip


@dataclass(frozen=True, slots=True)
class Calibration:
    """Two scales, for windows of a moving face and for single pictures, and what they promise.

    `clip` and `still` are fitted on all clips together and hold where there are no `bands`; with
    bands each window is judged by the one that it lies in. `alarms` are, in rising order, the
    lowest rates at which held-out unmanipulated clips become false alarms, as far as those are
    known: the measured rate at any operating point can be counted from them.
    """

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
    bands: tuple[Band, ...] = ()
    alarms: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """A threshold that is NaN, or a slope that turns the polarity round, would find nothing.

        Raises:
            ValueError: a number cannot be meant.
        """
        for band in self.bands:
            for low, high in (band.size, band.sharpness, band.detail):
                if not (0 <= low < math.inf and (high is None or low < high < math.inf)):
                    raise ValueError(f"no range of quality: {low} to {high}")
        scales = [scale for band in self.every_band for scale in (band.clip, band.still)]
        for scale in (self.clip, self.still, *scales):
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
            low, high = given["measured_interval"]
            return cls(
                name=str(given["name"]),
                population=str(given["population"]),
                window=float(given["window"]),
                clip=_scale_of(given["clip"]),
                still=_scale_of(given["still"]),
                rate=float(given["rate"]),
                review_rate=float(given["review_rate"]),
                measured=float(given["measured"]),
                measured_interval=(float(low), float(high)),
                clips=int(given["clips"]),
                bands=tuple(_band_of(band) for band in given.get("bands", ())),
                alarms=tuple(float(rate) for rate in given.get("alarms", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"the model card has no usable calibration ({error!r}): without one no verdict "
                "can be given; calibrate the weights with `python -m train.calibration.calibrate`"
            ) from error

    @property
    def every_band(self) -> tuple[Band, ...]:
        """The bands; where there are none, one that holds every face."""
        whole: Range = (0.0, None)
        return self.bands or (Band(whole, whole, whole, self.clip, self.still, self.clips),)

    def bands_of(self, qualities: Floats) -> NDArray[np.intp]:
        """For each row of (N, 3) qualities the index into `every_band`; -1 outside of all."""
        found = np.full(len(qualities), -1, np.intp)
        for index, band in enumerate(self.every_band):
            found[(found < 0) & band.holds(qualities)] = index
        return found

    def llr(self, logits: Floats, bands: NDArray[np.intp], *, still: bool) -> Floats:
        """Mean logits (N,) as LLR, each on the scale of its band; NaN outside of all."""
        values = np.full(len(logits), np.nan)
        for index, band in enumerate(self.every_band):
            here = bands == index
            values[here] = band.scale(still=still).llr(logits[here])
        return values

    def points(self, looks: float, *, still: bool, band: int = 0) -> tuple[float, float]:
        """Operating point and review point of a band, as LLR, for so many looks."""
        tail = self.every_band[band].scale(still=still).tail
        return tail.threshold(looks, self.rate), tail.threshold(looks, self.review_rate)

    def at(self, rate: float | None) -> Calibration:
        """The same with another false-alarm rate at the operating point; None: as it is.

        The tail may be followed no further than the clips behind it can show: at N unmanipulated
        clips no rate below 1 / N, where not even one false alarm was to be expected, and none
        above the share where the tail begins.

        Raises:
            UsageError: these clips cannot support the rate.
        """
        if rate is None or rate == self.rate:
            return self
        most = min(min(band.clip.tail.q, band.still.tail.q) for band in self.every_band)
        if not self.alarms:
            raise UsageError(
                f"calibration {self.name} holds no single clips, so what a false-alarm rate of "
                f"{rate:g} would do was not measured: leave the rate out (it is {self.rate:g}), or "
                "calibrate anew with `python -m train.calibration.calibrate`"
            )
        if not 1 / self.clips <= rate <= most:
            raise UsageError(
                f"a false-alarm rate of {rate:g} is beyond calibration {self.name}: with "
                f"{self.clips} unmanipulated clips it supports 1/{self.clips} to {most:g}"
            )
        share, low, high = wilson(bisect_right(self.alarms, rate), self.clips)
        return replace(
            self,
            name=f"{self.name}, set to {1000 * rate:g} false alarms in 1000",
            rate=rate,
            review_rate=max(rate, self.review_rate),
            measured=share,
            measured_interval=(low, high),
        )


def _scale_of(given: Mapping[str, Any]) -> Scale:
    tail = Tail(**{key: float(given["tail"][key]) for key in ("u", "q", "b")})
    return Scale(float(given["slope"]), float(given["offset"]), tail)


def _band_of(given: Mapping[str, Any]) -> Band:
    ranges: list[Range] = []
    for key in ("size", "sharpness", "detail"):
        low, high = given[key]
        ranges.append((float(low), None if high is None else float(high)))
    size, sharp, texture = ranges
    scales = _scale_of(given["clip"]), _scale_of(given["still"])
    return Band(size, sharp, texture, *scales, int(given["clips"]))


def wilson(count: int, total: int) -> tuple[float, float, float]:
    """A share with its 95 % interval (Wilson 1927)."""
    z = 1.959964
    share = count / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    spread = math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    half = z / (1 + z * z / total) * spread
    return share, max(0.0, centre - half), min(1.0, centre + half)


@dataclass(slots=True)
class _Series:
    """What is kept of one track: a few numbers for every sighting."""

    times: array[float] = field(default_factory=lambda: array("d"))
    sizes: array[float] = field(default_factory=lambda: array("f"))
    judged: array[float] = field(default_factory=lambda: array("d"))  # times of scored sightings
    logits: array[float] = field(default_factory=lambda: array("f"))
    shares: array[float] = field(default_factory=lambda: array("f"))
    sharpness: array[float] = field(default_factory=lambda: array("f"))
    sides: array[float] = field(default_factory=lambda: array("f"))  # of scored sightings
    detail: array[float] = field(default_factory=lambda: array("f"))
    whole: array[int] = field(default_factory=lambda: array("b"))  # nothing else was left out
    unscored: Counter[str] = field(default_factory=Counter)


class Evidence:
    """Gathers frame results as they pass and keeps about 50 bytes for every face in a frame."""

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
        whole = result.analysed and not result.unscored
        self.analysed += whole
        for face in result.faces:
            series = self._series(face.crop.face.track_id)
            side = max(face.crop.face.box.width, face.crop.face.box.height)
            series.times.append(time)
            series.sizes.append(side)
            series.sides.append(side)
            series.detail.append(detail(face.crop.image))
            series.whole.append(whole)
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
    low, high = _spans(times, window)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means: Floats = (sums[high] - sums[low]) / (high - low)
    return means


def medians(times: Floats, values: Floats, window: float) -> Floats:
    """Medians of (N, K) values over the same windows as `smooth`, column by column."""
    if len(times) == 0:
        return values
    low, high = _spans(times, window)
    counts = high - low
    found = np.empty_like(values)
    for count in np.unique(counts):
        same = np.flatnonzero(counts == count)
        for start in range(0, len(same), 4096):  # memory stays bounded however long the track is
            rows = same[start : start + 4096]
            found[rows] = np.median(values[low[rows][:, None] + np.arange(count)], axis=1)
    return found


def _spans(times: Floats, window: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Index ranges [low, high) of the windows round each time."""
    starts = np.clip(times - window / 2, times[0], max(times[0], times[-1] - window))
    slack = 1e-9
    low = np.searchsorted(times, starts - slack, side="left")
    high = np.searchsorted(times, starts + window + slack, side="right")
    return low, high


def looks_of(evidence: Evidence, window: float) -> float:
    """Independent chances of a false alarm: judged seconds in windows, at least one a track."""
    return _looks([_shown(series, evidence.step, window) for series in evidence.tracks.values()])


def _looks(shown: Sequence[Floats]) -> float:
    """Chances of a false alarm from the windows that each judged sighting of each track fills."""
    return max(1.0, sum(max(1.0, float(each.sum())) for each in shown if len(each)))


def _shown(series: _Series, step: float, window: float) -> Floats:
    """How long each judged sighting stands for, in windows."""
    times = np.array(series.judged)
    shown: Floats = np.minimum(np.diff(times, append=times[-1:] + step), window) / window
    return shown


@dataclass(frozen=True, slots=True)
class _Windows:
    """A track's windows, one round each judged sighting: where they stand and what they say.

    `bands` is the quality band of each, -1 outside of all; `alone` says that single pictures are
    its scale. `shown` is how long each sighting stands for, in windows.
    """

    series: _Series
    times: Floats
    shown: Floats
    shares: Floats
    bands: NDArray[np.intp]
    llr: Floats  # NaN outside of the bands
    alone: bool

    @property
    def inside(self) -> NDArray[np.bool_]:
        return self.bands >= 0

    def unknown(self, *, still: bool) -> bool:
        """No window lies in a band, though the face was there for long enough to count."""
        seen = len(self.times) > 0 and not self.inside.any()
        return seen and (still or float(self.shown.sum()) >= 1 - 1e-9)


def _windows(series: _Series, step: float, calibration: Calibration, *, still: bool) -> _Windows:
    times = np.array(series.judged)
    shown = _shown(series, step, calibration.window)
    alone = still or len(times) < MIN_SIGHTINGS * max(1.0, float(shown.sum()))
    qualities = np.array([series.sides, series.sharpness, series.detail], np.float64).T
    bands = calibration.bands_of(medians(times, qualities, calibration.window))
    logits = smooth(times, np.array(series.logits, np.float64), calibration.window)
    llr = calibration.llr(logits, bands, still=alone)
    return _Windows(series, times, shown, np.array(series.shares, np.float64), bands, llr, alone)


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
    calibration = calibration.at(options.false_alarm_rate)
    still, step = video.still, evidence.step
    seen = {
        track_id: _windows(series, step, calibration, still=still)
        for track_id, series in sorted(evidence.tracks.items())
    }
    looks = _looks([each.shown[each.inside] for each in seen.values()])
    levels = {
        alone: np.array(
            [
                calibration.points(looks, still=alone, band=index)
                for index in range(len(calibration.every_band))
            ]
        )
        for alone in (False, True)
    }
    tracks: list[FaceTrack] = []
    intervals: list[Interval] = []
    disagree: list[Interval] = []  # over the operating point, but with an empty mask
    nearest = -math.inf, levels[still][0]
    for track_id, windows in seen.items():
        points = levels[windows.alone][windows.bands]
        tracks.append(_track(track_id, windows, calibration.window, step))
        over, empty, weak = _intervals(track_id, windows, points, step)
        intervals += [*over, *empty, *weak]
        disagree += empty
        if windows.inside.any():
            margin = np.where(windows.inside, windows.llr - points[:, 0], -np.inf)
            peak = int(margin.argmax())
            nearest = max(nearest, (float(margin[peak]), points[peak]), key=lambda pair: pair[0])
    coverage = _within(evidence.coverage(report), seen)
    unknown = sum(each.unknown(still=still) for each in seen.values())
    label, reasons = _label(intervals, disagree, coverage, unknown, report, model, options)
    if failure is not None:
        label, reasons = Label.ERROR, [failure, *(r for r in reasons if r.code != "complete")]
    best = [track.llr for track in tracks if track.llr is not None]
    operating, review = (float(point) for point in nearest[1])
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


def _track(track_id: int, windows: _Windows, window: float, step: float) -> FaceTrack:
    series, times = windows.series, windows.times
    peak = int(np.nanargmax(windows.llr)) if windows.inside.any() else None
    near = np.abs(times - times[peak]) <= window / 2 if peak is not None else None
    unscored = Counter(series.unscored)
    outside = int((~windows.inside).sum())
    if outside:
        unscored[OUTSIDE] += outside
    return FaceTrack(
        track_id=track_id,
        start=series.times[0],
        end=series.times[-1] + step,
        frames=len(series.times),
        scored=len(times) - outside,
        score=None if peak is None else sigmoid(float(windows.llr[peak])),
        llr=None if peak is None else float(windows.llr[peak]),
        size=float(np.median(np.array(series.sizes))),
        sharpness=float(np.median(np.array(series.sharpness))) if series.sharpness else 0.0,
        mask_share=None if near is None else float(windows.shares[near].mean()),
        unscored=tuple(sorted(unscored.items())),
    )


def _within(coverage: Coverage, seen: Mapping[int, _Windows]) -> Coverage:
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
    track_id: int, windows: _Windows, points: Floats, step: float
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
    unknown: int,
    report: ReadReport,
    model: ModelInfo,
    options: ScanOptions,
) -> tuple[Label, list[Reason]]:
    """The label and every reason that bears on it, the deciding one first."""
    limits = _limits(coverage, unknown, report, model, options)
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
    coverage: Coverage, unknown: int, report: ReadReport, model: ModelInfo, options: ScanOptions
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
    outside = unscored.get(OUTSIDE, 0)
    if unknown or (outside and not coverage.faces_scored):
        text = (
            f"{outside} face sightings are smaller, more blurred or more compressed than the "
            "faces that the model was calibrated on"
        )
        limits.append(Reason(OUTSIDE, text))
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
