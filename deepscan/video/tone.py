"""Maps HDR pictures (HLG, PQ; BT.2020) to BT.709, for the network and for ordinary screens.

Levels up to `KNEE` of white are kept, brighter ones are compressed, up to `PEAK`. White is 203
cd/m2 (ITU-R BT.2408-7, 3.1), but cameras use anything from the 100 of an SDR screen up, so it is
measured on the first picture that is not dark. HLG is inverted as in ITU-R BT.2100-2, table 5, with
the system gamma of 1.2 applied to each channel; PQ as in table 4.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from deepscan.types import Image

PQ, HLG = 16, 18  # H.273 numbers of the transfers
TRANSFERS = (PQ, HLG)
LEAST_WHITE, WHITE = 100, 203  # cd/m2
DARK = 50  # cd/m2; white cannot be measured on a picture without anything as bright
BRIGHT = 0.99  # share of a picture that is no brighter than its white
PEAK = 1000.0  # cd/m2, of the screen that HLG is meant for, and the brightest level that is kept
KNEE = 0.75  # of white
GAMMA = 2.4  # of a BT.709 screen, ITU-R BT.1886
STEPS = 4096  # levels of a channel
SPARSE = 8  # white is measured on every eighth row and column
# Linear light of BT.2020 in primaries of BT.709, ITU-R BT.2087-0.
TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)


class ToneMapper:
    """Maps the pictures of one stream; the result depends on the first bright picture."""

    def __init__(self) -> None:
        self._white: int | None = None

    def convert(self, picture: NDArray[np.uint16], transfer: int) -> Image:
        """Map (H, W, 3) uint16 full-range RGB of BT.2020 to (H, W, 3) uint8 of BT.709."""
        if self._white is None:
            self._white = white_of(picture, transfer)
        return to_bt709(picture, transfer, self._white or WHITE)


def white_of(picture: NDArray[np.uint16], transfer: int) -> int | None:
    """The level of white in a picture, `LEAST_WHITE` to `WHITE` cd/m2; None if it is dark."""
    brightest = np.sort((picture[::SPARSE, ::SPARSE].max(axis=2) >> 4).ravel())
    light = float(_light(transfer)[brightest[int(BRIGHT * (len(brightest) - 1))]])
    return None if light < DARK else round(min(max(light, LEAST_WHITE), WHITE))


def to_bt709(picture: NDArray[np.uint16], transfer: int, white: int = WHITE) -> Image:
    """Map one picture as `ToneMapper` does, with `white` in cd/m2."""
    height, width, _ = picture.shape
    mapped = _light(transfer)[picture >> 4].reshape(-1, 3) @ TO_BT709.T
    np.clip(mapped, 0.0, PEAK, out=mapped)
    # Even steps in the root of light are finest where eyes are most sensitive.
    np.sqrt(mapped, out=mapped)
    mapped *= (STEPS - 1) / np.sqrt(PEAK)
    image: Image = _levels(white)[mapped.astype(np.uint16)].reshape(height, width, 3)
    return image


@cache
def _light(transfer: int) -> NDArray[np.float32]:
    """Light on the screen for each level of a channel, cd/m2."""
    level = np.arange(STEPS) / (STEPS - 1)
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 1305 / 8192, 2523 / 32, 107 / 128, 2413 / 128, 2392 / 128
        root = level ** (1 / m2)
        light = 10_000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(level <= 0.5, level**2 / 3, (np.exp((level - c) / a) + b) / 12)
        light = PEAK * scene**1.2
    return light.astype(np.float32)


@cache
def _levels(white: int) -> NDArray[np.uint8]:
    """The level of a BT.709 screen for each step in the root of light."""
    light = (np.arange(STEPS) / (STEPS - 1)) ** 2 * PEAK / white
    over = np.maximum(light - KNEE, 0) / (1 - KNEE)
    most = (PEAK / white - KNEE) / (1 - KNEE)
    rolled = over * (1 + over / most**2) / (1 + over)  # slope 1 at the knee, 1 at the peak
    shown = np.minimum(light, KNEE) + (1 - KNEE) * rolled
    return np.rint(255 * np.clip(shown, 0, 1) ** (1 / GAMMA)).astype(np.uint8)
