"""What decides a result: two scans of one content with one key would say the same.

The key lets a run skip what it has done. So it leaves out whatever changes no result (where files
are written, how many are scanned at once), and takes in any other setting, also one that is added
later: a file scanned twice costs minutes, a stale verdict costs trust.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable

from deepscan.options import ScanOptions

# `engine` and `model` are what was asked for ("auto"); the key holds what that came to.
# A process of its own protects the run, the pictures are the same. Credentials enter no verdict.
_IDLE = frozenset({"engine", "model", "isolate", "trust_list"})

# What touches pixels, scores or the rule. The face detector runs in torch under every engine.
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
    """SHA-256 (hex) over all that decides a result, apart from the content.

    Args:
        model_sha256: of the weights.
        engine: the engine's own name ("openvino-cpu-bf16"), not what was asked for.
        versions: (package, version) pairs; those that touch no result are left out.
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
    """The key (SHA-256, hex) of a content under what decides its result."""
    return _digest([sha256, settings_hash])


def _digest(values: object) -> str:
    # Canonical: sorted, no spaces, ASCII, no NaN; the same on every machine and Python.
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
