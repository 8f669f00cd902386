"""The table of engines, which run a model over face crops.

The contract is `EngineEntry` (engine.py). To add one, write one file with a class of that shape,
add one line each to `ENGINES`, `PRECISIONS`, `PACKAGES` (packages.py) and `_VERSIONED_BY_RUNTIME`
(archive/settings_hash.py), and say in `candidates` (choose.py) where "auto" takes it; the parity
suite in tests/engines/ runs over it.
"""

from __future__ import annotations

ENGINES: dict[str, str] = {
    "onnxruntime": "deepscan.engines.onnxruntime:ONNXRuntimeEngine",
    "openvino": "deepscan.engines.openvino:OpenVINOEngine",
    "tensorrt": "deepscan.engines.tensorrt:TensorRTEngine",
    "torch": "deepscan.engines.torch:TorchEngine",
}

PRECISIONS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32",),
    "openvino": ("fp32", "bf16"),
    "tensorrt": ("fp32", "fp16", "bf16"),
    "torch": ("fp32", "fp16", "bf16"),
}
"""What names and recipes may ask of each, so that reading them imports nothing heavy."""
