"""Weights of MSCCNet made a model of the user's own: our trainer's, or the official code's."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepscan.engines.choose import REFERENCE, create_engine, parse_name
from deepscan.engines.hardware import detect_hardware
from deepscan.engines.parity import predict_all, probe, selftest_values
from deepscan.errors import EngineError, ModelError, UsageError, system_errors_as
from deepscan.importer.detector import check_spread
from deepscan.models.card import MAX_WEIGHTS, Card, card_at, read_bytes
from deepscan.models.library import check_name, is_path, read_card, save_model
from deepscan.models.onnx_file import load_graph
from deepscan.models.weights import read_weights, save_weights


def import_weights(path: Path, name: str, about: Mapping[str, str], *, force: bool = False) -> Card:
    """Make a model of a weights file of `train.train`, with its card where one lies beside it.

    Without one the model is not certified and not calibrated.

    Raises:
        ModelError: the file is damaged, or of no network of ours.
        UsageError: the name cannot be.
        OutputError: it cannot be written.
    """
    from safetensors import SafetensorError, safe_open

    check_name(name, force=force)
    with system_errors_as(ModelError, f"{path} cannot be read"):
        data = read_bytes(path, MAX_WEIGHTS)
    sha256 = hashlib.sha256(data).hexdigest()
    values: dict[str, Any] = {"kind": "network", "sha256": sha256, **about}
    beside = path.with_suffix(".json")
    if beside.is_file() and (card := card_at(beside, path.stem)).sha256 == sha256:
        return save_model(name, {**card.values, **about}, data, force=force)
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
        values["config"] = json.loads(metadata.pop("config"))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{path} holds no weights that can be read: {error}") from error
    except KeyError:
        raise ModelError(
            f"{path} does not say of which network it is: only weights of deepscan's own trainer "
            "do. Export another detector as ONNX and import that"
        ) from None
    if metadata:
        values["training"] = metadata
    return _tried_and_saved(name, values, data, force=force)


def import_checkpoint(
    path: Path, name: str, about: Mapping[str, str], *, force: bool = False
) -> Card:
    """Make a model of a checkpoint of MSCCNet's official code; raises as `import_weights` does."""
    from deepscan.models.official import convert, read_checkpoint

    check_name(name, force=force)
    config, state = convert(read_checkpoint(path))
    origin = {"converted_from_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    with tempfile.TemporaryDirectory(prefix="deepscan-") as work:
        made = Path(work, f"{name}.safetensors")
        sha256 = save_weights(made, config, state, origin)
        values = {"kind": "network", "sha256": sha256, "config": config.to_dict(), **about}
        return _tried_and_saved(
            name, {**values, "training": origin}, made.read_bytes(), force=force
        )


def import_model(path: Path, name: str, about: Mapping[str, str], *, force: bool = False) -> Card:
    """Copy a whole model, a folder or zip with a card; raises as `import_weights` does."""
    check_name(name, force=force)
    where = str(path)
    card = read_card(where if is_path(where) else f"./{where}")
    data = load_graph(card) if card.kind == "onnx" else read_weights(card)
    return save_model(name, {**card.values, **about}, data, force=force)


def _tried_and_saved(name: str, values: dict[str, Any], data: bytes, *, force: bool) -> Card:
    """Write a network that gives scores for known crops, with these in its card."""
    with tempfile.TemporaryDirectory(prefix="deepscan-") as work:
        weights = Path(work, f"{name}.safetensors")
        weights.write_bytes(data)
        try:
            card = Card(name, weights, values["sha256"], values)
            engine = create_engine(parse_name(REFERENCE), card, detect_hardware())
            try:
                check_spread(predict_all(engine, probe(engine.input_size)))
                values["selftest"] = selftest_values(engine)
            finally:
                engine.close()
        except (EngineError, UsageError, TypeError) as error:
            raise ModelError(f"the weights cannot be used: {error}") from error
    return save_model(name, values, data, force=force)
