"""Weights: safetensors files beside a card that pins their SHA-256 and says what they can do.

Nothing here unpickles, nothing is loaded in part, and no network ever runs with random weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepscan.errors import ModelError
from deepscan.files import atomic_output
from deepscan.types import Measured, ModelInfo

if TYPE_CHECKING:
    from torch import Tensor

    from deepscan.models.config import MSCCNetConfig
    from deepscan.models.deploy import Deployed

FOLDER = Path(__file__).resolve().parent.parent / "weights"
"""Where the models that ship lie: NAME.safetensors and NAME.json, the card."""


@dataclass(frozen=True, slots=True)
class Card:
    """What is known about a weights file: `values` is the card's JSON, `path` the weights."""

    name: str
    path: Path
    sha256: str
    values: Mapping[str, Any]

    @property
    def info(self) -> ModelInfo:
        """The model as records name it."""
        evaluation = self.values["evaluation"]
        return ModelInfo(
            name=self.name,
            sha256=self.sha256,
            input_size=int(self.values["config"]["input_size"]),
            auc=float(evaluation["auc"]["value"]),
            auc_interval=(float(evaluation["auc"]["low"]), float(evaluation["auc"]["high"])),
            evaluated_on=str(evaluation["data"]),
            evidence=tuple(
                Measured(
                    str(each["what"]),
                    str(each["on"]),
                    float(each["value"]),
                    (float(each["interval"][0]), float(each["interval"][1])),
                )
                for each in evaluation.get("evidence", ())
            ),
        )


def read_card(name: str, folder: Path = FOLDER) -> Card:
    """Find a model's card; cheap, reads neither weights nor torch.

    Raises:
        ModelError: no model of that name lies in the folder, or its card is damaged.
    """
    path = folder / f"{name}.json"
    try:
        values = json.loads(path.read_text())
        card = Card(name, folder / f"{name}.safetensors", str(values["sha256"]), values)
        _ = card.info  # a card that cannot say this is of no use
    except FileNotFoundError:
        there = ", ".join(sorted(p.stem for p in folder.glob("*.safetensors"))) or "none"
        raise ModelError(f"no model {name!r} with weights in {folder}; there is: {there}") from None
    except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
        raise ModelError(
            f"the card {path} is damaged ({error!r}): install deepscan anew"
        ) from error
    return card


def read_weights(card: Card) -> bytes:
    """The bytes of a card's weights file, after comparing their SHA-256 with the card's.

    Raises:
        ModelError: the file is missing or is not the one that the card names.
    """
    try:
        data = card.path.read_bytes()
    except OSError as error:
        raise ModelError(f"weights {card.path} cannot be read: {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != card.sha256:
        raise ModelError(
            f"weights {card.path} have SHA-256 {found[:12]}..., the card says "
            f"{card.sha256[:12]}...: install deepscan anew"
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
