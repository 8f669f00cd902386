"""Following faces: which frames are searched, what lies between, and what is never judged."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from deepscan.faces import search
from deepscan.faces.detector import Detection
from deepscan.faces.search import MAX_FRAMES, find_faces
from deepscan.faces.turned import detect_each
from deepscan.options import ScanOptions
from deepscan.types import Box, Face, Frame

SIZE = 32
OPTIONS = ScanOptions(min_sharpness=0.0, detect_every=0.4)


def scene(seed, height=120, width=320):
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)
    grown = Pillow.fromarray(patches).resize((width, height), Pillow.Resampling.BICUBIC)
    return np.array(grown)


UPRIGHT = 123  # what the second pixel of a picture holds that nobody has turned

SCENES = [scene(seed) for seed in range(4)]


def stream(count, shots=(), rate=25.0, times=None):
    """Frames whose first pixel holds their index; a new scene begins at each index of `shots`."""
    for index in range(count):
        image = SCENES[sum(index >= shot for shot in shots)].copy()
        image[0, 0], image[0, 1] = index % 256, UPRIGHT
        time = index / rate if times is None else times[index]
        yield Frame(index, index, time, image)


class Script:
    """A face detector that knows the boxes of each frame by its index and notes what it saw."""

    def __init__(self, boxes, truncated=()):
        self.boxes = boxes
        self.truncated = truncated
        self.searched = []
        self.larger_than = {}
        self.within = defaultdict(list)

    def detect(self, image, *, larger_than=0.0, within=None):
        if image[0, 1, 0] != UPRIGHT:
            return Detection(())
        index = int(image[0, 0, 0])
        if self.searched[-1:] != [index]:  # a frame is searched in one place after the other
            self.searched.append(index)
        self.larger_than[index] = larger_than
        self.within[index].append(within)
        faces = tuple(
            Face(box, 0.99, tuple((box.x1 + k, box.y1 + k) for k in range(5)))
            for box in self.boxes(index)
            if within is None or box.iou(within) > 0
        )
        return Detection(faces, index in self.truncated)

    def detect_turned(self, image, turns):
        return detect_each(self, image, turns)

    def close(self):
        pass


def at(x, y=20.0, side=60.0):
    return Box(x, y, x + side, y + side)


def run(boxes, frames, options=OPTIONS, **kwargs):
    script = Script(boxes, **kwargs)
    found = list(find_faces(frames, script, options, size=SIZE))
    return found, sorted(script.searched)


def ids(frame_crops):
    return [crop.face.track_id for crop in frame_crops.crops]


def test_a_slow_face_is_searched_on_key_frames_only():
    found, searched = run(lambda index: [at(10 + index)], stream(60))
    assert searched == [0, 10, 20, 30, 40, 50, 59]
    for index, item in enumerate(found):
        assert item.frame.index == index and item.analysed and ids(item) == [0]
        face = item.crops[0].face
        assert face.box.x1 == pytest.approx(10 + index)
        assert face.landmarks[4] == pytest.approx((face.box.x1 + 4, 24))
        assert face.interpolated is (index not in searched)


def test_crops_are_squares_round_the_box():
    found, _ = run(lambda index: [Box(100, 20, 140, 80)], stream(3))
    for item in found:
        (crop,) = item.crops
        assert crop.image.shape == (SIZE, SIZE, 3) and crop.image.dtype == np.uint8
        assert (crop.box.width, crop.box.height) == pytest.approx((78, 78))
        assert crop.box.centre == pytest.approx((120, 50))


def test_a_fast_face_is_searched_until_its_boxes_overlap():
    found, searched = run(lambda index: [at(5 + 8 * index)], stream(31))
    assert all(ids(item) == [0] for item in found)
    # 8 of 60 pixels a frame: boxes two frames apart overlap by 0.58.
    assert searched == list(range(31))
    found, searched = run(lambda index: [at(5 + 5 * index)], stream(31))
    assert all(ids(item) == [0] for item in found)
    assert max(b - a for a, b in itertools.pairwise(searched)) > 1
    for index, item in enumerate(found):
        assert item.crops[0].face.box.x1 == pytest.approx(5 + 5 * index)


@pytest.mark.parametrize("moment", range(1, 30))
def test_a_jump_is_found_to_the_frame(moment):
    found, searched = run(lambda index: [at(10 if index < moment else 220)], stream(31))
    assert {moment - 1, moment} <= set(searched)
    assert len(searched) <= 4 + 4  # key frames 0 10 20 30, and the bisection of one stretch
    for index, item in enumerate(found):
        assert ids(item) == [int(index >= moment)]
        assert item.crops[0].face.box == at(10 if index < moment else 220)


@pytest.mark.parametrize("moment", [1, 4, 10, 11, 19, 20, 30])
def test_a_face_that_comes_is_there_from_its_first_frame(moment):
    found, searched = run(
        lambda index: [at(10), at(200)] if index >= moment else [at(10)], stream(31)
    )
    assert {moment - 1, moment} <= set(searched)
    assert [ids(item) for item in found] == [[0]] * moment + [[0, 1]] * (31 - moment)


@pytest.mark.parametrize("moment", [1, 4, 10, 11, 19, 20, 30])
def test_a_face_that_goes_is_there_to_its_last_frame(moment):
    found, _ = run(lambda index: [at(10)] if index < moment else [], stream(31))
    assert [ids(item) for item in found] == [[0]] * moment + [[]] * (31 - moment)
    assert all(item.analysed for item in found)


def test_a_short_absence_keeps_the_track_and_a_long_one_does_not():
    for absence, expected in ((range(12, 22), 0), (range(12, 40), 1)):
        found, _ = run(lambda index, gone=absence: [] if index in gone else [at(50)], stream(61))
        assert ids(found[11]) == [0]
        assert all(ids(found[index]) == [] for index in absence)
        assert ids(found[absence.stop]) == [expected]


@pytest.mark.parametrize("moment", [1, 9, 10, 11, 17, 29, 30])
def test_a_cut_ends_the_track_though_the_boxes_agree(moment):
    found, searched = run(lambda index: [at(50)], stream(31, shots=[moment]))
    assert {moment - 1, moment} <= set(searched)
    assert [ids(item) for item in found] == [[0]] * moment + [[1]] * (31 - moment)


def test_cuts_in_a_row():
    found, searched = run(lambda index: [at(50)], stream(12, shots=[4, 5, 6]))
    assert [ids(item)[0] for item in found] == [0] * 4 + [1, 2] + [3] * 6
    assert searched == [0, 3, 4, 5, 6, 11]


def test_faces_are_not_carried_across_a_cut():
    found, _ = run(lambda index: [at(10)] if index < 15 else [at(200)], stream(31, shots=[15]))
    for index, item in enumerate(found):
        assert item.crops[0].face.box == at(10 if index < 15 else 200)


def test_two_faces_keep_their_own_lines():
    found, searched = run(lambda index: [at(200 - index), at(10 + index)], stream(41))
    assert searched == [0, 10, 20, 30, 40]
    for index, item in enumerate(found):
        assert ids(item) == [0, 1]
        assert item.crops[0].face.box.x1 == pytest.approx(200 - index)
        assert item.crops[1].face.box.x1 == pytest.approx(10 + index)


def test_key_frames_and_lines_go_by_time_not_by_index():
    times = [0.0, 0.01, 0.02, 0.03, 0.3, 0.5, 0.55, 1.5, 1.51, 1.52]
    found, searched = run(
        lambda index: [at(10 + 10 * times[index])], stream(10, times=times), OPTIONS
    )
    assert searched == [0, 5, 7, 9]
    for time, item in zip(times, found, strict=True):
        assert item.crops[0].face.box.x1 == pytest.approx(10 + 10 * time)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_short_streams(count):
    found, searched = run(lambda index: [at(10)], stream(count))
    assert searched == list(range(count))
    assert [ids(item) for item in found] == [[0]] * count


def test_frames_are_held_back_no_longer_than_stated():
    taken = []

    def noting():
        for frame in stream(200, rate=1000):
            taken.append(frame.index)
            yield frame

    script = Script(lambda index: [at(10)])
    for item in find_faces(noting(), script, OPTIONS, size=SIZE):
        assert taken[-1] - item.frame.index <= MAX_FRAMES
    assert sorted(script.searched) == [0, *range(MAX_FRAMES - 1, 199, MAX_FRAMES), 199]


def test_large_frames_are_held_back_in_smaller_numbers(monkeypatch):
    frame = next(stream(1))
    for room, expected in ((3, [0, 2, 5, 8, 9]), (0, list(range(10)))):
        monkeypatch.setattr(search, "MAX_BYTES", room * frame.image.nbytes)
        found, searched = run(lambda index: [at(10)], stream(10))
        assert searched == expected
        assert [ids(item) for item in found] == [[0]] * 10


def test_closing_early_reads_and_searches_no_more():
    taken = []

    def noting():
        for frame in stream(100):
            taken.append(frame.index)
            yield frame

    source = noting()
    script = Script(lambda index: [at(10)])
    found = find_faces(source, script, OPTIONS, size=SIZE)
    for _ in range(3):
        next(found)
    before = len(taken), len(script.searched)
    found.close()
    assert (len(taken), len(script.searched)) == before == (11, 2)
    assert next(source).index == 11  # still open, and the caller's


def test_nothing_is_read_before_the_first_frame_is_asked_for():
    def failing():
        raise AssertionError("read")
        yield

    find_faces(failing(), Script(lambda index: []), OPTIONS, size=SIZE)


def test_an_error_while_reading_comes_through():
    def failing():
        yield from stream(3)
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        list(find_faces(failing(), Script(lambda index: []), OPTIONS, size=SIZE))


@pytest.mark.parametrize("stride", [2, 5, 7, 40])
def test_a_stride_leaves_frames_out(stride):
    options = ScanOptions(min_sharpness=0.0, detect_every=0.4, stride=stride)
    found, searched = run(lambda index: [at(10 + index)], stream(83), options)
    assert all(index % stride == 0 for index in searched)
    assert [item.frame.index for item in found] == list(range(83))
    for index, item in enumerate(found):
        assert item.analysed is (index % stride == 0)
        assert len(item.crops) == item.analysed
        if item.analysed and stride < 20:
            assert ids(item) == [0]
            assert item.crops[0].face.box.x1 == pytest.approx(10 + index)


def test_a_stride_sees_cuts_between_its_frames():
    options = ScanOptions(min_sharpness=0.0, detect_every=0.4, stride=5)
    found, _ = run(lambda index: [at(50)], stream(21, shots=[7]), options)
    assert [ids(item)[0] for item in found if item.analysed] == [0, 0, 1, 1, 1]


def test_small_faces_are_named_but_not_judged():
    found, _ = run(lambda index: [at(10), at(200, side=39)], stream(21))
    for item in found:
        assert ids(item) == [0]
        assert [(face.reason, face.face.track_id) for face in item.unscored] == [("too_small", 1)]


def test_small_faces_that_flicker_start_no_search():
    _, searched = run(
        lambda index: [at(10)] + ([at(200, side=30)] if index % 20 == 0 else []), stream(41)
    )
    assert searched == [0, 10, 20, 30, 40]


def test_blurred_faces_are_not_judged():
    flat = np.full((120, 320, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, flat.shape, dtype=np.uint8)
    for image, blurred in ((flat, True), (noise, False)):
        image[0, 1] = UPRIGHT
        frames = [Frame(0, 0, 0.0, image)]
        (item,) = find_faces(frames, Script(lambda index: [at(50)]), ScanOptions(), size=192)
        assert [face.reason for face in item.unscored] == ["too_blurred"] * blurred
        assert [crop.sharpness >= ScanOptions().min_sharpness for crop in item.crops] == [True] * (
            not blurred
        )


def test_of_many_faces_the_largest_begin_and_all_take_turns():
    options = ScanOptions(min_sharpness=0.0, max_faces=2)
    found, _ = run(
        lambda index: [at(0, side=50), at(60, side=80), at(200, side=60), at(270, side=20)],
        stream(12),
        options,
    )
    assert [ids(item) for item in found[:4]] == [[1, 2], [0, 1], [0, 2], [1, 2]]
    for item in found:
        left_out = ({0, 1, 2} - set(ids(item))).pop()
        assert [(face.reason, face.face.track_id) for face in item.unscored] == [
            ("limit_faces", left_out),
            ("too_small", 3),
        ]


def test_faces_that_the_detector_left_out_are_counted():
    found, _ = run(lambda index: [at(10)], stream(31), truncated=(10,))
    for index, item in enumerate(found):
        reasons = [face.reason for face in item.unscored]
        assert reasons == ["limit_faces"] * (0 < index < 20)
        if reasons:
            assert item.unscored[0].face.box == Box(0, 0, 320, 120)
            assert item.unscored[0].face.track_id is None


@given(
    st.lists(st.lists(st.integers(0, 24), max_size=3), min_size=1, max_size=50),
    st.sets(st.integers(1, 49), max_size=3),
    st.integers(1, 4),
)
def test_whatever_happens_every_frame_comes_once_in_order(places, shots, stride):
    options = ScanOptions(min_sharpness=0.0, detect_every=0.4, stride=stride)
    found, searched = run(
        lambda index: [at(10.0 * place) for place in places[index]],
        stream(len(places), shots=sorted(shots)),
        options,
    )
    assert [item.frame.index for item in found] == list(range(len(places)))
    assert len(set(searched)) == len(searched)
    latest = -1
    for item in found:
        assert item.analysed is (item.frame.index % stride == 0)
        tracks = ids(item)
        assert tracks == sorted(set(tracks))
        assert all(track <= latest for track in tracks) or max(tracks) > latest
        latest = max([latest, *tracks])
        if item.frame.index in searched:  # between key frames perhaps only where faces were
            boxes = {crop.face.box.x1 for crop in item.crops}
            assert boxes <= {10.0 * place for place in places[item.frame.index]}


def test_between_key_frames_faces_are_looked_for_where_they_were_and_in_their_size():
    script = Script(lambda index: [at(20)] if index >= 7 else [])
    list(find_faces(stream(14), script, OPTIONS, size=SIZE))
    assert script.larger_than[0] == script.larger_than[13] == 0  # key frames
    assert set(script.larger_than.values()) == {0.0, 0.8 * 60}
    assert script.within[0] == script.within[13] == [None]
    between = set(script.within) - {0, 10, 13}
    assert {6, 7} <= between
    assert all(script.within[index] == [Box(0, 0, 134, 120)] for index in between)


def test_two_faces_are_looked_for_in_two_places_each_in_its_size():
    script = Script(lambda index: [at(20, side=20), at(250, side=30)][index >= 4 :])
    list(find_faces(stream(11), script, ScanOptions(min_face=12, detect_every=0.4), size=SIZE))
    assert {len(places) for index, places in script.within.items() if 0 < index < 10} == {2}


def test_a_face_that_leaves_its_place_is_looked_for_everywhere():
    boxes = [at(20), at(60), at(100), at(105), at(105), at(105), at(105), at(60), at(20), at(20)]
    script = Script(lambda index: [boxes[index]] if index != 9 else [])
    found = list(find_faces(stream(10), script, OPTIONS, size=SIZE))
    assert script.within[4] == [Box(0, 0, 134, 120), None]
    for index in script.searched:
        assert [crop.face.box for crop in found[index].crops] == [boxes[index]][: index != 9]


def test_faces_all_over_the_frame_are_looked_for_at_once():
    script = Script(lambda index: [at(10), at(90), at(170), at(250)] if index < 4 else [])
    list(find_faces(stream(11), script, OPTIONS, size=SIZE))
    assert {place for places in script.within.values() for place in places} == {None}
