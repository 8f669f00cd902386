"""Reconstruction: the same face as a network gives it back, blended in where it was.

What separates it from the original is only what the network left out and made up.
"""

from __future__ import annotations

import numpy as np

from train.forge.contract import FaceImage, Forged
from train.forge.deepswap import LARGE, pick, put_on, truer
from train.forge.selfblend import random_mask

_REGIONS = (*LARGE, "face", "features", "parts", "mouth", "eyes", "lower face", "nose")


def reconstruct(
    face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None
) -> Forged:
    """Replace a region by its reconstruction from an autoencoder.

    Raises:
        UsageError: the face has no redrawn copies.
    """
    redrawn = pick(face, rng, swapped=False)
    mask, region = random_mask(face, rng, _REGIONS)
    picture = truer(redrawn.picture(), face, rng)
    made, mask, _, kind = put_on(
        picture, face, face, mask, rng, (0.2, 0.1, 0.15, 0.05, 0.5), (0.75, 0.15, 0.1)
    )
    size = f"{picture.shape[0]} px"
    tags = ("reconstruct", region, redrawn.decoder, redrawn.upsampler, size, kind)
    return Forged(made, face.image, mask, tags)
