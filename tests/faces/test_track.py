"""Which faces are the same, and where the picture is cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from deepscan.faces.track import MAX_GAP, Tracker, is_cut, match, near, thumbnail
from deepscan.types import Box, Face


def face(x, y=100.0, side=60.0):
    return Face(Box(x, y, x + side, y + side), 0.99)


def ids(tracker, time, *faces):
    return [named.track_id for named in tracker.name(time, faces)]


def texture(seed, height=180, width=320, cells=7):
    """A scene: patches of colour at two sizes."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for rows, weight in ((cells, 0.7), (cells * 5, 0.3)):
        patches = rng.integers(0, 256, (rows, rows * 2, 3), dtype=np.uint8)
        grown = Pillow.fromarray(patches).resize((width, height), Pillow.Resampling.BICUBIC)
        picture += weight * np.asarray(grown)
    return picture.astype(np.uint8)


def cut_between(a, b):
    return is_cut(thumbnail(a), thumbnail(b))


def lighter(picture, gain, offset):
    return np.clip(picture * float(gain) + offset, 0, 255).astype(np.uint8)


def test_ids_rise_from_zero_and_stay_with_their_face():
    tracker = Tracker()
    assert ids(tracker, 0.0, face(10), face(200)) == [0, 1]
    assert ids(tracker, 0.1, face(205), face(15), face(400)) == [1, 0, 2]


def test_all_else_of_the_face_stays():
    before = Face(Box(1, 2, 30, 40), 0.93, ((1.0, 2.0),) * 5, None, True)
    (after,) = Tracker().name(0.0, [before])
    assert (after.box, after.confidence, after.landmarks, after.interpolated) == (
        before.box,
        before.confidence,
        before.landmarks,
        True,
    )


def test_the_better_overlap_wins_over_the_order():
    tracker = Tracker()
    assert ids(tracker, 0.0, face(100), face(130)) == [0, 1]
    assert ids(tracker, 0.1, face(127), face(103)) == [1, 0]


def test_a_short_gap_is_bridged_and_a_long_one_is_not():
    for gap, expected in ((MAX_GAP, 0), (MAX_GAP + 0.01, 1)):
        tracker = Tracker()
        ids(tracker, 0.0, face(100))
        ids(tracker, 0.0 + gap / 2)
        assert ids(tracker, gap, face(104)) == [expected]


def test_a_face_in_sight_goes_before_one_that_was_lost():
    tracker = Tracker()
    assert ids(tracker, 0.0, face(100), face(180)) == [0, 1]
    assert ids(tracker, 0.1, face(170)) == [1]
    # Nearer to the lost face 0 than to face 1, which is still in sight.
    assert ids(tracker, 0.2, face(128)) == [1]


def test_a_cut_ends_all_tracks_and_no_number_comes_back():
    tracker = Tracker()
    assert ids(tracker, 0.0, face(100), face(300)) == [0, 1]
    tracker.cut()
    assert ids(tracker, 0.04, face(100)) == [2]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Box(100, 100, 160, 160), True),
        (Box(140, 100, 200, 160), True),  # moved by two thirds of its side
        (Box(160, 100, 220, 160), False),  # moved by its side
        (Box(80, 80, 180, 180), True),
        (Box(70, 70, 190, 190), False),  # twice the size
    ],
)
def test_a_face_may_move_and_grow_so_far(other, expected):
    box = Box(100, 100, 160, 160)
    assert near(box, other) is expected
    assert near(other, box) is expected


boxes = st.lists(
    st.builds(
        lambda x, y, side: Box(x, y, x + side, y + side),
        st.integers(0, 80),
        st.integers(0, 80),
        st.integers(1, 60),
    ),
    max_size=7,
)


@given(boxes, boxes)
def test_pairs_are_one_to_one_allowed_and_stable(old, new):
    pairs = match(old, new, near)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(near(old[i], new[j]) for i, j in pairs)
    # Nobody who is left over could have had a partner of greater overlap than that partner has.
    taken = {i: old[i].iou(new[j]) for i, j in pairs}
    wanted = {j: old[i].iou(new[j]) for i, j in pairs}
    for i, before in enumerate(old):
        for j, after in enumerate(new):
            if near(before, after):
                assert before.iou(after) <= max(taken.get(i, -1.0), wanted.get(j, -1.0))


@pytest.mark.parametrize("seed", range(8))
def test_another_scene_is_a_cut(seed):
    assert cut_between(texture(seed), texture(seed + 100))
    assert cut_between(texture(seed, 90, 160), lighter(texture(seed + 100, 90, 160), 0.8, 10))


@pytest.mark.parametrize("seed", range(5))
def test_the_same_scene_is_none(seed):
    scene = texture(seed)
    noise = np.random.default_rng(seed).normal(0, 6, scene.shape)
    noisy = np.clip(scene + noise, 0, 255).astype(np.uint8)
    assert not cut_between(scene, scene)
    assert not cut_between(scene, noisy)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.10])
@pytest.mark.parametrize("seed", range(4))
def test_a_pan_is_none(seed, share):
    wide = texture(seed, 180, 640)
    step = int(share * 320)
    assert not cut_between(wide[:, 100:420], wide[:, 100 + step : 420 + step])


@pytest.mark.parametrize(("gain", "offset"), [(1, 60), (1.4, 0), (0.5, 0), (1, -40)])
@pytest.mark.parametrize("seed", range(4))
def test_a_flash_is_none(seed, gain, offset):
    scene = texture(seed)
    assert not cut_between(scene, lighter(scene, gain, offset))
    assert not cut_between(lighter(scene, gain, offset), scene)


@pytest.mark.parametrize("seed", range(3))
def test_fades_and_dissolves_are_none(seed):
    scene, other = texture(seed), texture(seed + 100)
    steps = np.linspace(0, 1, 13)  # half a second
    for step, following in itertools.pairwise(steps):
        assert not cut_between(lighter(scene, 1 - step, 0), lighter(scene, 1 - following, 0))
        mixed = [(scene * (1 - w) + other * w).astype(np.uint8) for w in (step, following)]
        assert not cut_between(*mixed)


def test_a_cut_to_black_is_a_cut():
    assert cut_between(texture(1), np.zeros((180, 320, 3), np.uint8))


def test_something_large_that_moves_is_none():
    frames = []
    for x in (60, 90):
        scene = texture(3).copy()
        scene[30:180, x : x + 100] = texture(50)[30:180, 60:160]
        frames.append(scene)
    assert not cut_between(*frames)


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (3, 500), (720, 1280)])
def test_thumbnails_of_any_size(shape):
    sample = thumbnail(np.full((*shape, 3), 9, np.uint8))
    assert sample.shape == (64, 64, 3) and sample.dtype == np.uint8
    assert not is_cut(sample, sample)


@pytest.mark.parametrize("level", [4, 64, 128])
def test_noise_on_a_flat_picture_is_none(level):
    """Nothing correlates there, and a step of a few grey levels moves a histogram wholly."""
    rng = np.random.default_rng(level)
    darker, brighter = (
        np.clip(rng.normal(level + step, 1.5, (180, 320, 3)), 0, 255).astype(np.uint8)
        for step in (-3, 2)
    )
    assert not cut_between(darker, brighter)
