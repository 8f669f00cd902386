"""What is MTCNN's own: its limits, its shrunken picture and its failures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Pillow
from skimage import data

from deepscan.errors import EngineError, UsageError
from deepscan.faces import mtcnn
from deepscan.faces.mtcnn import MTCNNDetector


@pytest.mark.parametrize(
    ("min_face", "min_confidence", "max_faces", "device", "word"),
    [
        (11, 0.9, 64, "cpu", "min_face"),
        (40, 1.1, 64, "cpu", "min_confidence"),
        (40, -0.1, 64, "cpu", "min_confidence"),
        (40, 0.9, 0, "cpu", "max_faces"),
        (40, 0.9, 64, "tpu", "device"),
    ],
)
def test_numbers_out_of_range_are_refused(min_face, min_confidence, max_faces, device, word):
    with pytest.raises(UsageError, match=word):
        MTCNNDetector(min_face, min_confidence, max_faces, device)


def test_a_missing_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(mtcnn.torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no GPU"):
        MTCNNDetector(40, 0.9, 64, "cuda")


@pytest.mark.parametrize(
    "picture",
    [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64, 3))],
)
def test_other_arrays_are_refused(picture):
    with pytest.raises(UsageError, match="uint8"):
        MTCNNDetector(40, 0.9, 64).detect(picture)


@pytest.mark.parametrize("min_face", [12, 24, 40, 100])
def test_shrinking_keeps_the_place(min_face):
    found = MTCNNDetector(min_face, 0.9, 64).detect(data.astronaut()).faces[0].box
    assert (found.x1, found.y1, found.x2, found.y2) == pytest.approx((180, 65, 267, 173), abs=8)


def test_small_faces_are_not_looked_for():
    small = np.array(Pillow.fromarray(data.astronaut()).resize((180, 180)))  # face: 38 pixels
    assert len(MTCNNDetector(30, 0.9, 64).detect(small).faces) == 1
    assert MTCNNDetector(80, 0.9, 64).detect(small).faces == ()


def test_candidates_of_one_level_are_limited(monkeypatch):
    frame = np.tile(np.array(Pillow.fromarray(data.astronaut()).resize((128, 128))), (2, 4, 1))
    whole = MTCNNDetector(24, 0.9, 64).detect(frame)
    assert len(whole.faces) == 8 and not whole.truncated
    monkeypatch.setattr(mtcnn, "CANDIDATES", 4)
    some = MTCNNDetector(24, 0.9, 64).detect(frame)
    assert some.truncated
    assert 0 < len(some.faces) < 8


def test_a_limit_that_was_hit_is_forgotten_with_the_next_picture(monkeypatch):
    monkeypatch.setattr(mtcnn, "CANDIDATES", 4)
    detector = MTCNNDetector(40, 0.9, 64)
    assert detector.detect(data.astronaut()).truncated
    assert not detector.detect(np.zeros((100, 100, 3), np.uint8)).truncated


def test_a_failure_is_tried_again_with_a_border():
    detector = MTCNNDetector(40, 0.9, 64)
    expected = detector.detect(data.astronaut())
    inner, sizes = detector._network.detect, []

    def fails_once(picture, landmarks):
        sizes.append(picture.shape)
        if len(sizes) == 1:
            raise IndexError("mask")
        return inner(picture, landmarks=landmarks)

    detector._network.detect = fails_once
    again = detector.detect(data.astronaut())
    assert sizes[1] > sizes[0]
    assert again.faces[0].box.iou(expected.faces[0].box) > 0.9
    assert np.array(again.faces[0].landmarks) == pytest.approx(
        np.array(expected.faces[0].landmarks), abs=5
    )


def test_a_second_failure_is_an_engine_error():
    detector = MTCNNDetector(40, 0.9, 64)

    def fails(picture, landmarks):
        raise RuntimeError("expected a non-empty list")

    detector._network.detect = fails
    with pytest.raises(EngineError, match="MTCNN failed"):
        detector.detect(data.astronaut())
