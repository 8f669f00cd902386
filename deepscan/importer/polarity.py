"""The polarity of a detector, from the AUC of its scores of known crops if it is clear."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscan.archive.inputs.listing import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from deepscan.archive.workers.controls import controls_of
from deepscan.engines.engine import Engine
from deepscan.engines.parity import predict_all
from deepscan.errors import ModelError, UsageError, VideoError
from deepscan.faces import DETECTORS
from deepscan.faces.crop import cut, square
from deepscan.faces.detector import FaceDetector
from deepscan.models.library import read_card
from deepscan.options import ScanOptions
from deepscan.scan.pipeline import analyze
from deepscan.types import Box
from deepscan.video import open_video

logger = logging.getLogger(__name__)

Z = 1.959964  # of a 95 % interval
MEDIA = VIDEO_SUFFIXES | PICTURE_SUFFIXES
SECONDS, STRIDE = 4.0, 5  # of a clip that are looked at, and every how many frames
FILLED = 1.15  # of a picture beside the square round its face, below which it is a crop itself


@dataclass(frozen=True, slots=True)
class Polarity:
    """The evidence that a high score means manipulated, as the card holds it.

    `settled_by` is "crops" where the interval of the AUC lies above one half, else "statement": the
    user said so at the import. The crops are "yours" or the "control crops" that ship.
    """

    settled_by: str
    crops: str
    real: int
    manipulated: int
    auc: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        return values | {key: round(values[key], 4) for key in ("auc", "low", "high")}


def auc_interval(
    real: NDArray[np.float64], manipulated: NDArray[np.float64]
) -> tuple[float, float, float]:
    """AUC with its 95 % interval, which stays honest for few crops and for an AUC of 0 or 1.

    Newcombe 2006 (Statistics in Medicine 25:559), method 5: the bounds are the areas from which the
    measured one is Z standard errors away, as Hanley and McNeil have them with both numbers of
    crops replaced by their mean.
    """
    above = (manipulated[:, None] > real).mean() + 0.5 * (manipulated[:, None] == real).mean()
    area, count = float(above), len(real) * len(manipulated)
    half = (len(real) + len(manipulated)) / 2 - 1

    def beyond(bound: float) -> bool:
        part = (1 - bound) / (2 - bound) + bound / (1 + bound)
        error = math.sqrt(bound * (1 - bound) * (1 + half * part) / count)
        return abs(area - bound) > Z * error

    return area, _edge(beyond, 0.0, area), _edge(beyond, 1.0, area)


def settle(
    real: NDArray[np.float64],
    manipulated: NDArray[np.float64],
    *,
    own: bool,
    stated: bool,
    turn: str,
) -> Polarity:
    """Say how the polarity is settled.

    Args:
        real: scores of clean crops.
        manipulated: scores of manipulated ones.
        own: the crops are those of the user.
        stated: the user has said which way round the model is.
        turn: the option that would turn it.

    Raises:
        ModelError: the model scores clean crops higher, surely.
        UsageError: the crops cannot decide it, and no option states it.
    """
    auc, low, high = auc_interval(real, manipulated)
    whose = "yours" if own else "control crops"
    measured = f"AUC {auc:.2f}, 95 % interval {low:.2f} to {high:.2f}, on {len(real)} + "
    measured += f"{len(manipulated)} crops ({whose})"
    if high < 0.5:
        raise ModelError(f"the model scores clean faces higher ({measured}): turn it with {turn}")
    if low <= 0.5 and not stated:
        raise UsageError(
            f"the polarity of the model is unclear ({measured}): give --real FOLDER and "
            "--manipulated FOLDER with faces it should know, or say it with --polarity high or low"
        )
    by = "crops" if low > 0.5 else "statement"
    return Polarity(by, whose, len(real), len(manipulated), auc, low, high)


def scores_of(folder: Path, engine: Engine, crop_scale: float) -> NDArray[np.float64]:
    """A score for each picture or clip in a folder: the mean over its faces and first seconds.

    A picture that its face fills, or in which no face is found, is taken for a crop itself.

    Raises:
        UsageError: the folder is missing, or holds no picture or clip with a face.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name one with pictures or clips")
    options = ScanOptions(crop_scale=crop_scale, stride=STRIDE, end=SECONDS)
    detector: FaceDetector = resolve_name(DETECTORS[options.detector])(
        min_face=options.min_face, min_confidence=options.min_confidence, max_faces=4
    )
    found = []
    with closing(detector):
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in MEDIA:
                continue
            try:
                scores = _scores(path, engine, detector, options)
            except VideoError as error:
                logger.warning("left out: %s", error)
                continue
            if scores:
                found.append(float(np.mean(scores)))
    if not found:
        raise UsageError(f"{folder} holds no picture or clip with a face")
    return np.array(found)


def _scores(
    path: Path, engine: Engine, detector: FaceDetector, options: ScanOptions
) -> list[float]:
    with open_video(path, limits=options.limits) as reader:
        if not reader.info.still:
            results = analyze(reader.frames(), detector, engine, options)
            with closing(results):
                return [face.score for result in results for face in result.faces]
        image = next(iter(reader.frames())).image
    height, width = image.shape[:2]
    whole = square(Box(0, 0, width, height), min(width, height) / max(width, height))
    squares = [square(f.box, options.crop_scale) for f in detector.detect(image).faces]
    if not squares or any(FILLED * each.width > min(width, height) for each in squares):
        squares = [whole]
    crops = np.stack([cut(image, each, engine.input_size) for each in squares])
    return [float(score) for score in predict_all(engine, crops).scores]


def control_scores(engine: Engine) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The scores of the control crops that ship: clean ones, then manipulated ones."""
    controls = controls_of(read_card(ScanOptions().model))
    crops = [
        cut(each.image, Box(0, 0, *each.image.shape[1::-1]), engine.input_size) for each in controls
    ]
    scores = predict_all(engine, np.stack(crops)).scores.astype(np.float64)
    known = np.array([each.manipulated for each in controls])
    return scores[~known], scores[known]


def _edge(beyond: Callable[[float], bool], outside: float, inside: float) -> float:
    """The point where `beyond` turns false on the way from `outside` to `inside`."""
    if not beyond(outside):
        return outside
    for _ in range(60):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if beyond(middle) else (outside, middle)
    return inside
