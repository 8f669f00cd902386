"""A detector in ONNX Runtime: the reference on a CPU, and what needs no building on CUDA."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deepscan.engines.cache import key_of
from deepscan.engines.engine import Answer, EngineEntry, EngineOptions, filled_up
from deepscan.engines.hardware import Hardware, index_of
from deepscan.errors import EngineError
from deepscan.models.card import Card, Kind
from deepscan.models.onnx_file import INPUT, load_graph

MAX_BATCH = {"cpu": 8, "cuda": 64}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class ONNXRuntimeEngine(EngineEntry):
    """Runs the graph of an ONNX detector as it is written, in fp32."""

    KINDS: ClassVar[tuple[Kind, ...]] = ("onnx",)
    CHOICES: ClassVar[tuple[tuple[str, str], ...]] = (("cuda", "fp32"), ("cpu", "fp32"))

    def __init__(self, card: Card, hardware: Hardware, options: EngineOptions) -> None:
        """On the CPU by default, and in fp32 only.

        Raises:
            EngineError: ONNX Runtime is not there, was built without CUDA, or cannot take the
                model.
            ModelError: the model is missing, damaged or no ONNX detector.
        """
        device = options.device or "cpu"
        kind = device.partition(":")[0]
        self._batch = card.input.batch
        self._set_identity(f"onnxruntime-{device}-fp32", card, self._batch or MAX_BATCH[kind])
        self.need_kind(card)
        onnxruntime = import_onnxruntime(self.name)
        provider: Any = PROVIDERS[kind]
        runs_on = hardware.cpu
        if kind == "cuda":
            runs_on = hardware.need_gpu(device, self.name)
            if provider not in onnxruntime.get_available_providers():
                raise EngineError(
                    f"engine {self.name}: this ONNX Runtime is for CPUs only. Run: pip install "
                    "onnxruntime-gpu, or use --engine openvino"
                )
            # TF32 is not fp32.
            provider = (provider, {"device_id": index_of(device), "use_tf32": 0})
        session = onnxruntime.SessionOptions()
        session.log_severity_level = 4
        session.intra_op_num_threads = options.threads or hardware.cores
        graph = load_graph(card)
        try:
            self._session: Any = onnxruntime.InferenceSession(graph, session, [provider])
        except Exception as error:  # its own kinds of error have no common name
            told = " ".join(str(error).split())[:300]
            raise EngineError(f"engine {self.name} cannot take the model: {told}") from error
        if PROVIDERS[kind] not in self._session.get_providers():
            raise EngineError(f"engine {self.name}: ONNX Runtime found no CUDA it can use")
        self.fingerprint = key_of(
            {
                "engine": f"onnxruntime-{kind}-fp32",
                "weights": card.sha256,
                "onnxruntime": onnxruntime.__version__,
                "device": runs_on,
            }
        )

    def _run(self, crops: NDArray[np.uint8]) -> Answer:
        crops_in = {INPUT: filled_up(crops, self._batch)}
        try:
            found = self._session.run(None, crops_in)
        except Exception as error:
            raise RuntimeError(str(error)) from error
        count = len(crops)
        return found[0][:count], found[1][:count] if len(found) > 1 else None

    def close(self) -> None:
        """Give back the session."""
        super().close()
        self._session = None


def import_onnxruntime(name: str) -> Any:
    """ONNX Runtime.

    Raises:
        EngineError: it is not installed; `name` is the engine that wants it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"engine {name}: ONNX Runtime cannot be imported ({error}). Run: pip install "
            "onnxruntime, or use --engine openvino"
        ) from error
    return onnxruntime
