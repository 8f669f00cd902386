"""What decoders and programs do to detail: smooth, sharpen, quantise, add grain and grids.

Every strength is one number for each picture, and strength 0 leaves a picture as it was, so a
share of a batch is filtered by drawing zeros for the rest. Grey levels are of 255.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from train.forge.batched.faces import blur, normal, per_picture, pixels, sample
from train.forge.batched.resize import fitted

_LUMA = (0.299, 0.587, 0.114)
_ROUND = (
    (-2, 0), (-1, -1), (-1, 0), (-1, 1), (0, -2), (0, -1),
    (0, 1), (0, 2), (1, -1), (1, 0), (1, 1), (2, 0),
)  # fmt: skip


def luma(images: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    weights = torch.tensor(_LUMA, device=images.device)
    return (images * weights[:, None, None]).sum(1, keepdim=True)


def gaussian(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of one sigma for all: without asking the device how wide it is."""
    reach = max(1, round(3 * sigma))
    channels = images.shape[1]
    away = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
    weights = torch.exp(-0.5 * (away / sigma) ** 2)
    weights = (weights / weights.sum()).expand(channels, 1, 1, -1)
    out = F.conv2d(F.pad(images, (reach, reach, 0, 0), "replicate"), weights, groups=channels)
    out = F.pad(out, (0, 0, reach, reach), "replicate")
    return F.conv2d(out, weights.transpose(2, 3), groups=channels)


def sharpened(images: Tensor, amounts: Tensor) -> Tensor:
    """Unsharp mask by amounts (B,)."""
    soft = gaussian(images, 1.2)
    return (images + per_picture(amounts) * (images - soft)).clamp(0, 1)


def contrasted(images: Tensor, amounts: Tensor, sigma: Tensor | float) -> Tensor:
    """Local contrast raised, as face restoration does to eyes, brows and hair.

    Args:
        images: (B, 3, H, W).
        amounts: (B,).
        sigma: pixels that "local" means, one or (B,).
    """
    soft = blur(images, sigma) if isinstance(sigma, Tensor) else gaussian(images, sigma)
    detail = images - soft
    # Strong edges already have contrast: only the weaker ones are raised.
    raised = detail * torch.exp(-detail.abs() * 255 / 40)
    return (images + per_picture(amounts) * raised).clamp(0, 1)


def grained(
    images: Tensor, generator: torch.Generator, levels: Tensor, sizes: Tensor | float = 1.0
) -> Tensor:
    """Luma noise of standard deviations (B,) in grey levels and grain sizes in pixels."""
    count, _, height, width = images.shape
    noise = normal(generator, count, 1, height, width)
    if isinstance(sizes, Tensor):
        places = pixels(height, width, images.device) / sizes[:, None, None, None]
        noise = sample(noise, places, mode="bilinear")
    return (images + noise * per_picture(levels / 255)).clamp(0, 1)


def quantised(images: Tensor, generator: torch.Generator, steps: Tensor) -> Tensor:
    """Fewer levels of colour, dithered a little: a palette or a coarse latent.

    Args:
        images: (B, 3, H, W).
        generator: consumed by the dither.
        steps: (B,) grey levels between two that stay; 0 leaves the picture.
    """
    count, _, height, width = images.shape
    shape = (count, 1, height, width)
    dither = torch.rand(shape, generator=generator, device=images.device) * 0.6 - 0.3
    step = per_picture(steps.clamp(min=0.5) / 255)
    coarse = (torch.round(images / step + dither) * step).clamp(0, 1)
    return torch.where(per_picture(steps) > 0, coarse, images)


def bilateral(images: Tensor, levels: Tensor, reach: float = 3.0) -> Tensor:
    """Smoothing over 13 pixels that keeps edges stronger than some grey levels (B,)."""
    height, width = images.shape[-2:]
    around = F.pad(images, (2, 2, 2, 2), "replicate")
    fall = per_picture(-0.5 * (255 / levels.clamp(min=0.05)) ** 2)
    total, weight = images.clone(), torch.ones_like(images[:, :1])
    for dy, dx in _ROUND:
        near = around[:, :, 2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width]
        apart = (near - images).abs().sum(1, keepdim=True)
        part = torch.exp(apart * apart * fall - 0.5 * (dx * dx + dy * dy) / reach**2)
        total, weight = total + near * part, weight + part
    return total / weight


def guided(images: Tensor, radius: Tensor, levels: Tensor) -> Tensor:
    """Guided filter by the picture's own luma (He, Sun and Tang 2010): flat parts become flatter.

    Args:
        images: (B, 3, H, W).
        radius: (B,) pixels of the window.
        levels: (B,) grey levels; weaker structures vanish.
    """
    grey = luma(images)
    sigma = 0.58 * radius + 0.29  # a bell as wide as a box of 2 radius + 1
    mean, square = blur(torch.cat([grey, grey * grey], 1), sigma).chunk(2, 1)
    spread = (square - mean * mean).clamp(min=0)
    slope = spread / (spread + per_picture((levels / 255) ** 2) + 2e-8)
    slope, level = blur(torch.cat([slope, (1 - slope) * mean], 1), sigma).chunk(2, 1)
    # Colour is smoothed less than luma, as eyes and codecs do.
    around = F.pad(torch.cat([images, grey], 1), (1, 1, 1, 1), "replicate")
    base = F.avg_pool2d(around, 3, 1)
    return (base[:, :3] + slope * grey + level - base[:, 3:]).clamp(0, 1)


def median(images: Tensor) -> Tensor:
    """The median of three neighbours, along rows and then along columns."""
    for pad, axis in (((1, 1, 0, 0), 3), ((0, 0, 1, 1), 2)):
        around = F.pad(images, pad, "replicate")
        size = images.shape[axis]
        one, two, three = (around.narrow(axis, start, size) for start in range(3))
        low, high = torch.minimum(one, two), torch.maximum(one, two)
        images = torch.maximum(low, torch.minimum(high, three))
    return images


def grid_enlarged(
    rooms: Tensor,
    heights: Tensor,
    widths: Tensor,
    generator: torch.Generator,
    depths: Tensor,
    twice: Tensor,
) -> Tensor:
    """Enlarge as transposed convolutions do: twice or four times, each phase with its own gain.

    Where a kernel's phases do not sum to the same, a checkerboard stays (Odena et al. 2016).

    Args:
        rooms: (B, 3, H, W) with a small picture in the corner of each.
        heights: (B,) of the pictures in them.
        widths: (B,).
        generator: consumed by the kernels.
        depths: (B,) relative depth of the checkerboard.
        twice: (B,) bool, where four times are wanted; pictures of more than half the room go to
            twice their size alone.

    Returns:
        The pictures as large as their rooms.
    """
    height, width = rooms.shape[-2:]
    twice = twice & (2 * heights <= height) & (2 * widths <= width)
    once = _doubled(rooms, generator, depths)
    again = _doubled(once[:, :, :height, :width], generator, depths)
    grown = torch.where(per_picture(twice), again, once)
    times = torch.where(twice, 4.0, 2.0)
    return fitted(grown, heights * times, widths * times, height, width)


def _doubled(images: Tensor, generator: torch.Generator, depths: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) at twice their size by one random kernel of 3 x 3 each."""
    count, channels, height, width = images.shape
    tent = torch.tensor((0.5, 1.0, 0.5), device=images.device)
    weights = torch.outer(tent, tent) * (1 + normal(generator, count, 3, 3) * depths[:, None, None])
    # The four phases together keep the brightness.
    weights = weights * (4 / weights.sum((1, 2), keepdim=True))
    k = weights.permute(1, 2, 0)[..., None, None, None]
    padded = F.pad(images, (0, 1, 0, 1), "replicate")
    here, right = padded[..., :-1, :-1], padded[..., :-1, 1:]
    below, across = padded[..., 1:, :-1], padded[..., 1:, 1:]
    phases = torch.stack(
        [
            k[1, 1] * here,
            k[1, 2] * here + k[1, 0] * right,
            k[2, 1] * here + k[0, 1] * below,
            k[2, 2] * here + k[2, 0] * right + k[0, 2] * below + k[0, 0] * across,
        ],
        dim=2,
    )
    return F.pixel_shuffle(phases.reshape(count, 4 * channels, height, width), 2).clamp(0, 1)
