"""The operating point on real material: no looser than what held-out pictures and clips bear.

A scale is fitted on made clips. The rate that it promises is held against real pictures and clips
that no training may use (`train.forge.held_out`), judged as the product judges them. Where they
raise more alarms, tails are made heavier until they do not: the threshold is conformal
(`deepscan.verdict.estimate`), over people and recordings. The figures reported of them are
cross-validated: every part is judged with the care that the other parts asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepscan.types import Label, ModelInfo
from deepscan.verdict.calibration import Calibration, Material
from deepscan.verdict.estimate import clips_needed, fold_of, group_scores, threshold
from train.calibration.fit import Care, stricter
from train.evaluation.scans import Judged, Seen, judge
from train.forge.held_out import RealFile

FOLDS = 5
_KEPT = 0.5  # alarms that need a higher rate than this are of no use to anybody
_MARGIN = 1.001  # alarms are stored in six digits
_NEVER = 1e6  # stands for the rate of a file that no operating point calls manipulated
Kind = tuple[bool, bool]  # a single picture; seen in training


@dataclass(frozen=True, slots=True)
class RealMaterial:
    """The care that real material needs, a material for each kind with its alarms, and the share
    of pictures by source: source -> (manipulated, suspicious or more, files)."""

    care: Care
    materials: tuple[Material, ...]
    sources: Mapping[str, tuple[int, int, int]]


def names_of(kind: Kind) -> str:
    still, seen = kind
    return f"real {'pictures' if still else 'clips'}" + (" that training saw" if seen else "")


def care_of(scores: Mapping[str, float], rates: Sequence[float]) -> float:
    """The factor by which a tail must be heavier so that real groups keep every rate; at least 1.

    Too few groups for the first rate, the operating point's: no group may pass it. Too few for
    another one: nothing is known about it.

    Args:
        scores: -ln(alarm) of each group, see `group_scores`.
        rates: the operating point's first.
    """
    care = 1.0
    for place, rate in enumerate(rates):
        if not scores or (place and len(scores) < clips_needed(rate)):
            continue
        limit = threshold(list(scores.values()), max(rate, 1 / (len(scores) + 1)))
        care = max(care, _MARGIN * rate * math.exp(limit))
    return care


def scores_of(judged: Sequence[Judged], groups: Sequence[str]) -> dict[str, float]:
    """-ln of the lowest rate of an alarm, the highest of each group."""
    return group_scores([-math.log(min(max(j.alarm, 1e-12), _NEVER)) for j in judged], groups)


def measure_real(
    files: Sequence[tuple[RealFile, Seen]],
    calibration: Calibration,
    model: ModelInfo,
    *,
    fixed: bool = False,
) -> RealMaterial:
    """Measure a calibration on held-out material, and the care that this material needs.

    Args:
        fixed: the calibration stays as it is; the care is not fitted.

    Raises:
        ValueError: there is no real material.
    """
    if not files:
        raise ValueError("no held-out pictures or clips: give the data folder that has them")
    rates = (calibration.rate, calibration.review_rate)
    kinds = sorted({(file.still, file.seen) for file, _ in files}, reverse=True)
    judged = [judge(seen, calibration, model) for _, seen in files]
    of_kind = {kind: [i for i, (f, _) in enumerate(files) if (f.still, f.seen) == kind]
               for kind in kinds}  # fmt: skip
    asked = {
        kind: 1.0
        if fixed
        else care_of(
            scores_of([judged[i] for i in chosen], [files[i][0].group for i in chosen]), rates
        )
        for kind, chosen in of_kind.items()
    }
    materials = []
    for kind, chosen in of_kind.items():
        others = max([1.0, *(asked[k] for k in kinds if k[0] == kind[0] and k != kind)])
        groups = [files[i][0].group for i in chosen]
        here = [judged[i] for i in chosen]
        alarms = [one.alarm for one in here] if fixed else _validated(here, groups, rates, others)
        materials.append(
            Material(
                names_of(kind), False, len(chosen), len(set(groups)),
                tuple(sorted(round(a, 6) for a in alarms if a <= _KEPT)), kind[1],
            )
        )  # fmt: skip
    care = Care(
        clip=max([1.0, *(factor for (still, _), factor in asked.items() if not still)]),
        still=max([1.0, *(factor for (still, _), factor in asked.items() if still)]),
    )
    return RealMaterial(
        care, tuple(materials), _by_source(files, stricter(calibration, care), model)
    )


def _validated(
    judged: Sequence[Judged], groups: Sequence[str], rates: Sequence[float], least: float
) -> list[float]:
    """The alarm of every file under the care that the other parts of its kind ask for."""
    part = fold_of(groups, min(FOLDS, len(set(groups))))
    alarms = [0.0] * len(judged)
    for fold in set(part.values()):
        others = [i for i, group in enumerate(groups) if part[group] != fold]
        scores = scores_of([judged[i] for i in others], [groups[i] for i in others])
        care = max(least, care_of(scores, rates))
        for index, group in enumerate(groups):
            if part[group] == fold:
                alarms[index] = judged[index].alarm * care
    return alarms


def _by_source(
    files: Sequence[tuple[RealFile, Seen]], calibration: Calibration, model: ModelInfo
) -> dict[str, tuple[int, int, int]]:
    found: dict[str, tuple[int, int, int]] = {}
    for file, seen in files:
        label = judge(seen, calibration, model).label
        over, review, count = found.get(file.source, (0, 0, 0))
        hit = label is Label.MANIPULATED
        found[file.source] = (
            over + hit, review + (hit or label is Label.SUSPICIOUS), count + 1,
        )  # fmt: skip
    return dict(sorted(found.items()))
