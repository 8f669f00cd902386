"""The card of weights that learned pairs of a data set, with scores on held-out pairs.

Such weights cannot be certified: that takes a folder of faces, real material and real deepfakes.
The card says what they scored on material like their own, and that this certifies nothing. It has
no calibration, so every verdict is inconclusive until `deepscan model calibrate` gives one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepscan.engines.choose import REFERENCE, create_engine, parse_name
from deepscan.engines.hardware import detect_hardware
from deepscan.engines.parity import selftest_values
from deepscan.errors import UsageError
from deepscan.verdict.decide import MODEL_FLOOR
from train.batches import open_training_data
from train.calibration.weights_card import Weights, read_metadata, write_card
from train.evaluation.crops import Reading
from train.evaluation.evaluate import Crops, read_network
from train.evaluation.metrics import Estimate, estimated, estimated_auc, iou
from train.evaluation.predict import NetworkPredictor, Prediction, predict

UNMEASURED = (
    "measured on pairs held out of its own data alone; a default is measured on people, real "
    "material and real deepfakes that have nothing to do with its training"
)


def certify_pairs(path: Path, data: Path, out: Path, *, rounds: int = 500) -> dict[str, Any]:
    """Measure weights on the held-out pairs of the data set that they learned; write their card.

    Args:
        path: NAME.safetensors as train.train wrote it, of a recipe with [dataset].
        data: the folder of the data set as training saw it.
        out: gets weights and card.
        rounds: of each bootstrap, over real videos with all that was made of them.

    Raises:
        UsageError: the folder is not what training saw, or holds out nothing.
        ModelError, EngineError: the weights do not fit, or the reference does not run here.
    """
    metadata, recipe = read_metadata(path)
    options = recipe.dataset
    if options is None or not options.val:
        raise UsageError(f"{path}: its recipe names no split to validate on (dataset.val)")
    if open_training_data(recipe, data).sha256 != metadata["data_sha256"]:
        raise UsageError(
            f"{data} is not what {path.name} learned from, so what it holds out may have been "
            "seen: give the same folder, or measure with train.evaluation.evaluate"
        )
    network, named = read_network(path)
    crops = Crops(
        data, options.name, options.val, compression=options.compression,
        manipulations=options.manipulations, reading=Reading(), device="cpu",
    )  # fmt: skip
    evaluation = _evaluation(list(predict(crops, NetworkPredictor(network))), rounds)
    weights = Weights(path, named["sha256"], metadata, {}, [], data)
    reference = create_engine(parse_name(REFERENCE), weights.card(evaluation), detect_hardware())
    try:
        selftest = selftest_values(reference)
    finally:
        reference.close()
    failed = [UNMEASURED]
    if (auc := evaluation["auc"]["value"]) < MODEL_FLOOR:
        failed.append(f"frame AUC {auc:.3f} on these pairs is below the floor of {MODEL_FLOOR}")
    card = {
        "name": path.stem,
        "sha256": weights.sha256,
        "config": named["config"],
        "training": named["training"],
        "evaluation": evaluation,
        "selftest": selftest,
        "certification": {
            "passed": False, "failed": failed, "replaces": None,
            "notes": [
                "a model of your own needs no certificate; next: "
                f"deepscan model import {out / path.name} --to NAME"
            ],
        },
    }  # fmt: skip
    write_card(weights, card, out)
    return card


def _evaluation(predictions: Sequence[Prediction], rounds: int) -> dict[str, Any]:
    """Frame AUC and mask IoU with intervals over real videos, as a card holds them."""
    groups = [str(one.group) for one in predictions]
    labels, scores = [bool(one.label) for one in predictions], [one.score for one in predictions]
    auc = estimated_auc(labels, scores, groups, rounds=rounds)
    if auc is None:
        raise UsageError("what is held out holds no pairs: it needs real and manipulated crops")
    videos = len(set(groups))
    crops = f"{len(predictions)} crops of pairs held out of training, of {videos} real videos"
    found: list[tuple[str, str, Estimate]] = [("frame AUC", crops, auc)]
    marked = [one for one in predictions if one.label and one.confusion is not None]
    if marked:
        counts = np.array([one.confusion for one in marked])
        overlap = estimated(
            lambda drawn: iou(counts[drawn].sum(0), 1),
            [str(one.group) for one in marked],
            rounds=rounds,
        )
        found.append(("mask IoU", f"the {len(marked)} manipulated ones of these crops", overlap))
    return {
        "data": crops,
        "samples": len(predictions),
        "auc": auc._asdict(),
        "evidence": [
            {"what": what, "on": on, "value": value.value, "interval": [value.low, value.high]}
            for what, on, value in found
        ],
    }
