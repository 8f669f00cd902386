"""The engine contract: an engine runs the network on batches of crops; with the checks of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from deepscan.errors import EngineError
from deepscan.types import EngineInfo, ModelInfo

if TYPE_CHECKING:
    from deepscan.engines.hardware import Hardware
    from deepscan.models.card import Card, Kind


_ROUNDING = 1e-5  # a softmax may exceed 1 by this much
Answer = tuple[NDArray[np.float32], NDArray[np.float32] | None]


@dataclass(frozen=True, slots=True)
class Predictions:
    """The network's output for a batch.

    `scores` is (B,) float32, P(manipulated) in [0, 1], not calibrated.
    `masks` is (B, h, w) float32 in [0, 1] over the crop, None of a model without.
    """

    scores: NDArray[np.float32]
    masks: NDArray[np.float32] | None


def join(parts: Sequence[Predictions]) -> Predictions:
    """One prediction of several, in their order."""
    masks = [part.masks for part in parts if part.masks is not None]
    return Predictions(
        np.concatenate([part.scores for part in parts]),
        np.concatenate(masks) if masks else None,
    )


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
        """Release the device. The engine cannot be used afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is to run: `device` is "cpu", "cuda" or "cuda:N", `threads` are those of a CPU.

    Without `allow_build` an engine that takes minutes to build is an error unless the cache has it.
    """

    device: str | None = None
    precision: str | None = None
    threads: int | None = None
    allow_build: bool = True


class EngineEntry(ABC):
    """An entry of the table: the base of an `Engine`, and how it comes about.

    `CHOICES` are its (device, precision) pairs, best first, `KINDS` the kinds of models that it
    runs. `fingerprint` changes with all that its
    numbers depend on; a proof of parity holds for one fingerprint.

    Where the constructor may take minutes there is `build_key` too, which names what would be
    built, and is None where nothing can be.
    """

    CHOICES: ClassVar[tuple[tuple[str, str], ...]]
    KINDS: ClassVar[tuple[Kind, ...]]
    name: str
    input_size: int
    max_batch: int
    model: ModelInfo
    info: EngineInfo
    fingerprint: str

    _closed = False

    @abstractmethod
    def __init__(self, card: Card, hardware: Hardware, options: EngineOptions) -> None:
        """
        Args:
            card: the model.
            hardware: what is there to run it on.
            options: what is None fits the machine.

        Raises:
            EngineError: the engine cannot run here; says why, and what would.
            ModelError: the weights are missing, damaged or of another network.
        """

    def predict(self, crops: NDArray[np.uint8]) -> Predictions:
        """Judge (B, S, S, 3) uint8 RGB crops, 1 <= B <= max_batch.

        Raises:
            ValueError: the crops are of another shape or type.
            EngineError: a number is NaN or infinite, the device failed, or the engine is closed.
        """
        check_crops(crops, self.input_size, self.max_batch)
        if self._closed:
            raise EngineError(f"engine {self.name} is closed")
        with self._failures(f"failed on {len(crops)} crops"):
            scores, masks = self._run(crops)
        return check_predictions(scores, masks, self.name)

    def close(self) -> None:
        """Release the device."""
        self._closed = True

    @abstractmethod
    def _run(self, crops: NDArray[np.uint8]) -> Answer:
        """Scores (B,) and masks (B, h, w), or None, of crops that were checked."""

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, TypeError) as error:  # the runtime's and its binding's
            raise EngineError(f"engine {self.name} {what}: {error}{self._why()}") from error

    def _why(self) -> str:
        """Details of the runtime on its last error."""
        return ""

    @classmethod
    def choices_for(cls, kind: Kind) -> tuple[tuple[str, str], ...]:
        """The (device, precision) pairs in which it runs models of a kind, best first."""
        return cls.CHOICES if kind in cls.KINDS else ()

    def need_kind(self, card: Card) -> None:
        """See that this runtime runs such models.

        Raises:
            EngineError: it does not.
        """
        if card.kind not in self.KINDS:
            what = "networks of deepscan's own" if card.kind == "onnx" else "ONNX detectors"
            raise EngineError(
                f"engine {self.name} runs {what} only, and {card.name} is none. Use --engine "
                "openvino"
            )

    def _set_identity(self, name: str, card: Card, max_batch: int) -> None:
        """Set name, model, sizes and info of the engine."""
        self.name = name
        self.model = card.info
        self.input_size = card.info.input_size
        self.max_batch = max_batch
        self.info = EngineInfo(name, "asked for")


def filled_up(crops: NDArray[np.uint8], batch: int | None) -> NDArray[np.uint8]:
    """Crops as a model takes them that knows one batch only: with black ones behind."""
    if batch is None or len(crops) == batch:
        return np.ascontiguousarray(crops)
    whole = np.zeros((batch, *crops.shape[1:]), np.uint8)
    whole[: len(crops)] = crops
    return whole


def check_crops(crops: NDArray[np.uint8], input_size: int, max_batch: int) -> None:
    """Check that crops are (B, S, S, 3) uint8 with 1 <= B <= max_batch.

    Raises:
        ValueError: they are not, which is a bug and not a fault of the video.
    """
    if crops.dtype != np.uint8:
        raise ValueError(f"crops are {crops.dtype}, must be uint8")
    if crops.ndim != 4 or crops.shape[1:] != (input_size, input_size, 3):
        raise ValueError(f"crops are {crops.shape}, must be (B, {input_size}, {input_size}, 3)")
    if not 1 <= len(crops) <= max_batch:
        raise ValueError(f"{len(crops)} crops at once, must be 1 to {max_batch}")


def check_predictions(
    scores: NDArray[np.float32],
    masks: NDArray[np.float32] | None,
    name: str,
    count: int | None = None,
) -> Predictions:
    """Make predictions of what an engine computed: no verdict may rest on anything else.

    Args:
        count: of the crops; None: as many as there are scores.

    Raises:
        EngineError: a row is missing, or a value is not finite or not a probability.
    """
    count = len(scores) if count is None else count
    fits = masks is None or (masks.ndim == 3 and len(masks) == count and masks.size > 0)
    if scores.shape != (count,) or not fits:
        shape = None if masks is None else masks.shape
        raise EngineError(
            f"engine {name} answered {scores.shape} scores and {shape} masks to {count} crops. "
            "Run: deepscan doctor"
        )
    parts = [("score", scores)] if masks is None else [("score", scores), ("mask", masks)]
    for kind, values in parts:
        if not np.isfinite(values).all():
            raise EngineError(
                f"engine {name} computed a {kind} that is NaN or infinite: the weights or the "
                f"device are faulty. Run: deepscan doctor"
            )
        if values.min() < -_ROUNDING or values.max() > 1 + _ROUNDING:
            raise EngineError(
                f"engine {name} computed a {kind} between {values.min():.3g} and "
                f"{values.max():.3g}, which is no probability. Run: deepscan doctor"
            )
    return Predictions(np.clip(scores, 0, 1), None if masks is None else np.clip(masks, 0, 1))
