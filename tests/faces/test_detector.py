"""One suite over every face detector of the table, on a real face in the public domain."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from PIL import Image as Pillow
from skimage import data

from deepscan.faces import DETECTORS
from deepscan.types import Box

# Where the face of the picture is: from the fringe to the chin, ear to ear.
FACE = Box(178, 65, 268, 173)


def astronaut(side=512):
    return np.array(Pillow.fromarray(data.astronaut()).resize((side, side)))


def scene(height, width, side, x, y):
    """A grey frame with the astronaut's picture of `side` pixels at (x, y)."""
    frame = np.full((height, width, 3), 96, np.uint8)
    frame[y : y + side, x : x + side] = astronaut(side)
    scale = side / 512
    return frame, Box(
        x + FACE.x1 * scale, y + FACE.y1 * scale, x + FACE.x2 * scale, y + FACE.y2 * scale
    )


@pytest.fixture(scope="module", params=DETECTORS)
def build(request):
    module, _, name = DETECTORS[request.param].partition(":")
    return getattr(import_module(module), name)


@pytest.fixture(scope="module")
def detector(build):
    detector = build(40, 0.9, 64)
    yield detector
    detector.close()


@pytest.mark.parametrize(
    ("height", "width", "side", "x", "y"),
    [
        (512, 512, 512, 0, 0),
        (360, 640, 360, 150, 0),
        (360, 640, 200, 431, 3),  # the face is 42 pixels high
        (240, 1000, 240, 701, 0),
        (1080, 1920, 900, 13, 177),
        (481, 333, 333, 0, 101),
    ],
)
def test_finds_a_face_where_it_is(detector, height, width, side, x, y):
    frame, truth = scene(height, width, side, x, y)
    found = detector.detect(frame)
    assert len(found.faces) == 1 and not found.truncated
    face = found.faces[0]
    assert face.box.iou(truth) > 0.6
    assert 0.9 <= face.confidence <= 1
    assert face.track_id is None and not face.interpolated
    (left, eye_y), (right, _), (nose, nose_y), (mouth, mouth_y), (mouth_right, _) = face.landmarks
    assert left < nose < right and mouth < mouth_right
    assert eye_y < nose_y < mouth_y
    assert all(
        face.box.x1 < px < face.box.x2 and face.box.y1 < py < face.box.y2
        for px, py in face.landmarks
    )


def test_a_box_moves_with_the_face(detector):
    boxes = [
        detector.detect(scene(360, 640, 300, x, 20)[0]).faces[0].box.centre[0]
        for x in (40, 160, 280)
    ]
    assert np.diff(boxes) == pytest.approx([120, 120], abs=3)


@pytest.mark.parametrize(
    "shape", [(0, 0), (0, 9), (1, 1), (2, 2), (2, 4096), (4096, 2), (19, 19), (33, 31), (63, 200)]
)
@pytest.mark.parametrize("level", [0, 127, 255])
def test_odd_sizes_hold_no_face_and_do_not_fail(detector, shape, level):
    found = detector.detect(np.full((*shape, 3), level, np.uint8))
    assert found.faces == () and not found.truncated


def test_noise_and_ramps_hold_no_face(detector):
    rng = np.random.default_rng(0)
    ramp = np.repeat(np.linspace(0, 255, 320).astype(np.uint8)[None, :, None], 240, axis=0)
    assert detector.detect(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)).faces == ()
    assert detector.detect(np.repeat(ramp, 3, axis=2)).faces == ()


def test_a_face_in_grey_is_found(detector):
    frame, truth = scene(360, 640, 360, 100, 0)
    grey = np.repeat(frame.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    assert detector.detect(grey).faces[0].box.iou(truth) > 0.6


def test_boxes_and_landmarks_stay_inside_where_the_face_does_not(detector):
    picture = astronaut()
    for cut in (picture[90:, :], picture[:, 200:], picture[:150, :], picture[:, :250]):
        height, width = cut.shape[:2]
        for face in detector.detect(np.ascontiguousarray(cut)).faces:
            assert 0 <= face.box.x1 < face.box.x2 <= width
            assert 0 <= face.box.y1 < face.box.y2 <= height
            assert all(0 <= x <= width and 0 <= y <= height for x, y in face.landmarks)


def test_the_same_picture_gives_the_same_faces(detector):
    frame, _ = scene(360, 640, 300, 77, 30)
    before = frame.copy()
    assert detector.detect(frame) == detector.detect(frame)
    assert np.array_equal(frame, before)


def test_views_are_looked_at_as_they_are(detector):
    frame, _ = scene(360, 640, 300, 77, 30)
    assert detector.detect(frame[:, ::-1]) == detector.detect(frame[:, ::-1].copy())


def test_strongest_first_and_no_more_than_asked_for(build):
    frame = np.concatenate([astronaut(200)] * 4, axis=1)
    every = build(40, 0.5, 64).detect(frame)
    assert len(every.faces) == 4 and not every.truncated
    confidences = [face.confidence for face in every.faces]
    assert confidences == sorted(confidences, reverse=True)
    some = build(40, 0.5, 3).detect(frame)
    assert some.faces == every.faces[:3] and some.truncated


def test_confidence_below_the_limit_is_left_out(build):
    frame, _ = scene(360, 640, 360, 100, 0)
    confidence = build(40, 0.0, 64).detect(frame).faces[0].confidence
    assert confidence < 1
    assert build(40, 1.0, 64).detect(frame).faces == ()


def test_a_frame_tiled_with_faces_is_cut_short(build):
    tile = astronaut()[40:195, 150:300]
    tile = np.array(Pillow.fromarray(tile).resize((40, 40)))
    found = build(40, 0.5, 16).detect(np.tile(tile, (9, 16, 1)))
    assert found.truncated
    assert len(found.faces) <= 16
