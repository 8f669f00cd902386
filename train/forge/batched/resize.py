"""Enlarging and shrinking where every picture of a batch has a size of its own.

Tensors cannot be ragged: pictures of different sizes lie in the upper left corner of rooms of one
size, and beyond themselves repeat their border. Resampling is a product with one matrix for each
axis and picture, so factor and kernel are free for each.
"""

from __future__ import annotations

import torch
from torch import Tensor

KERNELS = ("nearest", "linear", "cubic", "lanczos")
_SHARP = -0.75  # of the cubic kernel, as OpenCV has it


def area(sizes: Tensor, room: int, wanted: Tensor, wanted_room: int) -> Tensor:
    """Mean over the pixels that a larger one covers: (B, wanted_room, room) weights.

    Args:
        sizes: (B,) of the pictures that are read, pixels.
        room: in which they lie.
        wanted: (B,) of what is made, at most `sizes`.
        wanted_room: in which that lies.
    """
    index = torch.arange(wanted_room, device=sizes.device, dtype=torch.float32)
    step = (sizes / wanted)[:, None]
    start = (torch.minimum(index, wanted[:, None] - 1) * step)[..., None]
    pixel = torch.arange(room, device=sizes.device, dtype=torch.float32)
    overlap = torch.minimum(start + step[..., None], pixel + 1) - torch.maximum(start, pixel)
    overlap = overlap.clamp(min=0)
    return overlap / overlap.sum(2, keepdim=True)


def kernel(sizes: Tensor, room: int, wanted: Tensor, wanted_room: int, kinds: Tensor) -> Tensor:
    """Interpolation between pixels: (B, wanted_room, room) weights.

    Args:
        sizes: (B,) of the pictures that are read, pixels.
        room: in which they lie.
        wanted: (B,) of what is made.
        wanted_room: in which that lies.
        kinds: (B,) int64, of `KERNELS`.
    """
    index = torch.arange(wanted_room, device=sizes.device, dtype=torch.float32)
    index = torch.minimum(index, wanted[:, None] - 1)
    place = (index + 0.5) * (sizes / wanted)[:, None] - 0.5
    place = torch.minimum(place.clamp(min=0), sizes[:, None] - 1)
    pixel = torch.arange(room, device=sizes.device, dtype=torch.float32)
    away = place[..., None] - pixel
    far = away.abs()
    near = ((away > -0.5) & (away <= 0.5)).float()
    cubic = torch.where(
        far < 1,
        ((_SHARP + 2) * far - (_SHARP + 3)) * far * far + 1,
        (((far - 5) * far + 8) * far - 4) * _SHARP,
    )
    cubic = torch.where(far < 2, cubic, 0.0)
    lanczos = torch.where(far < 4, torch.sinc(far) * torch.sinc(far / 4), 0.0)
    kind = kinds[:, None, None]
    weights = torch.where(kind == 2, cubic, lanczos)
    weights = torch.where(kind == 1, (1 - far).clamp(min=0), weights)
    weights = torch.where(kind == 0, near, weights)
    return weights / weights.sum(2, keepdim=True)


def resampled(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pictures (B, C, room, room) by the weights of both axes, clipped to [0, 1]."""
    return (rows[:, None] @ images @ columns[:, None].transpose(2, 3)).clamp(0, 1)


def shrunk(images: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (B, C, H, W) shrunk by factors (B,) of at most 1, in rooms of their old size.

    Returns:
        The rooms (B, C, H, W), and heights and widths (B,) float32 of the pictures in them.
    """
    height, width = images.shape[-2:]
    rows, columns = _full(factors, height), _full(factors, width)
    heights, widths = (factors * height).round(), (factors * width).round()
    heights = torch.minimum(heights.clamp(min=8), rows)
    widths = torch.minimum(widths.clamp(min=8), columns)
    made = resampled(
        images, area(rows, height, heights, height), area(columns, width, widths, width)
    )
    return made, heights, widths


def enlarged(
    rooms: Tensor, heights: Tensor, widths: Tensor, height: int, width: int, kinds: Tensor
) -> Tensor:
    """Pictures in rooms, each of its own size, interpolated to (B, C, height, width).

    Args:
        rooms: (B, C, H, W).
        heights: (B,) of the pictures in them.
        widths: (B,).
        height: wanted.
        width: wanted.
        kinds: (B,) int64, of `KERNELS`.
    """
    rows = kernel(heights, rooms.shape[2], _full(heights, height), height, kinds)
    columns = kernel(widths, rooms.shape[3], _full(widths, width), width, kinds)
    return resampled(rooms, rows, columns)


def fitted(rooms: Tensor, heights: Tensor, widths: Tensor, height: int, width: int) -> Tensor:
    """Pictures in rooms brought to one size: means where they are larger, cubic where smaller."""
    axes = []
    for sizes, room, wanted in ((heights, rooms.shape[2], height), (widths, rooms.shape[3], width)):
        whole = _full(sizes, wanted)
        cubic = kernel(sizes, room, whole, wanted, torch.full_like(sizes, 2, dtype=torch.int64))
        larger = (sizes > wanted)[:, None, None]
        axes.append(torch.where(larger, area(sizes, room, whole, wanted), cubic))
    return resampled(rooms, *axes)


def _full(like: Tensor, size: int) -> Tensor:
    return torch.full_like(like, float(size))
