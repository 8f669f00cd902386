"""The hash of everything that affects a result: equal keys mean equal results.

The key lets a run skip finished files. So it leaves out settings that change no result (output
folder, files at once) and includes all others, also ones that are added later: an unnecessary scan
costs minutes, a stale verdict costs trust.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable

from deepscan.options import ScanOptions

# `engine` and `model` are requests ("auto"); the key has the names that they resolved to.
# Isolation does not change the pictures, and credentials do not enter the verdict.
_IDLE = frozenset({"engine", "model", "isolate", "trust_list"})

# Packages that affect pixels, scores or the rule. The face detector may always run in torch.
_VERSIONED = ("deepscan", "av", "decord", "torch", "facenet-pytorch", "pillow")
_VERSIONED_BY_RUNTIME = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
    "torch": ("timm",),
}


def settings_hash(
    options: ScanOptions,
    model_sha256: str,
    engine: str,
    versions: Iterable[tuple[str, str]],
    *,
    calibration: str = "",
) -> str:
    """SHA-256 (hex) over everything that affects a result, except the content.

    Args:
        model_sha256: of the weights.
        engine: the name of the engine that ran ("openvino-cpu-bf16"), not the request.
        versions: (package, version) pairs; those that affect no result are left out.
        calibration: name of the calibration that turns scores into labels.
    """
    settings = {
        name: value for name, value in dataclasses.asdict(options).items() if name not in _IDLE
    }
    runtime = engine.partition("-")[0]
    wanted = {*_VERSIONED, *_VERSIONED_BY_RUNTIME.get(runtime, ())}
    return _digest(
        {
            "settings": settings,
            "model": model_sha256,
            "engine": engine,
            "calibration": calibration,
            "versions": {name: version for name, version in versions if name in wanted},
        }
    )


def result_key(sha256: str, settings_hash: str) -> str:
    """The key (SHA-256, hex) of a content under a settings hash."""
    return _digest([sha256, settings_hash])


def _digest(values: object) -> str:
    # Canonical: sorted, no spaces, ASCII, no NaN; the same on every machine and Python.
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
