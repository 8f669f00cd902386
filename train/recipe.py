"""A training recipe: all settings of a run, read from TOML.

A recipe learns either from `[forges]` (fakes made from a folder of real faces) or from `[dataset]`
(a data set on disk). A missing key takes the default of its field here; an unknown key, a wrong
type or a value out of range is refused in one line before the run starts.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from deepscan.errors import ModelError, UsageError
from deepscan.models import MODELS
from deepscan.models.config import MSCCNetConfig
from train.datasets import DATASETS
from train.datasets.transforms import TRANSFORMS
from train.forge import FORGES
from train.forge.degrade import CODECS
from train.losses import LOSSES

OUTPUTS = ("image", "mask", "coarse")
PRECISIONS = ("bf16", "fp32")
OPTIMISERS = ("adamw", "sgd")
CURVES = ("cosine", "poly")


@dataclass(frozen=True, slots=True)
class Stage:
    """A number of steps, or of epochs of the data set, at crops of `size` pixels a side.

    A `learning_rate` above 0 starts the curve anew from there, to the next such stage (a warm
    restart). `mild` is the share of forged pairs that are spared the harder degradations.
    """

    size: int
    steps: int = 0
    epochs: int = 0
    learning_rate: float = 0.0
    mild: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate, optimiser and batch of a run.

    `pairs` is the total batch over all processes: that many fakes and as many originals.

    `curve` "cosine" falls to `floor`, "poly" as (1 - t / T) ** power, both over all stages; `floor`
    is a share of `learning_rate`. `clip` is the largest norm of the gradient and `ema` the decay of
    the weights' moving average; 0 leaves either out. `validate_every` counts steps; 0: at the end
    only. `momentum` and `power` are read by "sgd" and "poly" alone.
    """

    stages: tuple[Stage, ...]
    pairs: int
    learning_rate: float
    weight_decay: float = 0.0
    warmup: int = 0
    clip: float = 0.0
    ema: float = 0.0
    optimiser: str = "adamw"
    momentum: float = 0.9
    curve: str = "cosine"
    power: float = 0.9
    floor: float = 0.0
    validate_every: int = 1000

    @property
    def steps(self) -> int:
        """The number of all steps, once epochs are converted to steps."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that a step belongs to; the last one from the end on."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def end_of_stage(self, step: int) -> int:
        """The first step after the stage that a step belongs to."""
        end = 0
        for stage in self.stages:
            end += stage.steps
            if step < end:
                break
        return end

    def in_steps(self, pairs: int | None) -> Schedule:
        """Convert epochs of `pairs` pairs to steps; an incomplete last batch is dropped.

        Raises:
            UsageError: an epoch is less than one batch, or `pairs` is None (made data, which have
                no epochs).
        """
        if not any(stage.epochs for stage in self.stages):
            return self
        if pairs is None:
            raise UsageError("a recipe with [forges] has no epochs: give its stages steps")
        batches = pairs // self.pairs
        if batches == 0:
            raise UsageError(
                f"the data set gives {pairs} pairs, one batch of the recipe takes {self.pairs}: "
                "lower schedule.pairs"
            )
        return replace(
            self,
            stages=tuple(
                replace(stage, steps=stage.steps or stage.epochs * batches, epochs=0)
                for stage in self.stages
            ),
        )


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """A data set on disk: its name, the part to use, and the transforms of its pictures.

    `compression` is needed where the set has several; no `manipulations` means all of them.
    `transforms` are applied in order: (name, its settings). `val` is the split to validate on, ""
    for none; at most `val_crops` of its pictures are used, 0 for all.
    """

    name: str
    split: str = "train"
    compression: str = ""
    manipulations: tuple[str, ...] = ()
    transforms: tuple[tuple[str, Mapping[str, float]], ...] = ()
    val: str = "val"
    val_crops: int = 2000


@dataclass(frozen=True, slots=True)
class Recipe:
    """One run. `losses` maps an output (image, mask, coarse) to its weighted terms.

    `network` changes fields of the model's configuration; `forges` are the shares of each forge.
    `benign` is the share of forged pairs that get edits which are no manipulation, `tilt` that of
    heads that lean or turn. `codecs` is "video" for real video codecs in the degradations (needs
    PyAV), "still" for JPEG and WebP alone.

    `frozen_stages` counts the backbone's stages, from the first (stride 4), that keep the weights
    they start with, with all before them; `frozen_norms` keeps the statistics of all batch norms of
    the backbone. Both make sense only for a backbone that starts from weights.
    """

    model: str
    seed: int
    schedule: Schedule
    forges: dict[str, float] = field(default_factory=dict)
    dataset: DatasetOptions | None = None
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    precision: str = "bf16"
    network: dict[str, Any] = field(default_factory=dict)
    benign: float = 0.0
    tilt: float = 0.0
    codecs: str = "video"
    frozen_stages: int = 0
    frozen_norms: bool = False

    @property
    def config(self) -> MSCCNetConfig:
        """The configuration of the network, for crops of the first stage."""
        config = MODELS[self.model]
        return replace(config, **self.network, input_size=self.schedule.stages[0].size)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        UsageError: the file is missing, or has a key or value that is unknown or cannot work; the
            message names it.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"recipe {path} cannot be read: {error}") from error
    return _recipe(f"recipe {path}", values)


def parse_recipe(text: str) -> Recipe:
    """Read the recipe that `Recipe.to_json` wrote into the metadata of weights.

    Raises:
        UsageError: the text is no recipe.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UsageError(f"recipe in the weights cannot be read: {error}") from error
    if isinstance(values, dict):
        _rename_old_keys(values)
    return _recipe("recipe in the weights", values)


def _rename_old_keys(values: dict[str, Any]) -> None:
    """Rename keys of earlier versions, which weights that ship hold in their metadata."""
    if values.get("forging") == "pictures":
        del values["forging"]  # what every recipe does now
    if "harmless" in values:
        values["benign"] = values.pop("harmless")
    for stage in (values.get("schedule") or {}).get("stages") or ():
        if isinstance(stage, dict) and "gentle" in stage:
            stage["mild"] = stage.pop("gentle")


def _recipe(where: str, values: dict[str, Any]) -> Recipe:
    given = dict(values)
    schedule = dict(_table(where, "schedule", given.get("schedule", {})))
    stages = schedule.get("stages")
    if not isinstance(stages, list) or not stages:
        raise UsageError(f"{where}: schedule.stages must be a list such as [{{size, steps}}]")
    schedule["stages"] = tuple(
        build(f"{where}: schedule.stages", Stage, _table(where, "schedule.stages", stage))
        for stage in stages
    )
    given["schedule"] = build(f"{where}: schedule", Schedule, schedule)
    if given.get("dataset") is not None:
        given["dataset"] = _dataset(where, _table(where, "dataset", given["dataset"]))
    recipe = build(where, Recipe, given)
    _check_sources(where, recipe)
    _check_schedule(where, recipe.schedule)
    one_of(where, "precision", recipe.precision, PRECISIONS)
    _check_losses(where, recipe)
    _check_network(where, recipe)
    return recipe


def _dataset(where: str, given: dict[str, Any]) -> DatasetOptions:
    given = dict(given)
    steps = []
    for step in given.get("transforms", ()):
        # From TOML a table with its kind; from weights the pair that it became.
        name, settings = step if isinstance(step, list) else _kind(where, step)
        one_of(where, "transform", name, TRANSFORMS)
        known = TRANSFORMS[name].settings
        for key, value in settings.items():
            one_of(where, f"setting of transform {name}", key, known)
            _typed(f"{where}: transform {name}", key, value, float)
        steps.append((str(name), dict(settings)))
    given["transforms"] = tuple(steps)
    given["manipulations"] = tuple(given.get("manipulations", ()))
    source = build(f"{where}: dataset", DatasetOptions, given)
    one_of(where, "data set", source.name, DATASETS)
    if source.val_crops < 0:
        raise UsageError(f"{where}: dataset.val_crops must be 0 or more")
    return source


def _kind(where: str, step: object) -> tuple[str, dict[str, Any]]:
    table = dict(_table(where, "dataset.transforms", step))
    if "kind" not in table:
        raise UsageError(f"{where}: a transform needs its kind; there are {', '.join(TRANSFORMS)}")
    return table.pop("kind"), table


def _check_sources(where: str, recipe: Recipe) -> None:
    one_of(where, "model", recipe.model, MODELS)
    one_of(where, "codecs", recipe.codecs, CODECS)
    if not 0 <= recipe.frozen_stages <= 4:
        raise UsageError(f"{where}: frozen_stages is {recipe.frozen_stages}: 0 to 4")
    for name, share in (("benign", recipe.benign), ("tilt", recipe.tilt)):
        if not 0 <= share <= 1:
            raise UsageError(f"{where}: {name} is {share}: it is a share")
    if bool(recipe.forges) == (recipe.dataset is not None):
        raise UsageError(f"{where}: give either [forges] or [dataset]")
    for name, share in recipe.forges.items():
        one_of(where, "forge", name, FORGES)
        _typed(f"{where}: forges", name, share, float)
        if share < 0:
            raise UsageError(f"{where}: forges.{name} is {share}: a share is 0 or more")
    if recipe.forges and sum(recipe.forges.values()) <= 0:
        raise UsageError(f"{where}: all shares of forges are 0")


def _check_schedule(where: str, schedule: Schedule) -> None:
    one_of(where, "optimiser", schedule.optimiser, OPTIMISERS)
    one_of(where, "curve", schedule.curve, CURVES)
    for stage in schedule.stages:
        if stage.size < 1 or min(stage.steps, stage.epochs) < 0:
            raise UsageError(f"{where}: {stage}: sizes, steps and epochs are positive")
        if not (0 <= stage.mild <= 1 and 0 <= stage.learning_rate <= 1e3):
            raise UsageError(f"{where}: {stage}: mild is a share, learning_rate is positive")
        if bool(stage.steps) == bool(stage.epochs):
            raise UsageError(f"{where}: a stage needs either steps or epochs; got {stage}")
    ranges: dict[str, tuple[float, float]] = {
        "pairs": (1, 1e6), "learning_rate": (1e-12, 1e3), "weight_decay": (0, 1e3),
        "warmup": (0, 1e9), "clip": (0, 1e9), "ema": (0, 1 - 1e-9), "momentum": (0, 1 - 1e-9),
        "power": (1e-9, 100), "floor": (0, 1), "validate_every": (0, 1e9),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        value = getattr(schedule, name)
        if not low <= value <= high:
            raise UsageError(f"{where}: schedule.{name} is {value}: outside [{low:g}, {high:g}]")


def _check_losses(where: str, recipe: Recipe) -> None:
    if not recipe.losses:
        raise UsageError(f"{where}: [losses] is missing: nothing would be learned")
    for output, terms in recipe.losses.items():
        one_of(where, "output", output, OUTPUTS)
        for name, weight in _table(where, f"losses.{output}", terms).items():
            one_of(where, "loss", name, LOSSES)
            _typed(f"{where}: losses.{output}", name, weight, float)


def _check_network(where: str, recipe: Recipe) -> None:
    known = [name.name for name in fields(MSCCNetConfig) if name.name != "input_size"]
    for name in recipe.network:
        one_of(where, "setting of network", name, known)
    try:
        config = recipe.config
        for stage in recipe.schedule.stages:
            replace(config, input_size=stage.size)
    except (ModelError, TypeError) as error:
        raise UsageError(f"{where}: network: {error}") from error
    sizes = {stage.size for stage in recipe.schedule.stages}
    if len(sizes) > 1 and config.mscc and config.filters not in ("fixed-dct", "none"):
        raise UsageError(
            f"{where}: filters {config.filters!r} belong to one size, the stages have "
            f"{sorted(sizes)}"
        )


Built = TypeVar("Built")


def build(where: str, kind: type[Built], values: Mapping[str, Any]) -> Built:
    """Build a dataclass from a table.

    Raises:
        UsageError: a key is unknown, missing or not of its type.
    """
    known = {part.name: part for part in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"{where}: no key {key!r}; there are {', '.join(known)}")
        _typed(where, key, value, hints[key])
    for name, part in known.items():
        if name not in values and part.default is MISSING and part.default_factory is MISSING:
            raise UsageError(f"{where}: {name} is missing")
    return kind(**values)


def _typed(where: str, key: str, value: object, hint: object) -> None:
    """Check plain types; composed ones have been built already."""
    if hint is float:
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
    elif hint is bool:
        right = isinstance(value, bool)
    elif hint is int:
        right = isinstance(value, int) and not isinstance(value, bool)
    elif hint is str:
        right = isinstance(value, str)
    elif getattr(hint, "__origin__", None) is dict:
        right = isinstance(value, dict)
    elif hint == tuple[str, ...]:
        right = isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    else:
        right = True
    if not right:
        name = getattr(hint, "__name__", str(hint))
        wanted = {"float": "a number", "int": "a whole number", "str": "a text"}.get(name, name)
        raise UsageError(f"{where}: {key} must be {wanted}; got {value!r}")


def _table(where: str, name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: {name} must be a table; got {value!r}")
    return value


def one_of(where: str, kind: str, name: object, known: Collection[str]) -> None:
    """
    Raises:
        UsageError: `name` is not known.
    """
    if name not in list(known):
        raise UsageError(f"{where}: no {kind} {name!r}; there are {', '.join(known)}")
