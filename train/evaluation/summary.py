"""All measures of judged crops at once, with intervals, as plain values for JSON.

What the data do not define (an AUC of one class, pixels without a truth) is None and stands among
`undefined` with its reason. Intervals are 95 % by bootstrap over videos, a fake drawn together with
the real video that it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
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
from train.evaluation.predict import Judged

# The fields of `ImageMeasures`, one at a time: a bootstrap computes each a thousand times.
IMAGE: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy,
    "auc": auc,
    "macro_f1": macro_f1,
    "eer": eer,
    "average_precision": average_precision,
}
FAILED = 0.5  # score of a video in which nothing was judged (SBI)


def figures(
    judged: Sequence[Judged], failed: Mapping[VideoKey, int], *, rounds: int = 1000
) -> dict[str, Any]:
    """Every measure of one group of crops. `failed` are videos without a judged crop, by label."""
    undefined: dict[str, str] = {}

    def defined(name: str, measure: Callable[[], Any]) -> Any:
        try:
            return measure()
        except ValueError as error:
            undefined[name] = str(error)
            return None

    labels = np.array([one.label for one in judged])
    scores = np.array([one.score for one in judged])
    groups = [one.group for one in judged]
    known = [one for one in judged if one.confusion is not None]
    matrices = np.array([one.confusion for one in known]).reshape(-1, 2, 2)
    maps = [
        (one.truth, one.found) for one in known if one.truth is not None and one.found is not None
    ]
    misses = np.array([one.iinc for one in known], np.float64)
    videos = _videos(judged, failed)
    pixel_groups = [one.group for one in known]

    def interval(name: str, statistic: Any, keys: Sequence[Hashable]) -> list[float] | None:
        estimate = defined(f"interval of {name}", lambda: bootstrap(statistic, keys, rounds=rounds))
        return None if estimate is None else [estimate.low, estimate.high]

    intervals: dict[str, list[float] | None] = {}
    image = defined("image", lambda: asdict(measure_images(labels, scores)))
    for name in image or ():
        intervals[f"image.{name}"] = interval(
            f"image.{name}",
            lambda drawn, measure=IMAGE[name]: measure(labels[drawn], scores[drawn]),
            groups,
        )
    whole = defined("pixel", lambda: asdict(pooled(matrices)))
    for name in whole or ():
        intervals[f"pixel.{name}"] = interval(
            f"pixel.{name}",
            lambda drawn, name=name: getattr(pooled([matrices[drawn].sum(0)]), name),
            pixel_groups,
        )
    agreement = defined("pbca", lambda: pbca(maps))
    missed = float(misses.mean()) if len(misses) else None
    if missed is not None:
        agreed = np.array([pbca([pair]) for pair in maps])  # maps of one size: means are pooled
        intervals["pbca"] = interval(
            "pbca", lambda drawn: float(agreed[drawn].mean()), pixel_groups
        )
        intervals["iinc"] = interval(
            "iinc", lambda drawn: float(misses[drawn].mean()), pixel_groups
        )
    rules: dict[str, float | None] = {}
    for rule in get_args(Aggregation):
        rules[rule] = defined(f"video AUC, {rule}", partial(_video_auc, judged, videos, rule))
        if rules[rule] is not None:
            per_video = video_scores(_faces(judged), rule)
            keys = list(videos)
            truth = np.array([videos[key][0] for key in keys])
            values = np.array([per_video.get(key, FAILED) for key in keys])
            intervals[f"video_auc.{rule}"] = interval(
                f"video_auc.{rule}",
                lambda drawn, truth=truth, values=values: auc(truth[drawn], values[drawn]),
                [videos[key][1] for key in keys],
            )
    colours = defined("colour control", lambda: colour_scores(judged))
    control = None
    if colours is not None:
        control = defined("colour control", lambda: auc(labels, colours))
        intervals["colour_auc"] = interval(
            "colour_auc", lambda drawn: auc(labels[drawn], colours[drawn]), groups
        )
    return {
        "crops": len(judged),
        "real_crops": int((labels == 0).sum()),
        "fake_crops": int((labels == 1).sum()),
        "crops_with_pixel_truth": len(known),
        "videos": len(videos),
        "failed_videos": len(failed),
        "image": image,
        "pixel": whole,
        "pixel_per_image": defined("pixel per image", lambda: asdict(per_image(matrices))),
        "pbca": agreement,
        "iinc_unverified": missed,
        "video_auc": rules,
        "colour_auc": control,
        "intervals": intervals,
        "undefined": undefined,
    }


def by_manipulation(
    judged: Sequence[Judged], failed: Mapping[VideoKey, int], real: str, *, rounds: int = 1000
) -> dict[str, dict[str, Any]]:
    """The figures of each manipulation against all real crops."""
    kinds = sorted({one.video.manipulation for one in judged if one.label == 1})
    return {
        kind: figures(
            [one for one in judged if one.video.manipulation in (kind, real)],
            {key: label for key, label in failed.items() if key.manipulation in (kind, real)},
            rounds=rounds,
        )
        for kind in kinds
    }


def brief(judged: Sequence[Judged]) -> dict[str, float | None]:
    """The two figures of a sweep: frame AUC and pooled IoU of the manipulated class on fakes."""
    fakes = [one.confusion for one in judged if one.label == 1 and one.confusion is not None]
    cells = np.sum(fakes, axis=0) if fakes else np.zeros((2, 2))
    union = cells[1].sum() + cells[0, 1]
    return {
        "auc": auc([one.label for one in judged], [one.score for one in judged]),
        "iou_fake": float(cells[1, 1] / union) if union else None,
    }


def _faces(judged: Sequence[Judged]) -> list[FaceScore]:
    return [FaceScore(one.video, one.frame, one.score, one.area) for one in judged]


def _videos(
    judged: Sequence[Judged], failed: Mapping[VideoKey, int]
) -> dict[VideoKey, tuple[int, VideoKey]]:
    """Each video's label and group."""
    videos = {one.video: (one.label, one.group) for one in judged}
    return {**videos, **{key: (label, key) for key, label in failed.items()}}


def _video_auc(
    judged: Sequence[Judged], videos: Mapping[VideoKey, tuple[int, VideoKey]], rule: Aggregation
) -> float:
    scores = video_scores(_faces(judged), rule)
    return video_auc(scores, {key: label for key, (label, _) in videos.items()}, failed=FAILED)
