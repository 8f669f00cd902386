"""The network in PyTorch: the reference on a CPU, and the engine on CUDA that needs no build."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepscan.engines.cache import key_of
from deepscan.engines.engine import Answer, EngineEntry, EngineOptions
from deepscan.engines.hardware import Hardware
from deepscan.errors import EngineError
from deepscan.models.card import Card, Kind
from deepscan.models.deploy import Deployed
from deepscan.models.msccnet import MSCCNet
from deepscan.models.weights import load_model

logger = logging.getLogger(__name__)

MAX_BATCH = {"cpu": 8, "cuda": 64}  # a CPU gains nothing above 8
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Compute capability from which a GPU multiplies it in hardware.
MIN_CAPABILITY = {"bf16": (8, 0), "fp16": (7, 0)}


class TorchEngine(EngineEntry):
    """Runs `Deployed` with torch, deterministically.

    In bf16 and fp16 the convolutions use that precision, class centres and attention use fp32.
    """

    KINDS: ClassVar[tuple[Kind, ...]] = ("network",)
    CHOICES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("cuda", "bf16"),
        ("cuda", "fp16"),
        ("cuda", "fp32"),
        ("cpu", "fp32"),
        ("cpu", "bf16"),
    )

    def __init__(self, card: Card, hardware: Hardware, options: EngineOptions) -> None:
        """The first CUDA device by default, and what it multiplies fastest; else fp32 on the CPU.

        A number of threads is set for the whole process; torch's own by default.

        Raises:
            EngineError: there is no such device, it does not do such numbers, or it has too little
                memory.
            ModelError: the weights are missing, damaged or of another network.
        """
        device = options.device or ("cuda" if hardware.cuda else "cpu")
        kind = device.partition(":")[0]
        precision = options.precision or (
            "fp32" if kind == "cpu" else hardware.low_precision(device)
        )
        self._set_identity(f"torch-{device}-{precision}", card, MAX_BATCH[kind])
        self.need_kind(card)
        if kind == "cuda":
            runs_on = hardware.need_gpu(device, self.name)
            gpu = hardware.gpu(device)
            if gpu is not None and gpu.capability < MIN_CAPABILITY.get(precision, (0, 0)):
                raise EngineError(
                    f"engine {self.name}: {gpu.name} has no {precision} in hardware. "
                    f"Use --engine torch-{device}"
                )
        else:
            runs_on = hardware.cpu
            if precision == "fp16":
                raise EngineError(
                    f"engine {self.name}: a CPU gains nothing by fp16. Use --engine torch-cpu"
                )
            if precision == "bf16":
                hardware.need_bf16(self.name, "torch-cpu-fp32")
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._device = torch.device(device)
        self._type = TYPES.get(precision)
        self.fingerprint = key_of(
            {
                # Any of several equal devices gives the same numbers.
                "engine": f"torch-{kind}-{precision}",
                "weights": card.sha256,
                "torch": torch.__version__,
                "device": runs_on,
            }
        )
        side = self.input_size
        try:
            deployed = load_model(card).to(self._device)
            if self._type is not None:
                lower(deployed.network, self._type)
            deployed = deployed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._network: Deployed = deployed
            if kind == "cuda":
                self._fit()
            # Crops are copied here first: page-locked memory uploads without a second copy.
            self._staging = torch.empty(
                (self.max_batch, side, side, 3), dtype=torch.uint8, pin_memory=kind == "cuda"
            )
        except RuntimeError as error:
            raise EngineError(f"engine {self.name} cannot be set up: {error}") from error

    def close(self) -> None:
        """Release the network's memory."""
        super().close()
        vars(self).pop("_network", None)

    def _run(self, crops: NDArray[np.uint8]) -> Answer:
        self._staging[: len(crops)].numpy()[...] = crops
        return self._judge(self._staging[: len(crops)].to(self._device, non_blocking=True))

    def _judge(self, batch: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores and masks of crops on the device."""
        with torch.inference_mode(), _repeatable(self._device), self._precision():
            scores, masks = self._network(batch)
            return scores.float().cpu().numpy(), masks.float().cpu().numpy()

    def _fit(self) -> None:
        """Halve the largest batch until the device has memory for it.

        Raises:
            EngineError: not even one crop fits.
        """
        side = self.input_size
        while True:
            try:
                shape = (self.max_batch, side, side, 3)
                self._judge(torch.zeros(shape, dtype=torch.uint8, device=self._device))
                return
            except torch.OutOfMemoryError as error:
                if self.max_batch == 1:
                    raise EngineError(
                        f"engine {self.name}: the GPU has too little free memory for one crop of "
                        f"{side} px. Close other programs on it, or use --engine torch-cpu"
                    ) from error
                self.max_batch //= 2
                logger.info("engine %s: batches of at most %d fit", self.name, self.max_batch)
            torch.cuda.empty_cache()

    def _precision(self) -> torch.autocast | nullcontext[None]:
        if self._type is None:
            return nullcontext()
        # Without a cache of casts: `lower` has cast the weights already.
        return torch.autocast(self._device.type, self._type, cache_enabled=False)


def lower(network: MSCCNet, type_: torch.dtype) -> None:
    """Make a network, in place, ready to run under autocast in bf16 or fp16.

    Convolutions keep their weights in that precision, so that none is cast again with each batch.
    What was attended to is as large as sums over all pixels, beyond fp16: there the layer that
    takes it in stays in fp32, as in the graph for TensorRT.
    """
    wide = network.mscc.output if network.mscc is not None and type_ == torch.float16 else None
    unlowered = set() if wide is None else set(wide.modules())
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer not in unlowered:
            layer.to(type_)
    if network.mscc is not None and wide is not None:
        network.mscc.output = InFp32(wide)  # type: ignore[assignment]
        # Of its input's type is what the attention gives: that has to be fp32 already.
        network.mscc.register_forward_pre_hook(lambda _, given: (given[0].float(),))


class InFp32(nn.Module):
    """A layer that runs in fp32 whatever is around it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            found: Tensor = self.layer(features.float())
        return found


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Have cuDNN choose the same full-precision algorithm every time; TF32 is not fp32."""
    if device.type == "cpu":
        yield
        return
    with (
        torch.cuda.device(device),
        torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ),
    ):
        yield
