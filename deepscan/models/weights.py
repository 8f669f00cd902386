"""Weights: files beside a card that pins their SHA-256 and says what they can do.

Nothing here unpickles, nothing is loaded in part, and no network ever runs with random weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deepscan.errors import ModelError
from deepscan.files import atomic_output
from deepscan.models.card import MAX_WEIGHTS, Card, read_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from deepscan.models.config import MSCCNetConfig
    from deepscan.models.deploy import Deployed


def read_weights(card: Card) -> bytes:
    """The bytes of a card's weights file, after comparing their SHA-256 with the card's.

    Raises:
        ModelError: the file is missing or is not the one that the card names.
    """
    try:
        data = read_bytes(card.path, MAX_WEIGHTS)
    except (OSError, ValueError) as error:
        raise ModelError(f"weights {card.path} cannot be read: {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != card.sha256:
        raise ModelError(
            f"weights {card.path} have SHA-256 {found[:12]}..., the card says "
            f"{card.sha256[:12]}...: import the model again, or install deepscan anew"
        )
    return data


def code_digest() -> str:
    """SHA-256 of the code of the networks: what it computes changes without the weights."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load_model(card: Card) -> Deployed:
    """Build the network of a card and fill it with its weights.

    Raises:
        ModelError: the weights are missing, differ from the card's SHA-256, or do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from deepscan.models.config import MSCCNetConfig
    from deepscan.models.deploy import Deployed
    from deepscan.models.msccnet import MSCCNet

    data = read_weights(card)
    try:
        network = MSCCNet(MSCCNetConfig(**card.values["config"]))
        network.load_state_dict(load(data), strict=True)
    except (SafetensorError, RuntimeError, TypeError) as error:
        raise ModelError(f"weights {card.path} do not fit the card's network: {error}") from error
    return Deployed(network)


def save_weights(
    path: Path, config: MSCCNetConfig, state: Mapping[str, Tensor], training: Mapping[str, str]
) -> str:
    """Write a state dict with its config and history as safetensors; returns its SHA-256.

    The file is whole or absent.

    Raises:
        OutputError: it cannot be written.
    """
    from safetensors.torch import save

    metadata = {"config": json.dumps(config.to_dict(), sort_keys=True), **training}
    data = save({key: value.contiguous().cpu() for key, value in state.items()}, metadata)
    with atomic_output(path) as part:
        part.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
