"""Fit a calibration to scans of own clips: scales, tails, bands, and the rates that they keep.

1. Each face's logits are averaged over windows, as `deepscan.verdict.decide` does it. With
   manipulated clips beside the real ones a logistic regression makes likelihood ratios of them;
   with real clips alone they stay logits, and nothing is said about how likely they are.
2. Each band of quality that holds enough recordings has an exponential tail of its own.
3. The rule is applied to every real recording: the margins are by how much its highest window
   passes the operating point and the review point. All points are moved by the conformal thresholds
   of these margins, so that one more recording passes them at no more than the rates asked for,
   for any length, number of faces and bands. The tails were fitted on the same
   recordings, so this is exact for one band and one length, else nearly so.
4. The rates are measured apart from the fit: each part of the recordings is judged by a
   calibration fitted on the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from deepscan.errors import UsageError
from deepscan.verdict.calibration import (
    Band,
    Calibration,
    Floats,
    Material,
    Range,
    Scale,
    Tail,
    wilson,
)
from deepscan.verdict.estimate import (
    FOLDS,
    BandMinimum,
    TooFewClips,
    clips_needed,
    fit_scale,
    fit_tail,
    fold_of,
    group_scores,
    quality_bands,
    threshold,
)
from deepscan.verdict.evidence import Evidence, looks_of, medians, windows_of

WINDOW = 1.0  # seconds, as in the calibrations that ship
MIN_MANIPULATED = 20  # manipulated recordings, from which on likelihood ratios are fitted
_BAND = BandMinimum(real=100, people=100, forged=0)  # with fewer, tails fit their own clips
_STEEPEST = 0.05  # least mean excess of a tail
_ROUNDS = 20  # of moving all points; where all files have one length the first is exact
_KEPT = 0.5  # alarms that need a higher rate than this are of no use to anybody
_CLOSE = 1e-4  # logits; so near is exact
_SPREAD = 1e-3  # logits; scores that differ by less are one
_NAMES = {False: "real recordings of the user's own", True: "of the user's own"}
_UNJUDGED = Scale(1.0, 0.0, Tail(0.0, 1.0, 1.0))  # a window's mean logit stays what it is


@dataclass(frozen=True, slots=True)
class _Track:
    """One face: its windows in time, and those of them that do not overlap."""

    logits: Floats  # (N,) mean of each window
    alone: NDArray[np.bool_]  # (N,) judged like single pictures
    qualities: Floats  # (N, 3) medians of size, sharpness and detail
    single: float  # the logit of the sighting in its middle
    apart: NDArray[np.intp]  # indices of windows that do not overlap
    looks: float


@dataclass(frozen=True, slots=True)
class ScannedClip:
    """The scan of one file. `group` is the recording or person that it belongs to."""

    name: str
    group: str
    manipulated: bool
    still: bool
    evidence: Evidence
    tracks: tuple[_Track, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tracks", tuple(_tracks(self.evidence, self.still)))

    @property
    def score(self) -> float:
        """The highest mean logit of any window."""
        return max(float(each.logits.max()) for each in self.tracks)

    @property
    def qualities(self) -> Floats:
        """(3,) medians of size, sharpness and detail over all windows."""
        found: Floats = np.median(np.concatenate([each.qualities for each in self.tracks]), axis=0)
        return found


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of recordings, each judged by a fit on others, with 95 % intervals (Wilson).

    `manipulated` and `suspicious` count real recordings at or over the operating point, and at or
    over the review point; `found` counts manipulated ones, None where there are none.
    """

    manipulated: tuple[float, float, float]
    suspicious: tuple[float, float, float]
    found: tuple[float, float, float] | None
    groups: int
    held_to: float  # the rate of the fits on the others, where those are too few for the one asked


@dataclass(frozen=True, slots=True)
class Fitted:
    """A calibration, and how far each clip lies from its points.

    `margins` (clips, 2) say by how much the highest window of each clip passes operating point and
    review point, `held_out` the same by a fit on others; `bands` is the band of that window.
    """

    calibration: Calibration
    rates: Rates
    margins: Floats
    held_out: Floats
    bands: NDArray[np.intp]


def fit_calibration(
    clips: Sequence[ScannedClip],
    *,
    name: str,
    population: str,
    rate: float,
    review_rate: float,
) -> Fitted:
    """Fit a calibration to scans of own clips, every one with a judged face.

    Raises:
        TooFewClips: the real recordings do not support the rate.
        UsageError: rates that cannot be, too few manipulated recordings, or scores that are all
            alike or lower for manipulated clips.
    """
    if not 0 < rate <= review_rate < 0.5:
        raise UsageError(
            f"{1000 * rate:g}/1000 manipulated and {1000 * review_rate:g}/1000 suspicious: give "
            "rates above 0 and below 500/1000, the first no higher than the second"
        )
    real = [clip for clip in clips if not clip.manipulated]
    groups = {clip.group for clip in real}
    if len(groups) < clips_needed(rate):
        raise TooFewClips(rate, len(groups))
    fakes = {clip.group for clip in clips if clip.manipulated}
    if fakes and len(fakes) < MIN_MANIPULATED:
        raise UsageError(
            f"{len(fakes)} manipulated recordings are too few for likelihood ratios: "
            f"{MIN_MANIPULATED} would do, or leave --manipulated out"
        )
    scores = [clip.score for clip in clips]
    if max(scores) - min(scores) < _SPREAD:
        raise UsageError(
            f"the model gives all {len(clips)} clips the same score ({scores[0]:.3f}): it does not "
            "look at its input, so nothing can be calibrated. Run: deepscan model check"
        )
    fitted = _fit(clips, name, population, (rate, review_rate))
    rates, alarms, held_out = _cross_validate(clips, (rate, review_rate))
    share, low, high = rates.manipulated
    calibration = replace(
        fitted,
        measured=share,
        measured_interval=(low, high),
        alarms=alarms[False],
        material=tuple(
            Material(_NAMES[forged], forged, len(names), len(names), alarms[forged])
            for forged, names in ((True, fakes), (False, groups))
            if names
        ),
    )
    found = [_margins(clip, calibration) for clip in clips]
    return Fitted(
        calibration,
        rates,
        np.array([margins for margins, _ in found]),
        held_out,
        np.array([band for _, band in found], np.intp),
    )


def _fit(
    clips: Sequence[ScannedClip], name: str, population: str, rates: tuple[float, float]
) -> Calibration:
    real = [clip for clip in clips if not clip.manipulated]
    whole = _scales(clips, None)
    qualities = np.array([clip.qualities for clip in clips])
    lowest = np.min([each.qualities.min(0) for clip in clips for each in clip.tracks], axis=0)
    forged = np.array([clip.manipulated for clip in clips])
    leaves = quality_bands(qualities, lowest, forged, [clip.group for clip in clips], _BAND)
    bands = []
    for ranges, chosen in leaves:
        here = [clips[index] for index in chosen]
        scales = whole if len(leaves) == 1 else _scales(here, whole)
        count = len({clip.group for clip in here if not clip.manipulated})
        bands.append(Band(ranges[0], ranges[1], ranges[2], *scales, count))
    calibration = Calibration(
        name=name,
        population=population,
        window=WINDOW,
        clip=whole[0],
        still=whole[1],
        rate=rates[0],
        review_rate=rates[1],
        measured=0.0,
        measured_interval=(0.0, 1.0),
        clips=len({clip.group for clip in real}),
        bands=tuple(bands),
        made_of=_NAMES[False],
        likelihood_ratio=any(clip.manipulated for clip in clips),
    )
    return _conformal(calibration, real)


def _scales(clips: Sequence[ScannedClip], prior: tuple[Scale, Scale] | None) -> tuple[Scale, Scale]:
    """Fit scales for windows and single pictures; each kind replaces the other if it is missing.

    Raises:
        UsageError: manipulated clips do not score higher than real ones.
    """
    windows, singles = [], []
    for clip in clips:
        for track in clip.tracks:
            chosen = track.apart[~track.alone[track.apart]]
            windows.append((track.logits[chosen], clip.manipulated))
            singles.append((np.array([track.single]), clip.manipulated))
    rows = [
        (np.concatenate([values for values, _ in part]),
         np.concatenate([np.full(len(values), forged) for values, forged in part]))
        for part in (windows, singles)
    ]  # fmt: skip
    kinds = [forged for _, forged in rows]
    if kinds[0].all() or (kinds[1].any() and not kinds[0].any()):  # also where there are none
        rows[0] = rows[1]
    window, single = (_scale(*row, prior and prior[index]) for index, row in enumerate(rows))
    return window, single


def _scale(values: Floats, forged: NDArray[np.bool_], prior: Scale | None) -> Scale:
    if prior is not None and not (forged.any() and (~forged).any()):
        slope, offset = prior.slope, prior.offset
        real = values[~forged]
        tail = fit_tail(slope * real + offset, prior) if len(real) else prior.tail
        return Scale(slope, offset, tail)
    if not forged.any():
        return Scale(1.0, 0.0, fit_tail(values))
    scale = fit_scale(values, forged, prior)
    if scale.slope <= 0:
        raise UsageError(
            "the model scores the manipulated clips no higher than the real ones: it finds nothing "
            "in this material, or its polarity is turned round. Run: deepscan model check"
        )
    return scale


def _conformal(calibration: Calibration, real: Sequence[ScannedClip]) -> Calibration:
    """Move the points of all bands so that one more recording passes them at the rates."""
    calibration = _map_tails(
        calibration, partial(_from_review, review_rate=calibration.review_rate)
    )
    step = math.log(calibration.review_rate / calibration.rate)
    for _ in range(_ROUNDS):
        over, review = _excess(calibration, real)
        if max(abs(over), abs(review)) < _CLOSE:
            break
        steeper = (over - review) / step if step > 0 else 0.0
        calibration = _map_tails(calibration, partial(_moved, up=review, steeper=steeper))
    over, review = _excess(calibration, real)
    careful = max(0.0, over, review) + 1e-6  # what lies on the threshold lies below the points
    return _map_tails(calibration, partial(_moved, up=careful, steeper=0.0))


def _excess(calibration: Calibration, real: Sequence[ScannedClip]) -> tuple[float, float]:
    """The amounts by which operating and review point are too low; negative: too high."""
    margins = [_margins(clip, calibration)[0] for clip in real]
    groups = [clip.group for clip in real]
    over, review = (
        threshold(list(group_scores([row[index] for row in margins], groups).values()), rate)
        for index, rate in enumerate((calibration.rate, calibration.review_rate))
    )
    return over, review


def _from_review(tail: Tail, review_rate: float) -> Tail:
    """The same tail, begun at the review point of one look."""
    return Tail(tail.threshold(1.0, review_rate), review_rate, tail.b)


def _moved(tail: Tail, up: float, steeper: float) -> Tail:
    return Tail(tail.u + up, tail.q, max(_STEEPEST, tail.b + steeper))


def _map_tails(calibration: Calibration, change: Callable[[Tail], Tail]) -> Calibration:
    def of(scale: Scale) -> Scale:
        return replace(scale, tail=change(scale.tail))

    return replace(
        calibration,
        clip=of(calibration.clip),
        still=of(calibration.still),
        bands=tuple(
            replace(band, clip=of(band.clip), still=of(band.still)) for band in calibration.bands
        ),
    )


def _margins(clip: ScannedClip, calibration: Calibration) -> tuple[tuple[float, float], int]:
    """The margins of a clip's highest window over operating and review point, and its band.

    Far below both where no window lies in a band: the rule does not judge it.
    """
    placed = [(track, calibration.bands_of(track.qualities)) for track in clip.tracks]
    looks = max(1.0, sum(track.looks for track, bands in placed if (bands >= 0).any()))
    best, band = (-math.inf, -math.inf), -1
    for alone in (False, True):
        points = calibration.points_by_band(looks, still=alone)
        for track, bands in placed:
            here = (track.alone == alone) & (bands >= 0)
            if not here.any():
                continue
            llr = calibration.llr(track.logits[here], bands[here], still=alone)
            over = llr[:, None] - points[bands[here]]
            top = over.max(0)
            if top[0] > best[0]:
                band = int(bands[here][int(over[:, 0].argmax())])
            best = (max(best[0], float(top[0])), max(best[1], float(top[1])))
    return (best, band) if band >= 0 else ((-1e3, -1e3), -1)


def _cross_validate(
    clips: Sequence[ScannedClip], rates: tuple[float, float]
) -> tuple[Rates, dict[bool, tuple[float, ...]], Floats]:
    """Each clip by a fit on others: the rates, at which rates recordings pass, and margins.

    The second holds the lowest rates in rising order, of manipulated and of real recordings.
    """
    part = fold_of([clip.group for clip in clips], FOLDS)
    margins, held = np.zeros((len(clips), 2)), rates[0]
    alarms: dict[bool, dict[str, float]] = {False: {}, True: {}}
    for fold in sorted(set(part.values())):
        others = [clip for clip in clips if part[clip.group] != fold]
        known = len({clip.group for clip in others if not clip.manipulated})
        possible = max(rates[0], 1 / (known + 1))
        held = max(held, possible)
        fitted = _fit(others, "", "", (possible, max(possible, rates[1])))
        for index, clip in enumerate(clips):
            if part[clip.group] != fold:
                continue
            found, _ = _margins(clip, fitted)
            margins[index] = found
            known_rates = alarms[clip.manipulated]
            lowest = _lowest_rate(found, fitted)
            known_rates[clip.group] = min(lowest, known_rates.get(clip.group, math.inf))
    forged = np.array([clip.manipulated for clip in clips])
    names = np.array([clip.group for clip in clips])
    return (
        Rates(
            manipulated=share_over(margins[~forged, 0], names[~forged]),
            suspicious=share_over(margins[~forged, 1], names[~forged]),
            found=share_over(margins[forged, 0], names[forged]) if forged.any() else None,
            groups=len(set(names[~forged])),
            held_to=held,
        ),
        {
            forged: tuple(sorted(round(rate, 6) for rate in rates_.values() if rate <= _KEPT))
            for forged, rates_ in alarms.items()
        },
        margins,
    )


def share_over(margins: Floats, groups: Sequence[str]) -> tuple[float, float, float]:
    """The share of groups with a clip at or over a point, with its 95 % interval."""
    highest = group_scores(margins, groups)
    return wilson(sum(value >= 0 for value in highest.values()), len(highest))


def _lowest_rate(margins: tuple[float, float], calibration: Calibration) -> float:
    """The lowest rate at which a clip would pass, followed along the line through both points."""
    over, review = margins
    if review < 0 or calibration.rate == calibration.review_rate:
        return math.inf if over < 0 else calibration.rate
    # The margin falls by b for each factor e of the rate, from the review point downwards.
    steep = max(review - over, 1e-9) / math.log(calibration.review_rate / calibration.rate)
    return calibration.review_rate * math.exp(-review / steep)


def _tracks(evidence: Evidence, still: bool) -> list[_Track]:
    whole: Range = (0.0, None)
    neutral = Calibration(
        "", "", WINDOW, _UNJUDGED, _UNJUDGED, 0.01, 0.05, 0.0, (0.0, 1.0), 1,
        (Band(whole, whole, whole, _UNJUDGED, _UNJUDGED, 1),),
    )  # fmt: skip
    found = []
    for windows in windows_of(evidence, neutral, still=still).values():
        times, series = windows.times, windows.series
        if not len(times):
            continue
        qualities = np.array([series.sides, series.sharpness, series.detail], np.float64).T
        middles = np.arange(times[0] + WINDOW / 2, times[-1] - WINDOW / 2 + 1e-9, WINDOW)
        apart = np.unique(np.searchsorted(times, middles)) if len(middles) else len(times) // 2
        found.append(
            _Track(
                logits=windows.llr,
                alone=windows.alone,
                qualities=medians(times, qualities, WINDOW),
                single=float(windows.logits[len(times) // 2]),
                apart=np.atleast_1d(np.minimum(apart, len(times) - 1)),
                looks=looks_of([windows]),
            )
        )
    return found
