"""Faces of a batch drawn anew: at a decoder's working size, and the whole face by a generator.

The batched twin of `train.forge.decoder`, `train.forge.redraw` and `train.forge.wholeface`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from train.forge.batched.blend import compose
from train.forge.batched.faces import (
    Faces,
    Made,
    blended,
    blur,
    chosen,
    normal,
    per_picture,
    pixels,
    random_masks,
    sample,
    uniform,
)
from train.forge.batched.filters import (
    bilateral,
    contrasted,
    grained,
    grid_enlarged,
    guided,
    median,
    quantised,
    sharpened,
)
from train.forge.batched.resize import enlarged, shrunk
from train.forge.batched.selfblend import REGIONS

WIDTHS = (48, 64, 80, 96, 112, 128, 160, 224, 256)  # pixels of a decoder over a face
_LANCZOS = 3  # of resize.KERNELS


def decoded_like(
    images: Tensor, sides: Tensor, generator: torch.Generator, strength: float | Tensor = 1.0
) -> Tensor:
    """Pictures as decoders of random kinds give them back.

    Few pixels, smooth skin, learned upsampling whose phases differ a little, then sharpening that
    invents detail.

    Args:
        images: (B, 3, H, W) in [0, 1].
        sides: (B,) of the faces in pixels, from which the working sizes follow.
        generator: consumed by the draw.
        strength: of smoothing, sharpening and grain, one or (B,); 1 is plain to see when enlarged.
    """
    count, _, height, width = images.shape
    power = torch.as_tensor(strength, dtype=torch.float32, device=images.device).expand(count)
    widths = torch.tensor(WIDTHS, dtype=torch.float32, device=images.device)
    factors = widths[chosen(generator, count, [1.0] * len(WIDTHS))] / sides.clamp(min=1)
    factors = torch.where(factors > 0.85, uniform(generator, count, 0.45, 0.85), factors)
    work, heights, widths = shrunk(images, factors)
    work = _smoothed(work, generator, power)
    steps = uniform(generator, count, 3, 9) * _some(generator, count, 0.25)
    work = quantised(work, generator, steps)
    kinds = chosen(generator, count, (0.1, 0.35, 0.35, 0.2))
    plain = enlarged(work, heights, widths, height, width, kinds)
    gridded = grid_enlarged(
        work, heights, widths, generator,
        depths=uniform(generator, count, 0.02, 0.10) * power,
        twice=uniform(generator, count) > 0.6,
    )  # fmt: skip
    out = torch.where(per_picture(_some(generator, count, 0.35)) > 0, gridded, plain)
    amounts = uniform(generator, count, 0.2, 1.3) * power
    out = sharpened(out, amounts * _some(generator, count, 0.5))
    amounts = uniform(generator, count, 0.2, 0.7) * power * _some(generator, count, 0.3)
    out = contrasted(out, amounts, 5.0)
    levels = uniform(generator, count, 0.5, 4.5) * power * _some(generator, count, 0.35)
    return grained(out, generator, levels, uniform(generator, count, 1, 2))


def _smoothed(images: Tensor, generator: torch.Generator, power: Tensor) -> Tensor:
    """One of several smoothings that keep edges, or none."""
    count = len(images)
    kinds = per_picture(chosen(generator, count, (0.4, 0.2, 0.15, 0.1, 0.15)))
    sided = bilateral(images, uniform(generator, count, 8, 40) * power)
    flat = guided(images, uniform(generator, count, 2, 5), uniform(generator, count, 4, 22) * power)
    soft = blur(images, uniform(generator, count, 0.4, 1.0) * power.clamp(min=0.3))
    out = torch.where(kinds == 0, sided, images)
    out = torch.where(kinds == 1, flat, out)
    out = torch.where(kinds == 2, median(images), out)
    return torch.where(kinds == 3, soft, out)


def _some(generator: torch.Generator, count: int, share: float) -> Tensor:
    """(count,) float32, 1 for a share of them and 0 for the others."""
    return (uniform(generator, count) < share).float()


def redraw(faces: Faces, generator: torch.Generator, *, others: Faces | None = None) -> Made:
    """Replace regions by their own low-resolution copies.

    Args:
        faces: at least one.
        generator: on the device of the tensors.
        others: not needed.
    """
    count, _, height, width = faces.images.shape
    masks = random_masks(generator, faces.landmarks, faces.sides, height, width, REGIONS)
    strength = uniform(generator, count, 0.5, 1.2)
    source = decoded_like(faces.images, faces.sides, generator, strength)
    return Made(blended(source, faces.images, masks), faces.images, masks)


def whole_face(faces: Faces, generator: torch.Generator, *, others: Faces | None = None) -> Made:
    """Draw whole faces or heads anew.

    Smooth where there was texture, sharp where there were edges, at times on the grid of an
    upsampler; the form itself is a little other than it was.

    Args:
        faces: at least one.
        generator: on the device of the tensors.
        others: not needed.
    """
    count, _, height, width = faces.images.shape
    masks = random_masks(
        generator, faces.landmarks, faces.sides, height, width, ("face", "head", "face")
    )
    share = 0.011 * faces.sides * _some(generator, count, 0.6)
    source = bent(faces.images, generator, share)
    kinds = per_picture(chosen(generator, count, (1, 1, 1, 1)))
    decoded = decoded_like(source, faces.sides, generator)
    again = decoded_like(decoded, faces.sides, generator, 0.5)
    decoded = torch.where(per_picture(_some(generator, count, 0.4)) > 0, again, decoded)
    drawn = _generated(source, faces.sides, kinds, generator)
    source = torch.where(kinds == 0, decoded, drawn)
    levels = uniform(generator, count, 0.5, 4) * _some(generator, count, 0.3)
    source = grained(source, generator, levels, uniform(generator, count, 1, 2))
    made = compose(source, faces.images, masks, generator, (0.7, 0.2, 0.1))
    return Made(made, faces.images, masks)


def _generated(images: Tensor, sides: Tensor, kinds: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures as generators (kind 1), restoration (2) and painting (3) draw them."""
    count, _, height, width = images.shape
    kind = kinds.flatten()
    restored, painted = kind == 2, kind == 3
    # A generator's grid, or a small blurred face brought back.
    factors = torch.where(
        restored,
        (uniform(generator, count, 40, 110) / sides).clamp(max=0.6),
        torch.minimum(
            uniform(generator, count, 64, 192) / sides, uniform(generator, count, 0.3, 0.6)
        ),
    )
    work, heights, widths = shrunk(images, factors)
    grid = grid_enlarged(
        work, heights, widths, generator,
        depths=uniform(generator, count, 0.03, 0.15), twice=uniform(generator, count) > 0.6,
    )  # fmt: skip
    large = enlarged(work, heights, widths, height, width, torch.full_like(kind, _LANCZOS))
    out = torch.where(kinds == 2, large, images)
    flat = guided(
        out,
        torch.where(restored, 3.0, (0.012 * sides).clamp(min=2)),
        torch.where(restored, uniform(generator, count, 4, 14), uniform(generator, count, 8, 30)),
    )
    out = torch.where(kinds == 1, grid, flat)
    amounts = torch.where(
        restored, uniform(generator, count, 0.4, 1.2), uniform(generator, count, 0.2, 1.1)
    )
    out = sharpened(out, amounts)
    # Restoration sharpens twice and raises local contrast: eyes, brows and hair stand out.
    out = sharpened(out, uniform(generator, count, 0.4, 1.2) * restored)
    amounts = uniform(generator, count, 0.2, 0.9) * restored
    out = contrasted(out, amounts, (0.02 * sides).clamp(min=1))
    steps = uniform(generator, count, 3, 9) * painted * _some(generator, count, 0.5)
    return quantised(out, generator, steps)


def bent(images: Tensor, generator: torch.Generator, share: Tensor) -> Tensor:
    """Bend whole pictures by smooth fields of a size (B,) in pixels; 0 leaves a picture."""
    count, _, height, width = images.shape
    field = normal(generator, count, 2, 6, 6) * per_picture(share)
    field = F.interpolate(field, (height, width), mode="bicubic", align_corners=False)
    places = pixels(height, width, images.device) + field.permute(0, 2, 3, 1)
    return torch.where(per_picture(share) > 0, sample(images, places), images)
