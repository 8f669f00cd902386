"""Blending and colours: exact outside, what each promises inside."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.train.forge.test_forges import FACE
from train.forge.blend import BLENDS, SPACES, compose, fill, match_colour

HEIGHT, WIDTH = FACE.image.shape[:2]


def disc(sigma: float = 3.0) -> np.ndarray:
    weight = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.circle(weight, (WIDTH // 2, HEIGHT // 2), 45, 1.0, -1)
    soft = cv2.GaussianBlur(weight, (0, 0), sigma)
    return np.where(soft < 0.01, 0, np.minimum(soft, 1)).astype(np.float32)


@pytest.mark.parametrize("kind", BLENDS)
@settings(max_examples=15, deadline=None)
@given(weight=arrays(np.float32, (24, 21), elements=st.sampled_from([0.0, 0.0, 0.3, 1.0])))
def test_nothing_changes_where_the_weight_is_0(kind: str, weight: np.ndarray) -> None:
    target = FACE.image[60:84, 60:81]
    made = compose(255 - target, target, weight, kind)
    assert made.dtype == np.uint8 and np.array_equal(made[weight == 0], target[weight == 0])


@pytest.mark.parametrize("kind", BLENDS)
def test_a_picture_blended_onto_itself_stays(kind: str) -> None:
    made = compose(FACE.image, FACE.image, disc(), kind)
    assert np.abs(made.astype(int) - FACE.image).max() <= 1


def test_alpha_and_laplace_show_the_source_inside() -> None:
    source = np.full_like(FACE.image, 40)
    source[..., 0] = 200
    for kind in ("alpha", "laplace"):
        made = compose(source, FACE.image, disc(), kind)
        centre = made[HEIGHT // 2 - 5 : HEIGHT // 2 + 5, WIDTH // 2 - 5 : WIDTH // 2 + 5]
        assert np.abs(centre.astype(int) - source[0, 0]).mean() < 6


def test_poisson_keeps_gradients_and_meets_the_border() -> None:
    # The same picture in another light: Poisson takes the light back.
    lighter = np.clip(FACE.image.astype(int) // 2 + 60, 0, 255).astype(np.uint8)
    target = np.clip(FACE.image.astype(int) // 2 + 20, 0, 255).astype(np.uint8)
    made = compose(lighter, target, disc(), "poisson")
    assert np.abs(made.astype(int) - target).mean() < 1
    plain = compose(lighter, target, disc(), "alpha")
    assert np.abs(plain.astype(int) - target).max() > 30


def test_no_such_blending_or_space() -> None:
    with pytest.raises(ValueError, match="no blending 'melt'; there are alpha"):
        compose(FACE.image, FACE.image, disc(), "melt")
    with pytest.raises(ValueError, match="no colour transfer 'hue'; there are lab"):
        match_colour(FACE.image, FACE.image, disc(), "hue")


def test_a_membrane_over_a_ramp_is_the_ramp() -> None:
    ramp = np.tile(np.arange(60, dtype=np.float32)[None, :, None], (50, 1, 3))
    known = np.ones((50, 60), np.float32)
    known[15:35, 20:40] = 0
    filled = fill(ramp * known[..., None], known)
    assert np.array_equal(filled[known == 1], ramp[known == 1])
    assert np.abs(filled - ramp).max() < 4
    assert np.isfinite(fill(ramp, np.zeros_like(known))).all()


@pytest.mark.parametrize("space", SPACES)
def test_colours_come_closer(space: str) -> None:
    tinted = np.clip(FACE.image * np.array((0.6, 0.9, 1.2)) + 20, 0, 255).astype(np.uint8)
    weight = disc()
    made = match_colour(tinted, FACE.image, weight, space)
    inside = weight > 0.5
    before = np.abs(tinted[inside].mean(0) - FACE.image[inside].mean(0)).sum()
    after = np.abs(made[inside].astype(float).mean(0) - FACE.image[inside].mean(0)).sum()
    assert after < 0.35 * before if space != "none" else np.array_equal(made, tinted)


def test_a_few_pixels_have_no_colours_to_match() -> None:
    weight = np.zeros((HEIGHT, WIDTH), np.float32)
    weight[10, 10:20] = 1
    for space in SPACES:
        assert np.array_equal(match_colour(FACE.image, FACE.image // 2, weight, space), FACE.image)
