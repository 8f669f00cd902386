"""Validation on people that a network has never seen: one pair a person, forges in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deepscan.models.deploy import Deployed
from train.evaluation.metrics import Estimate, auc, estimated
from train.forge.faces import Person
from train.forge.pairs import PairStream

# Apart from every training seed, and the same for all runs, so that their figures compare.
_SEED = 7_000_003
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Validation:
    """Frame AUC and mask IoU with 95 % bootstrap intervals over people.

    `iou` is the IoU of the manipulated class at threshold 0.5, pooled over the pixels of the
    forged crops; `false_pixels` the share of pixels marked on the originals.
    """

    auc: Estimate
    iou: Estimate
    per_forge: dict[str, Estimate]
    false_pixels: float
    samples: int

    def __str__(self) -> str:
        forges = ", ".join(f"{name} {value.value:.3f}" for name, value in self.per_forge.items())
        return (
            f"AUC {self.auc.value:.3f} [{self.auc.low:.3f}, {self.auc.high:.3f}] ({forges}); "
            f"mask IoU {self.iou.value:.3f} [{self.iou.low:.3f}, {self.iou.high:.3f}]; "
            f"{self.false_pixels:.2%} of real pixels marked; {self.samples} crops"
        )


def validate(model: Deployed, people: Sequence[Person], forges: Mapping[str, float]) -> Validation:
    """Judge one pair of every person; forge i mod n for person i."""
    names = sorted(forges)
    stream = PairStream(people, forges, size=model.input_size, seed=_SEED, length=len(people))
    scores, labels, groups, kinds, overlaps, false = [], [], [], [], [], []
    for start in range(0, len(people), _BATCH):
        some = [
            stream.pair(index, person=index, forge=names[index % len(names)])
            for index in range(start, min(start + _BATCH, len(people)))
        ]
        crops = np.stack([crop for pair in some for crop in (pair.forged, pair.original)])
        with torch.inference_mode():
            given, masks = model(torch.from_numpy(crops))
        scores += given.tolist()
        for place, pair in enumerate(some):
            labels += [1, 0]
            groups += [pair.person] * 2
            kinds += [names[(start + place) % len(names)]] * 2
            overlaps.append(_overlap(masks[2 * place].numpy(), pair.mask))
            false.append(float((masks[2 * place + 1] > 0.5).float().mean()))
    truth, values = np.array(labels), np.array(scores)
    names = sorted(set(kinds))

    def area(chosen: np.ndarray) -> float:
        return auc(truth[chosen], values[chosen])

    per_forge = {}
    for name in names:
        here = np.flatnonzero(np.array(kinds) == name)
        if len(here):
            per_forge[name] = estimated(_within(area, here), [groups[i] for i in here])
    counts = np.array(overlaps, float)
    return Validation(
        estimated(area, groups),
        estimated(lambda chosen: _iou(counts[chosen]), groups[::2]),
        per_forge,
        float(np.mean(false)),
        len(labels),
    )


def _within(
    statistic: Callable[[np.ndarray], float], here: np.ndarray
) -> Callable[[np.ndarray], float]:
    """The same measure over a part of the observations."""
    return lambda chosen: statistic(here[chosen])


def _overlap(found_at: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
    """Pixels of intersection and union at the size of what was found."""
    stride = mask.shape[0] // found_at.shape[0]
    truth = mask[stride // 2 :: stride, stride // 2 :: stride] > 0
    found = found_at > 0.5
    return int((truth & found).sum()), int((truth | found).sum())


def _iou(counts: np.ndarray) -> float:
    return float(counts[:, 0].sum() / max(1.0, counts[:, 1].sum()))
