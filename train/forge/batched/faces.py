"""Batches of faces and of what was made of them, as tensors: forging where the network trains.

The forges of `train.forge` work on one picture with NumPy; a GPU would wait for them. Here a whole
batch is forged at once in torch. The families and their names are the same; the draws are not, so
the two are two recipes of one dish and a run says which one it ate.

Everything random comes from one `torch.Generator` on the tensors' own device, so a batch follows
from its seed. Pictures are float32 in [0, 1], (B, 3, H, W) RGB; points are (B, n, 2) x, y in
pixels, where pixel i covers [i, i + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from train.forge.shape import REGIONS, draw, mean_face

_CANVAS = 256  # side of the canvas on which the mean face's regions are drawn once
_REACH = 2.6  # half of that canvas in units of the distance of the eyes


@dataclass(frozen=True, slots=True)
class Faces:
    """Pictures with one face each.

    `images` (B, 3, H, W) float32 in [0, 1]; `landmarks` (B, 5, 2) float32 pixels: eyes, nose,
    corners of the mouth; `sides` (B,) float32, the longer side of the face box in pixels.
    `decoded` (B, K, 3, S, S) float32 are the face's redrawn copies in the common place of
    `train.forge.align`, and `swapped` (B, K) bool says which a decoder of other people drew; None
    where there is no pack.
    """

    images: Tensor
    landmarks: Tensor
    sides: Tensor
    decoded: Tensor | None = None
    swapped: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> Faces:
        """Some of them, by an index or a mask over the batch."""
        return Faces(
            self.images[index],
            self.landmarks[index],
            self.sides[index],
            None if self.decoded is None else self.decoded[index],
            None if self.swapped is None else self.swapped[index],
        )

    def with_images(self, images: Tensor) -> Faces:
        return replace(self, images=images)


@dataclass(frozen=True, slots=True)
class Made:
    """Forged pictures, the untouched ones that belong to them, and the blending weight.

    `images`, `originals` (B, 3, H, W) and `masks` (B, 1, H, W), all float32 in [0, 1]. Where a mask
    is 0 both pictures are equal.
    """

    images: Tensor
    originals: Tensor
    masks: Tensor


class BatchedForge(Protocol):
    def __call__(
        self, faces: Faces, generator: torch.Generator, *, others: Faces | None = None
    ) -> Made:
        """Forge each face of a batch.

        Args:
            faces: at least one.
            generator: on the device of the tensors.
            others: somebody else for each face, where the forge needs them.

        Raises:
            UsageError: it needs redrawn copies and there are none.
            ValueError: it needs others and there are none.
        """
        ...


BATCHED: dict[str, str] = {
    "self-blend": "train.forge.batched.selfblend:self_blend",
    "swap": "train.forge.batched.swap:swap",
    "redraw": "train.forge.batched.redraw:redraw",
    "reconstruct": "train.forge.batched.deepswap:reconstruct",
    "deepswap": "train.forge.batched.deepswap:deepswap",
    "reenact": "train.forge.batched.reenact:reenact",
    "inpaint": "train.forge.batched.inpaint:inpaint",
    "copy-move": "train.forge.batched.inpaint:copy_move",
    "whole-face": "train.forge.batched.redraw:whole_face",
}
"""The same names as `train.forge.forged.FORGES`; a conformance suite runs over all of them."""


# Draws


def uniform(generator: torch.Generator, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """(count,) float32 in [low, high)."""
    drawn = torch.rand(count, generator=generator, device=generator.device)
    return drawn * (high - low) + low


def chosen(generator: torch.Generator, count: int, shares: Sequence[float]) -> Tensor:
    """(count,) int64, index i with the probability of shares[i]; they need not sum to 1."""
    weights = torch.tensor(shares, dtype=torch.float32, device=generator.device)
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal float32 of a shape."""
    return torch.randn(shape, generator=generator, device=generator.device)


def per_picture(values: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1), to meet pictures."""
    return values[:, None, None, None]


# Geometry


def apply(affine: Tensor, points: Tensor) -> Tensor:
    """Affine maps (B, 2, 3) applied to points (B, n, 2)."""
    return points @ affine[:, :, :2].transpose(1, 2) + affine[:, None, :, 2]


def inverse(affine: Tensor) -> Tensor:
    """The affine maps (B, 2, 3) that undo these."""
    linear = torch.linalg.inv_ex(affine[:, :, :2]).inverse  # does not wait for the device
    return torch.cat([linear, -linear @ affine[:, :, 2:]], dim=2)


def then(first: Tensor, second: Tensor) -> Tensor:
    """The affine maps (B, 2, 3) that do `first` and then `second`."""
    linear = second[:, :, :2] @ first[:, :, :2]
    shift = second[:, :, :2] @ first[:, :, 2:] + second[:, :, 2:]
    return torch.cat([linear, shift], dim=2)


def similarity(source: Tensor, target: Tensor) -> Tensor:
    """The turn, scale and shift (B, 2, 3) that take points (B, n, 2) nearest to others."""
    from_, to = source.mean(1), target.mean(1)
    one, two = source - from_[:, None], target - to[:, None]
    size = (one**2).sum((1, 2)).clamp(min=1e-6)
    cos = (one * two).sum((1, 2)) / size
    sin = (one[..., 0] * two[..., 1] - one[..., 1] * two[..., 0]).sum(1) / size
    linear = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    return torch.cat([linear, (to - (linear @ from_[..., None])[..., 0])[..., None]], dim=2)


def affinity(source: Tensor, target: Tensor) -> Tensor:
    """The affine maps (B, 2, 3) that take points (B, n, 2), n >= 3, nearest to others."""
    known = torch.cat([source, torch.ones_like(source[..., :1])], dim=2)
    # Five points nearly on two lines can be close to singular: a trace of ridge keeps it calm.
    square = known.transpose(1, 2) @ known
    square = square + 1e-4 * torch.eye(3, device=source.device)
    solved = torch.linalg.solve_ex(square, known.transpose(1, 2) @ target).result
    return solved.transpose(1, 2)


def pixels(height: int, width: int, device: torch.device) -> Tensor:
    """The centres of all pixels: (height, width, 2) float32 x, y."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32) + 0.5,
        torch.arange(width, device=device, dtype=torch.float32) + 0.5,
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1)


def sample(
    images: Tensor, places: Tensor, *, mode: str = "bicubic", beyond: str = "reflection"
) -> Tensor:
    """Read pictures (B, C, H, W) at places (B, h, w, 2) in pixels: (B, C, h, w).

    Args:
        images: what to read.
        places: x, y of each wanted pixel in `images`.
        mode: "nearest", "bilinear" or "bicubic"; bicubic is clipped to the range of the picture.
        beyond: "reflection", "border" or "zeros" outside of it.
    """
    height, width = images.shape[-2:]
    grid = 2 * places / torch.tensor([width, height], device=images.device) - 1
    found = F.grid_sample(images, grid, mode=mode, padding_mode=beyond, align_corners=False)
    return found.clamp(0, 1) if mode == "bicubic" else found


def warp(
    images: Tensor,
    affine: Tensor,
    height: int,
    width: int,
    *,
    mode: str = "bicubic",
    beyond: str = "reflection",
) -> Tensor:
    """Move pictures by affine maps (B, 2, 3) from their pixels to those of (height, width)."""
    back = inverse(affine)
    places = pixels(height, width, images.device).reshape(1, -1, 2)
    places = apply(back, places.expand(len(images), -1, -1)).reshape(-1, height, width, 2)
    return sample(images, places, mode=mode, beyond=beyond)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (B, C, H, W) with a sigma in pixels for each picture (B,); 0: none."""
    widest = float(sigma.max())
    if widest <= 0.05:
        return images
    reach = max(1, min(int(3 * widest + 0.5), min(images.shape[-2:]) - 1))
    away = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (away / sigma.clamp(min=0.05)[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    batch, channels, height, width = images.shape
    kernel = kernel.repeat_interleave(channels, 0)
    flat = images.reshape(1, batch * channels, height, width)
    flat = F.pad(flat, (reach, reach, 0, 0), mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=batch * channels)
    flat = F.pad(flat, (0, 0, reach, reach), mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=batch * channels)
    return flat.reshape(images.shape)


# Masks


@cache
def _drawn(region: str) -> np.ndarray:
    """A region of the mean face on a canvas of its own, (_CANVAS, _CANVAS) float32, 0 or 1."""
    points, _ = mean_face()
    placed = (points / _REACH + 1) * _CANVAS / 2
    return draw(region, placed, _CANVAS, _CANVAS)


def region_masks(regions: Sequence[str], landmarks: Tensor, height: int, width: int) -> Tensor:
    """The regions of `train.forge.shape.REGIONS`, one for each face: (B, 1, height, width), 0 to 1.

    The mean face is laid on the five landmarks by an affine map, as `shape.place` does.

    Raises:
        KeyError: no region has that name.
    """
    for region in regions:
        if region not in REGIONS:
            raise KeyError(region)
    canvases = torch.from_numpy(np.stack([_drawn(region) for region in regions]))
    five = torch.from_numpy(mean_face()[1].astype(np.float32)).to(landmarks.device)
    on_canvas = (five / _REACH + 1) * _CANVAS / 2
    laid = affinity(on_canvas.expand(len(landmarks), -1, -1), landmarks)
    canvases = canvases[:, None].to(landmarks.device)
    return warp(canvases, laid, height, width, mode="bilinear", beyond="zeros").clamp(0, 1)


def elastic(masks: Tensor, generator: torch.Generator, share: float = 0.018) -> Tensor:
    """Bend masks by a smooth random field of a few percent of their width."""
    batch, _, height, width = masks.shape
    field = normal(generator, batch, 2, 9, 9) * width * share
    field = F.interpolate(field, (height, width), mode="bicubic", align_corners=False)
    places = pixels(height, width, masks.device) + field.permute(0, 2, 3, 1)
    return sample(masks, places, mode="bilinear", beyond="zeros")


def softened(masks: Tensor, generator: torch.Generator, sides: Tensor) -> Tensor:
    """A border of random width that lies mostly inside the mask, as `selfblend.random_mask` does.

    Args:
        masks: (B, 1, H, W), nearly 0 or 1.
        generator: consumed by the draw.
        sides: (B,) of the faces, pixels.
    """
    count = len(masks)
    area = masks.sum((1, 2, 3)).clamp(min=1.0)
    widest = 0.09 * area.sqrt()  # small parts keep something inside
    scale = sides / 200  # kernels are meant for a face 200 px wide
    for inner, outer in ((1.0, 7.0), (1.0, 12.0)):
        wanted = torch.minimum(uniform(generator, count, inner, outer) * scale, widest)
        soft = blur(masks, wanted.clamp(min=0.3))
        peak = soft.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
        masks = soft / peak
        if outer == 7.0:
            masks = (masks > 0.98).float()
    return masks.clamp(0, 1)


def random_masks(
    generator: torch.Generator,
    landmarks: Tensor,
    sides: Tensor,
    height: int,
    width: int,
    regions: Sequence[str],
) -> Tensor:
    """A soft mask over one of some regions for each face: (B, 1, height, width) in [0, 1]."""
    drawn = chosen(generator, len(landmarks), [1.0] * len(regions)).tolist()
    shaken = landmarks + normal(generator, *landmarks.shape) * 0.012 * sides[:, None, None]
    masks = region_masks([regions[i] for i in drawn], shaken, height, width)
    masks = elastic((masks > 0.5).float(), generator)
    return softened((masks > 0.5).float(), generator, sides)


def blended(source: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    """source where the mask is 1, target where it is 0; exactly target there."""
    return torch.where(masks > 0, target + (source - target) * masks, target)
