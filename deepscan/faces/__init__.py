"""The table of face detectors.

The contract is `FaceDetector` (detector.py). To add one, write one file with a class of that shape
and add one line to `DETECTORS`; the conformance suite in tests/faces/ runs over it.
"""

from __future__ import annotations

DETECTORS: dict[str, str] = {"mtcnn": "deepscan.faces.mtcnn:MTCNNDetector"}
