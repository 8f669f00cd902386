"""The engine contract: what runs the network over a batch of crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from deepscan.types import EngineInfo, ModelInfo

if TYPE_CHECKING:
    from deepscan.models.weights import Card


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the network says about a batch.

    `scores` is (B,) float32, P(manipulated) in [0, 1] by the network, not yet calibrated.
    `masks` is (B, h, w) float32 in [0, 1] over the crop.
    """

    scores: NDArray[np.float32]
    masks: NDArray[np.float32]


class Engine(Protocol):
    """Runs the network. NumPy arrays go in and out; normalisation and softmax lie inside.

    `name` says runtime, device and precision ("openvino-cpu-bf16") and goes into the record.
    `input_size` is the crop side S in pixels; `max_batch` the largest batch `predict` takes.
    """

    @property
    def name(self) -> str: ...
    @property
    def input_size(self) -> int: ...
    @property
    def max_batch(self) -> int: ...
    @property
    def model(self) -> ModelInfo: ...
    @property
    def info(self) -> EngineInfo: ...

    def predict(self, crops: NDArray[np.uint8]) -> Predictions:
        """Judge (B, S, S, 3) uint8 RGB crops, 1 <= B <= max_batch.

        Raises:
            EngineError: the result holds a NaN or infinity, or the device failed.
        """
        ...

    def close(self) -> None:
        """Give back the device. The engine cannot be used afterwards."""
        ...


class EngineEntry:
    """An entry of the table: the base of an `Engine`, and how it comes about.

    `CHOICES` are its (device, precision) pairs, best first. `fingerprint` changes with all that its
    numbers depend on; a proof of parity holds for one fingerprint.

    The constructor takes the model's card, the hardware and, by name, `device` ("cpu", "cuda" or
    "cuda:N"), `precision` and `threads` of a CPU; what is left out is chosen to fit the machine. It
    raises `EngineError` where the engine cannot run here, saying why and what would, and
    `ModelError` where the weights are missing, damaged or of another network.

    Where the constructor may take minutes it has `allow_build` too: False takes what was built
    earlier or raises `EngineError`. There is `build_key` then, which names what would be built, and
    is None where nothing can be.
    """

    CHOICES: ClassVar[tuple[tuple[str, str], ...]]
    name: str
    input_size: int
    max_batch: int
    model: ModelInfo
    info: EngineInfo
    fingerprint: str

    def _set_identity(self, name: str, card: Card, max_batch: int) -> None:
        """Set what every engine says of itself."""
        self.name = name
        self.model = card.info
        self.input_size = card.info.input_size
        self.max_batch = max_batch
        self.info = EngineInfo(name, "asked for")
