"""What is MTCNN's own: its limits, its failures, and that OpenVINO and torch find the same."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Pillow
from skimage import data

from deepscan.errors import EngineError, UsageError
from deepscan.faces import mtcnn_openvino, mtcnn_torch
from deepscan.faces.cascade import Candidates
from deepscan.faces.mtcnn import MTCNNDetector
from deepscan.faces.mtcnn_openvino import OpenVINOCascade
from deepscan.faces.mtcnn_torch import TorchCascade
from deepscan.faces.place import MARGIN, PADDING
from deepscan.faces.resize import AreaSums
from deepscan.faces.turned import turn_picture
from deepscan.types import Box


@pytest.fixture(scope="module", params=["openvino", "torch"])
def build(request):
    """Makes a detector whose networks run in OpenVINO, or in torch."""

    def made(*given):
        detector = MTCNNDetector(*given)
        assert isinstance(detector._cascade, OpenVINOCascade)
        if request.param == "torch":
            detector._cascade = TorchCascade(given[0] * detector._scale)
        return detector

    return made


@pytest.mark.parametrize(
    ("min_face", "min_confidence", "max_faces", "word"),
    [
        (11, 0.9, 64, "min_face"),
        (40, 1.1, 64, "min_confidence"),
        (40, -0.1, 64, "min_confidence"),
        (40, 0.9, 0, "max_faces"),
    ],
)
def test_numbers_out_of_range_are_refused(min_face, min_confidence, max_faces, word):
    with pytest.raises(UsageError, match=word):
        MTCNNDetector(min_face, min_confidence, max_faces)


@pytest.mark.parametrize(
    "picture",
    [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64, 3))],
)
def test_other_arrays_are_refused(picture):
    with pytest.raises(UsageError, match="uint8"):
        MTCNNDetector(40, 0.9, 64).detect(picture)


@pytest.mark.parametrize("min_face", [12, 24, 40, 100])
def test_shrinking_keeps_the_place(build, min_face):
    found = build(min_face, 0.9, 64).detect(data.astronaut()).faces[0].box
    assert (found.x1, found.y1, found.x2, found.y2) == pytest.approx((180, 65, 267, 173), abs=8)


def test_small_faces_are_not_looked_for(build):
    small = np.array(Pillow.fromarray(data.astronaut()).resize((180, 180)))  # face: 38 pixels
    assert len(build(30, 0.9, 64).detect(small).faces) == 1
    assert build(80, 0.9, 64).detect(small).faces == ()


def crowd():
    return np.tile(np.array(Pillow.fromarray(data.astronaut()).resize((128, 128))), (2, 4, 1))


def limit_candidates(monkeypatch, limit):
    for module in (mtcnn_openvino, mtcnn_torch):
        monkeypatch.setattr(module, "CANDIDATES", limit)


def test_candidates_of_one_level_are_limited(build, monkeypatch):
    whole = build(24, 0.9, 64).detect(crowd())
    assert len(whole.faces) == 8 and not whole.truncated
    limit_candidates(monkeypatch, 4)
    some = build(24, 0.9, 64).detect(crowd())
    assert some.truncated
    assert 0 < len(some.faces) < 8


def test_a_limit_that_was_hit_is_forgotten_with_the_next_picture(build, monkeypatch):
    limit_candidates(monkeypatch, 4)
    detector = build(40, 0.9, 64)
    assert detector.detect(data.astronaut()).truncated
    assert not detector.detect(np.zeros((100, 100, 3), np.uint8)).truncated


def pictures():
    """Faces of several sizes and places, a crowd, sides of odd length, nothing."""
    whole = data.astronaut()
    noise = np.random.default_rng(1).integers(0, 256, (90, 121, 3), dtype=np.uint8)
    shifted = np.full((301, 533, 3), 96, np.uint8)
    shifted[20:276, 217:473] = whole[::2, ::2]
    return [whole, shifted, whole[60:, 180:], crowd(), whole[40:71, 190:233], noise, noise * 0]


@pytest.mark.parametrize("min_face", [20, 24, 40, 41])
def test_openvino_finds_what_torch_finds(min_face):
    here, there = MTCNNDetector(min_face, 0.0, 64), MTCNNDetector(min_face, 0.0, 64)
    there._cascade = TorchCascade(min_face * there._scale)
    faces = 0
    for picture in pictures():
        found, expected = here.detect(picture), there.detect(picture)
        assert len(found.faces) == len(expected.faces)
        assert found.truncated == expected.truncated
        faces += len(found.faces)
        for a, b in zip(found.faces, expected.faces, strict=True):
            box = (a.box.x1, a.box.y1, a.box.x2, a.box.y2)
            assert box == pytest.approx((b.box.x1, b.box.y1, b.box.x2, b.box.y2), abs=0.01)
            assert a.confidence == pytest.approx(b.confidence, abs=1e-4)
            assert np.array(a.landmarks) == pytest.approx(np.array(b.landmarks), abs=0.01)
    assert faces >= 8


def test_the_same_candidates_are_passed_on(monkeypatch):
    limit_candidates(monkeypatch, 20)
    picture = data.astronaut()
    found, expected = OpenVINOCascade(20.0).find(picture), TorchCascade(20.0).find(picture)
    assert found.truncated and expected.truncated
    assert found.boxes == pytest.approx(expected.boxes, abs=0.01)


def test_torch_takes_over_where_openvino_cannot(monkeypatch, caplog):
    def refuse(name):
        raise EngineError("OpenVINO cannot be imported")

    monkeypatch.setattr(mtcnn_openvino, "import_openvino", refuse)
    detector = MTCNNDetector(40, 0.9, 64)
    assert isinstance(detector._cascade, TorchCascade)
    assert "torch searches for faces instead of OpenVINO" in caplog.text
    assert len(detector.detect(data.astronaut()).faces) == 1


def test_networks_that_disagree_with_torch_are_refused(monkeypatch):
    monkeypatch.setattr(mtcnn_openvino, "TOLERANCE", -1.0)
    with pytest.raises(EngineError, match=r"MTCNN's pnet in OpenVINO differs from torch by"):
        mtcnn_openvino._convert(mtcnn_openvino.import_openvino("test"))


def test_a_failure_is_tried_again_with_a_border(build):
    detector = build(40, 0.9, 64)
    expected = detector.detect(data.astronaut())
    cascade, sizes = detector._cascade, []

    class FailsOnce:
        def find(self, picture, larger_than):
            sizes.append(picture.shape)
            if len(sizes) == 1:
                raise IndexError("mask")
            return cascade.find(picture, larger_than)

    detector._cascade = FailsOnce()
    again = detector.detect(data.astronaut())
    assert sizes[1] > sizes[0]
    assert again.faces[0].box.iou(expected.faces[0].box) > 0.9
    assert np.array(again.faces[0].landmarks) == pytest.approx(
        np.array(expected.faces[0].landmarks), abs=5
    )


def test_a_candidate_outside_of_the_picture_is_a_failure():
    outside = np.array([[70.0, 10, 90, 30, 0.9]], np.float32)
    cascade = OpenVINOCascade(20.0)
    with pytest.raises(IndexError):
        cascade._judge(1, AreaSums(np.zeros((64, 64, 3), np.uint8)), outside, 24)
    assert len(Candidates.none(False).boxes) == 0


def test_a_second_failure_is_an_engine_error():
    class Fails:
        def find(self, picture, larger_than):
            raise RuntimeError("expected a non-empty list")

    detector = MTCNNDetector(40, 0.9, 64)
    detector._cascade = Fails()
    with pytest.raises(EngineError, match="MTCNN failed"):
        detector.detect(data.astronaut())


def test_levels_for_smaller_faces_are_left_out_and_large_faces_stay():
    picture = np.concatenate([data.astronaut(), np.zeros_like(data.astronaut())])
    picture[600:700, 50:150] = np.asarray(Pillow.fromarray(data.astronaut()).resize((400, 400)))[
        40:140, 130:230
    ]  # a second face of 70 pixels
    detector = MTCNNDetector(20, 0.9, 64)
    large, small = sorted(detector.detect(picture).faces, key=lambda face: -face.box.area)
    assert large.box.width > 80 > small.box.width
    found = detector.detect(picture, larger_than=large.box.width).faces
    assert found[0].box.iou(large.box) > 0.95
    everything = detector.detect(picture, larger_than=small.box.width).faces
    assert len(everything) == 2
    assert detector.detect(picture, larger_than=1e6).faces == ()


def round_about(box, picture):
    """The box with as much room on each side as a search between key frames leaves it."""
    margin = PADDING + MARGIN * max(box.width, box.height)
    height, width = picture.shape[:2]
    return Box(
        max(0, box.x1 - margin), max(0, box.y1 - margin),
        min(width, box.x2 + margin), min(height, box.y2 + margin),
    )  # fmt: skip


@pytest.mark.parametrize("min_face", [20, 40, 41])
def test_a_face_is_the_same_where_only_its_place_is_searched(min_face):
    detector, faces = MTCNNDetector(min_face, 0.9, 64), 0
    for picture in pictures():
        for face in detector.detect(picture).faces:
            least = 0.7 * max(face.box.width, face.box.height)
            place = round_about(face.box, picture)
            found = detector.detect(picture, larger_than=least, within=place).faces
            nearest = max(found, key=lambda other: face.box.iou(other.box))
            sides = (face.box.x1, face.box.y1, face.box.x2, face.box.y2)
            here = nearest.box
            assert (here.x1, here.y1, here.x2, here.y2) == pytest.approx(sides, abs=0.01)
            assert nearest.confidence == pytest.approx(face.confidence, abs=1e-4)
            faces += 1
    assert faces >= 4


def test_torch_searches_a_place_too(build):
    picture = data.astronaut()
    detector = build(40, 0.9, 64)
    (face,) = detector.detect(picture).faces
    (found,) = detector.detect(picture, within=round_about(face.box, picture)).faces
    assert found.box.iou(face.box) > 0.9
    assert np.array(found.landmarks) == pytest.approx(np.array(face.landmarks), abs=5)
    assert detector.detect(picture, within=Box(300, 300, 500, 500)).faces == ()
    assert detector.detect(picture, within=Box(600, 0, 700, 90)).faces == ()


def test_a_place_that_makes_the_cascade_fail_is_searched_with_all_the_rest():
    detector = MTCNNDetector(40, 0.9, 64)
    cascade, parts = detector._cascade, []

    class FailsInParts:
        def find(self, picture, larger_than, part=None):
            parts.append(part)
            if part is not None:
                raise IndexError("mask")
            return cascade.find(picture, larger_than)

    detector._cascade = FailsInParts()
    (face,) = detector.detect(data.astronaut(), within=Box(100, 20, 300, 250)).faces
    assert parts[0] is not None and parts[1] is None and face.box.width > 60


@pytest.mark.parametrize("min_face", [20, 40, 41])
def test_a_turned_picture_is_searched_without_being_turned(build, min_face):
    detector, faces = build(min_face, 0.9, 64), 0
    for picture in pictures():
        for turn in (0, 90, 180, 270):
            turned = turn_picture(picture, -turn)
            (found,) = detector.detect_turned(turned, [turn])
            expected = detector.detect(turn_picture(turned, turn).copy())
            large = [face for face in found.faces if face.box.height >= 1.2 * min_face]
            faces += len(large)
            for a in large:
                b = max(expected.faces, key=lambda other: a.box.iou(other.box))
                assert a.box.iou(b.box) > 0.9  # one grey level can choose another candidate
                assert a.confidence == pytest.approx(b.confidence, abs=0.05)
                assert np.array(a.landmarks) == pytest.approx(np.array(b.landmarks), abs=2)
    assert faces >= 12
