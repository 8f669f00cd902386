"""Self-blending of a batch: faces blended onto themselves after a small change.

The batched twin of `train.forge.selfblend`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from train.forge.batched.blend import compose
from train.forge.batched.colour import jittered
from train.forge.batched.faces import (
    Faces,
    Made,
    apply,
    blended,
    chosen,
    per_picture,
    pixels,
    random_masks,
    sample,
    uniform,
)
from train.forge.batched.filters import quantised, sharpened
from train.forge.batched.resize import area, kernel, resampled

# Large regions twice as often: most programs replace the face, some a part of it.
REGIONS = (
    "face", "inner face", "features", "parts", "jaw and parts",
    "face", "inner face", "features", "parts", "face",
    "eyes", "nose", "mouth", "lower face", "mouth", "forehead", "upper face",
)  # fmt: skip
_RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)  # opacity of the blend


def self_blend(faces: Faces, generator: torch.Generator, *, others: Faces | None = None) -> Made:
    """Blend faces onto themselves. An original carries the change where its target got it.

    Args:
        faces: at least one.
        generator: on the device of the tensors.
        others: not needed.
    """
    count, _, height, width = faces.images.shape
    masks = random_masks(generator, faces.landmarks, faces.sides, height, width, REGIONS)
    changed = frequency(jittered(faces.images, generator, 0.8), generator)
    first = per_picture(uniform(generator, count)) < 0.5
    source = torch.where(first, changed, faces.images)
    target = torch.where(first, faces.images, changed)
    source, masks = shifted(source, masks, faces, generator)
    # Poisson takes a change of colour back: only alpha shows it, so it comes most often.
    made = compose(source, target, masks, generator, (0.7, 0.2, 0.1))
    ratios = torch.tensor(_RATIOS, device=masks.device)
    ratios = ratios[chosen(generator, count, [1.0] * len(_RATIOS))]
    return Made(blended(made, target, per_picture(ratios)), target, masks)


def frequency(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change what fine detail holds: too low a resolution, too much sharpness, too few levels.

    Where `train.forge.selfblend.frequency` sends a picture through JPEG, here its levels become
    fewer: both leave flat parts and false contours.
    """
    count, _, height, width = images.shape
    kinds = chosen(generator, count, (0.30, 0.30, 0.25, 0.15))
    dropped = kinds == 0
    factors = torch.where(
        dropped,
        1 / torch.where(uniform(generator, count) < 0.5, 2.0, 4.0),
        1 / uniform(generator, count, 1.3, 4.0),
    )
    # Nearest pixels down and linear up, or means down and cubic up.
    up = torch.where(dropped, 1, 2)
    axes = []
    for size in (height, width):
        whole = torch.full_like(factors, float(size))
        small = (whole * factors).round().clamp(min=8)
        down = torch.where(
            dropped[:, None, None],
            kernel(whole, size, small, size, torch.zeros_like(kinds)),
            area(whole, size, small, size),
        )
        axes.append(kernel(small, size, whole, size, up) @ down)
    coarse = resampled(images, *axes)
    sharp = sharpened(images, uniform(generator, count, 0.3, 1.4))
    few = quantised(images, generator, uniform(generator, count, 3, 9))
    kind = per_picture(kinds)
    out = torch.where(kind < 2, coarse, sharp)
    return torch.where(kind == 3, few, out)


def shifted(
    images: Tensor, masks: Tensor, faces: Faces, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Move, scale and turn pictures and masks alike by a few percent of the face."""
    count, _, height, width = images.shape
    angle = uniform(generator, count, -2.5, 2.5) * math.pi / 180
    scale = uniform(generator, count, 0.95, 1 / 0.95)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    linear = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    away = torch.stack(
        [uniform(generator, count, -0.035, 0.035), uniform(generator, count, -0.025, 0.025)], 1
    )
    # This is the way back already: from where a pixel goes to where it was.
    centre = faces.landmarks.mean(1)
    there = centre + away * faces.sides[:, None]
    back = torch.cat([linear, (centre - (linear @ there[..., None])[..., 0])[..., None]], 2)
    places = pixels(height, width, images.device).reshape(1, -1, 2).expand(count, -1, -1)
    places = apply(back, places).reshape(count, height, width, 2)
    return (
        sample(images, places, beyond="border"),
        sample(masks, places, mode="bilinear", beyond="zeros"),
    )
