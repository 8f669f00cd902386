"""Faces that lie or stand on their heads: found, judged upright, and nothing else becomes one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepscan.faces.crop import cut, square
from deepscan.faces.detector import Detection
from deepscan.faces.search import TURNED_EVERY, find_faces
from deepscan.faces.turned import (
    SMALL,
    TURNS,
    detect_each,
    find_turned,
    turn_back,
    turn_picture,
)
from deepscan.options import ScanOptions
from deepscan.scan.pipeline import predict
from deepscan.types import Box, Face, Frame
from tests.conftest import judge_blue
from tests.fakes import FakeEngine

OPTIONS = ScanOptions(min_sharpness=0.0)
HAIR, CHIN = (200, 40, 40), (40, 40, 200)


def picture(*faces, size=(200, 260)):
    """A grey picture (H, W) with faces (x, y, side, turn): hair above, chin below, once turned."""
    image = np.full((*size, 3), 90, np.uint8)
    for x, y, side, turn in faces:
        face = np.empty((side, side, 3), np.uint8)
        face[: side // 2], face[side // 2 :] = HAIR, CHIN
        image[y : y + side, x : x + side] = turn_picture(face, -turn)
    return image


class Upright:
    """A detector that knows a face by its hair above its chin, and no other."""

    def __init__(self, confidence=0.999):
        self.confidence = confidence
        self.searched = 0

    def detect(self, image, *, larger_than=0.0, within=None):
        self.searched += 1
        red = (image[..., 0] > 150) & (image[..., 2] < 110)
        blue = (image[..., 2] > 150) & (image[..., 0] < 110)
        faces = []
        for left, right in runs(red.any(0) & blue.any(0)):
            hair, chin = runs(red[:, left:right].all(1)), runs(blue[:, left:right].all(1))
            pairs = [(a, b) for a in hair for b in chin if abs(b[0] - a[1]) <= 6]
            faces += [
                Face(Box(left, a[0], right, b[1]), self.confidence, ((left, a[0]),) * 5)
                for a, b in pairs
            ]
        return Detection(tuple(faces))

    def detect_turned(self, image, turns):
        return detect_each(self, image, turns)

    def close(self):
        pass


def runs(line):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def frames(count, *faces, **wanted):
    image = picture(*faces, **wanted)
    return [Frame(index, index, index / 25, image) for index in range(count)]


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("scale", [1, 3])
def test_a_turned_face_is_found_where_it_is(turn, scale):
    image = picture((60 * scale, 30 * scale, 80 * scale, turn), size=(200 * scale, 260 * scale))
    assert scale == 1 or min(image.shape[:2]) >= SMALL
    for halved in (False, True):
        (face,) = find_turned(image, Upright(), TURNS, halved=halved)
    assert face.turn == turn and face.track_id is None
    expected = Box(60 * scale, 30 * scale, 140 * scale, 110 * scale)
    assert face.box.iou(expected) > 0.9
    assert all(abs(x - face.box.centre[0]) <= 40 * scale + 4 for x, _ in face.landmarks)
    crop = turn_picture(cut(image, square(face.box, 0.8), 64), turn)
    assert crop[8:24, :, 0].mean() > 150 and crop[40:56, :, 2].mean() > 150


@pytest.mark.parametrize("turn", (0, *TURNS))
def test_boxes_turn_with_their_picture(turn):
    image = np.zeros((50, 70), np.uint8)
    image[10:20, 30:55] = 1
    turned = turn_picture(image, turn)
    ys, xs = np.nonzero(turned)
    box = Box(xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert turn_back(box, turn, 70, 50) == Box(30, 10, 55, 20)
    assert (turn_picture(turned, -turn) == image).all()


def test_an_upright_face_is_not_turned_and_a_doubtful_one_gives_way():
    image = picture((60, 30, 80, 180))
    over = Face(Box(62, 30, 138, 112), 0.999)
    assert find_turned(image, Upright(), TURNS, (over,)) == ()
    assert len(find_turned(image, Upright(), TURNS, (replace(over, confidence=0.97),))) == 1
    assert find_turned(image, Upright(confidence=0.97), TURNS) == ()
    assert find_turned(picture((60, 30, 80, 0)), Upright(), TURNS) == ()


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_face_is_judged_upright_in_every_frame(turn):
    found = list(find_faces(frames(40, (60, 30, 80, turn)), Upright(), OPTIONS, size=64))
    assert len(found) == 40
    for item in found:
        (crop,) = item.crops
        assert crop.face.turn == turn and crop.face.track_id == 0
        assert crop.box.centre == pytest.approx((100, 70), abs=3)
        assert crop.image[16:28, 16:48, 0].mean() > 150  # hair above
        assert crop.image[36:48, 16:48, 2].mean() > 150  # chin below


def test_masks_lie_over_the_picture_as_it_is():
    def chins(crops):
        given = judge_blue(crops)
        masks = (crops[:, ::4, ::4, 2] > 150).astype(np.float32)
        return replace(given, masks=masks)

    found = find_faces(frames(20, (60, 30, 80, 90)), Upright(), OPTIONS, size=64)
    for result in predict(found, FakeEngine(judge=chins)):
        (face,) = result.faces
        width = face.mask.shape[1]
        # Turned clockwise by 90 degrees it is upright: as it is, its chin lies to the right.
        assert face.mask[:, width // 2 :].mean() > 3 * face.mask[:, : width // 2].mean()


def test_a_picture_alone_may_hold_a_turned_face():
    (item,) = find_faces(frames(1, (60, 30, 80, 270)), Upright(), OPTIONS, size=64)
    assert [crop.face.turn for crop in item.crops] == [270]


def test_what_one_key_frame_shows_is_no_face():
    shown = frames(60, size=(400, 520))
    face = picture((60, 30, 60, 180), size=(400, 520))
    for seen, judged in ((26, []), (39, list(range(27, 40)))):  # both are key frames
        shown[seen] = replace(shown[seen], image=face)
        found = find_faces(shown, Upright(), OPTIONS, size=64)
        assert [n for n, item in enumerate(found) if item.crops] == judged


def test_a_turned_face_beside_a_bystander_is_found():
    bystander, turned = (10, 60, 60, 0), (140, 40, 80, 180)
    late = TURNED_EVERY * 2 * 13  # frames; a key frame is due within the next TURNED_EVERY
    shown = [*frames(30, bystander), *frames(late, bystander, turned)]
    shown = [Frame(n, n, n / 25, frame.image) for n, frame in enumerate(shown)]
    found = list(find_faces(shown, Upright(), OPTIONS, size=64))
    turns = [{crop.face.turn for crop in item.crops} for item in found]
    assert all(0 in each for each in turns)
    first = next(n for n, each in enumerate(turns) if 180 in each)
    assert first <= 30 + TURNED_EVERY * 13
    assert all(180 in each for each in turns[first:])
    at_once = find_faces(shown[40:], Upright(), OPTIONS, size=64)
    assert all({crop.face.turn for crop in item.crops} == {0, 180} for item in at_once)


def test_upright_faces_cost_little_more():
    detector = Upright()
    list(find_faces(frames(326, (60, 30, 80, 0)), detector, OPTIONS, size=64))
    key_frames = 1 + 325 // 13 + 1
    assert detector.searched <= key_frames + 3 * (1 + key_frames // TURNED_EVERY)
