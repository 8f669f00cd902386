"""Chooses an engine, has it prove that it computes what the network means, and says why it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from deepscan.engines.engine import ENGINES, Engine
from deepscan.engines.machine import Machine, look_around
from deepscan.engines.parity import Parity, compare, complaints, keep_parity, kept_parity
from deepscan.engines.recipe import tolerance_of
from deepscan.errors import EngineError, UsageError
from deepscan.models.weights import FOLDER, Card, read_card

logger = logging.getLogger(__name__)

DEVICES = ("cpu", "cuda")
PRECISIONS = {"openvino": ("fp32", "bf16"), "tensorrt": ("fp16", "bf16", "fp32")}
PLAIN_PRECISIONS = ("fp32", "bf16")  # of every other runtime
NAMES_HELP = (
    "auto, or RUNTIME[-DEVICE][-PRECISION]: torch, openvino or tensorrt; cpu or cuda; fp32, bf16 "
    "or, with tensorrt, fp16. Examples: openvino, openvino-bf16, torch-cpu-fp32, tensorrt. What is "
    "left out is chosen to fit the machine. A named engine runs or fails; only auto looks for "
    "another."
)
REFERENCE = "torch-cpu-fp32"


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine as asked for; None leaves the choice to the engine."""

    runtime: str
    device: str | None = None
    precision: str | None = None

    @property
    def name(self) -> str:
        return "-".join(part for part in (self.runtime, self.device, self.precision) if part)


def load_engine(
    name: str = "auto",
    model: str = "msccnet-s",
    *,
    folder: Path = FOLDER,
    threads: int | None = None,
) -> Engine:
    """Give an engine that runs a model here and agrees with torch in fp32.

    Args:
        name: RUNTIME[-DEVICE][-PRECISION], such as "openvino", "openvino-bf16", "torch-cuda" or
            "torch-cpu-fp32" (the names in records too); "auto" takes a TensorRT engine that was
            built for just this machine, else torch on CUDA, else OpenVINO, else torch on the CPU,
            and says in `info.reason` why. "tensorrt" builds its engine if there is none.
        model: a model whose card and weights lie in `folder`.
        folder: where models lie; by default those that ship.
        threads: CPU threads; by default one for each core (torch: its own setting).

    Raises:
        EngineError: there is no such engine, it does not run here, or it is out of tolerance; with
            "auto" only if this holds for every engine.
        ModelError: the model is missing or damaged.
        UsageError: `threads` is less than 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads}: give at least 1")
    wanted = None if name == "auto" else parse_name(name)
    card = read_card(model, folder)
    machine = look_around()
    if wanted is not None:
        return build(wanted, card, machine, "asked for", threads=threads)
    refused: list[str] = []
    for choice, reason in candidates(machine, card):
        why = "; ".join([reason, *refused])
        try:
            engine = build(choice, card, machine, why, threads=threads, patient=False)
        except EngineError as error:
            logger.warning("auto: %s", error)
            refused.append(f"{choice.name} refused: {error}")
            continue
        logger.info("engine %s: %s", engine.name, engine.info.reason)
        return engine
    raise EngineError("no engine runs here: " + "; ".join(refused))


def candidates(machine: Machine, card: Card | None = None) -> list[tuple[Choice, str]]:
    """What "auto" tries, in this order, and why.

    TensorRT only if its engine for `card` lies ready. With torch on CUDA and as a last resort fp32
    is taken: there the face search is the slower part, and here nothing is surer than the reference
    itself.
    """
    found = []
    lacks = "no CUDA device"
    if machine.cuda is not None:
        if card is not None:
            tensorrt = engine_class("tensorrt")
            found += [
                (
                    Choice("tensorrt", device, precision),
                    f"auto: built for the CUDA device {machine.cuda}",
                )
                for device, precision in tensorrt.CHOICES
                if tensorrt.is_kept(card, machine, precision)
            ]
        found.append((Choice("torch", "cuda", "fp32"), f"auto: CUDA device {machine.cuda}"))
        lacks = "the CUDA device was refused"
    if machine.has_bf16:
        reason = f"auto: {lacks}; OpenVINO is fastest on a CPU, and this one has bf16 instructions"
        found.append((Choice("openvino", "cpu", "bf16"), reason))
    reason = f"auto: {lacks}; OpenVINO is fastest on a CPU"
    found.append((Choice("openvino", "cpu", "fp32"), reason))
    found.append((Choice("torch", "cpu", "fp32"), "auto: nothing faster runs here"))
    return found


def parse_name(name: str) -> Choice:
    """Read an engine's name, RUNTIME[-DEVICE][-PRECISION].

    Raises:
        EngineError: no engine can have this name.
    """
    runtime, *rest = name.split("-")
    device = rest.pop(0) if rest and rest[0] in DEVICES else None
    precisions = PRECISIONS.get(runtime, PLAIN_PRECISIONS)
    precision = rest.pop(0) if rest and rest[0] in precisions else None
    if runtime not in ENGINES or rest:
        raise EngineError(f"no engine {name!r}. Give {NAMES_HELP}")
    return Choice(runtime, device, precision)


def engine_class(runtime: str) -> Any:
    """The class of the table's entry; imports what it needs.

    Beyond the contract such a class has `CHOICES`, its (device, precision) pairs, best first; a
    constructor `(card, machine, *, device, precision, threads)` that raises `EngineError` where it
    cannot run; and `fingerprint`, a string that changes with all that its numbers depend on. Where
    the constructor may take minutes there is also `kept`, with the same arguments, which takes what
    was built earlier or raises `EngineError`.
    """
    module, _, attribute = ENGINES[runtime].partition(":")
    return getattr(import_module(module), attribute)


def build(
    choice: Choice,
    card: Card,
    machine: Machine,
    reason: str,
    *,
    threads: int | None = None,
    patient: bool = True,
) -> Engine:
    """Set up one engine and compare it with the reference, or take the figures from the cache.

    Without patience an engine that would have to be built for minutes first is an error.

    Raises:
        EngineError: it does not run here, or is out of tolerance.
        ModelError: the weights are missing, damaged or of another network.
    """
    engine = set_up(choice, card, machine, threads=threads, patient=patient)
    info = replace(engine.info, reason=reason)
    if engine.name != REFERENCE:
        try:
            parity = kept_parity(engine.fingerprint)
            if parity is None:
                parity = measure(engine, card, machine)
                keep_parity(engine.fingerprint, parity, engine.name, card.name)
            precision = engine.name.rpartition("-")[2]
            found = complaints(parity, tolerance_of(card.name, choice.runtime, precision))
            if found:
                raise EngineError(
                    f"engine {engine.name} does not agree with {REFERENCE}: {'; '.join(found)}. "
                    f"Use --engine {REFERENCE}"
                )
        except BaseException:
            engine.close()
            raise
        info = replace(
            info,
            max_score_difference=parity.max_score_difference,
            mean_mask_iou=parity.mean_mask_iou,
        )
    engine.info = info
    built: Engine = engine
    return built


def set_up(
    choice: Choice,
    card: Card,
    machine: Machine,
    *,
    threads: int | None = None,
    patient: bool = True,
) -> Any:
    """One engine, not yet proven; raises as `build` does."""
    found = engine_class(choice.runtime)
    make = found if patient else getattr(found, "kept", found)
    return make(card, machine, device=choice.device, precision=choice.precision, threads=threads)


def measure(engine: Engine, card: Card, machine: Machine) -> Parity:
    """Compare an engine with the reference now, whatever the cache says."""
    reference = engine_class("torch")(card, machine, device="cpu", precision="fp32")
    try:
        return compare(engine, reference)
    finally:
        reference.close()
