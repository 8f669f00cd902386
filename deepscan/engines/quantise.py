"""The network in eight bits for OpenVINO, calibrated on faces, and what that costs on others.

Quantisation changes the model, so it is never done unasked: whoever wants it gives faces, half of
which set the ranges of the numbers and half of which show what it cost. Only the backbone and MFA
are quantised; what is small or must not lose range stays as it is: the stem, DCT weights, class
centres and attention, decoder, both heads.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import sys
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from deepscan.engines import openvino as openvino_engine
from deepscan.engines.cache import cache_folder, key_of, read_entry, write_entry
from deepscan.engines.machine import Machine
from deepscan.engines.openvino import OpenVINOEngine
from deepscan.engines.parity import Conformity, Tolerance, bars_of, compare, complaints
from deepscan.engines.torch import TorchEngine
from deepscan.errors import EngineError, UsageError
from deepscan.models.weights import Card

logger = logging.getLogger(__name__)
steps = logging.getLogger("deepscan.engines.steps")  # of what takes minutes, for who waits

LEAST_FACES = 64  # in all; half of them calibrate
MOST_FACES = 400  # more take long and change little
MOST_PIXELS = 2**25  # of one picture; 33.5 M
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
STEM_STRIDE = 4  # convolutions on maps as wide as the crop over this, or wider, keep precision
CENTRES = "__module.network.mscc"  # begins the names of MSCC and its parts
HEADS = "__module.network/"  # of what stands in MSCCNet.forward itself
# Over faces that calibration never saw: wider than over the probe, since there are many more.
COST_LIMIT = Tolerance(0.10, 0.015, 0.90, 0.50, 0.95)


@dataclass(frozen=True, slots=True)
class Cost:
    """What eight bits cost, against torch in fp32, over faces that calibration never saw.

    `calibration` is the SHA-256 of the calibrating crops; `faces` counts them, `judged` the others.
    """

    figures: Conformity
    faces: int
    judged: int
    calibration: str


def quantise(card: Card, machine: Machine, folder: Path) -> Cost:
    """Make the network in eight bits, measure what that costs, and keep it for `openvino-int8`.

    Raises:
        UsageError: the folder holds too few pictures, or none.
        EngineError: NNCF or OpenVINO is missing or fails, there is no cache, or it costs too much;
            then nothing is kept.
        ModelError: the weights are missing, damaged or of another network.
    """
    machine.need_int8("openvino-cpu-int8", "openvino")
    kept_in = cache_folder()
    if kept_in is None:
        raise EngineError(
            "openvino-int8 has to be kept, and there is no cache. Set DEEPSCAN_CACHE to a folder "
            "of yours"
        )
    nncf = _import_nncf()
    openvino = openvino_engine.import_openvino("openvino-cpu-int8")
    crops = read_faces(folder, card.info.input_size)
    first, others = halves(crops)
    steps.info("quantising %s with %d faces", card.name, len(first))
    graph, constants = openvino_engine.converted(card, openvino)
    try:
        graph, constants = _quantised(graph, constants, first, nncf, openvino)
    except (RuntimeError, OSError, ValueError) as error:
        told = " ".join(str(error).split())
        raise EngineError(f"{card.name} cannot be quantised: {told}") from error
    steps.info("comparing with torch in fp32 over %d other faces", len(others))
    figures = _measure(card, machine, (graph, constants), others)
    digest = hashlib.sha256(first.tobytes()).hexdigest()
    cost = Cost(figures, len(first), len(others), digest)
    found = complaints(figures, COST_LIMIT)
    if found:
        raise EngineError(
            f"{card.name} in eight bits costs too much over {len(others)} faces: {'; '.join(found)}"
        )
    facts = openvino_engine.int8_facts(card, openvino)
    note = {**asdict(cost), "nncf": str(nncf.__version__)}
    write_entry(
        kept_in,
        key_of(facts),
        facts,
        graph,
        constants,
        json.dumps(note, sort_keys=True).encode(),
    )
    if read_entry(kept_in, key_of(facts)) is None:
        raise EngineError(
            f"{card.name} was quantised, but cannot be kept in {kept_in}. See the warnings above, "
            "or set DEEPSCAN_CACHE to a folder of yours with room in it"
        )
    return cost


def read_faces(folder: Path, side: int) -> NDArray[np.uint8]:
    """The pictures of a folder and those below it as crops, each the square in its middle.

    Returns:
        (N, side, side, 3) uint8 RGB, in the order of their names; `MOST_FACES` at most, spread
        evenly over the folder.

    Raises:
        UsageError: fewer than `LEAST_FACES` can be read.
    """
    if not folder.is_dir():
        raise UsageError(f"--calibration {folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = paths[:: max(1, -(-len(paths) // MOST_FACES))]
    crops = []
    for path in paths:
        try:
            with Pillow.open(path) as picture:
                width, height = picture.size
                if width * height > MOST_PIXELS:
                    raise ValueError(f"{width}x{height} is too large")
                half = min(width, height) / 2
                middle = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
                crop = picture.convert("RGB").resize(
                    (side, side), Pillow.Resampling.BICUBIC, box=middle
                )
                crops.append(np.asarray(crop))
        except (OSError, ValueError, Pillow.DecompressionBombError) as error:
            logger.warning("%s is left out: %s", path, error)
    if len(crops) < LEAST_FACES:
        raise UsageError(
            f"--calibration {folder}: {len(crops)} pictures of faces can be read there, at least "
            f"{LEAST_FACES} are needed"
        )
    return np.stack(crops)


def halves(crops: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Crops that calibrate and crops that judge: told apart by a hash, so equal ones stay together.

    Neither depends on the names or the order of files.
    """
    odd = np.array([hashlib.sha256(crop.tobytes()).digest()[0] & 1 for crop in crops], bool)
    if odd.all() or not odd.any():
        raise UsageError("--calibration: all pictures are the same")
    return crops[~odd], crops[odd]


def extremes(side: int) -> NDArray[np.uint8]:
    """Noise and flat pictures, (11, side, side, 3): so that ranges hold for more than faces.

    Without them a crop of noise was 0.26 of score off. They are not those of the probe.
    """
    noise = np.random.default_rng(5)
    pictures = []
    for grain in (1, 2, 4, 8, 16, 32):
        cells = -(-side // grain)
        coarse = noise.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        pictures.append(coarse.repeat(grain, axis=0).repeat(grain, axis=1)[:side, :side])
    pictures += [np.full((side, side, 3), level, np.uint8) for level in (0, 60, 128, 200, 255)]
    return np.stack(pictures)


def left_alone(model: Any) -> list[str]:
    """The names of what keeps its precision: stem, first stage, and all behind MFA."""
    operations = model.get_ordered_ops()
    side = int(model.input(0).get_partial_shape()[1].get_length())
    behind = next(
        (n for n, op in enumerate(operations) if op.get_friendly_name().startswith(CENTRES)),
        len(operations),
    )
    names = []
    for number, op in enumerate(operations):
        kind, name = op.get_type_name(), op.get_friendly_name()
        if kind in ("Parameter", "Result", "Constant"):
            continue
        stem = False
        if kind == "Convolution":
            shape = op.get_input_partial_shape(0)
            width = shape[len(shape) - 1]
            stem = width.is_static and width.get_length() * STEM_STRIDE >= side
        if stem or number >= behind or name.startswith((CENTRES, HEADS)):
            names.append(name)
    return names


def _quantised(
    graph: bytes, constants: bytes, crops: NDArray[np.uint8], nncf: Any, openvino: Any
) -> tuple[bytes, bytes]:
    given = np.concatenate([crops, extremes(crops.shape[1])])
    model = openvino_engine.read(graph, constants, openvino)
    ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
    with redirect_stdout(io.StringIO()):  # its bars of progress stand there otherwise
        quantised = nncf.quantize(
            model,
            nncf.Dataset(list(given), lambda crop: crop[None]),
            subset_size=len(given),
            fast_bias_correction=False,
            ignored_scope=nncf.IgnoredScope(names=left_alone(model), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=ranges
            ),
        )
    graph, constants = openvino_engine.written(quantised, openvino, cache_folder())
    return openvino_engine.keep_centres(graph)[0], constants


def _measure(
    card: Card, machine: Machine, network: tuple[bytes, bytes], crops: NDArray[np.uint8]
) -> Conformity:
    reference = TorchEngine(card, machine, device="cpu", precision="fp32")
    engine = OpenVINOEngine(card, machine, precision="int8", network=network)
    try:
        return compare(engine, reference, bars=bars_of(card.values), crops=crops)
    finally:
        engine.close()
        reference.close()


def _import_nncf() -> Any:
    # Like OpenVINO, NNCF tells its vendor that it is used, unless the package for that is missing.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import nncf
        import nncf.quantization.range_estimator
    except ImportError as error:
        raise EngineError(
            f"NNCF, which makes networks in eight bits, cannot be imported ({error}). Run: pip "
            "install 'deepscan[int8]'"
        ) from error
    # Its own function for that also silences handlers that are not its own.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf
