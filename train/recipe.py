"""A training recipe: everything that decides what a run learns, read from TOML."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepscan.errors import UsageError
from deepscan.models.msccnet import MODELS
from train.forge.forged import FORGES
from train.losses import LOSSES


@dataclass(frozen=True, slots=True)
class Stage:
    """So many steps at one crop side in pixels."""

    size: int
    steps: int


@dataclass(frozen=True, slots=True)
class Schedule:
    stages: tuple[Stage, ...]
    pairs: int
    learning_rate: float
    weight_decay: float
    warmup: int
    clip: float
    ema: float

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that a step belongs to; the last one from the end on."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One run. `losses` maps an output (image, mask, coarse) to its weighted terms."""

    model: str
    seed: int
    forges: dict[str, float]
    schedule: Schedule
    losses: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        UsageError: the file is missing, or names a model, forge, loss or key that is not there.
    """
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"recipe {path} cannot be read: {error}") from error
    return _checked(path, values)


def parse_recipe(text: str) -> Recipe:
    """The recipe that `Recipe.to_json` wrote, as it stands in the metadata of weights."""
    return _checked(Path("in the weights"), json.loads(text))


def _checked(path: Path, values: dict[str, Any]) -> Recipe:
    try:
        schedule = dict(values.pop("schedule"))
        stages = tuple(Stage(**stage) for stage in schedule.pop("stages"))
        recipe = Recipe(schedule=Schedule(stages=stages, **schedule), **values)
    except (KeyError, TypeError) as error:
        raise UsageError(f"recipe {path}: {error}") from error
    _known(path, "model", [recipe.model], MODELS)
    _known(path, "forge", recipe.forges, FORGES)
    _known(path, "output", recipe.losses, ("image", "mask", "coarse"))
    for terms in recipe.losses.values():
        _known(path, "loss", terms, LOSSES)
    return recipe


def _known(path: Path, kind: str, names: object, table: object) -> None:
    assert hasattr(names, "__iter__") and hasattr(table, "__iter__")
    unknown = [name for name in names if name not in list(table)]
    if unknown:
        raise UsageError(f"recipe {path}: no {kind} {unknown[0]!r}; there are {', '.join(table)}")
