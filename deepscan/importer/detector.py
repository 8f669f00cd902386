"""An ONNX detector made a model of the user's own."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from deepscan.engines.choose import REFERENCES, create_engine, parse_name
from deepscan.engines.engine import Engine, Predictions
from deepscan.engines.hardware import detect_hardware
from deepscan.engines.parity import SEED, SELFTEST_TOLERANCE, predict_all, probe, reference_values
from deepscan.errors import EngineError, ModelError, UsageError
from deepscan.importer.polarity import Polarity, control_scores, scores_of, settle
from deepscan.importer.questions import Answers, Described, describe
from deepscan.importer.sandboxed import inspect, wrapped
from deepscan.models.card import Card
from deepscan.models.library import check_name, save_model

CONSTANT = 1e-6  # a range of scores below which a model ignores its input
APART = 1e-3  # of a score of the same crop, alone and among others


def import_detector(
    path: Path,
    name: str,
    answers: Answers,
    about: dict[str, str],
    *,
    real: Path | None = None,
    manipulated: Path | None = None,
    force: bool = False,
) -> Card:
    """Make a model of an ONNX file: wrapped, tried on known crops, and then written.

    Args:
        path: the ONNX file.
        name: what the model will be called.
        answers: what the file does not say.
        about: what else the card says: "source", "licence".
        real: a folder of faces that are not manipulated.
        manipulated: a folder of faces that are.
        force: take the place of a model of that name.

    Raises:
        UsageError: something is not known of it, or the name cannot be.
        ModelError: it cannot be run, or gives no scores that mean anything.
        OutputError: it cannot be written.
    """
    check_name(name, force=force)
    if (real is None) != (manipulated is None):
        raise UsageError("give --real and --manipulated together: the polarity check needs both")
    facts = inspect(path)
    described = describe(path, facts, answers)
    data, outputs = wrapped(path, facts, described.inputs, described.outputs, described.names)
    values: dict[str, Any] = {
        "kind": "onnx",
        "sha256": hashlib.sha256(data).hexdigest(),
        "input": asdict(described.inputs),
        "output": asdict(outputs),
        "origin": {
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "outputs": described.names,
            "imported": datetime.now(UTC).date().isoformat(),
        },
        **about,
    }
    with tempfile.TemporaryDirectory(prefix="deepscan-") as work:
        weights = Path(work, f"{name}.onnx")
        weights.write_bytes(data)
        card = Card(name, weights, values["sha256"], values)
        choice = parse_name(REFERENCES["onnx"])
        engine: Engine = create_engine(choice, card, detect_hardware())
        try:
            found = _tried(engine, described)
            scale = described.inputs.crop_scale or 1.0
            polarity = _polarity(engine, scale, described, answers, real, manipulated)
        finally:
            engine.close()
    scores = [round(float(score), 6) for score in found.scores]
    return save_model(
        name,
        values
        | {
            "polarity": polarity.to_json(),
            "reference": reference_values(found, engine.name),
            "selftest": {"seed": SEED, "scores": scores, "tolerance": SELFTEST_TOLERANCE},
        },
        data,
        force=force,
    )


def _tried(engine: Engine, described: Described) -> Predictions:
    """Score the probe, and refuse scores that cannot be right.

    Raises:
        ModelError: it cannot.
    """
    crops = probe(engine.input_size)
    try:
        found = predict_all(engine, crops)
        alone = predict_all(engine, crops[:1]), predict_all(engine, crops[1:2])
    except EngineError as error:
        hint = ""
        if "is no probability" in str(error) and described.outputs.score == "probability":
            hint = "; is its score a logit? Then give --score logit"
        if "NaN" in str(error):
            hint = "; are its pixels scaled as it was trained? See --pixels, --mean and --std"
        raise ModelError(f"the model gives no scores that can be used: {error}{hint}") from error
    check_spread(found)
    apart = max(abs(float(one.scores[0]) - float(found.scores[n])) for n, one in enumerate(alone))
    if apart > APART:
        raise ModelError(
            f"the model scores a crop differently alone and among others (by {apart:.3g}): export "
            "it for inference, with each crop judged by itself"
        )
    return found


def check_spread(found: Predictions) -> None:
    """Check that the scores of a model depend on its input.

    Raises:
        ModelError: it gives every crop the same score.
    """
    if float(np.ptp(found.scores)) < CONSTANT:
        score = float(found.scores[0])
        raise ModelError(f"the model scores every crop {score:.3f}: it ignores what it is given")


def _polarity(
    engine: Engine,
    crop_scale: float,
    described: Described,
    answers: Answers,
    real: Path | None,
    manipulated: Path | None,
) -> Polarity:
    """Settle the polarity; raises as `settle` does."""
    if real is not None and manipulated is not None:
        clean, changed = (scores_of(folder, engine, crop_scale) for folder in (real, manipulated))
    else:
        clean, changed = control_scores(engine)
    outputs = described.outputs
    if outputs.score.startswith("two-"):
        turn = f"--index {1 - outputs.manipulated}"
    else:
        turn = f"--polarity {'high' if outputs.manipulated == 0 else 'low'}"
    stated = answers.polarity is not None or answers.index is not None
    return settle(clean, changed, own=real is not None, stated=stated, turn=turn)
