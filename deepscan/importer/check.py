"""A model examined on this machine: its engines against the reference, known crops, speed."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from deepscan.archive.workers.controls import score_controls
from deepscan.engines.choose import (
    REFERENCES,
    Choice,
    create_engine,
    every_choice,
    load_engine,
    measure,
)
from deepscan.engines.engine import Engine
from deepscan.engines.hardware import Hardware, detect_hardware
from deepscan.engines.parity import TOLERANCES, probe, violations
from deepscan.errors import DeepscanError, EngineError
from deepscan.models.card import Card
from deepscan.models.library import read_card
from deepscan.options import ScanOptions
from deepscan.types import Parity

SECONDS = 0.5  # that an engine judges crops to show its speed


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """One engine: whether it may judge with the model, why not, and how fast it is.

    `parity` is None for the reference itself and for an engine that does not run.
    """

    name: str
    works: bool
    detail: str
    parity: Parity | None = None
    crops_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """The result of a check. `controls` are known crops with their scores on the chosen engine."""

    model: str
    engines: tuple[EngineCheck, ...]
    chosen: str
    controls: tuple[tuple[str, float], ...]
    controls_passed: bool

    @property
    def ok(self) -> bool:
        """True if this model is fit to scan with."""
        return self.controls_passed and any(
            each.works for each in self.engines if each.name == self.chosen
        )


def check_model(model: str) -> ModelCheck:
    """Let every engine of this machine judge the probe with a model, and the chosen one controls.

    Args:
        model: a name or path, as `read_card` takes it.

    Raises:
        ModelError: there is no such model, or it is damaged.
        EngineError: no engine runs it here.
    """
    card, hardware = read_card(model), detect_hardware()
    engines = [_check_engine(choice, card, hardware) for choice in every_choice(card)]
    engine = load_engine("auto", model)
    try:
        controls, passed = score_controls(engine, replace(ScanOptions(), model=model))
    finally:
        engine.close()
    return ModelCheck(card.name, tuple(engines), engine.name, controls, passed)


def _check_engine(choice: Choice, card: Card, hardware: Hardware) -> EngineCheck:
    try:
        engine: Engine = create_engine(choice, card, hardware, allow_build=False)
    except DeepscanError as error:
        return EngineCheck(choice.name, False, str(error))
    reference = REFERENCES[card.kind]
    parity = None
    try:
        if engine.name != reference:
            parity = measure(engine, card, hardware, fresh=True)
            wrong = violations(parity, TOLERANCES[engine.name.rpartition("-")[2]])
            if wrong:
                return EngineCheck(engine.name, False, "; ".join(wrong), parity)
        speed = _speed(engine)
    except EngineError as error:
        return EngineCheck(engine.name, False, str(error))
    finally:
        engine.close()
    detail = "the reference" if parity is None else f"agrees with {reference}"
    return EngineCheck(engine.name, True, detail, parity, speed)


def _speed(engine: Engine) -> float:
    """Crops a second in full batches, but no more than 8 at once."""
    batch = np.ascontiguousarray(probe(engine.input_size)[: min(8, engine.max_batch)])
    engine.predict(batch)
    began, judged = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        engine.predict(batch)
        judged += len(batch)
    return round(judged / (time.perf_counter() - began), 1)
