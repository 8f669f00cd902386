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
from numpy.typing import NDArray

from deepscan.types import Label
from deepscan.verdict.calibration import Band, Calibration, Range, Scale, Tail, wilson
from deepscan.verdict.evidence import medians, smooth
from train.calibration.synthetic_validation import FRAME_RATE, WINDOW, Clip, ClipVerdict, Floats

RATE, REVIEW_RATE = 0.01, 0.05  # false alarms a file at the operating and the review point
FOLDS = 4  # parts of the people, each judged by a fit on the others
POOL = 10.0  # how many excesses, or how much curvature, the fit on all clips weighs in a band's
CARE = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # steps by which tails are made more careful
_KEPT = 0.5  # alarms that need a higher rate than this are of no use to anybody


@dataclass(frozen=True, slots=True)
class BandMinimum:
    """What a band must hold to stand alone; with less it is pooled with its neighbour."""

    real: int = 60  # unmanipulated clips
    people: int = 30
    forged: int = 30


def fit_scale(values: Floats, forged: NDArray[np.bool_], prior: Scale | None = None) -> Scale:
    """Logistic regression of forged on a logit, by Newton's method, at even prior odds.

    A weak pull of the slope towards 1 keeps separable data finite; with a `prior`, slope, offset
    and the tail's steepness are pulled to its. The tail is an exponential over the upper tenth of
    the unmanipulated.

    Raises:
        ValueError: one of the classes is missing.
    """
    if forged.all() or not forged.any():
        raise ValueError("calibration needs clips of both kinds")
    weight = np.where(forged, 0.5 / forged.sum(), 0.5 / (~forged).sum()) * len(forged)
    centre = np.array([1.0, 0.0] if prior is None else [prior.slope, prior.offset])
    pull = np.array([1.0, 1e-3] if prior is None else [POOL, POOL])
    parameters = centre.copy()
    design = np.c_[values, np.ones_like(values)]

    def loss(given: Floats) -> float:
        z = design @ given
        fits = weight * (np.logaddexp(0.0, z) - forged * z)
        return float(fits.sum() + (pull * (given - centre) ** 2).sum() / 2)

    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(design @ parameters, -40, 40)))
        slope = design.T @ (weight * (forged - p)) - pull * (parameters - centre)
        curve = design.T @ (design * (weight * p * (1 - p))[:, None]) + np.diag(pull)
        step = np.linalg.solve(curve, slope)
        # A whole step may leap over the minimum where the curve is flat; a part of it does not.
        before = loss(parameters)
        while loss(parameters + step) > before + 1e-9 and np.abs(step).max() > 1e-9:
            step = step / 2
        parameters = parameters + step
        if np.abs(step).max() < 1e-9:
            break
    slope_, offset = float(parameters[0]), float(parameters[1])
    if prior is not None:
        # Where scores turn round in one band only, they are no evidence there.
        slope_ = max(slope_, 1e-3)
    null = slope_ * values[~forged] + offset
    u = float(np.quantile(null, 0.9))
    excess = null[null > u] - u
    if not len(excess):
        return Scale(slope_, offset, Tail(u, 0.1, 1.0))
    pooled = 0.0 if prior is None else POOL
    count = len(excess) + pooled
    b = float(excess.sum() + (0.0 if prior is None else POOL * prior.tail.b)) / count
    # The mean excess of few values is uncertain by a share 1/sqrt(n): lean to the careful side.
    return Scale(slope_, offset, Tail(u, 0.1, max(b * (1 + 1 / math.sqrt(count)), 0.05)))


def fit(
    clips: Sequence[Clip],
    measured: tuple[float, float, float],
    population: str,
    *,
    minimum: BandMinimum = BandMinimum(),
    alarms: Sequence[float] = (),
    care: float = 1.0,
) -> Calibration:
    """Fit the scales on all windows of the clips, those of stills on single frames.

    Whatever is not forged counts as unmanipulated, also what was with benign edits. `care` makes
    every tail that much heavier.
    """
    whole = _scales(clips, None, care)
    rate, low, high = measured
    return Calibration(
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
        bands=fit_bands(clips, whole, minimum, care),
        alarms=tuple(alarms),
    )


def _scales(
    clips: Sequence[Clip], prior: tuple[Scale, Scale] | None, care: float
) -> tuple[Scale, Scale]:
    """For windows and for single pictures."""
    windows = [clip.windows() for clip in clips]
    kinds = [np.full(len(w), c.forged) for w, c in zip(windows, clips, strict=True)]
    stills = np.array([clip.logits[0] for clip in clips])
    fitted = (
        fit_scale(np.concatenate(windows), np.concatenate(kinds), prior and prior[0]),
        fit_scale(stills, np.array([clip.forged for clip in clips]), prior and prior[1]),
    )
    clip, still = (
        replace(scale, tail=replace(scale.tail, q=min(1.0, scale.tail.q * care)))
        for scale in fitted
    )
    return clip, still


def fit_bands(
    clips: Sequence[Clip], whole: tuple[Scale, Scale], minimum: BandMinimum, care: float = 1.0
) -> tuple[Band, ...]:
    """Halve the clips by size, detail and sharpness in turn, as long as both halves hold enough.

    What would hold less stays pooled with its neighbour. The outer bounds are a tenth below the
    lowest values that any clip has; upwards the outer bands have no end, for a face that is larger,
    sharper or less compressed than all of these is no harder to judge.
    """
    qualities = np.array([np.median(clip.seen(), axis=0) for clip in clips])
    # The least of a window, not of a clip's median: a scan judges windows.
    lowest = np.array([_window_qualities(clip).min(0) for clip in clips]).min(0)
    outer: list[Range] = [(_down(float(low)), None) for low in lowest]
    leaves = _halved(clips, qualities, np.arange(len(clips)), outer, 0, minimum)
    if len(leaves) == 1 and not any(clip.qualities for clip in clips):
        return ()  # nothing but faces' sizes is known: one band that holds everything
    bands = []
    for (size, sharp, texture), chosen in leaves:
        here = [clips[index] for index in chosen]
        scales = whole if len(leaves) == 1 else _scales(here, whole, care)
        real = sum(not clip.forged for clip in here)
        bands.append(Band(size, sharp, texture, *scales, real))
    return tuple(bands)


_AXES = (0, 2, 1)  # size first: it changes most of what a network sees; then detail, sharpness


def _halved(
    clips: Sequence[Clip],
    qualities: Floats,
    chosen: NDArray[np.intp],
    ranges: list[Range],
    depth: int,
    minimum: BandMinimum,
) -> list[tuple[list[Range], NDArray[np.intp]]]:
    for turn in range(len(_AXES)):
        axis = _AXES[(depth + turn) % len(_AXES)]
        values = qualities[chosen, axis]
        real = np.array([not clips[index].forged for index in chosen])
        if not real.any():
            break
        bound = float(f"{np.median(values[real]):.3g}")
        below, above = chosen[values < bound], chosen[values >= bound]
        low, high = ranges[axis]
        if not (low < bound and _enough(clips, below, minimum) and _enough(clips, above, minimum)):
            continue
        lower, upper = list(ranges), list(ranges)
        lower[axis], upper[axis] = (low, bound), (bound, high)
        return [
            *_halved(clips, qualities, below, lower, depth + turn + 1, minimum),
            *_halved(clips, qualities, above, upper, depth + turn + 1, minimum),
        ]
    return [(ranges, chosen)]


def _enough(clips: Sequence[Clip], chosen: NDArray[np.intp], minimum: BandMinimum) -> bool:
    real = [clips[index] for index in chosen if not clips[index].forged]
    return (
        len(real) >= minimum.real
        and len({clip.person for clip in real}) >= minimum.people
        and len(chosen) - len(real) >= minimum.forged
    )


def _down(value: float) -> float:
    """A tenth below, rounded: so far a scale may be carried on."""
    value *= 0.9
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return max(0.0, math.floor(value * 10**digits) / 10**digits)


def _window_qualities(clip: Clip) -> Floats:
    seen = clip.seen()
    return medians(np.arange(len(seen)) / FRAME_RATE, seen, WINDOW)


def verdict_of(clip: Clip, calibration: Calibration) -> ClipVerdict:
    """What the rule of `deepscan.verdict.decide` says about a clip of one face."""
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
    minimum: BandMinimum = BandMinimum(),
    care: float = 1.0,
    fitted_on: Callable[[Clip], bool] = lambda clip: True,
) -> list[ClipVerdict]:
    """Each clip by a calibration that was fitted on other people."""
    people = sorted({clip.person for clip in clips})
    part = {person: index % FOLDS for index, person in enumerate(people)}
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
    """By how much the tails must be heavier, so that the measured rates keep what is promised.

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
    """A calibration, and what it says about every clip when fitted on other people."""

    calibration: Calibration
    verdicts: list[ClipVerdict]
    rates: Rates
    care: float


def calibrated(
    clips: Sequence[Clip],
    population: str,
    *,
    minimum: BandMinimum = BandMinimum(),
    edits_in_fit: bool = True,
) -> Calibrated:
    """Cross-fit, make the tails careful enough, and fit on all clips.

    Raises:
        ValueError: too few people or clips, or the network's scores are no evidence.
    """

    def fitted_on(clip: Clip) -> bool:
        return edits_in_fit or clip.edit == "none"

    verdicts = cross_validate(clips, population, minimum=minimum, fitted_on=fitted_on)
    care = tail_factor(clips, verdicts)
    if care > 1:
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
    return Calibrated(calibration, verdicts, rates, care)


def population_of(clips: Sequence[Clip], *, edits_in_fit: bool = True) -> str:
    """What the clips are, in words."""
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
