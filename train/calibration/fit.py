"""From logits to evidence: the scales, tails and quality bands of a calibration, and their proof.

Windows of made clips (`train.calibration.synthetic_validation`) fit the scales that
`deepscan.verdict.decide` uses, one for each band of quality that has clips enough. What the fit
promises is measured apart from it: people are split in parts, and each part is judged by a fit on
the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deepscan.types import Label
from deepscan.verdict.calibration import Band, Calibration, Scale, Tail, wilson
from deepscan.verdict.estimate import (
    BAND_MINIMUM,
    BandMinimum,
    fit_scale,
    fold_of,
    quality_bands,
)
from deepscan.verdict.evidence import medians, smooth
from train.calibration.synthetic_validation import FRAME_RATE, WINDOW, Clip, ClipVerdict, Floats

RATE, REVIEW_RATE = 0.01, 0.05  # false alarms a file at the operating and the review point
FOLDS = 4  # parts of the people, each judged by a fit on the others
CARE = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # steps by which tails are made more careful
_KEPT = 0.5  # alarms that need a higher rate than this are of no use to anybody


@dataclass(frozen=True, slots=True)
class Care:
    """The factors by which tails are heavier than fitted: of windows, and of single pictures."""

    clip: float = 1.0
    still: float = 1.0

    def times(self, other: Care) -> Care:
        return Care(self.clip * other.clip, self.still * other.still)


NO_CARE = Care()


def heavier(scale: Scale, factor: float) -> Scale:
    """The same evidence, with a tail that many times as heavy all along its line."""
    tail = scale.tail
    q = tail.q * factor
    if q > 1:  # the line continues above u, from where it passes 1
        return replace(scale, tail=Tail(tail.u + tail.b * math.log(q), 1.0, tail.b))
    return replace(scale, tail=replace(tail, q=q))


def stricter(calibration: Calibration, care: Care) -> Calibration:
    """The same likelihood ratios, with thresholds that `care` raises."""
    return replace(
        calibration,
        clip=heavier(calibration.clip, care.clip),
        still=heavier(calibration.still, care.still),
        bands=tuple(
            replace(band, clip=heavier(band.clip, care.clip), still=heavier(band.still, care.still))
            for band in calibration.bands
        ),
    )


def fit(
    clips: Sequence[Clip],
    measured: tuple[float, float, float],
    population: str,
    *,
    minimum: BandMinimum = BAND_MINIMUM,
    alarms: Sequence[float] = (),
    care: Care = NO_CARE,
) -> Calibration:
    """Fit the scales on all windows of the clips, those of stills on single frames.

    Every clip that is not forged counts as unmanipulated, also one with benign edits.
    """
    whole = _scales(clips, None)
    rate, low, high = measured
    fitted = Calibration(
        name="val-clips/2",
        population=population,
        window=WINDOW,
        clip=whole[0],
        still=whole[1],
        rate=RATE,
        review_rate=REVIEW_RATE,
        measured=rate,
        measured_interval=(low, high),
        clips=sum(clip.untouched for clip in clips),
        bands=fit_bands(clips, whole, minimum),
        alarms=tuple(alarms),
        made_of="made clips",
    )
    return stricter(fitted, care)


def _scales(clips: Sequence[Clip], prior: tuple[Scale, Scale] | None) -> tuple[Scale, Scale]:
    """For windows and for single pictures."""
    windows = [clip.windows() for clip in clips]
    kinds = [np.full(len(w), c.forged) for w, c in zip(windows, clips, strict=True)]
    stills = np.array([clip.logits[0] for clip in clips])
    return (
        fit_scale(np.concatenate(windows), np.concatenate(kinds), prior and prior[0]),
        fit_scale(stills, np.array([clip.forged for clip in clips]), prior and prior[1]),
    )


def fit_bands(
    clips: Sequence[Clip], whole: tuple[Scale, Scale], minimum: BandMinimum
) -> tuple[Band, ...]:
    """The bands of `quality_bands`, each with scales of its own; one band has those of all."""
    qualities = np.array([np.median(clip.seen(), axis=0) for clip in clips])
    # The least of a window, not of a clip's median: a scan judges windows.
    lowest = np.array([_window_qualities(clip).min(0) for clip in clips]).min(0)
    forged = np.array([clip.forged for clip in clips])
    people = [clip.person for clip in clips]
    leaves = quality_bands(qualities, lowest, forged, people, minimum)
    if len(leaves) == 1 and not any(clip.qualities for clip in clips):
        return ()  # nothing but faces' sizes is known: one band that holds everything
    bands = []
    for (size, sharp, texture), chosen in leaves:
        here = [clips[index] for index in chosen]
        scales = whole if len(leaves) == 1 else _scales(here, whole)
        real = sum(not clip.forged for clip in here)
        bands.append(Band(size, sharp, texture, *scales, real))
    return tuple(bands)


def _window_qualities(clip: Clip) -> Floats:
    seen = clip.seen()
    return medians(np.arange(len(seen)) / FRAME_RATE, seen, WINDOW)


def verdict_of(clip: Clip, calibration: Calibration) -> ClipVerdict:
    """Apply the rule of `deepscan.verdict.decide` to a clip of one face."""
    times = np.arange(len(clip.logits)) / FRAME_RATE
    bands = calibration.bands_of(_window_qualities(clip))
    inside = bands >= 0
    if not inside.any():
        return ClipVerdict(Label.INCONCLUSIVE, math.inf, None, ())
    values = smooth(times, np.array(clip.logits), calibration.window)
    llr = calibration.llr(values, bands, still=False)
    looks = max(1.0, float(inside.sum()) / FRAME_RATE / calibration.window)
    rates = np.full(len(llr), np.inf)
    points = np.full((len(llr), 2), np.inf)
    for index, band in enumerate(calibration.every_band):
        here = bands == index
        rates[here] = band.clip.tail.rate(looks, llr[here])
        points[here] = calibration.points(looks, still=False, band=index)
    label = Label.NO_EVIDENCE
    if (llr >= points[:, 0]).any():
        label = Label.MANIPULATED
    elif (llr >= points[:, 1]).any():
        label = Label.SUSPICIOUS
    size = round(WINDOW * FRAME_RATE)
    middles = np.arange(size // 2, len(llr), size)  # one window each, none in common
    whole = llr[middles][inside[middles]]
    return ClipVerdict(label, float(rates.min()), float(np.nanmax(llr)), tuple(whole.tolist()))


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares with 95 % Wilson intervals: of untouched clips called manipulated or at least
    suspicious, and of forged clips called manipulated; every clip judged by a fit on others."""

    false_alarm: tuple[float, float, float]
    false_review: tuple[float, float, float]
    found: tuple[float, float, float]
    clips: int


def cross_validate(
    clips: Sequence[Clip],
    population: str,
    *,
    minimum: BandMinimum = BAND_MINIMUM,
    care: Care = NO_CARE,
    fitted_on: Callable[[Clip], bool] = lambda clip: True,
) -> list[ClipVerdict]:
    """Each clip by a calibration that was fitted on other people."""
    part = fold_of([clip.person for clip in clips], FOLDS)
    verdicts: dict[int, ClipVerdict] = {}
    for fold in range(FOLDS):
        others = [clip for clip in clips if part[clip.person] != fold and fitted_on(clip)]
        here = [index for index, clip in enumerate(clips) if part[clip.person] == fold]
        if here:
            fitted = fit(others, (0.0, 0.0, 1.0), population, minimum=minimum, care=care)
            verdicts.update((index, verdict_of(clips[index], fitted)) for index in here)
    return [verdicts[index] for index in range(len(clips))]


def rates_of(clips: Sequence[Clip], verdicts: Sequence[ClipVerdict]) -> Rates:
    """Count the labels."""
    real = [r.label for c, r in zip(clips, verdicts, strict=True) if c.untouched]
    fake = [r.label for c, r in zip(clips, verdicts, strict=True) if c.forged]
    over = sum(label is Label.MANIPULATED for label in real)
    review = over + sum(label is Label.SUSPICIOUS for label in real)
    return Rates(
        wilson(over, len(real)),
        wilson(review, len(real)),
        wilson(sum(label is Label.MANIPULATED for label in fake), len(fake)),
        len(real) + len(fake),
    )


def tail_factor(clips: Sequence[Clip], verdicts: Sequence[ClipVerdict]) -> float:
    """The factor by which tails must be heavier so that measured rates stay at the promised ones.

    The smallest of a few steps: chosen on the same clips, so the measured rate is a little better
    than what other clips would show.
    """
    real = [r.alarm for c, r in zip(clips, verdicts, strict=True) if c.untouched]
    for care in CARE:
        shares = [sum(alarm * care <= rate for alarm in real) for rate in (RATE, REVIEW_RATE)]
        if all(
            share <= rate * len(real)
            for share, rate in zip(shares, (RATE, REVIEW_RATE), strict=True)
        ):
            return care
    return CARE[-1]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibration, and the verdict on every clip when fitted on other people.

    `care` is what made clips need, on top of which real material may have asked for more.
    """

    calibration: Calibration
    verdicts: list[ClipVerdict]
    rates: Rates
    care: float


def calibrated(
    clips: Sequence[Clip],
    population: str,
    *,
    minimum: BandMinimum = BAND_MINIMUM,
    edits_in_fit: bool = True,
    real: Care = NO_CARE,
) -> Calibrated:
    """Cross-fit, make the tails careful enough, and fit on all clips.

    Args:
        real: what real material needs beside made clips (`train.calibration.real_material`).

    Raises:
        ValueError: too few people or clips, or the network's scores are no evidence.
    """

    def fitted_on(clip: Clip) -> bool:
        return edits_in_fit or clip.edit == "none"

    verdicts = cross_validate(clips, population, minimum=minimum, fitted_on=fitted_on)
    factor = tail_factor(clips, verdicts)
    care = Care(factor, factor).times(real)
    if care.clip > 1:
        verdicts = cross_validate(
            clips, population, minimum=minimum, care=care, fitted_on=fitted_on
        )
    rates = rates_of(clips, verdicts)
    alarms = sorted(
        round(r.alarm, 6)
        for c, r in zip(clips, verdicts, strict=True)
        if c.untouched and r.alarm <= _KEPT
    )
    calibration = fit(
        [clip for clip in clips if fitted_on(clip)],
        rates.false_alarm,
        population,
        minimum=minimum,
        alarms=alarms,
        care=care,
    )
    return Calibrated(calibration, verdicts, rates, factor)


def population_of(clips: Sequence[Clip], *, edits_in_fit: bool = True) -> str:
    """Describe the clips in words."""
    real = [clip for clip in clips if clip.untouched]
    edited = sum(clip.edit != "none" for clip in clips) if edits_in_fit else 0
    beside = f", and {edited} with benign edits" if edited else ""
    codecs = ", ".join(sorted({clip.codec for clip in clips}))
    sizes = [clip.face for clip in clips]
    leaning = round(100 * sum(clip.leaning for clip in clips) / len(clips))
    posture = f"heads leaning in {leaning}% of clips, " if leaning else ""
    return (
        f"{len(real)} clips of {len({clip.person for clip in real})} people held out from "
        f"training{beside}, filmed from still portraits, {posture}faces of {min(sizes):.0f} to "
        f"{max(sizes):.0f} pixels, {codecs} from light to strong compression"
    )
