"""Recipes: short TOML files that describe an engine to build for a model.

A recipe is named after its engine, MODEL-RUNTIME-PRECISION.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepscan.engines import ENGINES, PRECISIONS
from deepscan.errors import EngineError, UsageError

_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED = _PACKAGE / "recipes"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "engines"
"""The folder of the recipes that ship: inside the wheel, or `engines/` of a source tree."""

PROFILED = ("tensorrt",)  # runtimes that are built for a range of batches


@dataclass(frozen=True, slots=True)
class Batches:
    """Batch sizes of an engine: it accepts `min` to `max`, and is tuned for `opt`."""

    min: int
    opt: int
    max: int

    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that are run; others are padded to the next of these."""
        powers = {1 << power for power in range(self.max.bit_length())}
        between = {size for size in powers if self.min <= size <= self.max}
        return tuple(sorted(between | {self.min, self.opt, self.max}))


DEFAULT_BATCHES = Batches(1, 8, 32)  # of a model that has no recipe


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe. `batches` is None if the runtime accepts any batch size."""

    name: str
    path: Path
    model: str
    runtime: str
    precision: str
    batches: Batches | None


def read_recipe(name: str) -> Recipe:
    """Read a recipe by name.

    Raises:
        UsageError: it does not exist; the message lists existing ones.
        EngineError: it cannot be read, or holds an unknown key or an invalid value.
    """
    path = FOLDER / f"{name}.toml"
    if Path(name).name != name or not path.is_file():
        there = ", ".join(sorted(each.stem for each in FOLDER.glob("*.toml"))) or "none"
        raise UsageError(f"no recipe {name!r} in {FOLDER}; there is: {there}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"recipe {path} cannot be read: {error}") from error
    return _recipe(name, path, values)


def list_recipes() -> tuple[Recipe, ...]:
    """Read all recipes, sorted by name.

    Raises:
        EngineError: as for `read_recipe`.
    """
    return tuple(read_recipe(path.stem) for path in sorted(FOLDER.glob("*.toml")))


def recipe_of(model: str, runtime: str, precision: str) -> Recipe | None:
    """The recipe for an engine, None if there is none.

    Raises:
        EngineError: the recipe is invalid.
    """
    name = f"{model}-{runtime}-{precision}"
    return read_recipe(name) if (FOLDER / f"{name}.toml").is_file() else None


def _recipe(name: str, path: Path, values: dict[str, Any]) -> Recipe:
    runtime = _one_of(path, values, "runtime", tuple(sorted(ENGINES)))
    precision = _one_of(path, values, "precision", PRECISIONS[runtime])
    model = values.get("model")
    if not isinstance(model, str) or not model:
        raise EngineError(f"recipe {path}: model = {model!r}; must name a model")
    if name != (made := f"{model}-{runtime}-{precision}"):
        raise EngineError(f"recipe {path} makes {made}: name it {made}.toml")
    profiled = runtime in PROFILED
    known = {
        "model",
        "runtime",
        "precision",
        *(("batch",) if profiled else ()),
    }
    _known(path, "", values, known)
    return Recipe(
        name,
        path,
        model,
        runtime,
        precision,
        _batches(path, values.get("batch")) if profiled else None,
    )


def _batches(path: Path, table: Any) -> Batches:
    if not isinstance(table, dict):
        raise EngineError(f"recipe {path}: no table [batch] with min, opt and max")
    _known(path, "batch.", table, {"min", "opt", "max"})
    for key in ("min", "opt", "max"):
        if type(table.get(key)) is not int:
            raise EngineError(f"recipe {path}: batch.{key} = {table.get(key)!r}; must be a number")
    found = Batches(table["min"], table["opt"], table["max"])
    if not 1 <= found.min <= found.opt <= found.max <= 1024:
        raise EngineError(
            f"recipe {path}: batch min {found.min}, opt {found.opt}, max {found.max}; "
            "must be 1 <= min <= opt <= max <= 1024"
        )
    return found


def _one_of(path: Path, values: dict[str, Any], key: str, allowed: tuple[str, ...]) -> str:
    value = values.get(key)
    if value not in allowed:
        raise EngineError(f"recipe {path}: {key} = {value!r}; must be one of {', '.join(allowed)}")
    return str(value)


def _known(path: Path, prefix: str, table: dict[str, Any], known: set[str]) -> None:
    for key in table:
        if key not in known:
            raise EngineError(
                f"recipe {path}: unknown key {prefix}{key}; known are {', '.join(sorted(known))}"
            )
