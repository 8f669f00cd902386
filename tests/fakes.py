"""An engine and a face detector without networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from deepscan.engines.engine import Predictions, check_crops
from deepscan.faces.detector import Detection
from deepscan.faces.turned import detect_each
from deepscan.types import Box, EngineInfo, Face, Image, ModelInfo
from tests.media import FACE_COLOUR


class FakeEngine:
    """An engine without a network: judges a crop by its red channel, the same way every time.

    The score is the mean of red over 255, the mask is red over 255 of every fourth pixel.
    `batches` lists how many crops each call brought.
    """

    def __init__(
        self,
        *,
        input_size: int = 64,
        max_batch: int = 8,
        judge: Callable[[NDArray[np.uint8]], Predictions] | None = None,
    ) -> None:
        """`judge` takes the place of the rule: (B, S, S, 3) crops in, predictions out."""
        self.name = "fake"
        self.input_size = input_size
        self.max_batch = max_batch
        self.model = ModelInfo("fake", "0" * 64, input_size, 0.5, (0.5, 0.5), "nothing: a fake")
        self.info = EngineInfo("fake", "a fake for tests")
        self.batches: list[int] = []
        self.closed = False
        self._judge = judge or _judge_red

    def predict(self, crops: NDArray[np.uint8]) -> Predictions:
        """Judge (B, S, S, 3) uint8 RGB crops, 1 <= B <= max_batch.

        Raises:
            ValueError: the crops are of another shape or type.
        """
        check_crops(crops, self.input_size, self.max_batch)
        self.batches.append(len(crops))
        return self._judge(crops)

    def close(self) -> None:
        self.closed = True


def _judge_red(crops: NDArray[np.uint8]) -> Predictions:
    red: NDArray[np.float32] = crops[..., 0].astype(np.float32) / np.float32(255)
    return Predictions(red.mean(axis=(1, 2), dtype=np.float32), red[:, ::4, ::4])


class FakeDetector:
    """A face detector without a network: finds skin-coloured pixels, or what a function finds.

    By default every picture with at least 64 pixels near `FACE_COLOUR` holds one face, the
    rectangle round them; `draw_numbered` draws such a patch. `calls` counts the pictures.
    """

    def __init__(
        self, find: Callable[[Image], Sequence[Box | Face]] | None = None, *, max_faces: int = 64
    ) -> None:
        """`find` gives the faces of a picture; a bare box is a face with confidence 1."""
        self.calls = 0
        self.closed = False
        self._find = find or _find_face_colour
        self._max_faces = max_faces

    def detect(
        self, image: Image, *, larger_than: float = 0.0, within: Box | None = None
    ) -> Detection:
        """Look at one (H, W, 3) uint8 RGB picture of any size."""
        self.calls += 1
        found = [
            Face(thing, 1.0) if isinstance(thing, Box) else thing for thing in self._find(image)
        ]
        return Detection(tuple(found[: self._max_faces]), len(found) > self._max_faces)

    def detect_turned(self, image: Image, turns: Sequence[int]) -> tuple[Detection, ...]:
        """Look at the picture turned by each of `turns`."""
        return detect_each(self, image, turns)

    def close(self) -> None:
        self.closed = True


def _find_face_colour(image: Image) -> list[Box]:
    near = (np.abs(image.astype(np.int16) - np.array(FACE_COLOUR)) <= 24).all(axis=2)
    if near.sum() < 64:
        return []
    y, x = np.nonzero(near)
    return [Box(float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1))]
