"""What a calibration may know of a crop."""

from __future__ import annotations

import numpy as np
import pytest

from deepscan.faces.quality import detail


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
