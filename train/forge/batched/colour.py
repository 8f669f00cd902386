"""Colours of a batch: small changes of them, and one picture's colours given to another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from train.forge.batched.faces import chosen, per_picture, uniform

SPACES = ("lab", "ycbcr", "rgb", "none")
_FEWEST = 16  # pixels from which colour statistics mean something
_YCBCR = ((0.299, 0.587, 0.114), (-0.168636, -0.331068, 0.499704), (0.499813, -0.418531, -0.081282))
# sRGB to XYZ over the white of D65.
_XYZ = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)
_KNEE = 6 / 29  # of the cube root in Lab, below which it is a line


def jittered(images: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Shift channels, hue, saturation, brightness and contrast a little.

    Args:
        images: (B, 3, H, W) in [0, 1].
        generator: consumed by the draw.
        strength: 1 is what cameras and editors do.
    """
    count = len(images)
    shifted, contrasted, tinted = uniform(generator, 3 * count).view(3, count)
    channels = (uniform(generator, 3 * count).view(count, 3) * 40 - 20) * strength / 255
    channels = channels * (shifted < 0.3)[:, None]
    some = (contrasted < 0.5).float()
    gain = 1 + some * uniform(generator, count, -0.3, 0.3) * strength
    level = some * uniform(generator, count, -30, 30) * strength / 255
    out = (images + channels[:, :, None, None] - 0.5) * per_picture(gain) + 0.5
    out = (out + per_picture(level)).clamp(0, 1)
    hue = uniform(generator, count, -1 / 30, 1 / 30) * strength  # 6 of OpenCV's 180
    saturation = 1 + uniform(generator, count, -0.3, 0.3) * strength
    hsv = rgb_to_hsv(out)
    turned = torch.stack(
        [
            (hsv[:, 0] + hue[:, None, None]) % 1,
            (hsv[:, 1] * saturation[:, None, None]).clamp(0, 1),
            hsv[:, 2],
        ],
        dim=1,
    )
    return torch.where(per_picture(tinted) < 0.3, hsv_to_rgb(turned), out)


def match(
    source: Tensor,
    target: Tensor,
    masks: Tensor,
    generator: torch.Generator,
    shares: Sequence[float] = (0.35, 0.25, 0.25, 0.15),
) -> Tensor:
    """Give sources the colours of targets under masks, each in a space that is drawn.

    Args:
        source: (B, 3, H, W) in [0, 1].
        target: of the same shape.
        masks: (B, 1, H, W); colours are compared where they are above 0.5.
        generator: consumed by the draw.
        shares: of each of `SPACES`.
    """
    kinds = per_picture(chosen(generator, len(source), shares))
    inside = (masks > 0.5).float()
    pixels = inside.sum((2, 3), keepdim=True)
    straight = torch.eye(3, device=source.device)
    matrices = torch.where(kinds[:, 0] == 1, straight.new_tensor(_YCBCR), straight)
    lab = kinds == 0
    one, two = (
        torch.where(lab, rgb_to_lab(images) / 100, _turned(images, matrices))
        for images in (source, target)
    )
    total = pixels.clamp(min=1)
    mean_one, mean_two = ((part * inside).sum((2, 3), keepdim=True) / total for part in (one, two))
    spread_one, spread_two = (
        (((part - mean) ** 2 * inside).sum((2, 3), keepdim=True) / total).sqrt() + 4e-6
        for part, mean in ((one, mean_one), (two, mean_two))
    )
    gain = (spread_two / spread_one).clamp(0.5, 2.0)
    moved = (one - mean_one) * gain + mean_two
    straightened = _turned(moved, torch.linalg.inv_ex(matrices).inverse)
    moved = torch.where(lab, lab_to_rgb(moved * 100), straightened).clamp(0, 1)
    return torch.where((kinds == 3) | (pixels < _FEWEST), source, moved)


def rgb_to_ycbcr(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] to Y in [0, 1] and Cb, Cr around 0 (BT.601, full range)."""
    return _turned(images, images.new_tensor(_YCBCR)[None])


def ycbcr_to_rgb(images: Tensor) -> Tensor:
    """The inverse of `rgb_to_ycbcr`; not clipped."""
    return _turned(images, torch.linalg.inv_ex(images.new_tensor(_YCBCR)[None]).inverse)


def rgb_to_lab(images: Tensor) -> Tensor:
    """(B, 3, H, W) sRGB in [0, 1] to CIE Lab of D65, L in [0, 100]."""
    bright = ((images.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    linear = torch.where(images > 0.04045, bright, images / 12.92)
    xyz = _turned(linear, images.new_tensor(_XYZ)[None])
    root = xyz.clamp(min=_KNEE**3) ** (1 / 3)
    root = torch.where(xyz > _KNEE**3, root, xyz / (3 * _KNEE**2) + 4 / 29)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lab_to_rgb(images: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`, clipped to [0, 1]."""
    level, first, second = images.unbind(1)
    y = (level + 16) / 116
    root = torch.stack([y + first / 500, y, y - second / 200], dim=1)
    xyz = torch.where(root > _KNEE, root**3, 3 * _KNEE**2 * (root - 4 / 29))
    inverse = torch.linalg.inv_ex(images.new_tensor(_XYZ)[None]).inverse
    linear = _turned(xyz, inverse).clamp(0, 1)
    bright = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, bright, 12.92 * linear).clamp(0, 1)


def rgb_to_hsv(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] to hue, saturation and value, all in [0, 1]."""
    value, low = images.amax(1), images.amin(1)
    spread = value - low
    red, green, blue = images.unbind(1)
    over = spread.clamp(min=1e-8)
    hue = torch.where(
        value == red,
        (green - blue) / over,
        torch.where(value == green, 2 + (blue - red) / over, 4 + (red - green) / over),
    )
    return torch.stack([(hue / 6) % 1, spread / value.clamp(min=1e-8), value], dim=1)


def hsv_to_rgb(images: Tensor) -> Tensor:
    """The inverse of `rgb_to_hsv`."""
    hue, saturation, value = images.unbind(1)
    parts = []
    for start in (5, 3, 1):
        place = (start + 6 * hue) % 6
        away = torch.minimum(place, 4 - place).clamp(0, 1)
        parts.append(value - value * saturation * away)
    return torch.stack(parts, dim=1)


def _turned(images: Tensor, matrices: Tensor) -> Tensor:
    """Colours (B, 3, H, W) times matrices (B or 1, 3, 3), in full precision on any device."""
    weights = matrices[..., None, None]
    red, green, blue = (images[:, None, i] for i in range(3))
    return weights[:, :, 0] * red + weights[:, :, 1] * green + weights[:, :, 2] * blue
