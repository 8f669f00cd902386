"""Parity: compares an engine with the reference, torch in fp32, on a probe of synthetic crops.

Every engine has to judge the probe before it is used. An engine that is out of tolerance is
refused, with the figures.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscan.engines.cache import cache_folder, key_of, read_entry, write_entry
from deepscan.engines.engine import Engine, Predictions, join
from deepscan.errors import EngineError, ModelError
from deepscan.models.card import Card
from deepscan.types import Parity

logger = logging.getLogger(__name__)

SEED = 1
FACES = 12
SELFTEST_TOLERANCE = 0.02  # of stored scores: the tolerance of the least precise engine


# A mask of one pixel that appears or vanishes costs 1/24 = 0.042 of the mean IoU, so that figure
# only catches displaced masks; the differences catch wrong values.
TOLERANCES: Mapping[str, Parity] = {
    # Another order of the same sums: measured 1e-7 to 1e-6. More means another computation.
    "fp32": Parity(1e-3, 1e-4, 0.95, 5e-3, 1.0),
    # Eleven significant bits: measured 7e-4 for scores and 1e-3 for masks. From here on one crop of
    # the probe, 0.042, may lie so near to a threshold that it changes sides.
    "fp16": Parity(5e-3, 1e-3, 0.90, 0.03, 0.95),
    # Eight significant bits in each of some 25 layers: measured 1e-3 to 5e-3 for scores. 0.02 at a
    # score of 0.5 is 0.08 of log-likelihood ratio; a verdict needs several units.
    "bf16": Parity(0.02, 0.005, 0.90, 0.10, 0.95),
}
"""The allowed differences between an engine and torch in fp32, by the engine's precision."""


def score_tolerance(engine: str) -> float:
    """The allowed difference of a score from the reference's, by the engine's name.

    An engine of unknown precision gets the largest tolerance.
    """
    found = TOLERANCES.get(engine.rpartition("-")[2], TOLERANCES["bf16"])
    return found.max_score_difference


def probe(side: int) -> NDArray[np.uint8]:
    """The crops to compare engines on, (24, side, side, 3) uint8 RGB.

    Twelve drawn faces, some with a patch of another one; then shades, noise of three grain sizes,
    black, white, grey, and extreme patterns. They are the same bytes on every machine and version:
    integers come from a hash, reals use only operations that IEEE 754 defines exactly.
    """
    noise = _Noise(SEED)
    faces = [_draw_face(side, noise) for _ in range(FACES)]
    for place in range(0, FACES, 3):
        faces[place] = _patched(faces[place], faces[place + 1], noise)
    ramp = np.linspace(0.0, 255.0, side)
    across, down = np.broadcast_to(ramp, (side, side)), np.broadcast_to(ramp[:, None], (side, side))
    shades = [
        np.stack([across, across, across], axis=2),
        np.stack([across, down, 255.0 - across], axis=2),
        np.stack([down * across / 255.0, across, down], axis=2),
    ]
    grains = [noise.picture(side, grain) for grain in (1, 4, 16)]
    flat = [np.full((side, side, 3), level, np.float64) for level in (0.0, 255.0, 128.0)]
    index = np.arange(side)
    checks = ((index[:, None] + index) % 2 * 255.0)[..., None] * np.ones(3)
    stripes = np.broadcast_to((index // 8 % 2 * 255.0)[:, None, None], (side, side, 3))
    colours = np.stack([across > 85, (across > 170) ^ (down > 128), down > 85], axis=2) * 255.0
    pictures = [*faces, *shades, *grains, *flat, checks, stripes, colours]
    return np.stack([np.clip(np.floor(p + 0.5), 0, 255).astype(np.uint8) for p in pictures])


def label_thresholds(values: Mapping[str, Any]) -> tuple[float, ...]:
    """The network's scores from which on a picture alone is suspicious, and manipulated.

    Of the fit on all qualities: what a crop of the probe is worth in a band, no scan has said.

    Args:
        values: of the model's card. Without a calibration that can be read there is one bar, in
            the middle: no verdict is given then, and whoever wants one says so.
    """
    given: Any = values.get("calibration")
    try:
        scale, tail = given["still"], given["still"]["tail"]
        # The rule of deepscan/verdict/decide.py, for one look: the tail of unmanipulated pictures.
        llrs = [
            tail["u"] + max(0.0, tail["b"] * math.log(tail["q"] / given[rate]))
            for rate in ("review_rate", "rate")
        ]
        return tuple(1 / (1 + math.exp((scale["offset"] - x) / scale["slope"])) for x in llrs)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return (0.5,)


def difference(
    ours: Predictions, theirs: Predictions, name: str, thresholds: tuple[float, ...]
) -> Parity:
    """The differences between an engine's predictions and the reference's for the same crops.

    Raises:
        EngineError: the masks of the engine called `name` are of another size.
    """
    sides = [None if each.masks is None else each.masks.shape[1:] for each in (ours, theirs)]
    if sides[0] != sides[1]:
        raise EngineError(f"engine {name} gives masks of {sides[0]}, the reference of {sides[1]}")
    scores = np.abs(ours.scores.astype(np.float64) - theirs.scores)
    iou, apart = 1.0, 0.0
    if ours.masks is not None and theirs.masks is not None:
        mine, true = ours.masks > 0.5, theirs.masks > 0.5
        either = (mine | true).sum(axis=(1, 2))
        both = (mine & true).sum(axis=(1, 2))
        iou = float(np.where(either == 0, 1.0, both / np.maximum(either, 1)).mean())
        apart = float(np.abs(ours.masks - theirs.masks).max())
    labels = [np.digitize(found.scores, sorted(thresholds)) for found in (ours, theirs)]
    return Parity(
        float(scores.max()),
        float(scores.mean()),
        iou,
        apart,
        float((labels[0] == labels[1]).mean()),
    )


def predict_all(engine: Engine, crops: NDArray[np.uint8]) -> Predictions:
    """Predict any number of crops, batch by batch."""
    parts = [
        engine.predict(crops[start : start + engine.max_batch])
        for start in range(0, len(crops), engine.max_batch)
    ]
    return join(parts)


def violations(parity: Parity, tolerance: Parity) -> tuple[str, ...]:
    """List the figures that are out of tolerance; empty if the engine may be used."""
    found = [
        f"{what} differs by {value:.4g}, at most {limit:.4g} is allowed"
        for what, value, limit in (
            ("a score", parity.max_score_difference, tolerance.max_score_difference),
            ("the mean score", parity.mean_score_difference, tolerance.mean_score_difference),
            ("a mask", parity.max_mask_difference, tolerance.max_mask_difference),
        )
        if not value <= limit
    ]
    if not parity.mean_mask_iou >= tolerance.mean_mask_iou:
        found.append(
            f"mean mask IoU is {parity.mean_mask_iou:.4f}, at least "
            f"{tolerance.mean_mask_iou:.4f} is needed"
        )
    if not parity.verdict_equality >= tolerance.verdict_equality:
        found.append(
            f"{parity.verdict_equality:.1%} of the verdicts are the same, at least "
            f"{tolerance.verdict_equality:.1%} is needed"
        )
    return tuple(found)


def cached_reference(facts: Mapping[str, str]) -> Predictions | None:
    """Read the reference's predictions for the probe from the cache; see `cache_reference`."""
    entry = read_entry(cache_folder(), key_of(_reference_facts(facts)))
    if entry is None or len(entry) != 2:
        return None
    scores, masks = (np.frombuffer(part, np.float32) for part in entry)
    side = math.isqrt(len(masks) // len(scores))
    return Predictions(scores, masks.reshape(len(scores), side, side) if side else None)


def cache_reference(facts: Mapping[str, str], found: Predictions) -> None:
    """Cache the reference's predictions for the probe: a proof on another CPU then needs no torch.

    Args:
        facts: what they depend on besides the probe: weights, torch, the network's code.
        found: by torch on a CPU in fp32; only the last bits depend on the CPU.
    """
    facts = _reference_facts(facts)
    masks = () if found.masks is None else found.masks
    parts = (np.ascontiguousarray(part, np.float32) for part in (found.scores, masks))
    write_entry(cache_folder(), key_of(facts), facts, *(part.tobytes() for part in parts))


def reference_values(found: Predictions, engine: str) -> dict[str, Any]:
    """What a card holds under "reference": the probe as ONNX Runtime judged it at the import."""
    values = {"engine": engine, "seed": SEED, "scores": [round(float(s), 6) for s in found.scores]}
    if found.masks is not None:
        levels = np.round(found.masks * 255).astype(np.uint8)
        values["side"] = levels.shape[1]
        values["masks"] = base64.b64encode(zlib.compress(levels.tobytes(), 9)).decode("ascii")
    return values


def card_reference(card: Card) -> Predictions | None:
    """What an import wrote into the card of how the probe is judged; None if it is of another.

    Raises:
        ModelError: it is damaged.
    """
    try:
        given = card.values["reference"]
        if given["seed"] != SEED:
            return None
        scores = np.array(given["scores"], np.float32)
        if not card.has_mask:
            return Predictions(scores, None)
        side = int(given["side"])
        unpacked = zlib.decompressobj().decompress(
            base64.b64decode(given["masks"]), len(scores) * side * side
        )
        levels = np.frombuffer(unpacked, np.uint8).reshape(len(scores), side, side)
        return Predictions(scores, levels.astype(np.float32) / np.float32(255))
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise ModelError(
            f"the card of {card.name} does not say how known crops are judged ({error!r}): import "
            "the model again"
        ) from error


def cached_parity(fingerprint: str, thresholds: tuple[float, ...] | None = None) -> Parity | None:
    """Read the figures of an engine with this fingerprint from the cache; None if missing.

    With `thresholds`, only if they were the same: a model can be recalibrated without new weights.
    """
    entry = read_entry(cache_folder(), key_of(_facts(fingerprint)))
    if entry is None:
        return None
    try:
        values = json.loads(entry[0])
        if thresholds is not None and json.loads(entry[1])["bars"] != list(thresholds):
            return None
        return Parity(**{name: float(value) for name, value in values.items()})
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        logger.warning("a proof of parity in the cache is damaged (%s)", error)
        return None


def cache_parity(
    fingerprint: str,
    parity: Parity,
    engine: str = "",
    model: str = "",
    thresholds: tuple[float, ...] = (0.5,),
) -> None:
    """Cache the figures for the next start, with the names of engine and model for people."""
    facts = _facts(fingerprint)
    about = {"engine": engine, "model": model, "fingerprint": fingerprint, "bars": thresholds}
    write_entry(
        cache_folder(),
        key_of(facts),
        facts,
        json.dumps(asdict(parity)).encode(),
        json.dumps(about).encode(),
    )


def selftest_scores(engine: Engine) -> list[float]:
    """The engine's scores on the probe, which a card stores and `deepscan doctor` compares."""
    scores = predict_all(engine, probe(engine.input_size)).scores
    return [round(float(score), 6) for score in scores]


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The model on the probe against the scores in its card; None where the card holds none."""

    works: bool | None
    detail: str
    largest_difference: float | None = None
    tolerance: float | None = None


def check_selftest(expected: Any, scores: Sequence[float]) -> SelfTest:
    """Compare `selftest_scores` with what a card holds under "selftest"."""
    if not isinstance(expected, dict):
        return SelfTest(None, "the model's card holds no expected scores")
    if expected.get("seed") != SEED:
        return SelfTest(
            False, f"the card's scores are of other crops (seed {expected.get('seed')})"
        )
    try:
        wanted = [float(score) for score in expected["scores"]]
        tolerance = float(expected["tolerance"])
    except (KeyError, TypeError, ValueError) as error:
        return SelfTest(False, f"the self-test in the model's card is damaged ({error!r})")
    if len(wanted) != len(scores):
        return SelfTest(False, f"the card holds {len(wanted)} scores, the probe {len(scores)}")
    largest = max(abs(a - b) for a, b in zip(wanted, scores, strict=True))
    works = largest <= tolerance
    relation = "within" if works else "beyond"
    return SelfTest(
        works,
        f"{len(scores)} known crops: largest difference {largest:.4f}, {relation} {tolerance:g}",
        largest,
        tolerance,
    )


def selftest_values(engine: Engine) -> dict[str, Any]:
    """The values for "selftest" in a card; `engine` should be torch on the CPU in fp32."""
    return {"seed": SEED, "scores": selftest_scores(engine), "tolerance": SELFTEST_TOLERANCE}


def _facts(fingerprint: str) -> dict[str, str]:
    # The probe and the arithmetic of the figures are in this file.
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return {"kind": "parity", "engine": fingerprint, "code": code}


def _reference_facts(facts: Mapping[str, str]) -> dict[str, str]:
    return {**_facts(""), **facts, "kind": "reference"}


class _Noise:
    """Random numbers from a hash, since NumPy's generators may change between versions."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._drawn = 0

    def bytes(self, count: int) -> NDArray[np.uint8]:
        self._drawn += 1
        stream = hashlib.shake_256(f"{self._seed} {self._drawn}".encode())
        return np.frombuffer(stream.digest(count), np.uint8)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * int(self.bytes(1)[0]) / 255.0

    def picture(self, side: int, grain: int) -> NDArray[np.float64]:
        cells = -(-side // grain)
        coarse = self.bytes(cells * cells * 3).reshape(cells, cells, 3).astype(np.float64)
        return coarse.repeat(grain, axis=0).repeat(grain, axis=1)[:side, :side]


def _draw_face(side: int, noise: _Noise) -> NDArray[np.float64]:
    """Draw a skin-coloured oval with eyes, nose and mouth on a shaded ground, with some grain."""
    y, x = np.mgrid[0:side, 0:side] / float(side)
    light = noise.between(0.6, 1.1)
    ground = np.array([noise.between(20, 220) for _ in range(3)])
    skin = np.array([noise.between(150, 235), noise.between(105, 180), noise.between(80, 150)])
    picture = ground * (0.6 + 0.4 * y)[..., None]
    cx, cy = noise.between(0.45, 0.55), noise.between(0.47, 0.55)

    def put(dx: float, dy: float, width: float, height: float, colour: NDArray[np.float64]) -> None:
        nonlocal picture
        distance = ((x - cx - dx) / width) ** 2 + ((y - cy - dy) / height) ** 2
        share = np.clip((1.15 - distance) / 0.3, 0.0, 1.0)[..., None]  # soft edge
        picture = picture * (1 - share) + colour * share

    put(0, 0, 0.27, 0.37, skin * light)
    put(0, -0.30, 0.27, 0.13, np.array([noise.between(10, 120)] * 3))
    for eye in (-0.11, 0.11):
        put(eye, -0.08, 0.055, 0.025, np.array([235.0, 235.0, 235.0]) * light)
        put(eye, -0.08, 0.02, 0.02, np.array([noise.between(10, 90)] * 3))
    put(0.0, 0.05, 0.03, 0.08, skin * 0.85 * light)
    put(0.0, 0.19, 0.09, noise.between(0.015, 0.04), np.array([150.0, 60.0, 60.0]) * light)
    shade: NDArray[np.float64] = picture * (1.1 - 0.3 * x)[..., None]
    return shade + (noise.picture(side, 1) - 127.5) * noise.between(0.01, 0.08)


def _patched(
    face: NDArray[np.float64], other: NDArray[np.float64], noise: _Noise
) -> NDArray[np.float64]:
    """Blend an oval of another face into a face."""
    side = len(face)
    y, x = np.mgrid[0:side, 0:side] / float(side)
    width, height = noise.between(0.12, 0.25), noise.between(0.12, 0.3)
    distance = ((x - 0.5) / width) ** 2 + ((y - noise.between(0.4, 0.6)) / height) ** 2
    share = np.clip((1.1 - distance) / 0.2, 0.0, 1.0)[..., None]
    blend: NDArray[np.float64] = face * (1 - share) + other * share
    return blend
