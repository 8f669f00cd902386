"""Builds and checks engines on this machine, and lists and cleans what the cache keeps of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deepscan.engines import ENGINES
from deepscan.engines.cache import cache_folder, read_entry
from deepscan.engines.choose import (
    REFERENCES,
    Choice,
    create_engine,
    engine_class,
    measure,
    parse_name,
)
from deepscan.engines.hardware import Hardware, detect_hardware
from deepscan.engines.parity import TOLERANCES, cache_parity, label_thresholds, violations
from deepscan.engines.recipe import Recipe, read_recipe
from deepscan.errors import EngineError, system_errors_as
from deepscan.files import is_part
from deepscan.models.card import Card
from deepscan.models.library import read_card
from deepscan.types import Parity


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the cache: its kind, the facts that it depends on, and its size in bytes.

    `kind` is "openvino" (converted networks), "tensorrt" (an engine), "timings" (TensorRT's
    measurements on a GPU), "parity" (a proof), "reference" (torch's predictions for the probe),
    "damaged" or "leftover". Only proofs have `parity` and `engine`, for the engine with that
    `fingerprint`.
    """

    key: str
    kind: str
    facts: Mapping[str, str]
    size: int
    engine: str = ""
    model: str = ""
    fingerprint: str = ""
    parity: Parity | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """A new comparison of an engine with a reference: figures, limits, and violations of them.

    `reference` is the engine that it was compared with.
    """

    engine: str
    model: str
    fingerprint: str
    parity: Parity
    tolerance: Parity
    violations: tuple[str, ...]
    reference: str


def choice_of(recipe: Recipe) -> Choice:
    """The engine of a recipe."""
    return Choice(recipe.runtime, None, recipe.precision)


def build_recipe(name: str, *, device: str | None = None) -> Proof:
    """Build the engine of a recipe, cache it, and compare it with torch.

    An engine that is in the cache is only compared.

    Args:
        name: name of the recipe.
        device: device as in the name of an engine; default: the first that fits.

    Raises:
        UsageError: there is no such recipe.
        EngineError: it does not run here, cannot be cached, or is out of tolerance.
        ModelError: there are no weights for its model.
    """
    recipe = read_recipe(name)
    choice = replace(choice_of(recipe), device=device)
    card, hardware = read_card(recipe.model), detect_hardware()
    made = engine_class(choice.runtime)
    key = None
    if hasattr(made, "build_key"):
        key = made.build_key(card, hardware, recipe.precision, device or "cuda")
    proof = _prove(choice, card, hardware, allow_build=True)
    if proof.violations:
        raise EngineError(f"{name} does not agree with torch: {'; '.join(proof.violations)}")
    if key is not None and read_entry(cache_folder(), key) is None:
        raise EngineError(
            f"{name} was built and agrees with torch, but cannot be written to "
            f"{cache_folder() or 'a cache'}. See the warnings above, or set DEEPSCAN_CACHE to your "
            "own folder with free space"
        )
    return proof


def check_parity(name: str, model: str) -> Proof:
    """Compare an engine with torch in fp32, now.

    Args:
        name: a recipe, or an engine as in `load_engine`, but not "auto".
        model: the model of an engine that is named without recipe.

    Raises:
        UsageError: there is neither such a recipe nor such an engine.
        EngineError: it does not run here.
        ModelError: the model is missing or damaged.
    """
    if name.split("-")[0] in ENGINES:
        choice = parse_name(name)
    else:
        recipe = read_recipe(name)
        choice, model = choice_of(recipe), recipe.model
    return _prove(choice, read_card(model), detect_hardware(), allow_build=False)


def _prove(choice: Choice, card: Card, hardware: Hardware, *, allow_build: bool) -> Proof:
    model = card.name
    engine = create_engine(choice, card, hardware, allow_build=allow_build)
    try:
        parity = measure(engine, card, hardware, fresh=True)
    finally:
        engine.close()
    tolerance = TOLERANCES[engine.name.rpartition("-")[2]]
    cache_parity(engine.fingerprint, parity, engine.name, model, label_thresholds(card.values))
    wrong = violations(parity, tolerance)
    reference = REFERENCES[card.kind]
    return Proof(engine.name, model, engine.fingerprint, parity, tolerance, wrong, reference)


def entries(folder: Path | None = None) -> tuple[Entry, ...]:
    """List the entries of the cache by kind; reads only their JSON files, and proofs."""
    folder = folder or cache_folder()
    if folder is None:
        return ()
    found = [_entry(side) for side in folder.glob("*.json") if not is_part(side.name)]
    whole = {entry.key for entry in found}
    found += [
        Entry(path.name, "leftover", {}, _size(path))
        for path in folder.iterdir()
        if _is_leftover(path.name) or (path.suffix == ".bin" and path.stem not in whole)
    ]
    return tuple(sorted(found, key=lambda entry: (entry.kind, entry.key)))


def clean(folder: Path | None = None) -> tuple[Entry, ...]:
    """Remove all entries of the cache; returns them.

    Raises:
        EngineError: something cannot be removed.
    """
    folder = folder or cache_folder()
    gone = entries(folder)
    for entry in gone:
        names = (
            [entry.key] if entry.kind == "leftover" else [f"{entry.key}.json", f"{entry.key}.bin"]
        )
        for name in names:
            assert folder is not None
            with system_errors_as(EngineError, f"{folder / name} cannot be removed"):
                (folder / name).unlink(missing_ok=True)
    return gone


def _entry(side: Path) -> Entry:
    data = side.with_suffix(".bin")
    size = _size(side) + _size(data)
    try:
        facts = {str(k): str(v) for k, v in json.loads(side.read_text())["facts"].items()}
        kind = facts["kind"]
        if kind != "parity":
            return Entry(side.stem, kind, facts, size, model=facts.get("model", ""))
        # The second part names engine and model; older proofs do not have it.
        first, second, *_ = *map(json.loads, read_entry(side.parent, side.stem) or ()), {}
        return Entry(
            side.stem,
            kind,
            facts,
            size,
            str(second.get("engine", "")),
            str(second.get("model", "")),
            str(second.get("fingerprint", facts["engine"])),
            Parity(**{key: float(value) for key, value in first.items()}),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Entry(side.stem, "damaged", {}, size)


def _is_leftover(name: str) -> bool:
    """True if a file is half an entry, or the log of a build by an earlier version."""
    return (
        is_part(name)
        or name.endswith(".part")
        or (name.startswith("build-") and name.endswith(".log"))
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
