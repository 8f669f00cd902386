"""Does anything over time say more than the mean score?

`python -m train.calibration.track_evidence` asks it of made clips.

A manipulation that is made anew in every frame flickers, and its mask should stay in its place
where a false alarm's does not. For made clips of people never trained on this asks, clip by clip,
how well such measures tell forged from untouched, alone and beside the mean logit in a logistic
regression that is judged on other people than it was fitted on. The verdict uses what helps here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from deepscan.engines.engine import Engine, Predictions
from deepscan.engines.load import load_engine
from deepscan.errors import DeepscanError
from train.calibration.synthetic_validation import Takes, make_clip
from train.evaluation.metrics import auc
from train.forge.faces import Person, read_faces
from train.forge.forged import FORGES, NEED_DECODED

Floats = NDArray[np.float64]
MEASURES = (
    "mean logit", "spread of logits", "constancy of mask", "peak of mean mask", "area of mask",
    "flicker inside", "flicker under mask",
)  # fmt: skip
_FOLDS, _ROUNDS = 5, 10
_RIDGE = 0.1  # keeps the fit calm; the measures have unit spread


class Evidence(NamedTuple):
    """One measure: AUC over clips alone (either direction), and what it adds to the mean logit."""

    name: str
    alone: float
    gain: float


class _Tap:
    """An engine that keeps what it saw and said."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.input_size, self.max_batch = engine.input_size, engine.max_batch
        self.name, self.model, self.info = engine.name, engine.model, engine.info
        self.crops: list[NDArray[np.uint8]] = []
        self.masks: list[NDArray[np.float32]] = []

    def predict(self, crops: NDArray[np.uint8]) -> Predictions:
        found = self._engine.predict(crops)
        self.crops.append(crops.copy())
        self.masks.append(found.masks.copy())
        return found

    def close(self) -> None:
        """The engine is another's."""


def measures(
    logits: Sequence[float], masks: NDArray[np.float32], crops: NDArray[np.uint8]
) -> list[float]:
    """One clip in the order of `MEASURES`.

    Args:
        logits: (T,) of the frames, T at least 2.
        masks: (T, h, w) in [0, 1].
        crops: (T, S, S, 3).
    """
    marked = masks > 0.5
    both = (marked[1:] & marked[:-1]).sum((1, 2))
    either = (marked[1:] | marked[:-1]).sum((1, 2))
    mean = masks.mean(0)
    grey = crops.astype(np.float32).mean(3)
    change = np.abs(np.diff(grey, axis=0)).mean(0)
    side = grey.shape[1]
    under = cv2.resize(mean, (side, side))
    inside = np.zeros((side, side), np.float32)
    inside[side // 4 : -(side // 4), side // 4 : -(side // 4)] = 1

    def flicker(weight: NDArray[np.floating]) -> float:
        """How much more changes where the weight is, as the log of a ratio."""
        there = (change * weight).sum() / (weight.sum() + 1e-3)
        beside = (change * (1 - weight)).sum() / ((1 - weight).sum() + 1e-3)
        return float(np.log((there + 1e-3) / (beside + 1e-3)))

    values = np.asarray(logits)
    return [
        float(values.mean()),
        float(values.std()),
        float(np.mean(both / np.maximum(either, 1))),
        float(mean.max()),
        float(mean.mean()),
        flicker(inside),
        flicker(under),
    ]


def collect(people: Sequence[Person], engine: Engine, count: int) -> tuple[Floats, Floats, Floats]:
    """Untouched and forged clips of `count` pictures: measures (n, m), labels (n,), people (n,)."""
    decoded = all(person.face.decoded for person in people)
    forges = sorted(name for name in FORGES if decoded or name not in NEED_DECODED)
    plan = Takes(codecs=("h264", "h264", "h265", "vp9", "av1"), leaning=0.4)
    who = {person: number for number, person in enumerate(sorted({p.person for p in people}))}
    order = np.random.default_rng(0).permutation(len(people))[: count or None]
    rows, labels, groups = [], [], []
    for number, index in enumerate(order.tolist()):
        for forge in (None, forges[number % len(forges)]):
            tap = _Tap(engine)
            clip = make_clip(people, index, forge, tap, plan=plan)
            rows.append(measures(clip.logits, np.concatenate(tap.masks), np.concatenate(tap.crops)))
            labels.append(float(forge is not None))
            groups.append(float(who[clip.person]))
    return np.array(rows), np.array(labels), np.array(groups)


def judged(rows: Floats, labels: Floats, groups: Floats) -> list[Evidence]:
    """Every measure alone and beside the first."""
    spread = rows.std(0)
    unit = (rows - rows.mean(0)) / np.where(spread > 0, spread, 1)
    base = _crossed(unit[:, :1], labels, groups)
    found = []
    for place, name in enumerate(MEASURES):
        alone = auc(labels.astype(int), unit[:, place])
        gain = 0.0 if place == 0 else _crossed(unit[:, [0, place]], labels, groups) - base
        found.append(Evidence(name, max(alone, 1 - alone), gain))
    found.append(Evidence("all together", base, _crossed(unit, labels, groups) - base))
    return found


def _crossed(columns: Floats, labels: Floats, groups: Floats) -> float:
    """AUC of a logistic regression over folds of people, the mean of several divisions."""
    columns = np.c_[columns, np.ones(len(columns))]
    found = []
    for seed in range(_ROUNDS):
        folds = np.random.default_rng(seed).integers(0, _FOLDS, int(groups.max()) + 1)
        fold = folds[groups.astype(int)]
        scores = np.zeros(len(labels))
        for number in range(_FOLDS):
            apart = fold != number
            weights = _fitted(columns[apart], labels[apart])
            scores[~apart] = columns[~apart] @ weights
        found.append(auc(labels.astype(int), scores))
    return float(np.mean(found))


def _fitted(columns: Floats, labels: Floats) -> Floats:
    """Weights of a logistic regression with a ridge, by Newton's method."""
    weights = np.zeros(columns.shape[1])
    ridge = _RIDGE * np.eye(len(weights))
    for _ in range(30):
        share = 1 / (1 + np.exp(-np.clip(columns @ weights, -30, 30)))
        slope = columns.T @ (labels - share) - _RIDGE * weights
        bend = (columns * (share * (1 - share))[:, None]).T @ columns + ridge
        weights = weights + np.linalg.solve(bend, slope)
    return weights


def main(
    data: Annotated[Path, typer.Option(help="Folder of faces with provenance.csv")],
    decoded: Annotated[Path | None, typer.Option(help="Pack of redrawn faces")] = None,
    engine: Annotated[str, typer.Option(help="Engine that judges the clips")] = "auto",
    pictures: Annotated[int, typer.Option(help="At most so many; 0: all", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="Threads of the engine; 0: its own", min=0)] = 0,
) -> None:
    """Print what each measure over time tells alone and adds to the mean logit."""
    cv2.setNumThreads(0)
    try:
        runner = load_engine(engine, threads=threads or None)
        rows, labels, groups = collect(read_faces(data, "val", decoded), runner, pictures)
        runner.close()
    except DeepscanError as error:
        typer.echo(f"track evidence: {error}", err=True)
        raise typer.Exit(2) from error
    found = judged(rows, labels, groups)
    typer.echo(f"{len(labels)} clips, half of them forged\n{'measure':<22}{'AUC':>7}{'gain':>9}")
    for each in found:
        typer.echo(f"{each.name:<22}{each.alone:>7.3f}{each.gain:>+9.4f}")
    typer.echo(json.dumps({"clips": len(labels), "measures": [each._asdict() for each in found]}))


if __name__ == "__main__":
    typer.run(main)
