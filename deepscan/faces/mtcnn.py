"""MTCNN (Zhang et al., 2016) with facenet-pytorch's weights behind the face detector contract.

Most of MTCNN's time goes into its own resizing of the full frame, so the frame is shrunk once,
until the smallest face that is wanted is just large enough to be found. OpenVINO runs its three
networks (mtcnn_openvino.py); torch (mtcnn_torch.py) is the reference.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from deepscan.errors import EngineError, UsageError
from deepscan.faces.cascade import SIDE, Candidates, Cascade, Part
from deepscan.faces.detector import Detection
from deepscan.faces.resize import shrink, shrunk
from deepscan.faces.turned import detect_each
from deepscan.types import Box, Face, Image

logger = logging.getLogger(__name__)

SMALLEST = 20  # pixels left of the smallest wanted face: recall of 40 px faces 1.0, at 16 px 0.91


class MTCNNDetector:
    """Finds faces from `min_face` pixels up. Deterministic; on one thread of a CPU."""

    def __init__(self, min_face: int, min_confidence: float, max_faces: int) -> None:
        """
        Args:
            min_face: side of the smallest face that has to be found, frame pixels, at least 12.
            min_confidence: faces below it are left out, 0 to 1.
            max_faces: most faces of one picture.

        Raises:
            UsageError: a number is out of range.
        """
        if min_face < 12:
            raise UsageError(f"min_face={min_face}: MTCNN finds faces from 12 pixels; give >= 12")
        if not 0 <= min_confidence <= 1:
            raise UsageError(f"min_confidence={min_confidence}: give a number from 0 to 1")
        if max_faces < 1:
            raise UsageError(f"max_faces={max_faces}: give at least 1")
        self._min_confidence = min_confidence
        self._max_faces = max_faces
        self._scale = min(1.0, SMALLEST / min_face)
        self._cascade = load_cascade(min_face * self._scale)

    def detect(
        self, image: Image, *, larger_than: float = 0.0, within: Box | None = None
    ) -> Detection:
        """Look at one (H, W, 3) uint8 RGB picture of any size, also smaller than a face.

        Faces below `larger_than` pixels may be left out, and those that do not lie `within` whole.

        Raises:
            UsageError: the array is no such picture.
            EngineError: MTCNN failed on it.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(
                f"a face detector takes (H, W, 3) uint8, got {image.shape} {image.dtype}"
            )
        height, width = image.shape[:2]
        if height == 0 or width == 0:
            return Detection(())
        rows, columns = shrunk(height, width, self._scale)
        scale_x, scale_y = width / columns, height / rows
        found = None
        if within is not None and min(rows, columns) >= SIDE:
            down = _range(within.y1 / scale_y, within.y2 / scale_y, rows)
            across = _range(within.x1 / scale_x, within.x2 / scale_x, columns)
            found = self._find_in_part(image, larger_than * self._scale, down, across)
        if found is None:
            found = self._find(shrink(image, self._scale), larger_than * self._scale)
        return self._detection(found, height, width)

    def detect_turned(self, image: Image, turns: Sequence[int]) -> tuple[Detection, ...]:
        """See `deepscan.faces.detector.FaceDetector.detect_turned`; raises as `detect` does."""
        small = shrink(image, self._scale)
        if min(small.shape[:2]) >= SIDE:
            try:
                found = self._cascade.find_turned(small, turns)
            except (IndexError, ValueError, RuntimeError):
                return detect_each(self, image, turns)
            height, width = image.shape[:2]
            return tuple(
                self._detection(each, *((width, height) if turn % 180 else (height, width)))
                for each, turn in zip(found, turns, strict=True)
            )
        return detect_each(self, image, turns)

    def close(self) -> None:
        """Give back the device."""
        self._cascade.close()

    def _detection(self, found: Candidates, height: int, width: int) -> Detection:
        """The faces of a picture of `height` x `width` that was searched shrunk."""
        rows, columns = shrunk(height, width, self._scale)
        scale_x, scale_y = width / columns, height / rows
        faces = []
        for corners, given, points in zip(
            found.boxes, found.confidences, found.landmarks, strict=True
        ):
            confidence = float(given)
            x1, x2 = np.clip(corners[[0, 2]] * scale_x, 0, width).tolist()
            y1, y2 = np.clip(corners[[1, 3]] * scale_y, 0, height).tolist()
            if confidence < self._min_confidence or x2 <= x1 or (x2 - x1) * (y2 - y1) < 1:
                continue
            landmarks = tuple(
                (min(max(x * scale_x, 0.0), width), min(max(y * scale_y, 0.0), height))
                for x, y in points.tolist()
            )
            faces.append(Face(Box(x1, y1, x2, y2), min(confidence, 1.0), landmarks))
        faces.sort(key=lambda face: (-face.confidence, -face.box.area, face.box.x1, face.box.y1))
        truncated = len(faces) > self._max_faces or found.truncated
        return Detection(tuple(faces[: self._max_faces]), truncated)

    def _find_in_part(
        self, image: Image, larger_than: float, down: range, across: range
    ) -> Candidates | None:
        """Find candidates in rows and columns of the shrunk picture; None if the cascade fails."""
        if not down or not across:
            return Candidates.none(truncated=False)
        small = shrink(image, self._scale, (down, across))
        rows, columns = shrunk(image.shape[0], image.shape[1], self._scale)
        part = Part(down.start, across.start, rows, columns)
        try:
            return self._cascade.find(small, larger_than, part)
        except (IndexError, ValueError, RuntimeError):
            return None

    def _find(self, image: Image, larger_than: float) -> Candidates:
        """Run the cascade, and retry with a wide margin where it fails.

        A candidate that lies wholly outside the picture breaks MTCNN's bookkeeping. It needs a face
        at the very edge, which a margin moves inwards.
        """
        try:
            return self._cascade.find(_pad(image, 0), larger_than)
        except (IndexError, ValueError, RuntimeError):
            margin = max(image.shape[:2]) // 2
        try:
            found = self._cascade.find(_pad(image, margin), larger_than)
        except (IndexError, ValueError, RuntimeError) as error:
            raise EngineError(
                f"MTCNN failed on a picture of {image.shape[1]}x{image.shape[0]}: {error}"
            ) from error
        return Candidates(
            found.boxes - margin, found.confidences, found.landmarks - margin, found.truncated
        )


def load_cascade(smallest: float) -> Cascade:
    """The three networks in OpenVINO; in torch where that cannot run them, with a warning why."""
    from deepscan.faces.mtcnn_openvino import OpenVINOCascade

    try:
        return OpenVINOCascade(smallest)
    except EngineError as error:
        logger.warning("torch searches for faces instead of OpenVINO: %s", error)
    from deepscan.faces.mtcnn_torch import TorchCascade

    return TorchCascade(smallest)


def _range(start: float, stop: float, length: int) -> range:
    """The whole pixels of [0, length) in which [start, stop) lies."""
    return range(max(0, math.floor(start)), min(length, math.ceil(stop)))


def _pad(image: Image, margin: int) -> Image:
    """With a black margin all round, and to at least `SIDE` on the right and at the bottom."""
    rest = [max(0, SIDE - side - 2 * margin) for side in image.shape[:2]]
    if margin == 0 and rest == [0, 0]:
        return image
    return np.pad(image, ((margin, margin + rest[0]), (margin, margin + rest[1]), (0, 0)))
