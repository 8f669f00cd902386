"""How sources come onto targets: one of three ways of blending, drawn for each picture.

Programs differ in it, and each way leaves another trace: alpha a soft step, Poisson a smooth tint
over the whole region, Laplacian pyramids a border of its own width in every frequency. All of them
leave the target alone where the mask is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from train.forge.batched.faces import blended, chosen, per_picture

BLENDS = ("alpha", "laplace", "poisson")
_TINT = 60 / 255  # that Poisson blending may shift colours by
_DOWN = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def compose(
    source: Tensor,
    target: Tensor,
    masks: Tensor,
    generator: torch.Generator,
    shares: Sequence[float] = (0.7, 0.2, 0.1),
) -> Tensor:
    """Blend each picture in one of `BLENDS`; exactly target where its mask is 0.

    Args:
        source: (B, 3, H, W) in [0, 1].
        target: of the same shape.
        masks: (B, 1, H, W) in [0, 1].
        generator: consumed by the draw.
        shares: of each of `BLENDS`.
    """
    kinds = per_picture(chosen(generator, len(source), shares))
    mixed, weights = source, masks
    sharp = torch.clamp(masks * 3, max=1)
    # A share of 0 is known here; which picture has which kind only on the device.
    if shares[1] > 0:
        mixed = torch.where(kinds == 1, laplace(source, target, masks), mixed)
    if shares[2] > 0:
        mixed = torch.where(kinds == 2, poisson(source, target, masks), mixed)
    weights = torch.where(kinds == 0, weights, sharp)
    return blended(mixed, target, weights)


def laplace(source: Tensor, target: Tensor, masks: Tensor, levels: int = 4) -> Tensor:
    """Blend each frequency with a border of its own width (Burt and Adelson 1983)."""
    shortest = min(source.shape[-2:])
    levels = max(1, min(levels, max(shortest, 8).bit_length() - 3))
    apart, soft = source - target, masks
    # Pyramids are linear: the target's own needs no taking apart and joining again.
    bands = []
    for _ in range(levels):
        small = _down(apart)
        bands.append((apart - _up(small, apart)) * soft)
        apart, soft = small, _down(soft)
    out = apart * soft
    for band in reversed(bands):
        out = _up(out, band) + band
    return (target + out).clamp(0, 1)


def _down(images: Tensor) -> Tensor:
    channels = images.shape[1]
    weights = images.new_tensor(_DOWN).expand(channels, 1, 1, -1)
    out = F.conv2d(F.pad(images, (2, 2, 2, 2), "replicate"), weights, None, (1, 2), groups=channels)
    return F.conv2d(out, weights.transpose(2, 3), None, (2, 1), groups=channels)


def _up(images: Tensor, like: Tensor) -> Tensor:
    """Twice as large, cut to the size of another."""
    around = F.pad(images, (1, 1, 1, 1), "replicate")
    even = (around[..., :-2] + 6 * around[..., 1:-1] + around[..., 2:]) / 8
    odd = (around[..., 1:-1] + around[..., 2:]) / 2
    wide = torch.stack([even, odd], dim=-1).flatten(-2)
    even = (wide[..., :-2, :] + 6 * wide[..., 1:-1, :] + wide[..., 2:, :]) / 8
    odd = (wide[..., 1:-1, :] + wide[..., 2:, :]) / 2
    tall = torch.stack([even, odd], dim=-2).flatten(-3, -2)
    return tall[..., : like.shape[-2], : like.shape[-1]]


def poisson(source: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    """Keep the source's gradients and meet the target at the border of the region.

    The difference to the target is known outside; inside it is the membrane through these values
    (Laplace's equation), found from coarse to fine.
    """
    membrane = fill(target - source, (masks < 0.02).float())
    # Where the border crosses hair or background it would tint the whole face.
    return (source + membrane.clamp(-_TINT, _TINT)).clamp(0, 1)


def fill(values: Tensor, known: Tensor) -> Tensor:
    """The membrane through known values: pulled to coarser grids, pushed back and smoothed.

    Args:
        values: (B, C, H, W); what stands where it is not known is ignored.
        known: (B, 1, H, W), 1 where values hold, 0 where they are wanted.
    """
    height, width = known.shape[-2:]
    held, missing = values * known, 1 - known
    if min(height, width) <= 4:
        share = known.sum((2, 3), keepdim=True).clamp(min=1e-6)
        return held + missing * (held.sum((2, 3), keepdim=True) / share)
    size = ((height + 1) // 2, (width + 1) // 2)
    part, small = (F.interpolate(each, size, mode="area") for each in (known, held))
    coarse = fill(small / part.clamp(min=1e-6), (part > 0.05).float())
    pushed = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    out = held + pushed * missing
    for _ in range(2):
        around = F.pad(out, (1, 1, 1, 1), "replicate")
        out = held + F.avg_pool2d(around, 3, 1) * missing
    return out
