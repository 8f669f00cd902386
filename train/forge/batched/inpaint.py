"""Parts of a face filled in from around them, or covered by others: the twins of two forges.

Both take a region of the face and lay something else there, which is made from the picture itself:
a membrane through the border of the hole, skin from another place, the mirror image of a part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from train.forge.batched.blend import compose, fill, poisson
from train.forge.batched.colour import match
from train.forge.batched.faces import (
    Faces,
    Made,
    affinity,
    apply,
    blended,
    blur,
    chosen,
    elastic,
    normal,
    per_picture,
    pixels,
    random_masks,
    region_masks,
    sample,
    similarity,
    softened,
    then,
    uniform,
    warp,
)
from train.forge.batched.filters import grained
from train.forge.batched.redraw import decoded_like

_FILLED = (
    "mouth", "nose", "left eye", "right eye", "cheeks", "forehead", "brows", "eyes", "lower face",
)  # fmt: skip
_COVERED = (
    "left eye", "right eye", "mouth", "nose", "eyes", "brows", "cheeks", "parts", "forehead",
)  # fmt: skip
_MIRRORED = ("left eye", "right eye", "mouth", "brows", "parts")  # the others are their own mirror
_TRIES = 24  # places from which skin could be taken


def inpaint(faces: Faces, generator: torch.Generator, *, others: Faces | None = None) -> Made:
    """Fill a part of each face, or blots on it, from its surroundings.

    Args:
        faces: at least one.
        generator: on the device of the tensors.
        others: not needed.
    """
    count, sides = len(faces), faces.sides
    height, width = faces.images.shape[-2:]
    blots = _blots(faces, generator)
    parts = random_masks(generator, faces.landmarks, sides, height, width, _FILLED)
    masks = torch.where(per_picture(uniform(generator, count) < 0.5), blots, parts)
    masks = _never_empty(masks, faces)
    known = (masks < 0.02).float()
    kinds = per_picture(chosen(generator, count, (0.35, 0.25, 0.4)))  # coarse, membrane, patch
    source = torch.where(
        kinds == 0, _filled_coarsely(faces.images, known), fill(faces.images, known)
    )
    patch = _from_elsewhere(faces, masks, generator)
    source = torch.where(kinds == 2, poisson(patch, faces.images, masks), source)
    # An in-painter seldom forgets everything: some of what was there is found again.
    kept = uniform(generator, count, 0.0, 0.5) * (uniform(generator, count) < 0.4)
    source = torch.lerp(source, blur(faces.images, (0.02 * sides).clamp(min=0.5)),
                        per_picture(kept))  # fmt: skip
    redrawn = uniform(generator, count) < 0.4
    strength = uniform(generator, count, 0.2, 0.8)
    source = torch.where(
        per_picture(redrawn), decoded_like(source, sides, generator, strength), source
    )
    grainy = ~redrawn & (uniform(generator, count) < 0.6)
    levels = uniform(generator, count, 1, 7) * grainy
    source = grained(source, generator, levels, uniform(generator, count, 1, 2))
    return Made(blended(source.clamp(0, 1), faces.images, masks), faces.images, masks)


def copy_move(faces: Faces, generator: torch.Generator, *, others: Faces | None = None) -> Made:
    """Lay a part over each face: mirrored, moved within it, or another person's if there is one.

    Args:
        faces: at least one.
        generator: on the device of the tensors.
        others: somebody else for each face, in pictures of the same size, or nobody.

    Raises:
        ValueError: the others are not as many or their pictures have another size.
    """
    if others is not None and others.images.shape != faces.images.shape:
        raise ValueError(
            f"the others' pictures {tuple(others.images.shape)} do not fit the faces' "
            f"{tuple(faces.images.shape)}"
        )
    count, device = len(faces), faces.images.device
    height, width = faces.images.shape[-2:]
    drawn = chosen(generator, count, [1.0] * len(_COVERED))
    masks = _soft_regions([_COVERED[i] for i in drawn.tolist()], faces, generator)
    masks = _never_empty(masks, faces)
    can_mirror = torch.tensor([region in _MIRRORED for region in _COVERED], device=device)[drawn]
    how = uniform(generator, count)
    foreign = (how < 0.5) if others is not None else torch.zeros_like(can_mirror)
    mirror = ~foreign & (how < 0.75) & can_mirror
    moves = _moves(faces, generator)
    moves = torch.where(mirror[:, None, None], _mirrors(faces), moves)
    source = faces.images
    if others is not None:
        exact = uniform(generator, count) < 0.4
        onto = torch.where(
            exact[:, None, None],
            similarity(others.landmarks, faces.landmarks),
            affinity(others.landmarks, faces.landmarks),
        )
        moves = torch.where(foreign[:, None, None], onto, moves)
        source = torch.where(per_picture(foreign), others.images, source)
    source = warp(source, moves, height, width)
    source = match(source, faces.images, masks, generator)
    redrawn = per_picture(uniform(generator, count) < 0.35)
    strength = uniform(generator, count, 0.1, 0.6)
    source = torch.where(redrawn, decoded_like(source, faces.sides, generator, strength), source)
    made = compose(source, faces.images, masks, generator, (0.4, 0.25, 0.35))
    return Made(made, faces.images, masks)


# Regions


def _soft_regions(regions: Sequence[str], faces: Faces, generator: torch.Generator) -> Tensor:
    """A soft mask over a named region of each face, drawn as `random_masks` draws them."""
    height, width = faces.images.shape[-2:]
    away = normal(generator, *faces.landmarks.shape) * 0.012 * faces.sides[:, None, None]
    masks = region_masks(regions, faces.landmarks + away, height, width)
    masks = elastic((masks > 0.5).float(), generator)
    return softened((masks > 0.5).float(), generator, faces.sides)


def _never_empty(masks: Tensor, faces: Faces) -> Tensor:
    """A soft disc on the nose instead of a mask of which nothing was left."""
    height, width = masks.shape[-2:]
    away = pixels(height, width, masks.device) - faces.landmarks[:, None, None, 2]
    radius = per_picture(0.16 * faces.sides + 1)[..., 0]
    disc = ((radius - away.norm(dim=3)) / (0.4 * radius)).clamp(0, 1)[:, None]
    empty = (masks.amax((1, 2, 3), keepdim=True) < 0.4) | (
        masks.mean((1, 2, 3), keepdim=True) < 0.002
    )
    return torch.where(empty, torch.maximum(disc, masks), masks)


def _blots(faces: Faces, generator: torch.Generator) -> Tensor:
    """One to three soft ellipses on each face: (B, 1, H, W)."""
    count, sides = len(faces), faces.sides[:, None]
    height, width = faces.images.shape[-2:]
    centre = faces.landmarks.mean(1)[:, None]
    centres = centre + normal(generator, count, 3, 2) * 0.16 * sides[..., None]
    axes = torch.rand((count, 3, 2), generator=generator, device=generator.device)
    axes = (0.05 + 0.11 * axes) * sides[..., None] + 1
    angle = uniform(generator, count * 3, 0.0, torch.pi).reshape(count, 3)
    away = pixels(height, width, centre.device)[None, None] - centres[:, :, None, None]
    cos, sin = angle.cos()[:, :, None, None], angle.sin()[:, :, None, None]
    x = (away[..., 0] * cos + away[..., 1] * sin) / axes[:, :, :1, None]
    y = (away[..., 1] * cos - away[..., 0] * sin) / axes[:, :, 1:, None]
    wanted = chosen(generator, count, (1, 1, 1))[:, None] >= torch.arange(3, device=centre.device)
    inside = ((x * x + y * y < 1) & wanted[:, :, None, None]).any(1, keepdim=True).float()
    allowed = region_masks(["face"] * count, faces.landmarks, height, width)
    sigma = (uniform(generator, count, 0.004, 0.025) * faces.sides).clamp(min=0.5)
    soft = blur(inside * (allowed > 0.5), sigma)
    return torch.where(soft < 0.01, 0.0, soft).clamp(0, 1)


# Sources


def _filled_coarsely(images: Tensor, known: Tensor) -> Tensor:
    """The membrane of a picture of a quarter of the pixels, as solvers with a budget give it."""
    height, width = images.shape[-2:]
    size = (max(8, height // 2), max(8, width // 2))
    whole = F.interpolate(known, size, mode="area")
    small = F.interpolate(images * known, size, mode="area") / whole.clamp(min=1e-6)
    filled = fill(small, (whole > 0.99).float())
    large = F.interpolate(filled, (height, width), mode="bicubic", align_corners=False)
    return large.clamp(0, 1)


def _from_elsewhere(faces: Faces, masks: Tensor, generator: torch.Generator) -> Tensor:
    """The shifted or mirrored picture that meets the border of each hole best: (B, 3, H, W)."""
    images, count = faces.images, len(faces)
    height, width = images.shape[-2:]
    hole = (masks > 0.02).float()
    shape = (count, _TRIES, 2)
    drawn = torch.rand(shape, generator=generator, device=generator.device) * 0.9 - 0.45
    shifts = (drawn * faces.sides[:, None, None]).round()
    flips = uniform(generator, count * _TRIES).reshape(count, _TRIES) < 0.25
    # A quarter of the pixels each way tells which place fits.
    size = (max(8, height // 4), max(8, width // 4))
    small, wide = (F.interpolate(part, size, mode="area") for part in (images, hole))
    scale = torch.tensor([size[1] / width, size[0] / height], device=images.device)
    inside = (wide > 0.1).float()
    ring = F.max_pool2d(inside, 3, 1, 1) - inside
    grid = pixels(*size, images.device)
    middle = (grid * inside[:, 0, :, :, None]).sum((1, 2)) / inside.sum((1, 2, 3)).clamp(min=1)[
        :, None
    ]
    places = _elsewhere(grid, middle.repeat_interleave(_TRIES, 0),
                        (shifts * scale).reshape(-1, 2), flips.reshape(-1))  # fmt: skip
    limit = torch.tensor([size[1], size[0]], device=images.device)
    beyond = ((places < 0) | (places > limit)).any(3)
    found = sample(small.repeat_interleave(_TRIES, 0), places, mode="bilinear")
    found = found.reshape(count, _TRIES, 3, *size)
    inside, ring = inside[:, None], ring[:, None]
    apart = (found - small[:, None]).flatten(0, 1)
    off, rough = _spread(apart, ring.expand(-1, _TRIES, -1, -1, -1).flatten(0, 1))
    filling = found.mean(2, keepdim=True).flatten(0, 1)
    _, busy = _spread(filling, inside.expand(-1, _TRIES, -1, -1, -1).flatten(0, 1))
    # A tint costs nothing, another structure does; what fills the hole is plain, no other eye.
    cost = rough.mean(1) + 0.15 * off.abs().mean(1) + 0.5 * busy.mean(1)
    cost = cost.reshape(count, _TRIES)
    used = (inside + ring)[:, :, 0].expand(-1, _TRIES, -1, -1)
    cost = cost + 10 * (beyond.reshape(count, _TRIES, *size) * used).mean((2, 3))
    near = shifts.norm(dim=2) < 0.06 * faces.sides[:, None]
    best = (cost + (near & ~flips)).argmin(1)
    rows = torch.arange(count, device=images.device)
    places = _elsewhere(pixels(height, width, images.device), (middle / scale * 2).round() / 2,
                        shifts[rows, best], flips[rows, best])  # fmt: skip
    return sample(images, places)


def _spread(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation of pictures: (B, C, 1, 1) each."""
    total = weights.sum((2, 3), keepdim=True).clamp(min=1e-6)
    mean = (values * weights).sum((2, 3), keepdim=True) / total
    off = ((values - mean).square() * weights).sum((2, 3), keepdim=True) / total
    return mean, (off + 1e-6).sqrt()


def _elsewhere(grid: Tensor, middle: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
    """A grid (h, w, 2) shifted, and mirrored about a middle where wanted: (B, h, w, 2)."""
    x = torch.where(flips[:, None, None], 2 * middle[:, 0, None, None] - grid[..., 0], grid[..., 0])
    y = grid[..., 1].expand_as(x)
    return torch.stack([x, y], 3) + shifts[:, None, None]


def _moves(faces: Faces, generator: torch.Generator) -> Tensor:
    """Moved by up to a quarter of the face, turned and scaled a little: (B, 2, 3)."""
    count = len(faces)
    turn = torch.deg2rad(uniform(generator, count, -8, 8))
    size = uniform(generator, count, 0.9, 1.12)
    cos, sin = turn.cos() * size, turn.sin() * size
    linear = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    middle = faces.landmarks.mean(1)
    angle = uniform(generator, count, 0, 2 * torch.pi)
    far = uniform(generator, count, 0.05, 0.22) * faces.sides
    away = torch.stack([angle.cos(), angle.sin()], 1) * far[:, None]
    shift = middle - (linear @ middle[..., None])[..., 0] + away
    return torch.cat([linear, shift[..., None]], 2)


def _mirrors(faces: Faces) -> Tensor:
    """Each face's mirror image laid on its own landmarks: (B, 2, 3)."""
    width = faces.images.shape[-1]
    flip = faces.landmarks.new_tensor([[-1.0, 0.0, width], [0.0, 1.0, 0.0]])
    flip = flip.expand(len(faces), -1, -1)
    mirrored = apply(flip, faces.landmarks)[:, [1, 0, 2, 4, 3]]
    return then(flip, affinity(mirrored, faces.landmarks))
