"""Expression: brows, lids and mouth moved by another person's mesh, on the own face.

Face2Face and NeuralTextures give a face the expression of an actor: its own texture is moved, its
mouth filled, and a renderer or a network draws the inner face anew, also where nothing moved.
"""

from __future__ import annotations

import numpy as np

from train.forge.artefacts import decode
from train.forge.blend import BLENDS, compose
from train.forge.contract import FaceImage, Forged
from train.forge.deepswap import as_grey_as
from train.forge.mesh import (
    LEFT_BROW,
    LEFT_EYE,
    LEFT_EYE_HOLE,
    RIGHT_BROW,
    RIGHT_EYE,
    RIGHT_EYE_HOLE,
    Mesh,
)
from train.forge.meshswap import laid_on
from train.forge.mouth import bent, redrawn, spoken
from train.forge.selfblend import random_mask
from train.forge.shape import surroundings

_REGIONS = ("inner face", "face", "inner face", "features")
_FARTHEST = 0.04  # of the face's width: how far brows move at most
_SIDES = (
    (RIGHT_BROW, RIGHT_EYE, RIGHT_EYE_HOLE),
    (LEFT_BROW, LEFT_EYE, LEFT_EYE_HOLE),
)


def expression(
    face: FaceImage, rng: np.random.Generator, *, other: FaceImage | None = None
) -> Forged:
    """Give a face the expression of `other`.

    Raises:
        ValueError: there is no other face.
    """
    if other is None:
        raise ValueError("an expression is that of another person: pass other=")
    before, actor = face.dense(), other.dense()
    across = max(float(np.ptp(before[:, 0])), 1.0)
    mask, region = random_mask(face, rng, _REGIONS)
    after = before
    if region != "features" or rng.random() < 0.5:
        after = raised(before, actor, rng)
    after = spoken(after, actor, rng)
    height, width = mask.shape
    window = surroundings(np.concatenate([before, after]), height, width, margin=16)
    texture = as_grey_as(face, redrawn(face, other, after, window, rng))
    drawn = rng.random() < 0.75
    if drawn:
        texture = decode(texture, across, rng, rng.uniform(0.15, 0.9))
    source = face.image.copy()
    source[window] = texture
    kind = BLENDS[rng.choice(len(BLENDS), p=(0.7, 0.2, 0.1))]
    made = compose(source, face.image, mask, kind)
    how = "redrawn" if drawn else "moved"
    return Forged(made, face.image, mask, ("expression", region, how, kind))


def raised(before: Mesh, actor: Mesh, rng: np.random.Generator) -> Mesh:
    """The mesh with brows as high over the eyes, and eyes as open, as the actor's."""
    across = float(np.ptp(before[:, 0]))
    away = laid_on(actor, before) - before[:, :2]
    after = before
    for brow, eye, (upper, lower) in _SIDES:
        shift = np.zeros_like(away)
        lift = away[list(brow)].mean(0) - away[list(eye)].mean(0)
        far = float(np.hypot(*lift)) / (_FARTHEST * across)
        shift[list(brow)] = rng.uniform(0.8, 1.3) * lift / max(far, 1.0)
        after = bent(after, shift, brow, reach=(0.3, 0.14))
        shift = np.zeros_like(away)
        lids, rim = list(upper[1:-1]), list(lower[1:-1])
        gap = rng.uniform(0.7, 1.1) * (away[lids] - away[rim])
        # Lids meet and do not cross.
        height = before[lids, :2] - before[rim, :2]
        shift[lids] = np.clip(gap, -0.9 * np.abs(height), 0.6 * np.abs(height))
        after = bent(after, shift, tuple(lids), reach=(0.12, 0.02))
    return after
