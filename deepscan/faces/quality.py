"""How well a face can be judged: its sharpness, and the share of its pixels with detail."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from deepscan.types import Image

_SHARPNESS_SIDE = 192
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def sharpness(crop: Image) -> float:
    """Variance of the Laplacian of a crop's luma, in grey levels squared, at 192 pixels a side.

    It falls with blur, and also where a small face was enlarged: both lack detail to judge. Crops
    of other sizes are resized first, so that one threshold serves networks of any input size.

    Args:
        crop: (S, S, 3) uint8 RGB.
    """
    if crop.shape[:2] != (_SHARPNESS_SIDE, _SHARPNESS_SIDE):
        crop = np.asarray(
            Pillow.fromarray(crop).resize((_SHARPNESS_SIDE,) * 2, Pillow.Resampling.BICUBIC)
        )
    return float(_laplacian(crop).var())


def detail(crop: Image) -> float:
    """Share of the crop's pixels that differ from their neighbours' mean by a quarter grey level.

    An encoder that has to save bits leaves flat or smoothly graded blocks, where nothing differs;
    over H.264 at CRF 20 to 38 the share falls with a rank correlation of about 0.75 to the CRF.
    It depends on the side of the crop, so it compares crops for one network only. The crop is all
    that a verdict ever sees of a file, so the codec's own settings, which containers do not keep,
    are not asked for.

    Args:
        crop: (S, S, 3) uint8 RGB; an empty one, whose pixels were let go, has no detail.
    """
    if min(crop.shape[:2]) < 3:
        return 0.0
    return float((np.abs(_laplacian(crop)) >= 1.0).mean())


def _laplacian(crop: Image) -> NDArray[np.float32]:
    """The luma's difference from its four neighbours, without the pixels at the edge."""
    luma = crop.astype(np.float32) @ _LUMA
    sides = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    found: NDArray[np.float32] = sides - 4 * luma[1:-1, 1:-1]
    return found
