"""Forges of a batch: expressions, in-painting and moved parts; and the spline that bends them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from train.faces import read_faces
from train.forge.batched.blend import compose, fill
from train.forge.batched.colour import match
from train.forge.batched.faces import BATCHED, Faces, Made, apply, sample
from train.forge.batched.inpaint import copy_move
from train.forge.batched.redraw import decoded_like
from train.forge.batched.warps import bend, displacements, spline
from train.smoke import write_faces

NAMES = ("reenact", "inpaint", "copy-move")
SIDE = 112


@cache
def two_people(side: int = SIDE) -> Faces:
    """The portrait and its mirror image, squares round the face as training cuts them."""
    pictures, marks, sides = [], [], []
    with TemporaryDirectory() as folder:
        write_faces(Path(folder))
        people = read_faces(Path(folder), "train")
    for person in people:
        x1, y1, x2, y2 = person.face.box
        longer = max(x2 - x1, y2 - y1)
        scale = side / (1.75 * longer)
        corner = np.array([(x1 + x2) / 2, (y1 + y2) / 2]) - 1.75 * longer / 2
        move = np.c_[np.eye(2) * scale, -corner * scale]
        pictures.append(
            cv2.warpAffine(person.face.image, move, (side, side), borderMode=cv2.BORDER_REFLECT_101)
        )
        marks.append((person.face.landmarks - corner) * scale)
        sides.append(longer * scale)
    return Faces(
        torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255,
        torch.from_numpy(np.stack(marks)).float(),
        torch.tensor(sides, dtype=torch.float32),
    )


def batch(count: int) -> tuple[Faces, Faces]:
    """So many faces, and somebody else for each."""
    who = torch.arange(count) % 2
    return two_people()[who], two_people()[1 - who]


def load(name: str) -> Callable[..., Made]:
    module, function = BATCHED[name].split(":")
    forge: Callable[..., Made] = getattr(import_module(module), function)
    return forge


def forged(name: str, seed: int, count: int = 6, alone: bool = False) -> Made:
    faces, others = batch(count)
    generator = torch.Generator().manual_seed(seed)
    return load(name)(faces, generator, others=None if alone else others)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(2))
def test_a_batch_keeps_its_contract(name: str, seed: int) -> None:
    faces, _ = batch(6)
    before = faces.images.clone()
    made = forged(name, seed)
    assert torch.equal(faces.images, before)  # what was given is left alone
    assert made.images.shape == made.originals.shape == (6, 3, SIDE, SIDE)
    assert made.masks.shape == (6, 1, SIDE, SIDE)
    for part in (made.images, made.originals, made.masks):
        assert part.dtype == torch.float32
        assert part.isfinite().all()
        assert part.min() >= 0 and part.max() <= 1
    outside = (made.masks == 0).expand_as(made.images)
    assert torch.equal(made.images[outside], made.originals[outside])
    assert (made.masks.mean((1, 2, 3)) > 0.001).all()
    assert (made.masks.mean((1, 2, 3)) < 0.6).all()


@pytest.mark.parametrize("name", NAMES)
def test_most_faces_are_visibly_changed(name: str) -> None:
    made = forged(name, 5, 12)
    apart = (made.images - made.originals).abs() * (made.masks > 0.5)
    within = apart.sum((1, 2, 3)) / (3 * (made.masks > 0.5).sum((1, 2, 3))).clamp(min=1)
    assert (within > 1.5 / 255).float().mean() > 0.7
    assert apart.amax((1, 2, 3)).median() > 12 / 255


@pytest.mark.parametrize("name", NAMES)
def test_masks_lie_on_the_face(name: str) -> None:
    faces, _ = batch(12)
    made = forged(name, 6, 12)
    rows = torch.arange(SIDE) + 0.5
    total = made.masks.sum((1, 2, 3))
    x = (made.masks.sum((1, 2)) * rows).sum(1) / total
    y = (made.masks.sum((1, 3)) * rows).sum(1) / total
    away = torch.stack([x, y], 1) - faces.landmarks.mean(1)
    assert (away.norm(dim=1) < 0.6 * faces.sides).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_follows_from_its_seed(name: str) -> None:
    one, same, other = forged(name, 1, 4), forged(name, 1, 4), forged(name, 2, 4)
    assert torch.equal(one.images, same.images) and torch.equal(one.masks, same.masks)
    assert not torch.equal(one.masks, other.masks)
    # Equal faces of one batch are forged differently.
    assert not torch.equal(one.masks[0], one.masks[2])


@pytest.mark.parametrize("name", NAMES)
def test_one_face_and_nobody_else_will_do(name: str) -> None:
    made = forged(name, 3, count=1, alone=True)
    assert made.images.shape == (1, 3, SIDE, SIDE)
    assert made.masks.mean() > 0.001
    assert not torch.equal(made.images, made.originals)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_need_not_be_square_nor_even(name: str) -> None:
    faces, others = (
        Faces(part.images[..., :, 7:94].contiguous()[..., 3:, :],
              part.landmarks - torch.tensor([7.0, 3.0]), part.sides)
        for part in batch(2)
    )  # fmt: skip
    made = load(name)(faces, torch.Generator().manual_seed(1), others=others)
    assert made.images.shape == faces.images.shape == (2, 3, 109, 87)
    outside = (made.masks == 0).expand_as(made.images)
    assert torch.equal(made.images[outside], faces.images[outside])


@pytest.mark.parametrize("name", NAMES)
def test_a_face_at_the_border_of_its_picture_stays_finite(name: str) -> None:
    faces, others = batch(2)
    away = Faces(faces.images, faces.landmarks - torch.tensor([40.0, 45.0]), faces.sides)
    made = load(name)(away, torch.Generator().manual_seed(4), others=others)
    assert made.images.isfinite().all()
    outside = (made.masks == 0).expand_as(made.images)
    assert torch.equal(made.images[outside], faces.images[outside])


def test_parts_of_others_must_fit() -> None:
    faces, others = batch(2)
    with pytest.raises(ValueError, match="do not fit"):
        copy_move(faces, torch.Generator().manual_seed(0), others=others[torch.tensor([0])])


# Splines


def points(count: int, seed: int, batch: int = 2, side: float = 96.0) -> Tensor:
    """Points that do not come too near to each other: a shaken grid, some of it."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(torch.arange(6.0), torch.arange(6.0)) * side / 6 + side / 12
    chosen = torch.stack([torch.randperm(36, generator=generator)[:count] for _ in range(batch)])
    return grid[chosen] + torch.rand((batch, count, 2), generator=generator) * side / 18


@settings(max_examples=12, deadline=None)
@given(st.integers(3, 30), st.integers(0, 1000))
def test_control_points_land_where_they_should(count: int, seed: int) -> None:
    source = points(count, seed)
    target = source + 4 * torch.randn(
        source.shape, generator=torch.Generator().manual_seed(seed + 1)
    )
    torch.testing.assert_close(spline(source, target)(source), target, atol=0.02, rtol=0)


@settings(max_examples=12, deadline=None)
@given(st.integers(4, 30), st.integers(0, 1000))
def test_an_affine_displacement_is_reproduced(count: int, seed: int) -> None:
    source = points(count, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    affine = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).repeat(2, 1, 1)
    affine = affine + torch.randn((2, 2, 3), generator=generator) * torch.tensor([0.1, 0.1, 5.0])
    # With any stiffness: only bending costs.
    stiffness = 0.5 if seed % 2 else 0.0
    curve = spline(source, apply(affine, source), stiffness)
    height, width = 47, 61
    x, y = torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy")
    places = torch.stack([x, y], 2).reshape(1, -1, 2).expand(2, -1, -1)
    field = displacements(curve, height, width).reshape(2, -1, 2)
    torch.testing.assert_close(places + field, apply(affine, places), atol=0.05, rtol=0)


@pytest.mark.parametrize("stiffness", [0.0, 0.1])
def test_no_displacement_is_the_identity(stiffness: float) -> None:
    images = two_people().images
    still = points(12, 3)
    moved = bend(images, still, still, stiffness=stiffness)
    torch.testing.assert_close(moved, images, atol=2e-4, rtol=0)


def test_bending_takes_the_picture_along() -> None:
    source = points(9, 8)
    target = source + torch.randn(source.shape, generator=torch.Generator().manual_seed(1)) * 2
    place = torch.arange(96.0) + 0.5
    ramps = torch.stack([place.expand(96, 96), place[:, None].expand(96, 96)])[None] / 96
    moved = bend(ramps.repeat(2, 1, 1, 1), source, target, mode="bilinear")
    # What stands at a target is what stood at its source: ramps tell the place.
    found = sample(moved, target[:, None], mode="bilinear")[:, :, 0].transpose(1, 2) * 96
    torch.testing.assert_close(found, source, atol=0.35, rtol=0)


def test_a_coarse_grid_is_near_to_every_pixel() -> None:
    source = points(14, 2)
    target = source + 3 * torch.randn(source.shape, generator=torch.Generator().manual_seed(3))
    curve = spline(source, target)
    apart = displacements(curve, 90, 70, 4) - displacements(curve, 90, 70, 1)
    assert apart.abs().max() < 0.5
    assert apart.abs().mean() < 0.03


def test_a_stiff_spline_bends_less() -> None:
    source = points(16, 4)
    target = source + 4 * torch.randn(source.shape, generator=torch.Generator().manual_seed(5))
    missed = [
        (spline(source, target, stiffness)(source) - target).norm(dim=2).mean().item()
        for stiffness in (0.0, 0.1, 10.0)
    ]
    assert missed[0] < 0.05 < missed[1] < missed[2]


def test_points_that_fall_together_or_on_a_line_stay_finite() -> None:
    line = torch.linspace(10, 80, 6)[None, :, None].expand(1, -1, 2).contiguous()
    moved = line + torch.tensor([3.0, -2.0])
    torch.testing.assert_close(spline(line, moved)(line), moved, atol=0.05, rtol=0)
    twice = torch.cat([line, line[:, :1]], 1)
    torn = twice.clone()
    torn[:, 0, 1] += 4
    torn[:, -1, 1] -= 4
    found = spline(twice, torn)(twice)
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, 0], twice[:, 0], atol=0.5, rtol=0)  # between the two


def test_splines_refuse_what_they_cannot_do() -> None:
    three = points(3, 1)
    with pytest.raises(ValueError, match="three points"):
        spline(three[:, :2], three[:, :2])
    with pytest.raises(ValueError, match="two sets"):
        spline(three, points(4, 1))
    with pytest.raises(ValueError, match="below 0"):
        spline(three, three, -1.0)
    with pytest.raises(ValueError, match="step"):
        displacements(spline(three, three), 8, 8, 0)


# Filling, blending, colours


def test_a_membrane_keeps_what_is_known_and_stays_within_its_border() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand((2, 3, 45, 38), generator=generator)
    known = torch.ones(2, 1, 45, 38)
    known[:, :, 10:30, 8:25] = 0
    filled = fill(values, known)
    kept = (known > 0).expand_as(values)
    assert torch.equal(filled[kept], values[kept])
    assert filled.min() >= 0 and filled.max() <= 1
    # What stood in the hole does not matter.
    torch.testing.assert_close(fill(torch.where(kept, values, 9.0), known), filled)


def test_a_membrane_through_a_ramp_is_nearly_that_ramp() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64).contiguous()
    known = torch.ones(1, 1, 64, 64)
    known[:, :, 20:44, 20:44] = 0
    assert (fill(ramp, known) - ramp).abs().max() < 0.08
    flat = torch.full((1, 3, 64, 64), 0.3)
    torch.testing.assert_close(fill(flat, known), flat)


@pytest.mark.parametrize("kind", range(3))
def test_each_blend_leaves_the_target_where_the_mask_is_nothing(kind: int) -> None:
    faces, others = batch(2)
    masks = torch.zeros(2, 1, SIDE, SIDE)
    masks[:, :, 40:80, 40:80] = 1
    shares = (float(kind == 0), float(kind == 1), float(kind == 2))
    made = compose(others.images, faces.images, masks, torch.Generator().manual_seed(0), shares)
    outside = (masks == 0).expand_as(made)
    assert torch.equal(made[outside], faces.images[outside])
    assert not torch.equal(made, faces.images)
    assert made.min() >= 0 and made.max() <= 1


def test_a_seamless_blend_meets_the_target_at_the_border() -> None:
    faces, _ = batch(1)
    lighter = (faces.images * 0.7 + 0.15).clamp(0, 1)
    tinted = (lighter + torch.tensor([0.1, -0.05, 0.08])[:, None, None]).clamp(0, 1)
    masks = torch.zeros(1, 1, SIDE, SIDE)
    masks[:, :, 40:80, 40:80] = 1
    made = compose(tinted, lighter, masks, torch.Generator().manual_seed(0), (0, 0, 1))
    # A constant tint is exactly what it takes back.
    assert (made - lighter).abs().mean() < 0.1 * (tinted - lighter).abs().mean()


def test_matched_colours_come_nearer_under_the_mask() -> None:
    faces, _ = batch(8)
    masks = torch.zeros(8, 1, SIDE, SIDE)
    masks[:, :, 40:80, 40:80] = 1
    tinted = faces.images * 0.6 + torch.tensor([0.3, 0.05, 0.1])[:, None, None]
    made = match(tinted, faces.images, masks, torch.Generator().manual_seed(0))
    left = ((made - faces.images) * masks).abs().amax((1, 2, 3))
    before = ((tinted - faces.images) * masks).abs().amax((1, 2, 3))
    same = torch.isclose(left, before)
    assert same.any() and not same.all()  # some are left as they are
    assert (left[~same] < 0.4 * before[~same]).all()


def test_a_decoder_takes_detail_away_and_keeps_the_rest() -> None:
    faces, _ = batch(8)
    made = decoded_like(faces.images, faces.sides, torch.Generator().manual_seed(2), 0.2)
    assert (made - faces.images).abs().mean() < 0.05

    def detail(images: Tensor) -> Tensor:
        return (images[..., 1:] - images[..., :-1]).abs().mean((1, 2, 3))

    assert (detail(made) < detail(faces.images)).float().mean() > 0.7
