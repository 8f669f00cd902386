"""The camera: where it says a box lies is where it is seen; the codec gives every frame back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.forge.test_forges import FACE, OTHER
from train.calibration.clips import CODECS, film, handheld_camera, make_scene, through_codec
from train.forge import load_forge

BOX = (60.0, 50.0, 110.0, 120.0)


def marked() -> np.ndarray:
    """Grey with a white rectangle exactly on BOX (x2 and y2 exclusive)."""
    picture = np.full((180, 160, 3), 90, np.uint8)
    picture[50:120, 60:110] = 255
    return picture


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.45, 1.5))
def test_the_box_is_where_the_camera_shows_it(seed: int, scale: float) -> None:
    picture = marked()
    camera = handheld_camera(picture, 6, np.random.default_rng(seed), scale=scale)
    for index in range(6):
        frame = camera.shoot(picture, index)
        assert frame.shape == (camera.height, camera.width, 3)
        rows, columns = np.nonzero(frame[..., 0] > 172)
        box = camera.place(BOX, index)
        # place() gives the upright box round a rectangle turned by at most 1.5 degrees, and pixel
        # centres lie half a pixel from corners: two pixels and the turn in all.
        slack = 2 + 0.03 * max(box.width, box.height)
        assert abs(columns.min() - box.x1) < slack and abs(columns.max() + 1 - box.x2) < slack
        assert abs(rows.min() - box.y1) < slack and abs(rows.max() + 1 - box.y2) < slack


def test_a_camera_moves_smoothly_and_by_its_draw() -> None:
    picture = marked()
    camera = handheld_camera(picture, 24, np.random.default_rng(1))
    again = handheld_camera(picture, 24, np.random.default_rng(1))
    assert np.array_equal(camera.maps, again.maps)
    places = np.array([camera.place(BOX, index).centre for index in range(24)])
    steps = np.abs(np.diff(places, axis=0))
    assert 0 < steps.max() < 3 and np.ptp(places, axis=0).max() < 20
    assert camera.width % 2 == camera.height % 2 == 0


def test_one_frame_needs_no_time() -> None:
    assert handheld_camera(marked(), 1, np.random.default_rng(0)).maps.shape == (1, 2, 3)


def test_every_frame_gets_its_own_grain() -> None:
    picture = np.full((64, 64, 3), 128, np.uint8)
    camera = handheld_camera(picture, 2, np.random.default_rng(0), sway=0.0)
    quiet = list(film([picture] * 2, camera, np.random.default_rng(1), 0.0))
    noisy = list(film([picture] * 2, camera, np.random.default_rng(1), 5.0))
    assert all((frame == 128).all() for frame in quiet)
    assert not np.array_equal(noisy[0], noisy[1])
    assert noisy[0].std() > 2


@pytest.mark.parametrize("crf", [18, 40])
def test_a_codec_gives_every_frame_back(crf: int) -> None:
    camera = handheld_camera(marked(), 8, np.random.default_rng(3))
    shot = list(film([marked()] * 8, camera, np.random.default_rng(0), 2.0))
    seen = through_codec(iter(shot), crf=crf, rate=12)
    assert len(seen) == 8 and seen[0].shape == shot[0].shape
    error = np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(seen, shot, strict=True)])
    assert error < (6 if crf == 18 else 20)


def test_coarser_coding_errs_more() -> None:
    camera = handheld_camera(marked(), 4, np.random.default_rng(3))
    shot = list(film([marked()] * 4, camera, np.random.default_rng(0), 6.0))
    errors = [
        np.mean(
            [
                np.abs(a.astype(int) - b).mean()
                for a, b in zip(through_codec(iter(shot), crf=crf), shot, strict=True)
            ]
        )
        for crf in (15, 30, 45)
    ]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_real_and_errs_more_at_its_worst(codec: str) -> None:
    camera = handheld_camera(FACE.image, 5, np.random.default_rng(3))
    shot = list(film([FACE.image] * 5, camera, np.random.default_rng(0), 2.0))
    errors = []
    encoder, _, qualities = CODECS[codec]
    for crf in qualities:
        seen = through_codec(iter(shot), crf=crf, codec=encoder, rate=12)
        assert len(seen) == 5 and seen[0].shape == shot[0].shape and seen[0].dtype == np.uint8
        errors.append(np.abs(np.array(seen).astype(int) - np.array(shot)).mean())
    assert 0.2 < errors[0] < errors[1] < 20


@pytest.mark.parametrize("name", ["swap", "reenact", "self-blend"])
def test_a_take_is_forged_where_its_masks_say(name: str) -> None:
    forge = load_forge(name)
    forged = make_scene(FACE, 6, np.random.default_rng(5), forge=forge, other=OTHER)
    real = make_scene(FACE, 6, np.random.default_rng(5))
    assert len(forged.pictures) == len(forged.masks) == len(real.pictures) == 6
    assert forged.tags[0] == name and real.tags == () and not np.any(real.masks)
    for made, seen, mask in zip(forged.pictures, real.pictures, forged.masks, strict=True):
        assert made.shape == seen.shape == FACE.image.shape
        if name != "self-blend":  # whose original changes too
            assert np.array_equal(made[mask == 0], seen[mask == 0])
        assert (mask > 0.4).any() and (made != seen)[mask > 0.4].any()


def test_a_take_moves_and_its_forged_part_trembles() -> None:
    forge = load_forge("swap")
    trembled = 0
    for seed in range(4):
        forged = make_scene(FACE, 8, np.random.default_rng(seed), forge=forge, other=OTHER)
        again = make_scene(FACE, 8, np.random.default_rng(seed), forge=forge, other=OTHER)
        assert all(np.array_equal(a, b) for a, b in zip(forged.masks, again.masks, strict=True))
        jumps = [np.abs(a - b).mean() for a, b in zip(forged.masks, forged.masks[1:], strict=False)]
        assert max(jumps) < 0.1  # the same manipulation all along
        trembled += min(jumps) > 0
        real = make_scene(FACE, 8, np.random.default_rng(seed))
        steps = [
            np.abs(a.astype(int) - b).mean()
            for a, b in zip(real.pictures, real.pictures[1:], strict=False)
        ]
        assert 0 < max(steps) < 12
    assert trembled == 4
