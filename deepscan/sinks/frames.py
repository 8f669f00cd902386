"""Writes one line of JSON for each frame, with scores and boxes, for other programs.

The first line is a header with the schema (schemas/frames-1.json) and the input's hash. Scores are
the network's output for single frames, before calibration: one high score is not a finding.
"""

from __future__ import annotations

import json
import math
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from deepscan.errors import OutputError, system_errors_as
from deepscan.types import Box, Face, FrameResult, Output, Scan

SCHEMA = "deepscan.frames/1"


class FramesSink:
    """Writes JSON Lines, one for each frame."""

    suffix: ClassVar[str] = ".frames.jsonl"
    needs_images: ClassVar[bool] = False

    def __init__(self, path: Path, scan: Scan) -> None:
        self._path = path
        video = scan.verdict.video
        base = video.time_base if video else None
        with self._failures():
            self._file = path.open("w", encoding="utf-8", newline="\n")
        self._line(
            {
                "schema": SCHEMA,
                "input_sha256": scan.sha256,
                "model_sha256": scan.verdict.model.sha256,
                "time_base": f"{base.numerator}/{base.denominator}" if base else None,
            }
        )

    def write(self, result: FrameResult) -> None:
        """Add a frame.

        Raises:
            OutputError: the file cannot be written, or a score is no number.
        """
        self._line(line_of(result))

    def close(self, made: tuple[Output, ...] = ()) -> None:
        """Complete the file.

        Raises:
            OutputError: the rest cannot be written.
        """
        with self._failures():
            self._file.close()

    def abort(self) -> None:
        """Close the file."""
        with suppress(OSError):  # the disk is full; the caller removes the file anyway
            self._file.close()

    def _line(self, value: dict[str, Any]) -> None:
        try:
            line = json.dumps(value, allow_nan=False, separators=(",", ":"))
        except ValueError as error:
            message = f"{self._path}: a score or box is NaN or infinite; please report this"
            raise OutputError(message) from error
        with self._failures():
            self._file.write(line + "\n")

    def _failures(self) -> AbstractContextManager[None]:
        return system_errors_as(OutputError, f"{self._path}: the frame list cannot be written")


def line_of(result: FrameResult) -> dict[str, Any]:
    """The values of one line: judged faces first, then faces that were not judged."""
    faces = [
        _line_of_face(
            prediction.crop.face,
            p_manipulated=_short(prediction.score, 5),
            mask_share=(
                None
                if prediction.mask is None
                else _short(float(np.mean(prediction.mask > 0.5)), 4)
            ),
            quality=(prediction.crop.sharpness, prediction.crop.detail),
        )
        for prediction in result.faces
    ]
    faces += [_line_of_face(each.face, reason=each.reason) for each in result.unscored]
    return {
        "index": result.frame.index,
        "pts": result.frame.pts,
        "time": _short(result.frame.time, 5),
        "analysed": result.analysed,
        "faces": faces,
    }


def _line_of_face(
    face: Face,
    *,
    p_manipulated: float | None = None,
    mask_share: float | None = None,
    quality: tuple[float, float] | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    return {
        "track": face.track_id,
        "box": _box(face.box),
        "confidence": _short(face.confidence, 4),
        "p_manipulated": p_manipulated,
        "reason": reason,
        "mask_share": mask_share,
        "interpolated": face.interpolated,
        **(
            {}
            if quality is None
            else {"sharpness": _short(quality[0], 2), "detail": _short(quality[1], 4)}
        ),
        **({"turn": face.turn} if face.turn else {}),
    }


def _box(box: Box) -> list[float]:
    return [_short(side, 1) for side in (box.x1, box.y1, box.x2, box.y2)]


def _short(value: float, digits: int) -> float:
    # The addition turns -0.0 into 0.0; NaN passes through and is refused when written.
    return round(float(value), digits) + 0.0 if math.isfinite(value) else float(value)
