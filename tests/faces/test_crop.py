"""Squares, crops and their way back onto the frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageFilter

from deepscan.faces.crop import cut, paste, square
from deepscan.faces.quality import detail, sharpness
from deepscan.types import Box

HEIGHT, WIDTH = 150, 240
places = st.floats(-200, 400)
sides = st.floats(20, 220)


def ramp():
    """Red holds each pixel's x, green its y."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[..., 0] = np.arange(WIDTH)
    picture[..., 1] = np.arange(HEIGHT)[:, None]
    return picture


def squares(x, y, side):
    return Box(x, y, x + side, y + side)


def random_picture(height=HEIGHT, width=WIDTH, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_square_keeps_the_centre_and_takes_the_longer_side():
    assert square(Box(10, 20, 30, 60), 1.5) == Box(-10, 10, 50, 70)
    assert square(Box(10, 20, 50, 40), 1.0) == Box(10, 10, 50, 50)


@given(places, places, sides, st.integers(8, 200))
def test_what_is_cut_and_pasted_lands_where_it_was(x, y, side, size):
    box = squares(x, y, side)
    crop = cut(ramp(), box, size)
    assert crop.shape == (size, size, 3) and crop.dtype == np.uint8
    cell = side / size
    # Beyond the outermost cells' centres nothing is known; half a pixel besides, and the rounding.
    tolerance = 0.5 + 0.5 + cell / 2
    for channel, axis in ((0, 1), (1, 0)):
        region, values = paste(crop[..., channel].astype(np.float32), box, HEIGHT, WIDTH)
        assert values.dtype == np.float32
        expected = ramp()[region][..., channel].astype(np.float32)
        assert values.shape == expected.shape
        # The filter rounds the kink where the frame ends.
        inner = [slice(None), slice(None)]
        margin = int(2 * max(1, cell)) + 1
        length = (HEIGHT, WIDTH)[axis]
        start = max(0, margin - region[axis].start)
        stop = max(start, min(region[axis].stop, length - margin) - region[axis].start)
        inner[axis] = slice(start, stop)
        assert np.abs(values - expected)[tuple(inner)].max(initial=0) <= tolerance


@given(st.floats(40, 150), st.floats(40, 90), st.floats(25, 60), st.integers(32, 128))
def test_a_disc_comes_back_to_its_place(x, y, side, size):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    centre = (x + side * 0.45, y + side * 0.55)
    disc = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 < (side / 4) ** 2
    picture = np.repeat(disc[..., None], 3, axis=2).astype(np.uint8) * 255
    box = squares(x, y, side)
    mask = cut(picture, box, size)[..., 0].astype(np.float32) / 255
    canvas = np.zeros((HEIGHT, WIDTH), np.float32)
    region, values = paste(mask, box, HEIGHT, WIDTH)
    canvas[region] = values
    back = canvas >= 0.5
    for place in (rows, columns):
        assert place[back].mean() == pytest.approx(place[disc].mean(), abs=0.25)
    assert back.sum() == pytest.approx(disc.sum(), rel=0.1)


@given(places, places, st.floats(0.01, 300), st.integers(1, 70), st.integers(1, 70))
def test_paste_covers_the_pixels_whose_centre_lies_in_the_box(x, y, side, height, width):
    box = squares(x, y, side)
    mask = np.random.default_rng(0).random((9, 7), dtype=np.float32)
    region, values = paste(mask, box, height, width)
    covered = np.zeros((height, width), bool)
    covered[region] = True
    rows, columns = np.mgrid[:height, :width] + 0.5
    assert values.shape == covered[region].shape
    assert np.array_equal(
        covered, (rows >= box.y1) & (rows < box.y2) & (columns >= box.x1) & (columns < box.x2)
    )
    if values.size:
        assert mask.min() - 1e-6 <= values.min() and values.max() <= mask.max() + 1e-6


def test_paste_of_one_cell_is_flat():
    region, values = paste(np.array([[0.7]], np.float32), Box(2, 3, 8, 9), 20, 20)
    assert region == (slice(3, 9), slice(2, 8))
    assert np.all(values == np.float32(0.7))


def test_paste_at_the_same_size_changes_nothing():
    mask = np.random.default_rng(1).random((30, 30), dtype=np.float32)
    region, values = paste(mask, Box(5, 6, 35, 36), 100, 100)
    assert region == (slice(6, 36), slice(5, 35))
    assert np.allclose(values, mask, atol=1e-6)


def test_cut_at_the_same_size_changes_nothing():
    picture = random_picture()
    assert np.array_equal(cut(picture, Box(31, 17, 95, 81), 64), picture[17:81, 31:95])


@given(st.integers(-300, 300), st.integers(-300, 300))
def test_outside_the_frame_its_edge_is_repeated(x, y):
    picture = random_picture(40, 60)
    rows = np.clip(np.arange(y, y + 48), 0, 39)
    columns = np.clip(np.arange(x, x + 48), 0, 59)
    crop = cut(picture, squares(x, y, 48), 48)
    assert np.array_equal(crop, picture[rows[:, None], columns])


@given(st.floats(-30, 30), st.floats(-30, 30), st.sampled_from([24, 64, 100]))
def test_a_padded_frame_gives_the_same_crop(x, y, size):
    """What lies in the frame and what is repeated beyond it are resampled alike."""
    picture = random_picture(40, 60)
    wide = np.pad(picture, ((100, 100), (100, 100), (0, 0)), "edge")
    inside = cut(wide, squares(x + 100, y + 100, 50), size).astype(int)
    assert np.abs(cut(picture, squares(x, y, 50), size).astype(int) - inside).max() <= 1


def test_shrinking_does_not_alias():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = cut(stripes, Box(0.4, 0, 200.4, 200), 40)
    assert np.abs(crop.astype(int) - 127).max() <= 12


def test_cut_is_repeatable_and_gives_memory_of_its_own():
    picture = random_picture()
    before = picture.copy()
    crop = cut(picture, Box(10.3, 20.6, 90.1, 100.4), 96)
    assert np.array_equal(crop, cut(picture, Box(10.3, 20.6, 90.1, 100.4), 96))
    crop[:] = 0
    assert np.array_equal(picture, before)


@pytest.mark.parametrize(
    ("shape", "box"),
    [((0, 0, 3), Box(0, 0, 5, 5)), ((9, 9, 3), Box(3, 3, 3, 8)), ((9, 9, 3), Box(3, 8, 6, 2))],
)
def test_nothing_cannot_be_cut(shape, box):
    with pytest.raises(ValueError, match="cannot cut"):
        cut(np.zeros(shape, np.uint8), box, 16)


def test_sharpness_falls_with_blur_and_is_zero_for_a_flat_crop():
    picture = Pillow.fromarray(random_picture(192, 192))
    values = [
        sharpness(np.array(picture.filter(ImageFilter.GaussianBlur(radius))))
        for radius in (0, 1, 2, 4)
    ]
    assert values == sorted(values, reverse=True) and values[0] > 100 * values[2]
    assert sharpness(np.full((192, 192, 3), 77, np.uint8)) == pytest.approx(0, abs=1e-6)


def test_sharpness_of_a_known_pattern():
    dot = np.zeros((192, 192, 3), np.uint8)
    dot[96, 96] = 100
    # Five Laplacians differ from zero, 4 x 100 and -400, among 190 x 190.
    assert sharpness(dot) == pytest.approx((4 * 100**2 + 400**2) / 190**2, rel=1e-4)


@pytest.mark.parametrize("size", [128, 256, 384])
def test_sharpness_does_not_depend_on_the_crop_size(size):
    soft = np.array(Pillow.fromarray(random_picture(40, 40)).resize((300, 300)))
    box = Box(20, 20, 280, 280)
    assert sharpness(cut(soft, box, size)) == pytest.approx(
        sharpness(cut(soft, box, 192)), rel=0.25
    )


# Detail: what a calibration may know of a crop beside size and sharpness


def noise(side: int, spread: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(128 + rng.normal(0, spread, (side, side, 3)), 0, 255).astype(np.uint8)


def test_flat_and_graded_pictures_have_no_detail() -> None:
    assert detail(np.full((64, 64, 3), 90, np.uint8)) == 0.0
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    assert detail(ramp) == pytest.approx(0.0)


def test_detail_is_a_share_that_grows_with_grain() -> None:
    shares = [detail(noise(96, spread)) for spread in (0.2, 0.6, 2.0, 20.0)]
    assert shares == sorted(shares) and shares[-1] > 0.95
    assert all(0 <= share <= 1 for share in shares)


def test_detail_falls_where_an_encoder_saves() -> None:
    import cv2

    from train.forge.degrade import jpeg

    picture = cv2.GaussianBlur(noise(96, 40.0), (0, 0), 2.0)
    by_quality = [detail(jpeg(picture, quality)) for quality in (5, 30, 95)]
    assert by_quality == sorted(by_quality)


def test_pixels_that_were_let_go_have_none() -> None:
    assert detail(np.zeros((0, 0, 3), np.uint8)) == 0.0
