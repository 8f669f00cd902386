"""The annotation against truth: pairs in which the test itself changed a known region."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from skimage.metrics import structural_similarity

from train.annotate import annotate

SIDE = 224


def real_crop() -> np.ndarray:
    return cv2.resize(data.astronaut()[:256, 96:352], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def ellipse(share: float = 0.293) -> np.ndarray:
    """An upright ellipse that covers this share of the crop, bool."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    minor = SIDE * np.sqrt(share / np.pi / 1.2)
    inside = ((columns - SIDE / 2) / minor) ** 2 + ((rows - SIDE / 2) / (1.2 * minor)) ** 2
    return inside <= 1


def other_texture() -> np.ndarray:
    return cv2.resize(data.chelsea()[:280, 60:340], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def blended(region: np.ndarray) -> np.ndarray:
    soft = cv2.GaussianBlur(region.astype(np.float64), (9, 9), 0)[..., None]
    return np.round(soft * other_texture() + (1 - soft) * real_crop()).astype(np.uint8)


def noisy(image: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, deviation, image.shape)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return np.count_nonzero((mask > 0) & truth) / np.count_nonzero((mask > 0) | truth)


def test_a_blended_region_is_found():
    truth = ellipse()
    got = annotate(real_crop(), blended(truth))
    assert got is not None
    assert got.mask.dtype == np.uint8 and set(np.unique(got.mask)) == {0, 255}
    assert iou(got.mask, truth) > 0.75
    assert np.count_nonzero((got.mask == 0) & truth) / truth.sum() < 0.02
    assert 0 < got.strength <= 2


def test_noise_of_four_grey_levels_does_not_flood_the_crop():
    truth = ellipse()
    got = annotate(noisy(real_crop(), 4, 1), noisy(blended(truth), 4, 2))
    assert got is not None
    assert iou(got.mask, truth) > 0.7
    assert (got.mask > 0).mean() < 0.45


def test_the_same_noise_floods_it_with_data_range_one(monkeypatch):
    """Why the data range is a constant of the procedure and not a library default."""
    monkeypatch.setattr("train.annotate.procedure.DATA_RANGE", 1.0)
    truth = ellipse()
    got = annotate(noisy(real_crop(), 4, 1), noisy(blended(truth), 4, 2))
    assert got is not None
    assert (got.mask > 0).mean() > 0.8


def test_jpeg_of_good_quality_does_not_move_the_mask_far():
    truth = ellipse()
    got = annotate(jpeg(real_crop(), 92), jpeg(blended(truth), 92))
    assert got is not None
    assert iou(got.mask, truth) > 0.7


def test_the_mask_is_convex_and_joins_separate_regions():
    truth = np.zeros((SIDE, SIDE), bool)
    truth[40:80, 60:160] = truth[150:180, 80:140] = True
    got = annotate(real_crop(), blended(truth))
    assert got is not None
    assert cv2.connectedComponents(got.mask)[0] == 2  # background and one region
    assert (got.mask[81:150, 90:130] == 255).all()
    points = cv2.findNonZero(got.mask)
    hull = cv2.fillConvexPoly(np.zeros_like(got.mask), cv2.convexHull(points), 255)
    assert np.count_nonzero(hull != got.mask) < 0.005 * hull.size


def test_net_growth_is_about_six_pixels():
    """Measured from the thresholded difference to the final mask, on a square with hard edges."""
    real = np.full((SIDE, SIDE, 3), 128, np.uint8)
    fake = real.copy()
    fake[80:140, 80:140] = 40
    got = annotate(real, fake)
    assert got is not None
    raw_rows = np.flatnonzero((got.difference > 0).any(axis=1))
    rows = np.flatnonzero((got.mask > 0).any(axis=1))
    assert 4 <= raw_rows[0] - rows[0] <= 7
    assert 4 <= rows[-1] - raw_rows[-1] <= 7


def test_the_difference_is_the_grey_fake_where_it_differs():
    truth = ellipse()
    fake = blended(truth)
    got = annotate(real_crop(), fake)
    assert got is not None
    shown = got.difference > 0
    np.testing.assert_array_equal(
        got.difference[shown], cv2.cvtColor(fake, cv2.COLOR_RGB2GRAY)[shown]
    )
    assert not got.difference[
        ~cv2.dilate(truth.astype(np.uint8), np.ones((25, 25))).astype(bool)
    ].any()


def test_identical_crops_have_no_mask():
    crop = real_crop()
    assert annotate(crop, crop.copy()) is None
    flat = np.full((32, 32, 3), 90, np.uint8)
    assert annotate(flat, flat) is None


def test_a_fake_that_is_black_where_it_differs_gives_an_empty_mask():
    real = np.full((64, 64, 3), 200, np.uint8)
    got = annotate(real, np.zeros_like(real))
    assert got is None or not got.mask.any()


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (np.zeros((20, 20, 3), np.uint8), np.zeros((20, 21, 3), np.uint8), "real crop is"),
        (np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8), "need .H, W, 3. uint8"),
        (np.zeros((20, 20, 3)), np.zeros((20, 20, 3)), "need .H, W, 3. uint8"),
        (np.zeros((6, 20, 3), np.uint8), np.zeros((6, 20, 3), np.uint8), "at least 7"),
    ],
)
def test_bad_crops_are_refused(real, fake, message):
    with pytest.raises(ValueError, match=message):
        annotate(real, fake)


@settings(max_examples=15, deadline=None)
@given(st.integers(20, 150), st.integers(20, 150), st.integers(24, 60))
def test_the_mask_covers_the_changed_square_wherever_it_lies(top, left, side):
    fake = real_crop()
    square = np.s_[top : top + side, left : left + side]
    fake[square] = 255 - fake[square] // 2
    got = annotate(real_crop(), fake)
    assert got is not None
    covered = (got.mask[square] > 0).mean()
    assert covered > 0.95
    assert (got.mask > 0).sum() < (side + 40) ** 2


def test_scikit_image_still_defines_similarity_as_the_procedure_needs():
    """7x7 uniform window, K1 0.01, K2 0.03, sample covariance: worked out by hand at one pixel."""
    random = np.random.default_rng(0)
    a, b = random.random((2, 15, 15))
    _, got = structural_similarity(a, b, full=True, data_range=2.0)
    x, y = a[4:11, 4:11].ravel(), b[4:11, 4:11].ravel()
    c1, c2 = 0.02**2, 0.06**2
    covariance = np.cov(x, y)
    expected = (
        (2 * x.mean() * y.mean() + c1)
        * (2 * covariance[0, 1] + c2)
        / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2))
    )
    assert got[7, 7] == pytest.approx(expected)
