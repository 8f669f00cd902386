"""Estimate the thresholds and scales of a calibration from scores.

Scores of unmanipulated material alone give a threshold for a false-alarm rate. It is conformal: it
holds for any network and any distribution, as long as new material is exchangeable with what was
measured. Manipulated material beside it gives likelihood ratios. Files of one recording or person
say the same thing twice, so the unit is the group: `n` counts groups, and a group's score is the
highest of its files'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepscan.errors import UsageError
from deepscan.verdict.calibration import Floats, Range, Scale, Tail

FOLDS = 5  # parts of the groups, each judged by a threshold from the others
POOL = 10.0  # how many excesses, or how much curvature, the fit on all clips weighs in a band's
_AXES = (0, 2, 1)  # size first: it changes most of what a network sees; then detail, sharpness
_SLACK = 1e-9  # (n + 1) * rate is no exact number


class TooFewClips(UsageError):
    """So few groups support no such rate; `needed` of them would."""

    def __init__(self, rate: float, groups: int) -> None:
        self.rate, self.groups, self.needed = rate, groups, clips_needed(rate)
        super().__init__(
            f"{groups} unmanipulated recording{'' if groups == 1 else 's'} cannot support "
            f"{1000 * rate:g}/1000 false alarms: {max(self.needed, 2)} would do, or ask for "
            f"{math.ceil(1000 / (groups + 1))}/1000 or more"
        )


def clips_needed(rate: float) -> int:
    """The least number n of groups for which a rate can be promised: 1 / (n + 1) <= rate.

    Raises:
        UsageError: a rate that is not between 0 and 1.
    """
    if not 0 < rate < 1:
        raise UsageError(f"a false-alarm rate of {rate:g}: give a share between 0 and 1")
    return max(1, math.ceil(1 / rate - 1 - _SLACK / rate))


def group_scores(scores: Sequence[float] | Floats, groups: Sequence[str]) -> dict[str, float]:
    """The highest score of each group, by name in rising order.

    Raises:
        ValueError: a score is not a finite number, or the lengths differ.
    """
    highest: dict[str, float] = {}
    for score, group in zip(scores, groups, strict=True):
        if not math.isfinite(score):
            raise ValueError(f"the score of {group} is {score}")
        highest[group] = max(highest.get(group, -math.inf), float(score))
    return dict(sorted(highest.items()))


def threshold(scores: Sequence[float] | Floats, rate: float) -> float:
    """The lowest threshold t with P(score >= t) <= rate for one more unmanipulated group.

    Split conformal prediction (Vovk, Gammerman and Shafer 2005, chapter 4): of n exchangeable
    scores and one more, that one is above the k-th smallest with a chance of at most
    (n + 1 - k) / (n + 1). The bound is over the draw of all n + 1.

    Args:
        scores: of n groups (`group_scores`), in any order.

    Raises:
        TooFewClips: n groups cannot promise the rate.
        UsageError: a rate that is not between 0 and 1.
    """
    needed, ordered = clips_needed(rate), np.sort(np.asarray(scores, np.float64))
    if len(ordered) < needed:
        raise TooFewClips(rate, len(ordered))
    # The number of n + 1 ranks that lie above the threshold.
    allowed = min(len(ordered), math.floor(rate * (len(ordered) + 1) + _SLACK))
    return float(np.nextafter(ordered[len(ordered) - allowed], np.inf))


def fold_of(groups: Sequence[str], folds: int = FOLDS) -> dict[str, int]:
    """Assign each group to a part, independent of their order."""
    return {group: index % folds for index, group in enumerate(sorted(set(groups)))}


@dataclass(frozen=True, slots=True)
class BandMinimum:
    """The clips that a band needs to stand alone; with fewer it is pooled with its neighbour."""

    real: int = 60  # unmanipulated clips
    people: int = 30  # groups of them
    forged: int = 30


BAND_MINIMUM = BandMinimum()


def quality_bands(
    qualities: Floats,
    lowest: Floats,
    forged: NDArray[np.bool_],
    groups: Sequence[str],
    minimum: BandMinimum,
) -> list[tuple[list[Range], NDArray[np.intp]]]:
    """Halve clips by size, detail and sharpness in turn, as long as both halves hold enough.

    The outer bounds are a tenth below `lowest`; upwards there is no end, for a face that is larger,
    sharper or less compressed than all of these is no harder to judge.

    Args:
        qualities: (N, 3) medians of size, sharpness and detail, one row a clip.
        lowest: (3,) the least of each in any window.
        forged: (N,) which clips are manipulated.
        groups: of each clip.

    Returns:
        For each band its ranges of size, sharpness and detail, and the clips in it.
    """

    def enough(chosen: NDArray[np.intp]) -> bool:
        real = chosen[~forged[chosen]]
        return (
            len(real) >= minimum.real
            and len({groups[index] for index in real}) >= minimum.people
            and len(chosen) - len(real) >= minimum.forged
        )

    def halved(
        chosen: NDArray[np.intp], ranges: list[Range], depth: int
    ) -> list[tuple[list[Range], NDArray[np.intp]]]:
        for turn in range(len(_AXES)):
            axis = _AXES[(depth + turn) % len(_AXES)]
            values = qualities[chosen, axis]
            real = ~forged[chosen]
            if not real.any():
                break
            bound = float(f"{np.median(values[real]):.3g}")
            below, above = chosen[values < bound], chosen[values >= bound]
            low, high = ranges[axis]
            if not (low < bound and enough(below) and enough(above)):
                continue
            lower, upper = list(ranges), list(ranges)
            lower[axis], upper[axis] = (low, bound), (bound, high)
            return [
                *halved(below, lower, depth + turn + 1),
                *halved(above, upper, depth + turn + 1),
            ]
        return [(ranges, chosen)]

    outer: list[Range] = [(_down(float(low)), None) for low in lowest]
    return halved(np.arange(len(qualities)), outer, 0)


def _down(value: float) -> float:
    """A tenth below, rounded: so far a scale may be carried on."""
    value *= 0.9
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return max(0.0, float(math.floor(value * 10**digits) / 10**digits))


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
    return Scale(slope_, offset, fit_tail(slope_ * values[~forged] + offset, prior))


def fit_tail(null: Floats, prior: Scale | None = None) -> Tail:
    """An exponential over the upper tenth of unmanipulated values, leaning to the careful side."""
    u = float(np.quantile(null, 0.9))
    excess = null[null > u] - u
    if not len(excess):
        return Tail(u, 0.1, 1.0)
    pooled = 0.0 if prior is None else POOL
    count = len(excess) + pooled
    b = float(excess.sum() + (0.0 if prior is None else POOL * prior.tail.b)) / count
    # The mean excess of few values is uncertain by a share 1/sqrt(n): lean to the careful side.
    return Tail(u, 0.1, max(b * (1 + 1 / math.sqrt(count)), 0.05))
