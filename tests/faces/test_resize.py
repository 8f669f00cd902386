"""Resizing in NumPy gives torch's numbers to the last bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deepscan.faces.cascade import Part
from deepscan.faces.resize import AreaSums, TurnedSums, shrink, shrunk


def noise(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(270, 480), (271, 483), (50, 70), (64, 1), (7, 5), (1, 3)])
@pytest.mark.parametrize("scale", [0.5, 20 / 41, 20 / 64, 20 / 300, 20 / 21])
def test_shrinking_is_that_of_torch(size, scale):
    image = noise(*size)
    wanted = [max(1, math.ceil(side * scale)) for side in size]
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = F.interpolate(pixels, size=wanted, mode="bilinear", antialias=True)
    assert np.array_equal(shrink(image, scale), expected[0].permute(1, 2, 0).numpy())


def test_shrinking_by_nothing_is_nothing():
    image = noise(9, 8)
    assert shrink(image, 1) is image


@pytest.mark.parametrize("size", [(270, 480), (271, 483), (64, 70)])
@pytest.mark.parametrize("scale", [1, 0.5, 20 / 41])
def test_a_part_is_shrunk_to_what_the_whole_holds_there(size, scale):
    image = noise(*size)
    whole = shrink(image, scale)
    rows, columns = whole.shape[:2]
    assert shrunk(*size, scale) == (rows, columns)
    for down, across in (
        (range(rows), range(columns)),
        (range(3, 9), range(5, 30)),
        (range(2), range(columns - 3, columns)),
        (range(rows - 1, rows), range(7, 8)),
    ):
        part = shrink(image, scale, (down, across))
        assert np.array_equal(part, whole[down.start : down.stop, across.start : across.stop])


def test_views_that_are_not_contiguous_are_shrunk_too():
    image = noise(40, 60)
    assert np.array_equal(shrink(image[:, ::-1], 0.5), shrink(image[:, ::-1].copy(), 0.5))


@pytest.mark.parametrize("size", [(2, 3), (12, 40), (61, 61), (70, 90), (65, 71)])
def test_the_whole_picture_is_averaged_as_torch_does(size):
    image = noise(60, 70)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = F.interpolate(pixels, size=size, mode="area")[0].permute(1, 2, 0).numpy()
    found, row, column = AreaSums(image).resized(*size)
    assert np.array_equal(found, expected) and (row, column) == (0, 0)


@pytest.mark.parametrize("size", [(30, 42), (51, 60), (58, 69)])
@pytest.mark.parametrize(("top", "left"), [(0, 0), (7, 12), (31, 40), (10, 3)])
def test_a_part_is_averaged_as_in_the_whole(size, top, left):
    image = noise(60, 70)
    whole, _, _ = AreaSums(image).resized(*size)
    piece = image[top : top + 29, left : left + 30]
    sums = AreaSums(piece, Part(top, left, 60, 70))
    found, row, column = sums.resized(*size)
    assert row % 2 == 0 and column % 2 == 0 and found.size
    rows, columns = found.shape[:2]
    assert rows % 2 == 0 or row + rows == size[0]
    assert columns % 2 == 0 or column + columns == size[1]
    assert np.array_equal(found, whole[row : row + rows, column : column + columns])
    edges = np.array([[left + 2, top, left + 20, top + 29], [left - 1, top, left + 9, top + 9]]).T
    assert sums.inside(*edges).tolist() == [True, False]
    crop = sums.crops(*edges[:, :1], 24)
    assert np.array_equal(crop, AreaSums(image).crops(*edges[:, :1], 24))


@pytest.mark.parametrize("side", [24, 48])
def test_regions_are_averaged_as_torch_does(side):
    image = noise(120, 100)
    boxes = np.array([(0, 0, 100, 120), (3, 5, 4, 6), (10, 20, 41, 51), (50, 7, 77, 90)])
    found = AreaSums(image).crops(*boxes.T, side)
    for crop, (left, top, right, bottom) in zip(found, boxes, strict=True):
        pixels = torch.from_numpy(image[top:bottom, left:right]).permute(2, 0, 1)[None].float()
        expected = F.interpolate(pixels, size=(side, side), mode="area")[0]
        assert np.array_equal(crop, expected.permute(1, 2, 0).numpy())


def test_sums_beyond_32_bits_are_still_exact():
    white = np.full((4500, 4000, 3), 255, np.uint8)  # adds up to 4.6e9
    assert (AreaSums(white).crops(*np.array([[3990, 4490, 4000, 4500]]).T, 4) == 255).all()


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_sums_serve_a_picture_that_is_turned(turn):
    image = noise(61, 80)
    turned = np.rot90(image, -(turn // 90))
    here, there = TurnedSums(AreaSums(image), turn), AreaSums(turned)
    assert here.part == there.part
    assert here.resized(37, 44)[0] == pytest.approx(there.resized(37, 44)[0], abs=1e-4)
    edges = np.array([[3, 7, 40, 60], [0, 0, 11, 9]]).T
    assert here.crops(*edges, 24) == pytest.approx(there.crops(*edges, 24), abs=1e-4)
    assert here.inside(*edges).all()
