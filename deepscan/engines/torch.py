"""The network in PyTorch itself: the reference on a CPU, the fast way on CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from deepscan.engines.border import check_crops, check_predictions
from deepscan.engines.cache import key_of
from deepscan.engines.engine import Predictions
from deepscan.engines.machine import Machine
from deepscan.errors import EngineError
from deepscan.models.weights import Card, load_model
from deepscan.types import EngineInfo

MAX_BATCH = {"cpu": 8, "cuda": 64}  # a CPU gains nothing above 8


class TorchEngine:
    """Runs `Deployed` with torch, the same crops always giving the same numbers.

    bf16 is autocast: convolutions in bf16, class centres and attention in fp32.
    """

    CHOICES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("cuda", "fp32"),
        ("cuda", "bf16"),
        ("cpu", "fp32"),
        ("cpu", "bf16"),
    )

    def __init__(
        self,
        card: Card,
        machine: Machine,
        *,
        device: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
    ) -> None:
        """
        Args:
            card: the model.
            machine: what is there to run it on.
            device: "cpu" or "cuda"; by default CUDA if there is any.
            precision: "fp32" (the default) or "bf16".
            threads: CPU threads; sets torch's number for the whole process. By default torch's.

        Raises:
            EngineError: there is no such device, or it does not do such numbers.
            ModelError: the weights are missing, damaged or of another network.
        """
        device = device or ("cuda" if machine.cuda else "cpu")
        precision = precision or "fp32"
        self.name = f"torch-{device}-{precision}"
        if device == "cuda" and machine.cuda is None:
            raise EngineError(
                f"engine {self.name}: torch {torch.__version__} sees no CUDA device. Look at "
                "nvidia-smi, or use --engine auto"
            )
        if device == "cpu" and precision == "bf16" and not machine.has_bf16:
            raise EngineError(
                f"engine {self.name}: this CPU ({machine.cpu}) has no bf16 instructions. "
                "Use --engine torch-cpu-fp32"
            )
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._bf16 = precision == "bf16"
        self.model = card.info
        self.input_size = card.info.input_size
        self.max_batch = MAX_BATCH[device]
        self.info = EngineInfo(self.name, "asked for", None, None)
        self.fingerprint = key_of(
            {
                "engine": self.name,
                "weights": card.sha256,
                "torch": torch.__version__,
                "device": machine.cuda or "" if device == "cuda" else machine.cpu,
            }
        )
        side = self.input_size
        try:
            deployed = load_model(card).to(self._device)
            self._network: torch.nn.Module | None = deployed.to(
                memory_format=torch.channels_last  # type: ignore[call-overload]
            )
            # Crops are copied here first: page-locked memory uploads without a second copy.
            self._staging = torch.empty(
                (self.max_batch, side, side, 3), dtype=torch.uint8, pin_memory=device == "cuda"
            )
        except RuntimeError as error:
            raise EngineError(f"engine {self.name} cannot be set up: {error}") from error

    def predict(self, crops: NDArray[np.uint8]) -> Predictions:
        """Judge (B, S, S, 3) uint8 RGB crops, 1 <= B <= max_batch.

        Raises:
            ValueError: the crops are of another shape or type.
            EngineError: a number is NaN or infinite, the device failed, or the engine is closed.
        """
        check_crops(crops, self.input_size, self.max_batch)
        if self._network is None:
            raise EngineError(f"engine {self.name} is closed")
        self._staging[: len(crops)].numpy()[...] = crops
        try:
            with torch.inference_mode(), _repeatable(self._device), self._precision():
                batch = self._staging[: len(crops)].to(self._device, non_blocking=True)
                scores, masks = self._network(batch)
                found = scores.float().cpu().numpy(), masks.float().cpu().numpy()
        except RuntimeError as error:
            raise EngineError(
                f"engine {self.name} failed on {len(crops)} crops: {error}"
            ) from error
        return check_predictions(*found, self.name)

    def close(self) -> None:
        """Give back the network's memory."""
        self._network = None

    def _precision(self) -> torch.autocast | nullcontext[None]:
        if self._bf16:
            return torch.autocast(self._device.type, torch.bfloat16)
        return nullcontext()


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Have cuDNN choose the same full-precision algorithm every time; TF32 is not fp32."""
    if device.type == "cpu":
        yield
        return
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield
