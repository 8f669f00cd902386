"""From maps to one score a crop: the rules by which a segmentation decides about the whole.

How "Zooming into Face Forensics" decides is not known to us, so the rules stand side by side. What
a rule leaves open (a threshold, a share) is fitted on calibration crops, never on those that are
measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from train.evaluation.metrics import auc, checked

Maps = NDArray[np.floating]  # (N, H, W) P(manipulated)
Scores = NDArray[np.float64]  # (N,) the higher, the more manipulated


def mean(maps: Maps, _: float = 0.0) -> Scores:
    """The mean over the pixels."""
    means: Scores = maps.mean(axis=(1, 2), dtype=np.float64)
    return means


def maximum(maps: Maps, _: float = 0.0) -> Scores:
    """The largest pixel."""
    largest: Scores = maps.max(axis=(1, 2)).astype(np.float64)
    return largest


def top(maps: Maps, share: float) -> Scores:
    """The mean of the highest `share` of the pixels, at least one."""
    flat = maps.reshape(len(maps), -1)
    count = max(1, round(share * flat.shape[1]))
    highest = np.partition(flat, flat.shape[1] - count, axis=1)[:, -count:]
    means: Scores = highest.mean(axis=1, dtype=np.float64)
    return means


def area(maps: Maps, threshold: float) -> Scores:
    """The share of pixels above the threshold."""
    shares: Scores = (maps > threshold).mean(axis=(1, 2), dtype=np.float64)
    return shares


def component(maps: Maps, threshold: float) -> Scores:
    """The share of pixels in the largest connected region (8 neighbours) above the threshold."""
    sizes = []
    for binary in (maps > threshold).astype(np.uint8):
        _, _, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
        sizes.append(stats[1:, cv2.CC_STAT_AREA].max(initial=0) / binary.size)
    return np.array(sizes, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Rule:
    """A score and the values of its free parameter among which calibration chooses."""

    score: Callable[[Maps, float], Scores]
    candidates: tuple[float, ...]


_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))

RULES: dict[str, Rule] = {
    "mean": Rule(mean, (0.0,)),
    "maximum": Rule(maximum, (0.0,)),
    "top": Rule(top, (0.01, 0.02, 0.05, 0.1, 0.2)),
    "area": Rule(area, _THRESHOLDS),
    "component": Rule(component, _THRESHOLDS),
}


@dataclass(frozen=True, slots=True)
class Decision:
    """A fitted rule. Manipulated is said of scores above `cut`; `auc` is that on calibration."""

    rule: str
    parameter: float
    cut: float
    auc: float

    def score(self, maps: Maps) -> Scores:
        """Scores (N,) of maps (N, H, W)."""
        return RULES[self.rule].score(maps, self.parameter)


def fit_rule(rule: str, maps: Maps, labels: ArrayLike) -> Decision:
    """The rule with the parameter of the highest AUC, the first of equals, and its best cut.

    Raises:
        KeyError: there is no such rule.
        ValueError: the labels are of one class, or their number is not that of the maps.
    """
    best: Decision | None = None
    for parameter in RULES[rule].candidates:
        scores = RULES[rule].score(maps, parameter)
        reached = auc(labels, scores)
        if best is None or reached > best.auc:
            best = Decision(rule, parameter, best_cut(labels, scores), reached)
    assert best is not None
    return best


def fit_rules(maps: Maps, labels: ArrayLike) -> dict[str, Decision]:
    """Every rule, fitted; the one of the highest calibration AUC comes first."""
    fitted = [fit_rule(rule, maps, labels) for rule in RULES]
    return {one.rule: one for one in sorted(fitted, key=lambda one: -one.auc)}


def best_cut(labels: ArrayLike, scores: ArrayLike) -> float:
    """The cut (score > cut says manipulated) of the highest accuracy; of equals the lowest.

    It lies halfway between two neighbouring scores, so that it does not hang on one crop; minus
    infinity calls everything manipulated.

    Raises:
        ValueError: labels and scores are empty or do not fit together.
    """
    positive, values = checked(labels, scores, both=False)
    order = np.argsort(values, kind="stable")
    ranked, truth = values[order], positive[order]
    # right[i]: correct answers if the i lowest are called real and the others manipulated
    right = np.concatenate(([0], np.cumsum(~truth))) + np.concatenate(
        (np.cumsum(truth[::-1])[::-1], [0])
    )
    possible = np.concatenate(([True], ranked[1:] > ranked[:-1], [True]))
    place = int(np.argmax(np.where(possible, right, -1)))
    if place == 0:
        return -np.inf
    if place == len(ranked):
        return float(ranked[-1])
    return float((ranked[place - 1] + ranked[place]) / 2)


def best_threshold(maps: Maps, masks: NDArray[np.uint8]) -> float:
    """The t with the highest mIoU of `maps >= t` pooled over all pixels; of equals the lowest.

    Args:
        maps: (N, H, W) in [0, 1].
        masks: (N, H, W), 1 manipulated, 0 not, others left out.
    """
    steps = 200
    level = np.clip((maps * steps).astype(np.int64), 0, steps - 1)
    fake = np.bincount(level[masks == 1], minlength=steps).astype(np.float64)
    real = np.bincount(level[masks == 0], minlength=steps).astype(np.float64)
    # what lies in the steps from t on is called manipulated
    hits, alarms = (np.cumsum(counts[::-1])[::-1] for counts in (fake, real))
    missed, clean = fake.sum() - hits, real.sum() - alarms
    fake_iou = hits / np.maximum(hits + missed + alarms, 1)
    real_iou = clean / np.maximum(clean + missed + alarms, 1)
    return float(np.argmax(fake_iou + real_iou)) / steps
