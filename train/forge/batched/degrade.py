"""What cameras and platforms do to any picture, for whole batches beside the network.

The twin of `train.forge.degrade` in torch: a forged picture and its original get one life, so that
nothing here tells them apart, and each pair of the batch gets another. Nothing waits for the
device. Call it outside of autocast: a bfloat16 has fewer digits than a picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from train.forge.batched.coding import code
from train.forge.batched.faces import normal, per_picture, uniform
from train.forge.batched.lots import draw_lots, in_some, put
from train.forge.batched.separable import (
    Shrunk,
    blots,
    gauss,
    luma_weights,
    rounded,
    sharpened,
    smeared,
)


@torch.no_grad()
def degrade(pairs: Tensor, generator: torch.Generator, gentle: float = 0.0) -> Tensor:
    """Send both pictures of each pair through one and the same random life.

    Colour, blur, motion, sharpening, grain, at times a first coding; then a smaller size, at which
    it is coded. The size is undone at the end, so that masks and landmarks stay in place. Equal
    pictures stay equal.

    Args:
        pairs: (B, 2, 3, H, W) float32 in [0, 1], a forged picture and its original.
        generator: on the device of the pairs; consumed alike whatever the pictures hold.
        gentle: probability of a life with light grain and a good codec only.

    Returns:
        (B, 2, 3, H, W) float32 in [0, 1], whole levels of 8 bits.
    """
    count, _, _, height, width = pairs.shape
    calm = uniform(generator, count) < gentle

    def draw(hard: tuple[float, float], calmer: tuple[float, float] | None = None) -> Tensor:
        drawn = uniform(generator, count)
        low, high = (
            hard if calmer is None else [torch.where(calm, calmer[i], hard[i]) for i in (0, 1)]
        )
        return low + drawn * (high - low)

    def shares(hard: float, calmer: float = 0.0) -> Tensor:
        return torch.where(calm, calmer, hard)

    out = _coloured(pairs, generator, torch.where(calm, 0.5, 1.0))
    sigma = draw((0.4, 1.6))
    out = in_some(out, generator, shares(0.15), 0.15, lambda some, i: gauss(some, sigma[i]))
    length, angle = draw((3, 8)), draw((0, torch.pi))
    out = in_some(
        out, generator, shares(0.08), 0.08, lambda some, i: smeared(some, length[i], angle[i], 4)
    )
    amount = draw((0.2, 1.2))
    width_of_edges = torch.full_like(amount, 1.2)
    out = in_some(
        out, generator, shares(0.15), 0.15,
        lambda some, i: sharpened(some, amount[i], width_of_edges[i]),
    )  # fmt: skip
    strength, size = draw((1, 9), (0.5, 4)) / 255, draw((1, 2.2), (1, 1.6))

    def grain(some: Tensor, i: Tensor) -> Tensor:
        noise = normal(generator, len(i), 1, height, width) * per_picture(strength[i])
        return some + blots(noise, size[i])  # one field for both pictures, as light has no colour

    out = in_some(out, generator, shares(0.35, 0.3), 0.35, grain)
    out = code(out, generator, draw((0, 0.7)), shares(0.12), 0.12)

    index, numbers = draw_lots(generator, count).between(0, 0.55)
    shrunk = numbers < shares(0.55, 0.3)[index]
    # Who is not shrunk goes along at full size; `put` keeps what it was.
    smaller = Shrunk.by(draw((0.35, 1), (0.7, 1))[index], height, width)
    kernels = torch.floor(draw((0, 4)))[index]
    small = smaller.down(out[index].flatten(1, 2), kernels)
    out = put(out, index, shrunk, small)
    out = code(out, generator, draw((0, 1), (0, 0.4)), shares(0.8, 0.7), 0.8)
    kernels = torch.floor(draw((1, 3)))[index]
    large = smaller.up(out[index].flatten(1, 2), kernels)
    return rounded(put(out, index, shrunk, large))


def _coloured(pairs: Tensor, generator: torch.Generator, strength: Tensor) -> Tensor:
    """Shift channels, brightness, contrast, gamma, hue and saturation a little."""
    count = len(pairs)

    def draw(share: float, reach: float) -> Tensor:
        drawn = uniform(generator, count, -reach, reach) * strength
        return torch.where(uniform(generator, count) < share, drawn, 0)

    tint = uniform(generator, 3 * count, -20 / 255, 20 / 255).reshape(count, 1, 3, 1, 1)
    tint = tint * per_picture(strength * (uniform(generator, count) < 0.3))[:, None]
    gain, light, gamma, turn, colour = (
        per_picture(values)[:, None]
        for values in (
            1 + draw(0.5, 0.3), draw(0.5, 30 / 255), torch.exp(draw(0.2, 0.2)),
            draw(0.3, 0.2), 1 + draw(0.3, 0.3),
        )
    )  # fmt: skip
    out = ((pairs + tint - 0.5) * gain + 0.5 + light).clamp(0, 1) ** gamma
    # Hue and saturation turn and stretch the plane of colours about grey.
    luma = (out * luma_weights(out.device)).sum(2, keepdim=True)
    blue, red = (out[:, :, 2:] - luma) / 1.772, (out[:, :, :1] - luma) / 1.402
    cos, sin = colour * turn.cos(), colour * turn.sin()
    blue, red = cos * blue - sin * red, sin * blue + cos * red
    green = -(0.299 * 1.402 * red + 0.114 * 1.772 * blue) / 0.587
    return (luma + torch.cat([1.402 * red, green, 1.772 * blue], dim=2)).clamp(0, 1)
