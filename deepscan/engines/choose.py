"""Chooses an engine, compares it with the reference, and reports the reason of the choice."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscan.engines import ENGINES, PRECISIONS
from deepscan.engines.engine import Engine, EngineOptions, Predictions
from deepscan.engines.hardware import Hardware, detect_hardware
from deepscan.engines.parity import (
    TOLERANCES,
    cache_parity,
    cache_reference,
    cached_parity,
    cached_reference,
    card_reference,
    difference,
    label_thresholds,
    predict_all,
    probe,
    violations,
)
from deepscan.engines.recipe import recipe_of
from deepscan.errors import EngineError, UsageError
from deepscan.models.card import Card, Kind
from deepscan.models.library import read_card
from deepscan.models.weights import code_digest
from deepscan.options import DEFAULT_MODEL
from deepscan.types import Parity

logger = logging.getLogger(__name__)


class DisagreementError(EngineError):
    """An engine scores the probe otherwise than the reference; `known` from an earlier start."""

    def __init__(self, message: str, known: bool) -> None:
        super().__init__(message)
        self.known = known


AUTO = re.compile(r"auto(?::(\d{1,3}))?")
DEVICE = re.compile(r"cpu|cuda(?::\d{1,3})?")
REFERENCE = "torch-cpu-fp32"
REFERENCES: Mapping[Kind, str] = {"network": REFERENCE, "onnx": "onnxruntime-cpu-fp32"}
"""What an engine has to agree with, by the kind of the model."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A requested engine; None leaves the choice to the engine."""

    runtime: str
    device: str | None = None
    precision: str | None = None

    @property
    def name(self) -> str:
        return "-".join(part for part in (self.runtime, self.device, self.precision) if part)


def load_engine(
    name: str = "auto",
    model: str = DEFAULT_MODEL,
    *,
    folder: Path | None = None,
    threads: int | None = None,
) -> Engine:
    """Load an engine that runs a model here and agrees with torch in fp32.

    Args:
        name: RUNTIME[-DEVICE][-PRECISION], such as "openvino", "openvino-bf16", "torch-cuda" or
            "torch-cpu-fp32" (the names in records too); "auto" takes a TensorRT engine that was
            built for just this machine, else torch on CUDA, else OpenVINO, else torch on the CPU,
            and says in `info.reason` why; one warning names the command that builds a TensorRT
            engine where none is. "tensorrt" builds its engine if there is none. DEVICE
            "cuda:1" is the second GPU, "tensorrt:1" is short for "tensorrt-cuda:1", and "auto:1" is
            "auto" with that GPU.
        model: a model by name, or the path of one; see `deepscan.models.library.read_card`.
        folder: where models lie; by default those that ship and the user's own.
        threads: CPU threads; by default one for each core (torch: its own setting).

    Raises:
        EngineError: there is no such engine, it does not run here, or it is out of tolerance; with
            "auto" only if this holds for every engine.
        ModelError: the model is missing or damaged.
        UsageError: `threads` is less than 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads}: give at least 1")
    on = auto_device(name)
    wanted = parse_name(name) if on is None else None
    card = read_card(model, folder)
    hardware = detect_hardware()
    if wanted is not None:
        return _build_wanted(wanted, card, hardware, threads)
    refused: list[str] = []
    if on not in (None, "cuda"):
        hardware.need_gpu(str(on), name)
    tried = candidates(hardware, card, on or "cuda")
    for choice, reason in tried:
        why = "; ".join([reason, *refused])
        try:
            engine = build(choice, card, hardware, why, threads=threads, allow_build=False)
        except EngineError as error:
            # Each record says it; a person need not read it before every scan.
            known = isinstance(error, DisagreementError) and error.known
            logger.log(logging.INFO if known else logging.WARNING, "auto: %s", error)
            refused.append(f"{choice.name} refused: {error}")
            continue
        logger.info("engine %s: %s", engine.name, engine.info.reason)
        if command := _build_command(choice, card, tried):
            logger.warning(
                "%s scans; a TensorRT engine may be faster on this GPU, and none is built: run %s",
                engine.name,
                command,
            )
        return engine
    raise EngineError("no engine runs here: " + "; ".join(refused))


def _build_wanted(wanted: Choice, card: Card, hardware: Hardware, threads: int | None) -> Engine:
    """Build a named engine; in fp32 if the name has no precision and the faster one disagrees."""
    reason = "asked for"
    while True:
        try:
            return build(wanted, card, hardware, reason, threads=threads)
        except DisagreementError as error:
            if wanted.precision is not None or wanted.runtime == "tensorrt":  # minutes to build
                raise EngineError(f"{error}. Use --engine {REFERENCES[card.kind]}") from error
            logger.log(logging.INFO if error.known else logging.WARNING, "%s", error)
            wanted, reason = replace(wanted, precision="fp32"), f"asked for; {error}"


def _build_command(chosen: Choice, card: Card, tried: list[tuple[Choice, str]]) -> str | None:
    """The command to build a TensorRT engine if "auto" chose torch on CUDA without one."""
    device = chosen.device or "cpu"
    if device == "cpu" or any(choice.runtime == "tensorrt" for choice, _ in tried):
        return None
    for _, precision in engine_class("tensorrt").CHOICES:
        recipe = recipe_of(card.name, "tensorrt", precision)
        if recipe is not None:
            place = "" if device == "cuda" else f" --device {device}"
            return f"deepscan engine build {recipe.name}{place}"
    return None


def auto_device(name: str) -> str | None:
    """The CUDA device that "auto" or "auto:N" may use; None for any other name."""
    found = AUTO.fullmatch(name)
    if found is None:
        return None
    number = int(found[1] or 0)
    return f"cuda:{number}" if number else "cuda"


def candidates(
    hardware: Hardware, card: Card | None = None, device: str = "cuda"
) -> list[tuple[Choice, str]]:
    """The engines that "auto" tries, in order, with reasons.

    TensorRT only if its engine for `card` lies ready. With torch on CUDA first what the device
    multiplies fastest, then fp32; as a last resort fp32 on the CPU, the reference itself.
    """
    if card is not None and card.kind == "onnx":
        return _onnx_candidates(hardware, card, device)
    found = []
    lacks = "no CUDA device"
    if hardware.cuda is not None:
        gpu = hardware.need_gpu(device, "auto")
        if card is not None:
            tensorrt = engine_class("tensorrt")
            found += [
                (Choice("tensorrt", device, precision), f"auto: built for the CUDA device {gpu}")
                for _, precision in tensorrt.CHOICES
                if tensorrt.is_cached(card, hardware, precision, device)
            ]
        low = hardware.low_precision(device)
        if low != "fp32":
            reason = f"auto: CUDA device {gpu}, which multiplies {low} in hardware"
            found.append((Choice("torch", device, low), reason))
        found.append((Choice("torch", device, "fp32"), f"auto: CUDA device {gpu}"))
        lacks = "the CUDA device was refused"
    if hardware.has_bf16:
        reason = f"auto: {lacks}; OpenVINO is fastest on a CPU, and this one has bf16 instructions"
        found.append((Choice("openvino", "cpu", "bf16"), reason))
    reason = f"auto: {lacks}; OpenVINO is fastest on a CPU"
    found.append((Choice("openvino", "cpu", "fp32"), reason))
    found.append((Choice("torch", "cpu", "fp32"), "auto: nothing faster runs here"))
    return found


def _onnx_candidates(hardware: Hardware, card: Card, device: str) -> list[tuple[Choice, str]]:
    """What "auto" tries for an ONNX detector: TensorRT if built, ONNX Runtime on CUDA, the CPU."""
    found = []
    lacks = "no CUDA device"
    if hardware.cuda is not None:
        gpu = hardware.need_gpu(device, "auto")
        if engine_class("tensorrt").is_cached(card, hardware, "fp32", device):
            reason = f"auto: built for the CUDA device {gpu}"
            found.append((Choice("tensorrt", device, "fp32"), reason))
        found.append((Choice("onnxruntime", device, "fp32"), f"auto: CUDA device {gpu}"))
        lacks = "the CUDA device was refused"
    reason = f"auto: {lacks}; OpenVINO is fastest on a CPU"
    if hardware.has_bf16:
        found.append((Choice("openvino", "cpu", "bf16"), f"{reason}, which has bf16 instructions"))
    found.append((Choice("openvino", "cpu", "fp32"), reason))
    found.append((Choice("onnxruntime", "cpu", "fp32"), "auto: OpenVINO does not run it"))
    return found


def parse_name(name: str) -> Choice:
    """Parse the name of an engine, RUNTIME[-DEVICE][-PRECISION].

    Raises:
        EngineError: the name is invalid.
    """
    first, *rest = name.split("-")
    runtime, colon, number = first.partition(":")
    if colon:  # "tensorrt:1" is short for "tensorrt-cuda:1"
        rest.insert(0, f"cuda:{number}")
    device = rest.pop(0) if rest and DEVICE.fullmatch(rest[0]) else None
    precision = rest.pop(0) if rest and rest[0] in PRECISIONS.get(runtime, ()) else None
    if runtime not in ENGINES or rest:
        raise EngineError(
            f"no engine {name!r}: give auto or one of {', '.join(ENGINES)} (in full such as "
            "torch-cpu-fp32); deepscan doctor says what runs here"
        )
    if device is not None and device.startswith("cuda:"):
        device = f"cuda:{int(device[5:])}" if int(device[5:]) else "cuda"
    return Choice(runtime, device, precision)


def engine_class(runtime: str) -> Any:
    """Import the class of an entry of the table, a subclass of `EngineEntry`."""
    return resolve_name(ENGINES[runtime])


def every_choice(card: Card) -> list[Choice]:
    """Every engine for models of this kind, whether or not it runs here."""
    return [
        Choice(runtime, device, precision)
        for runtime in ENGINES
        for device, precision in engine_class(runtime).choices_for(card.kind)
    ]


def build(
    choice: Choice,
    card: Card,
    hardware: Hardware,
    reason: str,
    *,
    threads: int | None = None,
    allow_build: bool = True,
) -> Engine:
    """Load one engine and compare it with the reference, or use cached figures.

    Unless `allow_build`, an engine that would have to be built first, for minutes, is an error.

    Raises:
        EngineError: it does not run here, or is out of tolerance.
        ModelError: the weights are missing, damaged or of another network.
    """
    engine = create_engine(choice, card, hardware, threads=threads, allow_build=allow_build)
    info = replace(engine.info, reason=reason)
    reference = REFERENCES[card.kind]
    if engine.name != reference:
        try:
            thresholds = label_thresholds(card.values)
            parity = cached_parity(engine.fingerprint, thresholds)
            known = parity is not None
            if parity is None:
                parity = measure(engine, card, hardware)
                cache_parity(engine.fingerprint, parity, engine.name, card.name, thresholds)
            found = violations(parity, TOLERANCES[engine.name.rpartition("-")[2]])
            if found:
                raise DisagreementError(
                    f"engine {engine.name} does not agree with {reference}: {'; '.join(found)}",
                    known,
                )
        except BaseException:
            engine.close()
            raise
        info = replace(info, parity=parity)
    engine.info = info
    built: Engine = engine
    return built


def create_engine(
    choice: Choice,
    card: Card,
    hardware: Hardware,
    *,
    threads: int | None = None,
    allow_build: bool = True,
) -> Any:
    """Load one engine without comparing it; raises as `build` does."""
    options = EngineOptions(choice.device, choice.precision, threads, allow_build)
    return engine_class(choice.runtime)(card, hardware, options)


def measure(engine: Engine, card: Card, hardware: Hardware, *, fresh: bool = False) -> Parity:
    """Compare an engine with the reference on the CPU in fp32, whatever figures the cache holds.

    With `fresh` the reference judges the probe now, else its predictions may be of an earlier time:
    those of torch from the cache, those of ONNX Runtime from the card, where the import wrote them.
    """
    crops = probe(engine.input_size)
    if card.kind == "onnx":
        there = find_spec("onnxruntime") is not None
        expected = None if fresh and there else card_reference(card)
        expected = expected or _judge(REFERENCES["onnx"], card, hardware, crops)
    else:
        facts = {"weights": card.sha256, "torch": version("torch"), "network": code_digest()}
        expected = None if fresh else cached_reference(facts)
        if expected is None:
            expected = _judge(REFERENCE, card, hardware, crops)
            cache_reference(facts, expected)
    ours = predict_all(engine, crops)
    return difference(ours, expected, engine.name, label_thresholds(card.values))


def _judge(name: str, card: Card, hardware: Hardware, crops: NDArray[np.uint8]) -> Predictions:
    """What the reference says of crops."""
    reference = create_engine(parse_name(name), card, hardware)
    try:
        return predict_all(reference, crops)
    finally:
        reference.close()
