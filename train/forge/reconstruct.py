"""Reconstruction: the same face as a network gives it back, blended in where it was.

What separates it from the original is only what the network left out and made up.
"""

from __future__ import annotations

import numpy as np

from train.forge.blend import BLENDS, SPACES, compose, match_colour
from train.forge.deepswap import LARGE, as_grey_as, cover, enlarge, finish, pick, truer
from train.forge.forged import FaceImage, Forged
from train.forge.selfblend import random_mask

_REGIONS = (*LARGE, "face", "features", "parts", "mouth", "eyes", "lower face", "nose")


def reconstruct(
    face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None
) -> Forged:
    """Replace a region by what an autoencoder made of it.

    Raises:
        UsageError: the face has no redrawn copies.
    """
    decoded = pick(face, rng, swapped=False)
    mask, region = random_mask(face, rng, _REGIONS)
    picture = truer(decoded.picture(), face, rng)
    source, inside = enlarge(picture, face, face, rng)
    mask = cover(mask, inside)
    space = SPACES[rng.choice(len(SPACES), p=(0.2, 0.1, 0.15, 0.05, 0.5))]
    source = as_grey_as(face, match_colour(source, face.image, mask, space))
    source = finish(source, rng)
    kind = BLENDS[rng.choice(len(BLENDS), p=(0.75, 0.15, 0.1))]
    made = compose(source, face.image, mask, kind)
    size = f"{picture.shape[0]} px"
    tags = ("reconstruct", region, decoded.decoder, decoded.upsampler, size, kind)
    return Forged(made, face.image, mask, tags)
