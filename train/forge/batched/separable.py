"""Filters with one parameter for each picture: (N, C, H, W) and (N,).

What is separable is a product with a matrix from the left and one from the right, which a GPU does
faster than any narrow convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from train.forge.batched.faces import per_picture, pixels


def separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Matrices (N, H, H) over the rows and (N, W, W) over the columns of pictures."""
    across = (images.flatten(1, 2) @ columns.mT).reshape(images.shape)
    return rows[:, None] @ across


def _distances(side: int, device: torch.device) -> Tensor:
    at = torch.arange(side, device=device, dtype=torch.float32)
    return (at[:, None] - at).abs()


def gauss(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, sigma (N,) in pixels; the border's kernels end there."""

    def matrix(side: int) -> Tensor:
        away = _distances(side, images.device) / sigma.clamp(min=0.05)[:, None, None]
        weights = torch.exp(-0.5 * away**2)
        return weights / weights.sum(2, keepdim=True)

    return separable(images, matrix(images.shape[2]), matrix(images.shape[3]))


def box(images: Tensor, radius: Tensor) -> Tensor:
    """Means over squares of 2 * radius + 1 pixels; radius (N,)."""

    def matrix(side: int) -> Tensor:
        weights = (radius[:, None, None] + 1 - _distances(side, images.device)).clamp(0, 1)
        return weights / weights.sum(2, keepdim=True)

    return separable(images, matrix(images.shape[2]), matrix(images.shape[3]))


def sharpened(images: Tensor, amount: Tensor, sigma: Tensor) -> Tensor:
    """Unsharp mask."""
    return images + per_picture(amount) * (images - gauss(images, sigma))


def smeared(images: Tensor, length: Tensor, angle: Tensor, reach: int) -> Tensor:
    """Motion blur along lines of a length in pixels, at most 2 * reach, and an angle in radians."""
    offsets = pixels(2 * reach + 1, 2 * reach + 1, images.device) - (reach + 0.5)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along = (offsets[..., 0] * cos + offsets[..., 1] * sin).abs()
    across = (offsets[..., 1] * cos - offsets[..., 0] * sin).abs()
    kernels = (length[:, None, None] / 2 + 0.5 - along).clamp(0, 1) * (1 - across).clamp(min=0)
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    count, channels = images.shape[:2]
    flat = F.pad(images, [reach] * 4, mode="replicate").flatten(0, 1)[None]
    kernels = kernels.repeat_interleave(channels, 0)[:, None]
    return F.conv2d(flat, kernels, groups=count * channels).reshape(images.shape)


def _resampling(side: int, source: Tensor, target: Tensor, kernel: Tensor) -> Tensor:
    """Matrices (N, side, side) that turn the first `source` pixels of a line into `target`.

    `kernel` (N,) counts area, linear, cubic and Lanczos, none of them wider when it shrinks (so
    OpenCV has it, and much software). Behind the target the last pixel is repeated.
    """
    at = torch.arange(side, device=source.device, dtype=torch.float32)
    ratio = (source / target)[:, None, None]
    last = source[:, None, None] - 1
    place = torch.minimum(((at[:, None] + 0.5) * ratio - 0.5).clamp(min=0), last)
    away = (at - place).abs()  # (N, side, side): targets, sources
    linear = (1 - away).clamp(min=0)
    cubic = torch.where(
        away < 1,
        (1.25 * away - 2.25) * away**2 + 1,
        torch.where(away < 2, ((-0.75 * away + 3.75) * away - 6) * away + 3, 0),
    )
    lanczos = torch.where(away < 4, torch.sinc(away) * torch.sinc(away / 4), 0)
    half = ratio.clamp(min=1) / 2
    overlap = torch.minimum(at + 1, place + 0.5 + half) - torch.maximum(at, place + 0.5 - half)
    area = torch.where(ratio > 1, overlap.clamp(min=0), linear)
    which = kernel[:, None, None]
    weights = torch.where(
        which < 2, torch.where(which < 1, area, linear), torch.where(which < 3, cubic, lanczos)
    )
    weights = torch.where(at <= last, weights, 0)
    return weights / weights.sum(2, keepdim=True)


@dataclass(frozen=True, slots=True)
class Shrunk:
    """How pictures of (height, width) become smaller in the corner of their canvas, and return."""

    height: int
    width: int
    rows: Tensor  # (N,) of the small picture, float32
    columns: Tensor

    @classmethod
    def by(cls, factor: Tensor, height: int, width: int) -> Shrunk:
        sides = ((factor * side).round().clamp(min(8, side), side) for side in (height, width))
        return cls(height, width, *sides)

    def down(self, images: Tensor, kernel: Tensor) -> Tensor:
        return separable(
            images,
            _resampling(self.height, torch.full_like(self.rows, self.height), self.rows, kernel),
            _resampling(
                self.width, torch.full_like(self.columns, self.width), self.columns, kernel
            ),
        ).clamp(0, 1)

    def up(self, images: Tensor, kernel: Tensor) -> Tensor:
        return separable(
            images,
            _resampling(self.height, self.rows, torch.full_like(self.rows, self.height), kernel),
            _resampling(
                self.width, self.columns, torch.full_like(self.columns, self.width), kernel
            ),
        ).clamp(0, 1)


def blots(noise: Tensor, size: Tensor) -> Tensor:
    """White noise (N, C, H, W) as grains of a size (N,) in pixels, at least 1."""
    shrunk = Shrunk.by(1 / size, noise.shape[2], noise.shape[3])
    linear = torch.ones_like(size)
    rows = _resampling(shrunk.height, shrunk.rows, torch.full_like(size, shrunk.height), linear)
    columns = _resampling(shrunk.width, shrunk.columns, torch.full_like(size, shrunk.width), linear)
    return separable(noise, rows, columns)


@cache
def luma_weights(device: torch.device) -> Tensor:
    return torch.tensor([0.299, 0.587, 0.114], device=device)[:, None, None]


def luma_of(images: Tensor) -> Tensor:
    """(N, 1, H, W) of RGB."""
    return (images * luma_weights(images.device)).sum(1, keepdim=True)


def rounded(images: Tensor) -> Tensor:
    """To whole levels of 8 bits."""
    return (images * 255).round().clamp(0, 255) / 255
