"""Plans of experiments in TOML: networks, data and schedule, deterministic by their seeds."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepscan.errors import UsageError
from train.datasets import DATASETS
from train.experiments.networks import ARCHITECTURES, TASKS, Task
from train.experiments.samples import (
    MASK_SOURCES,
    MaskSource,
    Samples,
    dataset_samples,
    forge_samples,
    measured_samples,
    split_calibration,
    zoomed,
)
from train.forge import FORGES
from train.forge.faces import read_faces
from train.losses import LOSSES
from train.recipe import OUTPUTS, Schedule, Stage, build, one_of


@dataclass(frozen=True, slots=True)
class Data:
    """The data of the networks. With `dataset` the folder holds that data set, of ready face crops;
    without it is a folder of real faces (see train/forge/faces.py), and `forges` makes the fakes.

    `pairs` is the number of training pairs (with a data set: the largest number of pictures that
    are read); `limit` is the most pictures to measure. `masks` and `augmentation` concern
    the training pairs alone, `degraded` those that are calibrated and measured on. `zoom` is the
    side of a crop over that of a scan: below 1 the crop shows less of the face, but finer.
    """

    size: int = 96
    pairs: int = 1000
    forges: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(FORGES, 1.0))
    masks: MaskSource = "blend"
    augmentation: bool = True
    degraded: bool = True
    zoom: float = 1.0
    seed: int = 1
    limit: int | None = None
    dataset: str = ""
    compression: str = ""


@dataclass(frozen=True, slots=True)
class Fit:
    """One training. `losses` maps an output (image, mask, coarse) to its weighted terms; a task
    takes those of the outputs it has. `batch` counts crops."""

    architecture: str = "msccnet-s"
    task: Task = "both"
    steps: int = 300
    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 20
    clip: float = 5.0
    bf16: bool = True
    pretrained: bool = False
    losses: Mapping[str, Mapping[str, float]] = field(
        default_factory=lambda: {
            "image": {"ce": 1.0},
            "mask": {"ce": 1.0, "dice": 0.5},
            "coarse": {"ce": 0.5},
        }
    )
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def schedule(self) -> Schedule:
        """AdamW, linear warm-up, cosine to zero."""
        return Schedule(
            stages=(Stage(0, self.steps),),
            pairs=self.batch // 2,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip=self.clip,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Sets:
    """Crops to train on, to fit thresholds on, and to measure on; no person is in two of them."""

    training: Samples
    calibration: Samples
    measured: Samples


def read_plan(path: Path) -> dict[str, Any]:
    """A plan's tables.

    Raises:
        UsageError: the file is missing or no TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"plan {path} cannot be read: {error}") from error


def check_keys(values: Mapping[str, Any], lists: tuple[str, ...], tables: tuple[str, ...]) -> None:
    """
    Raises:
        UsageError: a plan has a key that is not known, or one of its lists is missing or empty.
    """
    for key in values:
        one_of("plan", "key", key, (*lists, *tables))
    for key in lists:
        if not isinstance(values.get(key), list) or not values[key]:
            raise UsageError(f"plan: {key} must be a list of at least one; got {values.get(key)!r}")


def data_of(values: Mapping[str, Any]) -> Data:
    """A plan's [data].

    Raises:
        UsageError: a key, forge, mask source or data set that is not there, or a useless number.
    """
    data = build("plan: [data]", Data, values)
    for forge in data.forges:
        one_of("plan", "forge", forge, FORGES)
    one_of("plan", "masks", data.masks, MASK_SOURCES)
    one_of("plan", "dataset", data.dataset, ("", *DATASETS))
    _positive("[data]", size=data.size, pairs=data.pairs, zoom=data.zoom)
    if not data.forges:
        raise UsageError("plan: [data] forges is empty; name at least one")
    return data


def fit_of(values: Mapping[str, Any]) -> Fit:
    """A plan's [fit].

    Raises:
        UsageError: a key, architecture, task, output or loss that is not there, or a number that
            cannot work.
    """
    fit = build("plan: [fit]", Fit, values)
    one_of("plan", "architecture", fit.architecture, ARCHITECTURES)
    one_of("plan", "task", fit.task, TASKS)
    for output, terms in fit.losses.items():
        one_of("plan", "output", output, OUTPUTS)
        for loss in terms:
            one_of("plan", "loss", loss, LOSSES)
    _positive("[fit]", steps=fit.steps, batch=fit.batch, learning_rate=fit.learning_rate)
    return fit


def make_sets(data: Data, folder: Path, *, workers: int = 0) -> Sets:
    """The crops of a plan.

    Raises:
        UsageError: the folder does not hold what the plan asks for.
    """
    if data.dataset:
        training, calibration, measured = (
            dataset_samples(
                data.dataset,
                folder,
                split,
                size=data.size,
                compression=data.compression,
                limit=limit,
            )
            for split, limit in (("train", data.pairs), ("val", data.limit), ("test", data.limit))
        )
        return Sets(training, calibration, measured)
    everyone = [zoomed(person, data.zoom) for person in read_faces(folder, "train")]
    people, kept = split_calibration(everyone)
    training = forge_samples(
        people,
        data.forges,
        size=data.size,
        seed=data.seed,
        pairs=data.pairs,
        masks=data.masks,
        augmentation=data.augmentation,
        workers=workers,
    )
    held_out = [zoomed(person, data.zoom) for person in read_faces(folder, "val")[: data.limit]]
    calibration, measured = (
        measured_samples(some, data.forges, size=data.size, degraded=data.degraded, workers=workers)
        for some in (kept, held_out)
    )
    return Sets(training, calibration, measured)


def _positive(place: str, **values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise UsageError(f"plan: {place} {name} is {value}; it must be positive")
