"""Measures the speed of every engine that runs here.

The machine may be busy, so engines are measured in turns, and CPU time is reported beside wall
time. The baseline is the network in eager torch with fp32, which takes its turns like the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepscan.engines.choose import REFERENCE, build, every_choice
from deepscan.engines.engine import Engine, Predictions
from deepscan.engines.hardware import Hardware, detect_hardware
from deepscan.engines.packages import installed_versions
from deepscan.engines.parity import probe
from deepscan.errors import DeepscanError, EngineError, UsageError
from deepscan.models.card import Card
from deepscan.models.library import read_card
from deepscan.models.weights import load_model
from deepscan.options import DEFAULT_MODEL

EAGER = "torch-eager-fp32"
ROUNDS = 7
SECONDS = 0.3  # that one engine runs in one round and batch


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of one engine at one batch size; medians over the rounds.

    `crops_per_second` is by wall time, `cpu_ms_per_crop` the CPU time of all threads. `speedup` and
    `cpu_speedup` are medians of each round's ratio to eager torch in fp32 on the CPU at the same
    batch size. `lowest` and `highest` are the slowest and fastest round in crops per second.
    """

    engine: str
    batch: int
    crops_per_second: float
    lowest: float
    highest: float
    cpu_ms_per_crop: float
    speedup: float
    cpu_speedup: float


@dataclass(frozen=True, slots=True)
class Bench:
    """One run over all engines. `absent` maps engines that did not run to the reason. `load` is the
    system's load average over one minute before and after the run, None if not available."""

    model: str
    input_size: int
    machine: Hardware
    threads: int | None
    versions: dict[str, str]
    load: tuple[float, float] | None
    paces: tuple[Pace, ...]
    absent: dict[str, str]

    def best(self) -> tuple[Pace, ...]:
        """The engine with the largest speed-up in wall time for each batch size."""
        found: dict[int, Pace] = {}
        for pace in self.paces:
            if pace.batch not in found or pace.speedup > found[pace.batch].speedup:
                found[pace.batch] = pace
        return tuple(found[batch] for batch in sorted(found))

    def values(self) -> dict[str, Any]:
        """The run as plain values for JSON."""
        best = [
            {"batch": pace.batch, "engine": pace.engine, "speedup": pace.speedup}
            for pace in self.best()
        ]
        return {"kind": "deepscan-bench", "best": best, **asdict(self)}


class Eager:
    """The network in plain torch: fp32, no channels-last, no preparation."""

    name = EAGER
    max_batch = 1024

    def __init__(self, card: Card, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._network = load_model(card)

    def predict(self, crops: NDArray[np.uint8]) -> Predictions:
        with torch.inference_mode():
            scores, masks = self._network(torch.from_numpy(crops))
        return Predictions(scores.numpy(), masks.numpy())

    def close(self) -> None:
        pass


def bench(
    model: str = DEFAULT_MODEL,
    batches: Iterable[int] = (1, 8),
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    threads: int | None = None,
    folder: Path | None = None,
) -> Bench:
    """Measure every engine that runs here and agrees with torch.

    TensorRT is measured with the engines that are built. Batch sizes above an engine's largest are
    skipped for it.

    Raises:
        EngineError: the reference does not run.
        ModelError: the model is missing or damaged.
    """
    card, hardware, before = read_card(model, folder), detect_hardware(), _load()
    if card.kind != "network":
        raise UsageError(
            f"{model} is a detector in ONNX, which eager torch does not run. For its speed here "
            f"run: deepscan model check {model}"
        )
    engines, absent = _engines(card, hardware, threads)
    sizes = sorted(set(batches))
    crops = probe(card.info.input_size)
    runs: dict[tuple[str, int], list[tuple[float, float]]] = {}
    try:
        for turn in range(rounds + 1):
            for size in sizes:
                batch = np.concatenate([crops] * (-(-size // len(crops))))[:size]
                for engine in engines:
                    if size > engine.max_batch:
                        continue
                    # The first turn is a warm-up.
                    found = _run(engine, batch, seconds if turn else 0.0)
                    if turn:
                        runs.setdefault((engine.name, size), []).append(found)
    finally:
        for engine in engines:
            engine.close()
    after = _load()
    return Bench(
        model,
        card.info.input_size,
        hardware,
        threads,
        dict(installed_versions()),
        None if before is None or after is None else (before, after),
        tuple(_pace(name, size, runs) for name, size in runs),
        absent,
    )


def _engines(
    card: Card, hardware: Hardware, threads: int | None
) -> tuple[list[Engine | Eager], dict[str, str]]:
    found: list[Engine | Eager] = [Eager(card, threads)]
    absent = {}
    for choice in every_choice(card):
        try:
            engine = build(choice, card, hardware, "bench", threads=threads, allow_build=False)
            found.append(engine)
        except DeepscanError as error:
            absent[choice.name] = str(error)
    if REFERENCE not in [engine.name for engine in found]:
        for each in found:
            each.close()
        raise EngineError(f"nothing to compare with: {absent[REFERENCE]}")
    return found, absent


def _run(engine: Engine | Eager, crops: NDArray[np.uint8], seconds: float) -> tuple[float, float]:
    """Judge the same batch repeatedly; returns crops per second, and CPU seconds per crop."""
    wall, cpu, judged = time.perf_counter(), time.process_time(), 0
    while not judged or time.perf_counter() - wall < seconds:
        engine.predict(crops)
        judged += len(crops)
    return judged / (time.perf_counter() - wall), (time.process_time() - cpu) / judged


def _pace(name: str, size: int, runs: dict[tuple[str, int], list[tuple[float, float]]]) -> Pace:
    mine = runs[name, size]
    theirs = runs[EAGER, size]
    rates, costs = ([turn[place] for turn in mine] for place in (0, 1))
    return Pace(
        name,
        size,
        round(median(rates), 1),
        round(min(rates), 1),
        round(max(rates), 1),
        round(median(costs) * 1e3, 2),
        round(median(a[0] / b[0] for a, b in zip(mine, theirs, strict=True)), 2),
        round(median(b[1] / max(a[1], 1e-9) for a, b in zip(mine, theirs, strict=True)), 2),
    )


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None
