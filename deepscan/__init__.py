"""deepscan finds manipulated faces in video: masks, intervals, a verdict that can be checked.

from pathlib import Path
import deepscan

verdict = deepscan.scan_video(Path("video.mp4"))
print(verdict.label, verdict.intervals)
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

# Two OpenMP teams that spin on the same cores make face detection up to nine times slower; has to
# be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from deepscan.engines.choose import load_engine  # noqa: F401
    from deepscan.scan.scanner import Scanner, analyze_video, scan_paths, scan_video  # noqa: F401
    from deepscan.sinks.masks import read_masks  # noqa: F401
    from deepscan.video import open_video  # noqa: F401

# Imported when first used: `import deepscan` stays cheap, and so does `deepscan --help`.
_LAZY = {
    "Scanner": "deepscan.scan.scanner",
    "analyze_video": "deepscan.scan.scanner",
    "load_engine": "deepscan.engines.choose",
    "open_video": "deepscan.video",
    "read_masks": "deepscan.sinks.masks",
    "scan_paths": "deepscan.scan.scanner",
    "scan_video": "deepscan.scan.scanner",
    **dict.fromkeys(
        (
            "DeepscanError", "UsageError", "VideoError", "UnreadableError", "CorruptError",
            "UnsupportedError", "NoVideoError", "LimitError", "DecoderCrash", "DecoderHang",
            "ModelError", "EngineError", "OutputError",
        ),
        "deepscan.errors",
    ),
    **dict.fromkeys(
        (
            "Box", "Coverage", "Face", "FaceCrop", "FacePrediction", "FaceTrack", "Frame",
            "FrameResult", "Interval", "Label", "Output", "Reason", "Scanned", "Skipped",
            "UnscoredFace", "Verdict", "VideoInfo",
        ),
        "deepscan.types",
    ),
    **dict.fromkeys(("Limits", "ScanOptions"), "deepscan.options"),
}  # fmt: skip

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'deepscan' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
