"""All measures of judged crops at once, with intervals, as plain values for JSON.

What the data do not define (an AUC of one class, pixels without a truth) is None and stands among
`undefined` with its reason. Intervals are 95 % by bootstrap over videos, a fake drawn together with
the real video that it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

import numpy as np

from train.datasets import VideoKey
from train.evaluation.colour_baseline import colour_scores
from train.evaluation.metrics import (
    Aggregation,
    FaceScore,
    accuracy,
    auc,
    average_precision,
    bootstrap,
    eer,
    macro_f1,
    measure_images,
    pbca,
    per_image,
    pooled,
    video_auc,
    video_scores,
)
from train.evaluation.predict import Prediction

# The fields of `ImageMeasures`, one at a time: a bootstrap computes each a thousand times.
IMAGE: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy,
    "auc": auc,
    "macro_f1": macro_f1,
    "eer": eer,
    "average_precision": average_precision,
}
FAILED = 0.5  # score of a video in which nothing was judged (SBI)


class _Figures:
    """Figures that the data define, with their intervals, and why others are missing."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self.intervals: dict[str, list[float] | None] = {}
        self.undefined: dict[str, str] = {}

    def defined(self, name: str, measure: Callable[[], Any]) -> Any:
        """A measure, or None and its reason."""
        try:
            return measure()
        except ValueError as error:
            self.undefined[name] = str(error)
            return None

    def interval(self, name: str, statistic: Any, keys: Sequence[Hashable]) -> None:
        """Find the interval of a measure whose value is defined."""
        found = self.defined(
            f"interval of {name}", lambda: bootstrap(statistic, keys, rounds=self._rounds)
        )
        self.intervals[name] = None if found is None else [found.low, found.high]


def summarise(
    predictions: Sequence[Prediction], failed: Mapping[VideoKey, int], *, rounds: int = 1000
) -> dict[str, Any]:
    """Every measure of one group of crops. `failed` are videos without a judged crop, by label."""
    figures = _Figures(rounds)
    labels = np.array([one.label for one in predictions])
    scores = np.array([one.score for one in predictions])
    groups = [one.group for one in predictions]
    image = figures.defined("image", lambda: asdict(measure_images(labels, scores)))
    for name in image or ():
        figures.interval(
            f"image.{name}",
            lambda drawn, measure=IMAGE[name]: measure(labels[drawn], scores[drawn]),
            groups,
        )
    pixels = _pixels(figures, [one for one in predictions if one.confusion is not None])
    videos = _videos(predictions, failed)
    rules = _video_rules(figures, predictions, videos)
    colours = figures.defined("colour baseline", lambda: colour_scores(predictions))
    colour_auc = None
    if colours is not None:
        colour_auc = figures.defined("colour baseline", lambda: auc(labels, colours))
        figures.interval("colour_auc", lambda drawn: auc(labels[drawn], colours[drawn]), groups)
    return {
        "crops": len(predictions),
        "real_crops": int((labels == 0).sum()),
        "fake_crops": int((labels == 1).sum()),
        "videos": len(videos),
        "failed_videos": len(failed),
        "image": image,
        **pixels,
        "video_auc": rules,
        "colour_auc": colour_auc,
        "intervals": figures.intervals,
        "undefined": figures.undefined,
    }


def _pixels(figures: _Figures, known: Sequence[Prediction]) -> dict[str, Any]:
    """The measures of crops whose pixel truth is known."""
    matrices = np.array([one.confusion for one in known]).reshape(-1, 2, 2)
    maps = [
        (one.truth, one.found) for one in known if one.truth is not None and one.found is not None
    ]
    misses = np.array([one.iinc for one in known], np.float64)
    groups = [one.group for one in known]
    whole = figures.defined("pixel", lambda: asdict(pooled(matrices)))
    for name in whole or ():
        figures.interval(
            f"pixel.{name}",
            lambda drawn, name=name: getattr(pooled([matrices[drawn].sum(0)]), name),
            groups,
        )
    if len(misses):
        agreed = np.array([pbca([pair]) for pair in maps])  # maps of one size: means are pooled
        figures.interval("pbca", lambda drawn: float(agreed[drawn].mean()), groups)
        figures.interval("iinc", lambda drawn: float(misses[drawn].mean()), groups)
    return {
        "crops_with_pixel_truth": len(known),
        "pixel": whole,
        "pixel_per_image": figures.defined("pixel per image", lambda: asdict(per_image(matrices))),
        "pbca": figures.defined("pbca", lambda: pbca(maps)),
        "iinc_unverified": float(misses.mean()) if len(misses) else None,
    }


def _video_rules(
    figures: _Figures,
    predictions: Sequence[Prediction],
    videos: Mapping[VideoKey, tuple[int, VideoKey]],
) -> dict[str, float | None]:
    """AUC over videos by each rule from the scores of faces to that of a video."""
    labels = {key: label for key, (label, _) in videos.items()}
    faces = [FaceScore(one.video, one.frame, one.score, one.area) for one in predictions]
    truth = np.array(list(labels.values()))
    rules: dict[str, float | None] = {}
    for rule in get_args(Aggregation):

        def area(rule: Aggregation = rule) -> float:
            return video_auc(video_scores(faces, rule), labels, failed=FAILED)

        rules[rule] = figures.defined(f"video AUC, {rule}", area)
        if rules[rule] is not None:
            scores = video_scores(faces, rule)
            values = np.array([scores.get(key, FAILED) for key in labels])
            figures.interval(
                f"video_auc.{rule}",
                lambda drawn, values=values: auc(truth[drawn], values[drawn]),
                [group for _, group in videos.values()],
            )
    return rules


def by_manipulation(
    predictions: Sequence[Prediction],
    failed: Mapping[VideoKey, int],
    real: str,
    *,
    rounds: int = 1000,
) -> dict[str, dict[str, Any]]:
    """The figures of each manipulation against all real crops."""
    kinds = sorted({one.video.manipulation for one in predictions if one.label == 1})
    return {
        kind: summarise(
            [one for one in predictions if one.video.manipulation in (kind, real)],
            {key: label for key, label in failed.items() if key.manipulation in (kind, real)},
            rounds=rounds,
        )
        for kind in kinds
    }


def brief(predictions: Sequence[Prediction]) -> dict[str, float | None]:
    """The two figures of a sweep: frame AUC and pooled IoU of the manipulated class on fakes."""
    fakes = [one.confusion for one in predictions if one.label == 1 and one.confusion is not None]
    cells = np.sum(fakes, axis=0) if fakes else np.zeros((2, 2))
    union = cells[1].sum() + cells[0, 1]
    return {
        "auc": auc([one.label for one in predictions], [one.score for one in predictions]),
        "iou_fake": float(cells[1, 1] / union) if union else None,
    }


def _videos(
    predictions: Sequence[Prediction], failed: Mapping[VideoKey, int]
) -> dict[VideoKey, tuple[int, VideoKey]]:
    """Each video's label and group."""
    videos = {one.video: (one.label, one.group) for one in predictions}
    return {**videos, **{key: (label, key) for key, label in failed.items()}}
