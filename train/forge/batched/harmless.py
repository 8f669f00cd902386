"""Edits that accuse nobody, for whole batches: a handful of those in `train.forge.harmless`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from train.forge.batched.coding import jpeg
from train.forge.batched.faces import normal, per_picture, pixels, uniform
from train.forge.batched.lots import draw_lots, put
from train.forge.batched.separable import (
    Shrunk,
    blots,
    box,
    luma_of,
    luma_weights,
    sharpened,
    smeared,
)

_OVERLAID = 0.3  # share of harmlessly edited pairs that something lies over
_ROUNDS = (0.635, 0.315)  # chance of an edit in each: none 25 %, one 55 %, two 20 % of pictures
_LETTERS = 128  # columns of dots to choose a caption's letters from


@dataclass(frozen=True, slots=True)
class _Draw:
    """Draws for 2 n pictures; both of a pair get the same where it is `alike` (n,) bool."""

    generator: torch.Generator
    alike: Tensor

    def number(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(2 n,) in [low, high)."""
        return self._joined(uniform(self.generator, 2 * len(self.alike), low, high))

    def noise(self, *shape: int) -> Tensor:
        """(2 n, *shape) standard normal."""
        return self._joined(normal(self.generator, 2 * len(self.alike), *shape))

    def _joined(self, drawn: Tensor) -> Tensor:
        one, two = drawn.reshape(-1, 2, *drawn.shape[1:]).unbind(1)
        alike = self.alike.reshape(-1, *[1] * (one.ndim - 1))
        return torch.stack([one, torch.where(alike, one, two)], 1).flatten(0, 1)


def _grade(images: Tensor, draw: _Draw) -> Tensor:
    """Curves per channel and saturation: a look."""
    gamma = torch.exp(0.14 * draw.noise(3, 1, 1))
    curve = images**gamma
    bend, lift = per_picture(draw.number(-0.25, 0.25)), per_picture(draw.number(0, 0.12))
    curve = curve + bend * torch.sin(2 * torch.pi * curve) / torch.pi
    out = lift + (1 - lift - per_picture(draw.number(0, 0.1))) * curve
    luma = luma_of(out)
    return luma + (out - luma) * per_picture(draw.number(0.5, 1.5))


def _vignette(images: Tensor, draw: _Draw) -> Tensor:
    """Darker, or lighter, towards the corners."""
    height, width = images.shape[2:]
    at = pixels(height, width, images.device)
    x = at[..., 0] / width - draw.number(0.35, 0.65)[:, None, None]
    y = at[..., 1] / height - draw.number(0.35, 0.65)[:, None, None]
    far = 4 * (x**2 + y**2)[:, None]
    return images * (1 - per_picture(draw.number(-0.15, 0.45)) * far)


def _haze(images: Tensor, draw: _Draw) -> Tensor:
    """Light that spreads: bloom of a lens, fog, a dirty glass."""
    share = per_picture(draw.number(0.08, 0.35))
    soft = box(images, draw.number(8, 18))
    return images + (soft - images) * share + per_picture(draw.number(0, 20 / 255))


def _beauty(images: Tensor, draw: _Draw) -> Tensor:
    """Skin smooth, edges kept (guided filter by luma), at times brighter and sharper."""
    luma = luma_of(images)
    # About its mean, so that the difference of squares below keeps its digits.
    centre = luma.mean((2, 3), keepdim=True)
    centred = luma - centre
    radius = torch.floor(draw.number(2, 8))
    mean, square = box(torch.cat([centred, centred**2], 1), radius).chunk(2, 1)
    spread = (square - mean**2).clamp(min=0)
    slope = spread / (spread + per_picture(draw.number(6 / 255, 30 / 255)) ** 2)
    slope, level = box(torch.cat([slope, (1 - slope) * mean], 1), radius).chunk(2, 1)
    # Colour is smoothed less than luma, as eyes and codecs do.
    base = box(images, torch.ones_like(radius))
    out = base + (slope * centred + level + centre - luma_of(base))
    out = out * (1 + per_picture((draw.number() < 0.5) * draw.number(0, 0.08)))
    amount = (draw.number() < 0.5) * draw.number(0.2, 1.2)
    return sharpened(out.clamp(0, 1), amount, torch.full_like(amount, 1.2))


def _crisp(images: Tensor, draw: _Draw) -> Tensor:
    """Sharpened, or so much that bright seams stand along edges."""
    return sharpened(images, draw.number(0.3, 2.1), draw.number(1.0, 3.5))


def _noise(images: Tensor, draw: _Draw) -> Tensor:
    """Grain of light, stronger where it is light or everywhere, and of colour."""
    height, width = images.shape[2:]
    field = draw.noise(1, height, width) * per_picture(draw.number(2, 16))
    field = field + draw.noise(3, height, width) * per_picture(draw.number(-12, 8).clamp(min=0))
    shot = per_picture(draw.number() < 0.3)
    field = field * torch.where(shot, (1.5 * luma_of(images) + 0.03).sqrt(), 1)
    return images + blots(field, draw.number(1, 3)) / 255


def _monochrome(images: Tensor, draw: _Draw) -> Tensor:
    """Black and white, or sepia."""
    weights = luma_weights(images.device) * torch.exp(0.4 * draw.noise(3, 1, 1))
    grey = (images * (weights / weights.sum(1, keepdim=True))).sum(1, keepdim=True)
    sepia = per_picture((draw.number() < 0.4) * draw.number(0.5, 1.2))
    tint = torch.linspace(0.09, -0.2, 3, device=images.device)[:, None, None]
    return grey * (1 + sepia * tint)


def _recompressed(images: Tensor, draw: _Draw) -> Tensor:
    """Saved as JPEG once more."""
    return jpeg(images, draw.number(25, 95).round())


def _rescaled(images: Tensor, draw: _Draw) -> Tensor:
    """Down and up again."""
    shrunk = Shrunk.by(draw.number(0.25, 0.9), images.shape[2], images.shape[3])
    small = shrunk.down(images, torch.floor(draw.number(0, 3)))
    return shrunk.up(small, torch.floor(draw.number(1, 3)))


def _moving(images: Tensor, draw: _Draw) -> Tensor:
    """Motion blur."""
    return smeared(images, draw.number(3, 13), draw.number(0, torch.pi), 7)


def _lamps(images: Tensor, draw: _Draw) -> Tensor:
    """Bands of light and shade from lamps that flicker under a rolling shutter."""
    height = images.shape[2]
    at = torch.arange(height, device=images.device) / height
    turns = at * draw.number(0.5, 6)[:, None] + draw.number()[:, None]
    wave = torch.sin(2 * torch.pi * turns)[:, None, :, None]
    return images * (1 + wave * per_picture(draw.number(0.02, 0.22)))


_EDITS: tuple[Callable[[Tensor, _Draw], Tensor], ...] = (
    _grade, _vignette, _haze, _beauty, _crisp, _noise, _monochrome, _recompressed, _rescaled,
    _moving, _lamps,
)  # fmt: skip


@torch.no_grad()
def harmless(
    pairs: Tensor, landmarks: Tensor, generator: torch.Generator, share: float
) -> tuple[Tensor, Tensor]:
    """Edit a share of the pairs in ways that accuse nobody and tell nobody's class.

    Edits of the whole picture are, with equal chance, one draw for both pictures, or another for
    each: then real pictures have edits that their fakes lack and the other way round, but each kind
    of picture has every edit equally often, at every strength. Captions and logos lie over both
    alike; what they hide is neither real nor forged any more.

    Args:
        pairs: (B, 2, 3, H, W) float32 in [0, 1], a forged picture and its original.
        landmarks: (B, 5, 2) float32 pixels; captions and logos are measured by the eyes.
        generator: on the device of the pairs; consumed alike whatever the pictures hold.
        share: probability of each pair to be edited; the others come back untouched.

    Returns:
        The pairs, and how much of each pixel is hidden under something: (B, 1, H, W) in [0, 1]. A
        mask of manipulated pixels must be multiplied by 1 - cover, and a pair of whose mask little
        is left then is no use as a fake.
    """
    height, width = pairs.shape[3:]
    cover = pairs.new_zeros(len(pairs), 1, height, width)
    if share <= 0 or not len(pairs):
        return pairs, cover
    index, numbers = draw_lots(generator, len(pairs)).between(0, share)
    held = numbers < share
    out = pairs[index]
    alike = uniform(generator, len(index)) < 0.5
    lots = draw_lots(generator, len(index))
    over, numbers = lots.between(0, _OVERLAID)
    colour, hidden = _overlay(landmarks[index[over]], generator, height, width)
    hidden = hidden * per_picture((numbers < _OVERLAID) & held[over])
    free = torch.ones_like(held).index_copy(0, over, numbers >= _OVERLAID)
    out = out.index_copy(0, over, out[over] + (colour - out[over]) * hidden[:, None])
    cover = cover.index_copy(0, index[over], hidden)
    for chance in _ROUNDS:
        out = _edited(out, generator, alike, free, 1 - chance)
    return put(pairs, index, held, out), cover


def _edited(
    pairs: Tensor, generator: torch.Generator, alike: Tensor, free: Tensor, none: float
) -> Tensor:
    """An edit for each picture, or with the probability `none` nothing.

    Drawn apart, the original's number is the forged one's half an edit further: each alone is still
    uniform, half of the pairs get two different edits, and both numbers fall into one slice.
    """
    width = (1 - none) / len(_EDITS)
    lots = draw_lots(generator, len(pairs))
    out = pairs
    for i, edit in enumerate(_EDITS):
        low, high = none + i * width, none + (i + 1) * width
        index, numbers = lots.between(low - width / 2, high)
        draw = _Draw(generator, alike[index])
        made = edit(pairs[index].flatten(0, 1), draw).clamp(0, 1)
        aside = torch.where(alike[index], numbers, numbers + width / 2)
        both = torch.stack([numbers, aside], 1)
        out = put(out, index, (both >= low) & (both < high) & free[index, None], made)
    return out


def _overlay(
    landmarks: Tensor, generator: torch.Generator, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """A caption or a logo: colour (n, 1, 3, H, W) and cover (n, 1, H, W)."""
    count = len(landmarks)
    unit = (landmarks[:, 1] - landmarks[:, 0]).norm(dim=1).clamp(min=8)[:, None, None]
    at = pixels(height, width, landmarks.device)

    def draw(low: float = 0.0, high: float = 1.0) -> Tensor:
        return uniform(generator, count, low, high)[:, None, None]

    # A caption: dots of 5 x 7 that are as much like letters as a distant line of text, on a band.
    which = torch.floor(uniform(generator, count, 0, 5)).long()
    base = landmarks[:, :, 1].gather(1, which[:, None])[..., None] + draw(-0.6, 0.9) * unit
    dot = (unit * draw(0.03, 0.11)).clamp(min=1)
    dots = (uniform(generator, count * 7 * _LETTERS) < 0.55).float().reshape(count, 7, _LETTERS)
    row = torch.floor((at[..., 1] - base) / dot + 3.5)
    column = torch.floor((at[..., 0] - draw(-0.1, 0.4) * width) / dot)
    letters = (
        dots.flatten(1)
        .gather(1, (row.clamp(0, 6) * _LETTERS + column % _LETTERS).long().flatten(1))
        .reshape(count, height, width)
    )
    text = (row >= 0) & (row <= 6) & (column >= 0) & (column % 6 < 5) & (column < draw(20, 140))
    letters = letters * text
    band = ((row >= -1) & (row <= 7)) * draw(0.4, 1.0) * (draw() < 0.5)
    dark = draw(0, 0.35)
    bright = torch.where(draw() < 0.8, 0.95, 1 - dark)
    ink = dark + (bright - dark) * letters
    # A logo: an ellipse or a rectangle beside, or upon, the face.
    middle = landmarks.mean(1) + 0.8 * unit[:, :, 0] * normal(generator, count, 2)
    x = (at[..., 0] - middle[:, 0, None, None]).abs() / (unit * draw(0.15, 0.6))
    y = (at[..., 1] - middle[:, 1, None, None]).abs() / (unit * draw(0.15, 0.6))
    inside = torch.where(draw() < 0.5, x**2 + y**2, torch.maximum(x, y)) < 1
    logo = inside * torch.where(draw() < 0.6, 1.0, draw(0.2, 0.7))
    paint = uniform(generator, 3 * count).reshape(count, 3, 1, 1)
    caption = draw() < 0.6
    cover = torch.where(caption, torch.maximum(band, letters), logo)
    colour = torch.where(caption[:, None], ink[:, None], paint)
    return colour[:, None], cover[:, None]
