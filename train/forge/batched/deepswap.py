"""Faces that networks redrew, laid on those of a batch: one's own, and other people's.

The batched twin of `train.forge.reconstruct`, `train.forge.deepswap` and `train.forge.align`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepscan.errors import UsageError
from train.forge.batched.blend import compose
from train.forge.batched.colour import match
from train.forge.batched.faces import (
    Faces,
    Made,
    affinity,
    apply,
    blur,
    chosen,
    inverse,
    per_picture,
    pixels,
    random_masks,
    sample,
    similarity,
    uniform,
    warp,
)
from train.forge.batched.filters import bilateral, grained, luma, sharpened
from train.forge.shape import mean_face

_LARGE = ("face", "inner face", "face", "inner face", "jaw and parts", "features")
_PARTS = (*_LARGE, "face", "features", "parts", "mouth", "eyes", "lower face", "nose")
# The common square in units of the mean face, whose eyes are 1 apart: see train.forge.align.
_CENTRE, _SIDE = (0.0, 0.25), 4.1
_GREY = 3 / 255  # mean difference of channels below which a picture has no colours
_RIM = 0.04  # of the square, over which its edge fades out


def reconstruct(faces: Faces, generator: torch.Generator, *, others: Faces | None = None) -> Made:
    """Replace regions by what an autoencoder made of them.

    Args:
        faces: at least one, with redrawn copies.
        generator: on the device of the tensors.
        others: not needed.

    Raises:
        UsageError: a face has no redrawn copy of its own.
    """
    count, _, height, width = faces.images.shape
    own = torch.zeros(count, dtype=torch.bool, device=faces.images.device)
    copies = pick(faces, generator, own)
    masks = random_masks(generator, faces.landmarks, faces.sides, height, width, _PARTS)
    copies = truer(copies, faces, generator)
    back = inverse(align(faces.landmarks, copies.shape[-1]))
    source, inside = laid(copies, back, height, width, generator)
    masks = masks * inside
    source = match(source, faces.images, masks, generator, (0.22, 0.12, 0.16, 0.5))
    source = finished(as_grey_as(faces.images, source), generator)
    made = compose(source, faces.images, masks, generator, (0.75, 0.15, 0.1))
    return Made(made, faces.images, masks)


def deepswap(faces: Faces, generator: torch.Generator, *, others: Faces | None = None) -> Made:
    """Put decoders' faces on these: of others, or of these through other people's decoders.

    Args:
        faces: at least one, with redrawn copies.
        generator: on the device of the tensors.
        others: somebody else for each face, their pictures and copies of the same sizes; without
            any, or without copies of them, all come from the faces' own.

    Raises:
        UsageError: a face has no fitting redrawn copy.
        ValueError: there are others, but not one for each face.
    """
    if others is not None and len(others) != len(faces):
        raise ValueError(f"{len(faces)} faces need as many others, not {len(others)}")
    count, _, height, width = faces.images.shape
    device = faces.images.device
    masks = random_masks(generator, faces.landmarks, faces.sides, height, width, _LARGE)
    copies, swapped = _drawn(faces, generator, torch.ones(count, dtype=torch.bool, device=device))
    points = faces.landmarks
    if others is not None and others.decoded is not None:
        laid_on = uniform(generator, count) < 0.6
        theirs, crossed = _drawn(others, generator, uniform(generator, count) < 0.3)
        copies = torch.where(per_picture(laid_on), theirs, copies)
        swapped = torch.where(laid_on, crossed, swapped)
        points = torch.where(laid_on[:, None, None], others.landmarks, points)
    back = _way_back(points, faces.landmarks, copies.shape[-1], generator)
    source, inside = laid(copies, back, height, width, generator)
    masks = masks * inside
    source = match(source, faces.images, masks, generator, (0.4, 0.25, 0.25, 0.1))
    source = finished(as_grey_as(faces.images, source), generator)
    made = compose(source, faces.images, masks, generator, (0.65, 0.2, 0.15))
    return Made(made, faces.images, masks)


def _drawn(owners: Faces, generator: torch.Generator, swapped: Tensor) -> tuple[Tensor, Tensor]:
    """A redrawn copy of each owner, made truer and at times detailed, and whether swapped."""
    count = len(owners)
    copies = pick(owners, generator, swapped)
    copies = truer(copies, owners, generator, torch.where(swapped, 0.7, 1.0))
    finer = truer(pick(owners, generator, torch.zeros_like(swapped)), owners, generator)
    mended = swapped & (uniform(generator, count) < 0.5)
    return torch.where(per_picture(mended), detailed(copies, finer, generator), copies), swapped


def align(landmarks: Tensor, side: int) -> Tensor:
    """The similarities (B, 2, 3) that move faces into squares of `side` pixels.

    Args:
        landmarks: (B, 5, 2) eyes, nose, corners of the mouth.
        side: of the square.
    """
    five = torch.tensor(mean_face()[1], dtype=torch.float32, device=landmarks.device)
    centre = torch.tensor(_CENTRE, device=landmarks.device)
    wanted = ((five - centre) / _SIDE + 0.5) * side
    return similarity(landmarks, wanted.expand(len(landmarks), -1, -1))


def pick(faces: Faces, generator: torch.Generator, swapped: Tensor) -> Tensor:
    """One redrawn copy of each face: (B, 3, S, S).

    Args:
        faces: their owners.
        generator: consumed by the draw.
        swapped: (B,) bool, whether by a decoder of other people or one's own.

    Raises:
        UsageError: somebody has none of that kind.
    """
    fitting = None
    if faces.decoded is not None and faces.swapped is not None:
        fitting = faces.swapped == swapped[:, None]
    # The one question to the device in this file: a wrong copy would be a wrong label.
    if fitting is None or faces.decoded is None or not bool(fitting.any(1).all()):
        raise UsageError(
            "this forge needs faces that networks have redrawn: make a pack with train.forge.pack "
            "and give it as --decoded"
        )
    drawn = torch.multinomial(fitting.float(), 1, generator=generator)[:, 0]
    return faces.decoded[torch.arange(len(faces), device=drawn.device), drawn]


def truer(
    copies: Tensor, owners: Faces, generator: torch.Generator, most: float | Tensor = 1.0
) -> Tensor:
    """Redrawn copies nearer to the faces they were made of, as after longer training.

    Decoders get coarse structure right first and fine detail last, or never. So what a copy missed
    is given back below a drawn frequency; above it, all is the network's.

    Args:
        copies: (B, 3, S, S) in the common square.
        owners: whose faces went into the encoder.
        generator: consumed by the draw; a fifth of the copies stay as they are.
        most: at most this share of what was missed is given back, one or (B,).
    """
    count, _, _, side = copies.shape
    share = uniform(generator, count, 0.6, 1.0) * most * (uniform(generator, count) >= 0.2)
    sigma = (side / uniform(generator, count, 50, 200)).clamp(min=0.4)
    true = warp(
        owners.images, align(owners.landmarks, side), side, side, mode="bilinear", beyond="border"
    )
    return (copies + per_picture(share) * blur(true - copies, sigma)).clamp(0, 1)


def detailed(copies: Tensor, finer: Tensor, generator: torch.Generator) -> Tensor:
    """Fine detail of some redrawn copies over the coarse look of others.

    Decoders of little training are soft; programs mend that with a second network, which draws the
    lids, lips and wrinkles anew. The second copy is such a drawing of the same face.
    """
    count, _, _, side = copies.shape
    sigma = side / uniform(generator, count, 16, 40)
    detail = finer - blur(finer, sigma)
    amount = per_picture(uniform(generator, count, 0.7, 1.1))
    return (blur(copies, sigma / 2) + amount * detail).clamp(0, 1)


def as_grey_as(images: Tensor, pictures: Tensor) -> Tensor:
    """Pictures without colours where these images have none."""
    some = images[:, :, ::4, ::4]
    spread = (some.amax(1) - some.amin(1)).mean((1, 2))
    return torch.where(per_picture(spread) > _GREY, pictures, luma(pictures).expand_as(pictures))


def laid(
    copies: Tensor, back: Tensor, height: int, width: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Lay redrawn copies on pictures.

    Args:
        copies: (B, 3, S, S).
        back: (B, 2, 3) from the square to the pictures.
        height: of the pictures.
        width: of the pictures.
        generator: consumed by the draw.

    Returns:
        The pictures (B, 3, height, width) and the weight (B, 1, height, width) in [0, 1] where
        they have something.
    """
    count, _, _, side = copies.shape
    scale = (back[:, 0, 0] * back[:, 1, 1] - back[:, 0, 1] * back[:, 1, 0]).abs().sqrt()
    # Plain sampling of too many pixels would add aliases that no decoder made.
    copies = blur(copies, torch.where(scale < 0.75, 0.45 / scale.clamp(min=0.05), 0.0))
    places = pixels(height, width, copies.device).reshape(1, -1, 2).expand(count, -1, -1)
    places = apply(inverse(back), places).reshape(count, height, width, 2)
    straight = per_picture(uniform(generator, count)) < 0.25
    source = torch.where(
        straight,
        sample(copies, places, mode="bilinear", beyond="border"),
        sample(copies, places, beyond="border"),
    )
    # Smooth where it was smooth and sharp at edges, as restoration models enlarge.
    better = (scale > 1.1) & (uniform(generator, count) < 0.35)
    smooth = bilateral(source, uniform(generator, count, 8, 30), 2.0)
    restored = sharpened(smooth, uniform(generator, count, 0.6, 2.0))
    source = torch.where(per_picture(better), restored, source)
    edge = max(2, round(_RIM * side))
    rim = torch.minimum(places, side - places).amin(3)[:, None]
    return source, (rim / edge - 0.5).clamp(0, 1)


def _way_back(owners: Tensor, points: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """The affine maps (B, 2, 3) from the square, where owners' faces lie, to faces at points."""
    there = align(owners, side)
    plain = inverse(align(points, side))
    near = affinity(apply(there, owners), points)
    # On one's own face both would be the same but for the fit: only the first gives it back.
    same = (owners == points).all(2).all(1)
    first = same | (uniform(generator, len(owners)) < 0.5)
    return torch.where(first[:, None, None], plain, near)


def finished(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """What programs do to decoders' pictures: nothing, sharpening, or grain over them."""
    count = len(pictures)
    kinds = per_picture(chosen(generator, count, (0.35, 0.10, 0.55)))
    sharp = sharpened(pictures, uniform(generator, count, 0.2, 1.5))
    soft = blur(pictures, uniform(generator, count, 0.4, 0.9))
    pictures = torch.where(kinds == 0, sharp, torch.where(kinds == 1, soft, pictures))
    levels = uniform(generator, count, 0.8, 4) * (uniform(generator, count) < 0.25)
    return grained(pictures, generator, levels, uniform(generator, count, 1, 2))
