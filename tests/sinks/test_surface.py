"""Drawing into planes gives what drawing into RGB and converting gives, at odd places too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscan.sinks import draw
from deepscan.sinks.draw import Area
from deepscan.sinks.styles import VERMILLION, Mark
from deepscan.sinks.surface import Surface
from deepscan.types import Image, Planes
from tests.sinks import build

WIDTH, HEIGHT = 61, 47
RED, GREEN, BLUE = 0.2126, 0.7152, 0.0722  # BT.709


def subsampled(image: Image) -> list[np.ndarray]:
    """Luma and the mean colour of 2x2 pixels, by the formulas of BT.709."""
    r, g, b = (image[..., n].astype(float) / 255 for n in range(3))
    luma = RED * r + GREEN * g + BLUE * b
    planes = [16 + 219 * luma]
    for value, weight in ((b, BLUE), (r, RED)):
        colour = np.pad((value - luma) / (2 * (1 - weight)), ((0, 1), (0, 1)), "edge")
        halved = sum(colour[y::2, x::2][:24, :31] for y in (0, 1) for x in (0, 1)) / 4
        planes.append(128 + 224 * halved)
    return planes


def pair() -> tuple[Image, Planes, Surface]:
    image = np.full((HEIGHT, WIDTH, 3), (90, 140, 60), np.uint8)
    planes = Planes(np.zeros(Planes.count(WIDTH, HEIGHT), np.uint8), WIDTH, HEIGHT, 1)
    surface = Surface.of(planes)
    surface.copy(*(np.rint(plane).astype(np.uint8) for plane in subsampled(image)))
    return image, planes, surface


def assert_alike(image: Image, planes: Planes) -> None:
    wanted = subsampled(image)
    inner = (slice(0, 23), slice(0, 30))  # half of the last sample lies outside the picture
    assert np.abs(planes.luma - wanted[0]).max() <= 3
    for plane, colour in ((planes.blue, wanted[1]), (planes.red, wanted[2])):
        # Layers over each other are averaged one by one here, and together there.
        assert np.abs(plane - colour)[inner].max() <= 9
        assert np.abs(plane - colour)[inner].mean() <= 1


@given(st.integers(-9, 65), st.integers(-9, 50), st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_areas(x: int, y: int, width: int, height: int) -> None:
    image, planes, surface = pair()
    area = Area(x, y, x + width, y + height)
    build.fill(image, area, VERMILLION)
    surface.fill(area, VERMILLION)
    assert_alike(image, planes)


@given(st.integers(-9, 65), st.integers(-9, 50))
@settings(max_examples=30, deadline=None)
def test_sprites(x: int, y: int) -> None:
    image, planes, surface = pair()
    sprite = draw.label("ab", Mark.SUSPICIOUS.value, 12)
    build.blit(image, sprite, x, y)
    surface.blit(sprite, x, y)
    assert_alike(image, planes)


@pytest.mark.parametrize("mark", Mark)
@pytest.mark.parametrize("place", [(4, 6), (5, 7), (4, 7)])
def test_frames(mark: Mark, place: tuple[int, int]) -> None:
    image, planes, surface = pair()
    area = Area(*place, 50, 41)
    build.frame(image, area, mark.value, 1)
    surface.frame(area, mark.value, 1)
    # Shades that overlap are rounded twice, and in RGB colour by colour.
    assert np.abs(planes.luma - subsampled(image)[0]).max() <= 3
    assert (planes.luma != pair()[1].luma).sum() > 100


@pytest.mark.parametrize("mark", Mark)
@pytest.mark.parametrize(("x", "y"), [(0, 0), (5, 3), (4, 3), (11, 7)])
def test_marked_areas(mark: Mark, x: int, y: int) -> None:
    image, planes, surface = pair()
    inside = np.zeros((40, 50), np.uint8)
    inside[9:30, 8:41] = 255
    build.mark(image[y : y + 40, x : x + 50], inside, mark.value, 1)
    surface.mark(inside, x, y, mark.value, 1)
    assert_alike(image, planes)


def test_a_surface_without_marks_stays_as_it_is() -> None:
    _, planes, surface = pair()
    surface.mark(np.zeros((20, 20), np.uint8), 3, 3, Mark.MANIPULATED.value, 1)
    assert np.array_equal(planes.samples, pair()[1].samples)
