"""The engine contract and the table of engines: what runs the network over a batch of crops.

To add an engine, write one file with a class that has this shape, add one line to `ENGINES`, and
the parity suite in tests/engines/ runs over it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepscan.types import EngineInfo, ModelInfo


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the network says about a batch.

    `scores` is (B,) float32, P(manipulated) in [0, 1] by the network, not yet calibrated.
    `masks` is (B, h, w) float32 in [0, 1] over the crop.
    """

    scores: NDArray[np.float32]
    masks: NDArray[np.float32]


class Engine(Protocol):
    """Runs the network. NumPy at the border; normalisation and softmax lie inside.

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


ENGINES: dict[str, str] = {
    "openvino": "deepscan.engines.openvino:OpenVINOEngine",
    "tensorrt": "deepscan.engines.tensorrt:TensorRTEngine",
    "torch": "deepscan.engines.torch:TorchEngine",
}
