"""Tilted heads: landmarks, box and picture move together, and only when asked."""

import cv2
import numpy as np

from train.forge.contract import FaceImage
from train.forge.tilt import tilted

_POINTS = np.array([[48.0, 55.0], [78.0, 53.0], [63.0, 70.0], [52.0, 86.0], [76.0, 85.0]])


def _marked() -> FaceImage:
    """A dark picture with a bright dot on each landmark."""
    image = np.zeros((128, 128, 3), np.uint8)
    for x, y in _POINTS.astype(int):
        cv2.circle(image, (int(x), int(y)), 3, (255, 255, 255), -1)
    return FaceImage(image, _POINTS.copy(), (38.0, 30.0, 88.0, 105.0))


def test_landmarks_follow_the_picture() -> None:
    for seed in range(20):
        out = tilted(_marked(), np.random.default_rng(seed))
        for x, y in out.landmarks:
            near = out.image[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2]
            assert near.mean() > 150, seed


def test_the_box_keeps_its_middle_and_height() -> None:
    face = _marked()
    for seed in range(20):
        out = tilted(face, np.random.default_rng(seed))
        x1, y1, x2, y2 = out.box
        assert ((x1 + x2) / 2, y1, y2) == (63.0, 30.0, 105.0)
        assert 0.8 * 50 < x2 - x1 <= 50
        assert out.image.shape == face.image.shape and out.image.dtype == np.uint8


def test_heads_lean_both_ways_and_at_most_so_far() -> None:
    leans = []
    for seed in range(60):
        left, right = tilted(_marked(), np.random.default_rng(seed)).landmarks[:2]
        leans.append(np.degrees(np.arctan2(*(right - left)[::-1])))
    assert min(leans) < -15 and max(leans) > 15
    # A head that is narrower leans a little more than it was turned.
    assert np.abs(leans).max() < 40
