"""Measure a trained network on crops of people whom nothing was fitted on.

Thresholds and rules are fitted on the calibration crops; the figures come from the measured ones,
with intervals over people. With several seeds a figure is the mean over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from train.evaluation.metrics import Estimate, accuracy, auc, bootstrap, confusion, pooled
from train.experiments.networks import macs, parameters
from train.experiments.plan import Fit, Sets
from train.experiments.rules import best_cut, best_threshold, fit_rules
from train.experiments.samples import Samples
from train.experiments.short_training import fit, predict, throughput

IMAGE = "image head"
ROUNDS = 1000  # of the bootstrap
Measure = Literal["auc", "accuracy", "pixel_accuracy", "miou", "iou_fake"]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One training, judged on N measured crops.

    `scores` (N,) by rule ("image head" is the network's own score, the others those of
    train/experiments/rules.py) and `cuts` their thresholds; `cells` (N, 2, 2) by map ("mask",
    "cam", "grad-cam") the confusion of each crop's pixels at the fitted threshold. `rule` is the
    one of the highest calibration AUC; `parameter` by rule is what calibration chose.
    """

    rule: str
    scores: Mapping[str, NDArray[np.float64]]
    cuts: Mapping[str, float]
    parameter: Mapping[str, float]
    cells: Mapping[str, NDArray[np.int64]]
    thresholds: Mapping[str, float]
    parameters: int
    macs: int
    speed: float


def run(plan: Fit, sets: Sets, *, seed: int, device: str = "cpu") -> Outcome:
    """Train and judge once."""
    network = fit(plan, sets.training, seed=seed, device=device)
    size = sets.measured.size
    known = predict(network, sets.calibration, device=device)
    asked = predict(network, sets.measured, device=device)
    return outcome_of(
        known,
        asked,
        sets,
        parameters=parameters(network),
        macs=macs(network, size),
        speed=throughput(network, size, device=device),
    )


Predicted = tuple[np.ndarray | None, Mapping[str, np.ndarray]]


def outcome_of(
    known: Predicted, asked: Predicted, sets: Sets, *, parameters: int, macs: int, speed: float
) -> Outcome:
    """Fit cuts, rules and thresholds on `known` (calibration), apply them to `asked` (measured)."""
    labels = sets.calibration.labels
    scores, cuts, reached, chosen = {}, {}, {}, {}
    if known[0] is not None and asked[0] is not None:
        scores[IMAGE] = asked[0].astype(np.float64)
        cuts[IMAGE] = best_cut(labels, known[0])
        reached[IMAGE] = auc(labels, known[0])
    if "mask" in known[1]:
        for name, decision in fit_rules(known[1]["mask"], labels).items():
            scores[name] = decision.score(asked[1]["mask"])
            cuts[name], reached[name] = decision.cut, decision.auc
            chosen[name] = decision.parameter
    cells, thresholds = {}, {}
    for name, maps in asked[1].items():
        thresholds[name] = best_threshold(known[1][name], sets.calibration.masks)
        cells[name] = confusions(maps >= thresholds[name], sets.measured.masks)
    best = max(reached, key=lambda name: reached[name])
    return Outcome(best, scores, cuts, chosen, cells, thresholds, parameters, macs, speed)


def confusions(predicted: NDArray[np.bool_], masks: NDArray[np.uint8]) -> NDArray[np.int64]:
    """One confusion matrix for each map: (N, 2, 2), truth by row."""
    return np.stack([confusion(truth, said) for truth, said in zip(masks, predicted, strict=True)])


Statistic = Callable[[NDArray[np.intp]], float]


def statistic(
    outcomes: Sequence[Outcome], samples: Samples, measure: Measure, of: str | None = None
) -> Statistic:
    """A measure over chosen crops, as the mean over the outcomes (seeds).

    `of` names the rule or the map; None is each outcome's own choice: the rule that calibration
    chose, and the first map.
    """

    def value(chosen: NDArray[np.intp]) -> float:
        return float(np.mean([_value(one, samples, measure, of, chosen) for one in outcomes]))

    return value


def _value(
    outcome: Outcome, samples: Samples, measure: Measure, of: str | None, chosen: NDArray[np.intp]
) -> float:
    if measure in ("auc", "accuracy"):
        rule = of or outcome.rule
        labels, scores = samples.labels[chosen], outcome.scores[rule][chosen]
        return (
            auc(labels, scores)
            if measure == "auc"
            else accuracy(labels, scores, outcome.cuts[rule])
        )
    cells = outcome.cells[of or next(iter(outcome.cells))][chosen].sum(axis=0)
    measures = pooled([cells])
    return {
        "pixel_accuracy": measures.accuracy,
        "miou": measures.miou,
        "iou_fake": measures.iou_fake,
    }[measure]


def estimate(
    outcomes: Sequence[Outcome], samples: Samples, measure: Measure, of: str | None = None
) -> Estimate:
    """A measure with its 95 % interval over people."""
    return bootstrap(statistic(outcomes, samples, measure, of), samples.groups, rounds=ROUNDS)


def difference(
    first: Sequence[Outcome], second: Sequence[Outcome], samples: Samples, measure: Measure
) -> Estimate:
    """first less second on the same crops, with the 95 % interval of that difference."""
    one, two = statistic(first, samples, measure), statistic(second, samples, measure)
    return bootstrap(lambda chosen: one(chosen) - two(chosen), samples.groups, rounds=ROUNDS)
