"""Find faces that lie or stand on their heads, which a detector of upright faces misses.

Most pictures hold no such face, so most are searched at half their size. What is found there counts
only if the detector, shown that place alone at its own size and upright, finds a face in it and is
sure. Measured with MTCNN on 17 faces of real clips, each turned three ways: it gives the right way
0.999 and more, and what it takes for a face the wrong way 0.991 and less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from deepscan.faces.crop import cut, square
from deepscan.faces.detector import Detection, FaceDetector
from deepscan.types import Box, Face, Image

T = TypeVar("T", bound=np.generic)

TURNS = (180, 90, 270)  # degrees clockwise that make a face upright
SURE = 0.995  # confidence of a face that is upright in the picture that is shown
SMALL = 360  # pixels of the shorter side from which a picture is halved for the search
CONTEXT = 2.0  # side of what is shown again over the longer side of the box that was found
AGAIN = 160  # pixels of that side
SAME = 0.4  # overlap of the two boxes
OTHER = 0.2  # overlap from which two boxes are of one face
MOST = 16  # places in one picture that are looked at again


def find_turned(
    image: Image,
    detector: FaceDetector,
    turns: Iterable[int],
    beside: Sequence[Face] = (),
    *,
    halved: bool = False,
) -> tuple[Face, ...]:
    """The faces of a picture that are upright once it is turned, in its own coordinates.

    Args:
        image: (H, W, 3) uint8 RGB.
        turns: degrees clockwise, of `TURNS`.
        beside: upright faces; a turned one over one of those is reported only if that is the less
            sure of the two and not `SURE`.
        halved: search a large picture at half its size, which finds faces of twice the least size
            in a quarter of the time.
    """
    height, width = image.shape[:2]
    scale = 2 if halved and min(height, width) >= SMALL else 1
    small = np.asarray(Pillow.fromarray(image).reduce(scale)) if scale > 1 else image
    found: list[Face] = []
    turns = tuple(turns)
    for turn, detection in zip(turns, detector.detect_turned(small, turns), strict=True):
        for face in detection.faces[:MOST]:
            box = _grown(turn_back(face.box, turn, small.shape[1], small.shape[0]), scale)
            if face.confidence < SURE or any(
                is_over(box, each) and is_sure(each) for each in beside
            ):
                continue
            sure = _look_again(image, detector, box, turn)
            rivals = [each for each in beside if is_over(box, each)]
            if sure and all(each.confidence < sure.confidence for each in rivals):
                found.append(sure)
    kept: list[Face] = []
    for face in sorted(found, key=lambda face: -face.confidence):
        if not any(is_over(face.box, other) for other in kept):
            kept.append(face)
    return tuple(kept)


def detect_each(
    detector: FaceDetector, image: Image, turns: Iterable[int]
) -> tuple[Detection, ...]:
    """`FaceDetector.detect_turned` for a search that has nothing to share between turns."""
    return tuple(detector.detect(np.ascontiguousarray(turn_picture(image, turn))) for turn in turns)


def is_sure(face: Face) -> bool:
    return face.confidence >= SURE


def is_over(box: Box, face: Face) -> bool:
    """True if a box and a face may be of the same face."""
    return box.iou(face.box) > OTHER


def _look_again(image: Image, detector: FaceDetector, box: Box, turn: int) -> Face | None:
    place = square(box, CONTEXT)
    crop = np.ascontiguousarray(turn_picture(cut(image, place, AGAIN), turn))
    zoom = place.width / AGAIN
    for face in detector.detect(crop).faces:
        back = _grown(turn_back(face.box, turn, AGAIN, AGAIN), zoom)
        here = _moved(back, place.x1, place.y1)
        if face.confidence >= SURE and here.iou(box) >= SAME:
            marks = None
            if face.landmarks is not None:
                points = (Box(x, y, x, y) for x, y in face.landmarks)
                moved = (
                    _moved(_grown(turn_back(point, turn, AGAIN, AGAIN), zoom), place.x1, place.y1)
                    for point in points
                )
                marks = tuple((point.x1, point.y1) for point in moved)
            return dataclasses.replace(face, box=_within(here, image), landmarks=marks, turn=turn)
    return None


def turn_picture(image: NDArray[T], turn: int) -> NDArray[T]:
    """A view of `image` (H, W, ...) turned clockwise by `turn` degrees, a multiple of 90."""
    return np.rot90(image, -(turn // 90))


def turn_back(box: Box, turn: int, width: int, height: int) -> Box:
    """Map a box of a turned picture back to the picture of `width` x `height`."""
    if turn == 90:
        return Box(box.y1, height - box.x2, box.y2, height - box.x1)
    if turn == 180:
        return Box(width - box.x2, height - box.y2, width - box.x1, height - box.y1)
    if turn == 270:
        return Box(width - box.y2, box.x1, width - box.y1, box.x2)
    return box


def _grown(box: Box, scale: float) -> Box:
    return Box(box.x1 * scale, box.y1 * scale, box.x2 * scale, box.y2 * scale)


def _moved(box: Box, x: float, y: float) -> Box:
    return Box(box.x1 + x, box.y1 + y, box.x2 + x, box.y2 + y)


def _within(box: Box, image: Image) -> Box:
    height, width = image.shape[:2]
    return Box(max(0.0, box.x1), max(0.0, box.y1), min(width, box.x2), min(height, box.y2))
