"""The measures of the field, each under one name and one definition.

Label and class 1 mean *manipulated*; a score is P(manipulated) in any monotone scale unless a
threshold is involved. Where the field has two definitions of one word, both are here and the caller
names the one meant. A measure that the data do not define raises `ValueError`; none falls back to
a pleasant number in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_curve

from train.datasets.sample import VideoKey

Floats = NDArray[np.float64]
Aggregation = Literal["mean", "median", "max-then-mean", "top-k"]


# Detection: one label and one score per picture or video


def checked(
    labels: ArrayLike, scores: ArrayLike, *, both: bool
) -> tuple[NDArray[np.bool_], Floats]:
    """Labels (N,) and scores (N,) as arrays, or a `ValueError` that says what is wrong with them.

    `both` asks for at least one label of each class.
    """
    truth = np.asarray(labels)
    values = np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError(
            f"labels and scores must be two lists of one length; got {truth.shape} and "
            f"{values.shape}"
        )
    if truth.size == 0:
        raise ValueError("no labels and scores: nothing to measure")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError(f"labels must be 0 (real) or 1 (manipulated); got {np.unique(truth)[:5]}")
    if not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise ValueError(f"{bad} of {values.size} scores are not finite numbers")
    positive = truth.astype(bool)
    if both and positive.all():
        raise ValueError(f"all {truth.size} labels are 1 (manipulated): the measure needs both")
    if both and not positive.any():
        raise ValueError(f"all {truth.size} labels are 0 (real): the measure needs both")
    return positive, values


def roc(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """FPR, TPR and threshold (score >= threshold) at every distinct score, from (0, 0) to (1, 1).

    No point is dropped, also not on straight lines; the first threshold is infinite.
    """
    positive, values = checked(labels, scores, both=True)
    fpr, tpr, thresholds = roc_curve(positive, values, drop_intermediate=False)
    return fpr, tpr, thresholds


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve in [0, 1]; a tie between a real and a fake counts one half."""
    fpr, tpr, _ = roc(labels, scores)
    return float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1])) / 2)


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean precision over recall steps, without interpolation; ties share one threshold."""
    return float(average_precision_score(*checked(labels, scores, both=True)))


def eer(labels: ArrayLike, scores: ArrayLike) -> float:
    """Equal error rate in [0, 1]: x where 1 - x = TPR(x) on the ROC joined by straight lines.

    That is MSCCNet's; others take FPR or FNR at the ROC point where the two are nearest.
    """
    fpr, tpr, _ = roc(labels, scores)
    gap = 1.0 - fpr - tpr  # falls from 1 to -1
    end = int(np.argmax(gap <= 0))
    share = gap[end - 1] / (gap[end - 1] - gap[end])
    return float(fpr[end - 1] + share * (fpr[end] - fpr[end - 1]))


def accuracy(labels: ArrayLike, scores: ArrayLike, threshold: float = 0.5) -> float:
    """Share of pictures on the right side of the threshold (score > threshold says fake)."""
    positive, values = checked(labels, scores, both=False)
    return float(np.mean(positive == (values > threshold)))


def macro_f1(labels: ArrayLike, scores: ArrayLike, threshold: float = 0.5) -> float:
    """Mean of the F1 of the fake and of the real class (score > threshold says fake)."""
    positive, values = checked(labels, scores, both=True)
    matrix = confusion(positive, values > threshold)
    return (f1(matrix, 1) + f1(matrix, 0)) / 2


@dataclass(frozen=True, slots=True)
class ImageMeasures:
    """The image-level row of a results table; all in [0, 1], `eer` by the interpolated ROC."""

    accuracy: float
    auc: float
    macro_f1: float
    eer: float
    average_precision: float


def measure_images(labels: ArrayLike, scores: ArrayLike) -> ImageMeasures:
    """All image-level measures of labels (N,) and P(manipulated) (N,), threshold 0.5."""
    return ImageMeasures(
        accuracy=accuracy(labels, scores),
        auc=auc(labels, scores),
        macro_f1=macro_f1(labels, scores),
        eer=eer(labels, scores),
        average_precision=average_precision(labels, scores),
    )


# Localisation: confusion matrices [[real as real, real as fake], [fake as real, fake as fake]]
#
# F1 and Matthews correlation are ours: scikit-learn takes 1.5 ms for each where these take 0.01 ms,
# so an interval of one figure over a thousand draws of pixel counts would take seconds, not 50 ms.

Confusion = NDArray[np.int64]  # (2, 2), rows = truth, columns = prediction, real before fake


def confusion(truth: ArrayLike, predicted: ArrayLike) -> Confusion:
    """Counts (2, 2) of pixels; truth other than 0 and 1 (padding) is left out.

    Both are arrays of one shape; `predicted` holds 0 and 1.

    Raises:
        ValueError: shapes differ, or a prediction is neither 0 nor 1.
    """
    actual, guess = np.asarray(truth), np.asarray(predicted)
    if actual.shape != guess.shape:
        raise ValueError(f"truth is {actual.shape}, prediction {guess.shape}: not the same pixels")
    if not ((guess == 0) | (guess == 1)).all():
        raise ValueError("predicted masks must hold 0 and 1; apply the threshold first")
    known = (actual == 0) | (actual == 1)
    cells = 2 * actual[known].astype(np.int64) + guess[known].astype(np.int64)
    return np.bincount(cells, minlength=4).reshape(2, 2)


def counted(matrix: ArrayLike) -> Confusion:
    """A confusion matrix (2, 2) with something in it, or a `ValueError`."""
    cells = np.asarray(matrix)
    if cells.shape != (2, 2) or not (cells >= 0).all():
        raise ValueError(f"a confusion matrix is (2, 2) counts; got shape {cells.shape}")
    if cells.sum() == 0:
        raise ValueError("the confusion matrix is empty: no pixel was compared")
    return cells


def f1(matrix: ArrayLike, kind: int) -> float:
    """F1 of class `kind` (0 real, 1 fake); 1.0 where the class is in neither truth nor answer."""
    cells = counted(matrix)
    found = cells[kind, kind]
    size = cells[kind].sum() + cells[:, kind].sum()
    return float(2 * found / size) if size else 1.0


def iou(matrix: ArrayLike, kind: int) -> float:
    """IoU of class `kind` (0 real, 1 fake); 1.0 where the class is in neither truth nor answer."""
    cells = counted(matrix)
    found = cells[kind, kind]
    union = cells[kind].sum() + cells[:, kind].sum() - found
    return float(found / union) if union else 1.0


def mcc(matrix: ArrayLike) -> float:
    """Matthews correlation in [-1, 1]; 0.0 by convention where all answers are one class.

    Raises:
        ValueError: the truth holds one class only.
    """
    cells = both_classes(counted(matrix)).astype(np.float64)
    (tn, fp), (fn, tp) = cells
    # Square roots of factors: the product of four pixel counts of a test set overflows int64.
    norm = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    return float((tp * tn - fp * fn) / norm) if norm else 0.0


def both_classes(matrix: Confusion) -> Confusion:
    """The same matrix, or a `ValueError` if its truth holds one class only."""
    real, fake = matrix.sum(axis=1)
    if real == 0 or fake == 0:
        only = "manipulated" if real == 0 else "real"
        raise ValueError(f"all pixels of the truth are {only}: the measure needs both classes")
    return matrix


@dataclass(frozen=True, slots=True)
class PixelMeasures:
    """The localisation row of a results table. `miou` is the mean of `iou_fake` and `iou_real`.

    All but `mcc` lie in [0, 1]; `mcc` is in [-1, 1], None where no single image defines it.
    """

    accuracy: float
    macro_f1: float
    f1_fake: float
    f1_real: float
    miou: float
    iou_fake: float
    iou_real: float
    mcc: float | None


def pooled(matrices: Iterable[ArrayLike]) -> PixelMeasures:
    """Measures of one confusion matrix summed over all images, as MSCCNet's evaluation does.

    Raises:
        ValueError: nothing was counted, or the truth holds one class only.
    """
    total = np.zeros((2, 2), dtype=np.int64)
    for matrix in matrices:
        total += np.asarray(matrix)
    total = both_classes(counted(total))
    return _single(total, mcc(total))


def per_image(matrices: Iterable[ArrayLike]) -> PixelMeasures:
    """Means of the measures of each image, as Dolos does for IoU.

    A class that is in neither truth nor answer of an image counts 1.0 (so a clean image that is
    called clean scores full marks). `mcc` is the mean over the images whose truth holds both
    classes.
    """
    rows = []
    correlations = []
    for matrix in matrices:
        cells = counted(matrix)
        rows.append(_single(cells, None))
        if cells.sum(axis=1).all():
            correlations.append(mcc(cells))
    if not rows:
        raise ValueError("no images: nothing to measure")
    fields = ("accuracy", "macro_f1", "f1_fake", "f1_real", "miou", "iou_fake", "iou_real")
    means = {name: float(np.mean([getattr(row, name) for row in rows])) for name in fields}
    return PixelMeasures(**means, mcc=float(np.mean(correlations)) if correlations else None)


def _single(cells: Confusion, correlation: float | None) -> PixelMeasures:
    f1_real, f1_fake = f1(cells, 0), f1(cells, 1)
    iou_real, iou_fake = iou(cells, 0), iou(cells, 1)
    return PixelMeasures(
        accuracy=float(np.trace(cells) / cells.sum()),
        macro_f1=(f1_fake + f1_real) / 2,
        f1_fake=f1_fake,
        f1_real=f1_real,
        miou=(iou_fake + iou_real) / 2,
        iou_fake=iou_fake,
        iou_real=iou_real,
        mcc=correlation,
    )


def pbca(pairs: Iterable[tuple[ArrayLike, ArrayLike]]) -> float:
    """Pixel-wise binary classification accuracy (FFD), pooled over all images.

    `pairs` are (truth, prediction) maps of one shape with values in [0, 1]; both are cut at
    0.5 (above it is fake), and the share of pixels that agree is returned. FFD's own script
    does this on 19x19 maps: give maps of the size that the comparison needs.
    """
    cut = [_cut_pair(truth, predicted) for truth, predicted in pairs]
    if not cut:
        raise ValueError("no maps: nothing to measure")
    agreed = sum(int(np.count_nonzero(truth == guess)) for truth, guess in cut)
    return agreed / sum(truth.size for truth, _ in cut)


def iinc(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Inverse intersection non-containment (FFD) of one pair of maps; lower is better.

    UNVERIFIED: the formula was taken second-hand and no public code of it is known; check it
    against the paper before a number is published. With |M| the share of the map that lies above
    0.5, I and U intersection and union of both maps: 1 / (3 - |U|) times
    0 if both are empty, 1 if exactly one is, else 2 - |I|/|predicted| - |I|/|truth|.
    """
    actual, guess = _cut_pair(truth, predicted)
    both, either = (actual & guess).mean(), (actual | guess).mean()
    if not actual.any() and not guess.any():
        term = 0.0
    elif not actual.any() or not guess.any():
        term = 1.0
    else:
        term = 2.0 - both / guess.mean() - both / actual.mean()
    return float(term / (3.0 - either))


def _cut_pair(
    truth: ArrayLike, predicted: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    actual, guess = np.asarray(truth), np.asarray(predicted)
    if actual.shape != guess.shape or actual.size == 0:
        raise ValueError(f"truth is {actual.shape}, prediction {guess.shape}: not the same pixels")
    if not (np.isfinite(actual).all() and np.isfinite(guess).all()):
        raise ValueError("a map holds values that are not finite numbers")
    return actual > 0.5, guess > 0.5


# Video: many faces in many frames become one score


@dataclass(frozen=True, slots=True)
class FaceScore:
    """The prediction for one face of one frame. `area` in pixels is that of the face box."""

    video: VideoKey
    frame: int
    score: float
    area: float = 1.0


def video_scores(
    faces: Iterable[FaceScore], rule: Aggregation = "mean", *, top: int = 8
) -> dict[VideoKey, float]:
    """One score a video by a named rule.

    `mean`, `median`: over all faces of all frames.
    `max-then-mean`: in each frame the maximum over the faces whose box area is at least half of the
    largest one's, then the mean over the frames (SBI).
    `top-k`: the mean of the `top` highest frame scores, each the maximum over the frame's faces;
    of all frames where there are fewer.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1; got {top}")
    videos: dict[VideoKey, dict[int, list[FaceScore]]] = {}
    for face in faces:
        if not np.isfinite(face.score):
            raise ValueError(f"{face.video}, frame {face.frame}: score {face.score} is no number")
        videos.setdefault(face.video, {}).setdefault(face.frame, []).append(face)
    if not videos:
        raise ValueError("no face scores: nothing to aggregate")
    return {key: _aggregate(list(frames.values()), rule, top) for key, frames in videos.items()}


def _aggregate(frames: list[list[FaceScore]], rule: Aggregation, top: int) -> float:
    if rule == "mean" or rule == "median":
        scores = [face.score for frame in frames for face in frame]
        return float(np.mean(scores) if rule == "mean" else np.median(scores))
    if rule == "max-then-mean":
        return float(np.mean([_largest_faces_max(frame) for frame in frames]))
    if rule == "top-k":
        peaks = sorted((max(face.score for face in frame) for frame in frames), reverse=True)
        return float(np.mean(peaks[:top]))
    raise ValueError(f"unknown aggregation {rule!r}; known: mean, median, max-then-mean, top-k")


def _largest_faces_max(frame: list[FaceScore]) -> float:
    half = max(face.area for face in frame) / 2
    return max(face.score for face in frame if face.area >= half)


def video_auc(
    scores: Mapping[VideoKey, float],
    labels: Mapping[VideoKey, int],
    *,
    failed: float | None = None,
) -> float:
    """AUC over the videos in `labels`.

    A video without a score gets `failed` (SBI uses 0.5); with None it is an error, so that videos
    in which no face was found cannot drop out of the measure unseen.

    Raises:
        ValueError: videos lack a score or a label, or there is one class only.
    """
    unknown = [key for key in scores if key not in labels]
    if unknown:
        raise ValueError(f"{len(unknown)} scored videos have no label, the first {unknown[0]}")
    missing = [key for key in labels if key not in scores]
    if missing and failed is None:
        raise ValueError(
            f"{len(missing)} of {len(labels)} videos have no score, the first {missing[0]}; "
            "name the score of a failed video (SBI: failed=0.5)"
        )
    fill = 0.0 if failed is None else failed
    return auc(list(labels.values()), [scores.get(key, fill) for key in labels])


# Uncertainty


class Estimate(NamedTuple):
    """A measure with its bootstrap interval [low, high]."""

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    groups: Sequence[Hashable],
    *,
    rounds: int = 1000,
    seed: int = 0,
) -> Estimate:
    """A measure with the 95 % percentile interval of a bootstrap over whole groups.

    Frames of one video, and videos of one person, are not independent: the groups (one key an
    observation) are drawn with replacement, each with all its observations. `statistic` takes the
    indices (M,) of the observations drawn and gives the measure. A draw for which it raises
    `ValueError` (say, one class only) is drawn again.

    Raises:
        ValueError: fewer than two groups, or the measure is undefined in more draws than it is
            defined in.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be positive; got {rounds}")
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    if len(members) < 2:
        raise ValueError(f"{len(members)} groups: resampling needs at least 2")
    pool = [np.array(indices, dtype=np.intp) for indices in members.values()]
    value = float(statistic(np.arange(len(groups), dtype=np.intp)))
    random = np.random.default_rng(seed)
    draws: list[float] = []
    undefined = 0
    while len(draws) < rounds:
        drawn = [pool[choice] for choice in random.integers(len(pool), size=len(pool))]
        try:
            draws.append(float(statistic(np.concatenate(drawn))))
        except ValueError as error:
            undefined += 1
            if undefined > rounds:
                raise ValueError(f"the measure is undefined in most draws: {error}") from error
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def estimated(
    statistic: Callable[[np.ndarray], float], groups: Sequence[str], *, rounds: int = 1000
) -> Estimate:
    """A measure in [0, 1] with its interval over people; one alone says nothing of others: [0, 1].

    Where most draws leave it undefined (two classes, few people) nothing is known either.
    """
    if len(set(groups)) > 1:
        try:
            return bootstrap(statistic, groups, rounds=rounds)
        except ValueError:
            return Estimate(statistic(np.arange(len(groups))), 0.0, 1.0)
    return Estimate(statistic(np.arange(len(groups))), 0.0, 1.0)


def estimated_auc(
    labels: Sequence[bool], scores: Sequence[float], groups: Sequence[str], *, rounds: int = 1000
) -> Estimate | None:
    """AUC with its interval over groups; None where there is one class only."""
    truth, values = np.array(labels, bool), np.array(scores)
    if truth.all() or not truth.any():
        return None
    return estimated(lambda drawn: auc(truth[drawn], values[drawn]), groups, rounds=rounds)


def as_json(value: Any) -> Any:
    """Figures ready for JSON: estimates and shares as {value, low, high}."""
    if isinstance(value, tuple):
        return dict(zip(("value", "low", "high"), value, strict=True))
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    return value
