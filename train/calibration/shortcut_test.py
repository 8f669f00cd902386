"""Test whether a network knows the source of a picture: it could pass training by that alone.

A linear classifier on the features that the network's last layer reads tries to name the source of
real pictures of people it was not fitted on. It is compared with chance and with the same
classifier on a few trivial statistics (sizes, JPEG history, colours) of any picture; the network
is responsible only for what its features show beyond those. Knowing is not using, so the scores of
real faces are compared by source too: where the decision does not read the source, one source's
real faces do not score higher than the others'.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deepscan.faces.crop import cut, square
from deepscan.faces.quality import detail, sharpness
from deepscan.models.deploy import Deployed
from deepscan.options import ScanOptions
from deepscan.types import Box
from deepscan.verdict.calibration import logit
from train.evaluation.metrics import Estimate, auc, estimated
from train.forge.faces import Person

FOLDS = 5
SHRINK = 0.1  # share of a diagonal matrix in the covariance within sources
LEAST = 10  # people that a source needs to be classified
_BATCH = 32
_SCALE = ScanOptions().crop_scale
Floats = NDArray[np.float64]


def crops_of(people: Sequence[Person], size: int) -> NDArray[np.uint8]:
    """The faces as a scan cuts them: (N, S, S, 3)."""
    return np.stack([cut(p.face.image, square(Box(*p.face.box), _SCALE), size) for p in people])


def features_of(model: Deployed, crops: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """The input of the last layer (N, F), and the logit of the score (N,)."""
    seen: list[torch.Tensor] = []
    hook = model.network.classifier.register_forward_pre_hook(
        lambda module, given: seen.append(given[0].detach().float().cpu())
    )
    scores: list[float] = []
    try:
        with torch.inference_mode():
            for start in range(0, len(crops), _BATCH):
                given, _ = model(torch.from_numpy(crops[start : start + _BATCH]))
                scores += given.tolist()
    finally:
        hook.remove()
    return torch.cat(seen).numpy().astype(np.float64), np.array([logit(s) for s in scores])


def statistics_of(people: Sequence[Person], crops: NDArray[np.uint8], data: Path | None) -> Floats:
    """Statistics of a picture that need no network: (N, K).

    Size of picture and face, bytes a pixel, mean and number of JPEG quantization steps, sharpness,
    detail, and mean and spread of the colours.
    """
    rows = []
    for person, crop in zip(people, crops, strict=True):
        x1, y1, x2, y2 = person.face.box
        row = [np.log(x2 - x1), np.log(y2 - y1), *map(np.log, person.face.image.shape[:2])]
        path = None if data is None else data / person.name
        if path is not None and path.is_file():
            with Image.open(path) as picture:
                tables = getattr(picture, "quantization", None) or {}
                steps = [step for table in tables.values() for step in table]
                row += [
                    *map(np.log, picture.size),
                    path.stat().st_size / (picture.size[0] * picture.size[1]),
                    float(np.mean(steps)) if steps else 0.0,
                    float(len(tables)),
                ]
        flat = crop.reshape(-1, 3).astype(np.float64)
        row += [np.log1p(sharpness(crop)), detail(crop), *flat.mean(0), *flat.std(0)]
        rows.append(row)
    return np.array(rows, np.float64)


def source_accuracy(
    features: Floats, sources: Sequence[str], people: Sequence[str], *, rounds: int = 500
) -> Estimate:
    """Balanced accuracy of a linear classifier over people that it was not fitted on.

    Linear discriminants on standardised features, every source equally likely beforehand; people
    are split in parts, no person on both sides.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = sorted(set(sources))
    truth = np.array([names.index(source) for source in sources])
    order = {person: index for index, person in enumerate(sorted(set(people)))}
    part = np.array([order[person] % FOLDS for person in people])
    guess = np.full(len(truth), -1)
    for fold in range(FOLDS):
        inside, outside = part != fold, part == fold
        if outside.any():
            count = len(set(truth[inside]))
            discriminants = LinearDiscriminantAnalysis(
                solver="lsqr", shrinkage=SHRINK, priors=np.full(count, 1 / count)
            )
            model = make_pipeline(StandardScaler(), discriminants)
            guess[outside] = model.fit(features[inside], truth[inside]).predict(features[outside])

    def balanced(drawn: np.ndarray) -> float:
        hit = truth[drawn] == guess[drawn]
        shares = [
            hit[truth[drawn] == k].mean() for k in range(len(names)) if (truth[drawn] == k).any()
        ]
        return float(np.mean(shares))

    return estimated(balanced, people, rounds=rounds)


def shortcut_test(
    model: Deployed, people: Sequence[Person], data: Path | None, *, rounds: int = 500
) -> dict[str, Any]:
    """The whole proof, as plain values for JSON.

    Sources with fewer than LEAST people are left out of the classifier, not of the scores.

    Raises:
        ValueError: fewer than two sources have people enough.
    """
    crops = crops_of(people, model.input_size)
    features, scores = features_of(model, crops)
    sources = [person.source for person in people]
    names = [person.person for person in people]
    counts = {
        source: len({n for n, s in zip(names, sources, strict=True) if s == source})
        for source in sorted(set(sources))
    }
    large = [source for source, count in counts.items() if count >= LEAST]
    if len(large) < 2:
        raise ValueError(f"{len(large)} sources have {LEAST} people: nothing to classify")
    kept = np.array([source in large for source in sources])
    chosen = [s for s in sources if s in large]
    own = [n for n, s in zip(names, sources, strict=True) if s in large]
    statistics = statistics_of(people, crops, data)
    by_source = {}
    for source in counts:
        here = np.array([s == source for s in sources])
        estimate = None
        if here.any() and not here.all():

            def area(drawn: np.ndarray, here: np.ndarray = here) -> float:
                return auc(here[drawn], scores[drawn])

            estimate = estimated(area, names, rounds=rounds)._asdict()
        by_source[source] = {
            "people": counts[source],
            "mean_logit": float(scores[here].mean()),
            # 0.5: its real faces score as those of the others do.
            "higher_than_others": estimate,
        }
    return {
        "sources": large,
        "people": len(set(own)),
        "chance": 1 / len(large),
        "features": source_accuracy(features[kept], chosen, own, rounds=rounds)._asdict(),
        "statistics": source_accuracy(statistics[kept], chosen, own, rounds=rounds)._asdict(),
        "by_source": by_source,
    }
