"""Blend a source onto a target: match colours, then blend in one of three ways.

Programs differ in both, and each leaves another trace: alpha a soft step, Poisson a smooth tint
over the whole region, Laplacian pyramids a border of its own width in every frequency. All of them
leave the target alone where the weight is 0, so a mask stays exact.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Weight = NDArray[np.float32]  # (H, W) in [0, 1]

SPACES = ("lab", "ycrcb", "rgb", "histogram", "none")
BLENDS = ("alpha", "laplace", "poisson")

_CONVERSIONS = {
    "lab": (cv2.COLOR_RGB2LAB, cv2.COLOR_LAB2RGB),
    "ycrcb": (cv2.COLOR_RGB2YCrCb, cv2.COLOR_YCrCb2RGB),
}
_TINT = 60  # grey levels that Poisson blending may shift colours by
_FEWEST = 16  # pixels from which colour statistics mean something


def blend(source: Picture | NDArray[np.float32], target: Picture, weight: Weight) -> Picture:
    """source where weight is 1, target where it is 0."""
    mixed = target + (source.astype(np.float32) - target) * weight[..., None]
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def compose(source: Picture, target: Picture, weight: Weight, kind: str) -> Picture:
    """Blend in one of `BLENDS`; exactly target where the weight is 0.

    Args:
        source: (H, W, 3) uint8.
        target: of the same size.
        weight: (H, W) float32 in [0, 1].
        kind: "alpha", "laplace" or "poisson".

    Raises:
        ValueError: no blending has that name.
    """
    if kind not in BLENDS:
        raise ValueError(f"no blending {kind!r}; there are {', '.join(BLENDS)}")
    window = _window(weight)
    if window is None:
        return target.copy()
    out = target.copy()
    if kind == "alpha":
        out[window] = blend(source[window], target[window], weight[window])
        return out
    mixed = (laplace if kind == "laplace" else poisson)(
        source[window], target[window], weight[window]
    )
    out[window] = blend(mixed, target[window], np.minimum(weight[window] * 3, 1))
    return out


def laplace(source: Picture, target: Picture, weight: Weight) -> Picture:
    """Blend each frequency with a border of its own width (Burt and Adelson 1983)."""
    levels = max(1, min(4, int(np.log2(max(min(weight.shape), 8))) - 2))
    one, two, soft = source.astype(np.float32), target.astype(np.float32), weight
    bands = []
    for _ in range(levels):
        size = (one.shape[1], one.shape[0])
        small_one, small_two = cv2.pyrDown(one), cv2.pyrDown(two)
        bands.append(
            _mix(
                one - cv2.pyrUp(small_one, dstsize=size),
                two - cv2.pyrUp(small_two, dstsize=size),
                soft,
            )
        )
        one, two, soft = small_one, small_two, cv2.pyrDown(soft)
    out = _mix(one, two, soft)
    for band in reversed(bands):
        out = cv2.pyrUp(out, dstsize=(band.shape[1], band.shape[0])) + band
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def _mix(one: NDArray[np.float32], two: NDArray[np.float32], soft: Weight) -> NDArray[np.float32]:
    return two + (one - two) * soft[..., None]


def poisson(source: Picture, target: Picture, weight: Weight) -> Picture:
    """Keep the source's gradients and meet the target at the border of the region.

    The difference to the target is known outside; inside it is the membrane through these values
    (Laplace's equation), found from coarse to fine.
    """
    known = (weight < 0.02).astype(np.float32)
    difference = target.astype(np.float32) - source
    # Where the border crosses hair or background it would tint the whole face.
    membrane = np.clip(fill(difference, known), -_TINT, _TINT)
    return np.clip(np.round(source + membrane), 0, 255).astype(np.uint8)


def fill(values: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """The membrane through known values: pulled to coarser grids, pushed back and smoothed.

    Args:
        values: (H, W, 3) float32; what stands where it is not known is ignored.
        known: (H, W) float32, 1 where values hold, 0 where they are wanted.
    """
    height, width = known.shape
    held = values * known[..., None]
    if min(height, width) <= 4 or known.min() > 0:
        share = max(float(known.sum()), 1e-6)
        mean = held.sum((0, 1)) / share
        return held + (1 - known[..., None]) * mean.astype(np.float32)
    size = ((width + 1) // 2, (height + 1) // 2)
    part = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(held, size, interpolation=cv2.INTER_AREA)
    small = small / np.maximum(part, 1e-6)[..., None]
    coarse = fill(small, (part > 0.05).astype(np.float32))
    pushed = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    inside = (1 - known)[..., None]
    out = held + pushed * inside
    for _ in range(2):
        out = held + cv2.blur(out, (3, 3), borderType=cv2.BORDER_REPLICATE) * inside
    return out


def match_colour(source: Picture, target: Picture, weight: Weight, space: str) -> Picture:
    """Give source the colours of target under a mask.

    Args:
        source: (H, W, 3) uint8.
        target: of the same size.
        weight: colours are compared where it is above 0.5.
        space: "lab", "ycrcb" or "rgb": mean and spread; "histogram": the whole distribution of each
            channel; "none".

    Raises:
        ValueError: no colour transfer has that name.
    """
    if space not in SPACES:
        raise ValueError(f"no colour transfer {space!r}; there are {', '.join(SPACES)}")
    inside = weight > 0.5
    if space == "none" or inside.sum() < _FEWEST:
        return source
    if space == "histogram":
        return _match_histogram(source, target, inside)
    forth, back = _CONVERSIONS.get(space, (None, None))
    window = _window(weight)
    assert window is not None  # some of it is above 0.5
    one, two, within = source[window], target[window], inside[window]
    if forth is not None:
        one, two = cv2.cvtColor(one, forth), cv2.cvtColor(two, forth)
    mean_one, std_one = one[within].mean(0), one[within].std(0) + 1e-3
    mean_two, std_two = two[within].mean(0), two[within].std(0) + 1e-3
    gain = np.clip(std_two / std_one, 0.5, 2.0).astype(np.float32)
    moved = (one - mean_one.astype(np.float32)) * gain + mean_two.astype(np.float32)
    matched = np.clip(moved, 0, 255).astype(np.uint8)
    out = source.copy()
    out[window] = cv2.cvtColor(matched, back) if back is not None else matched
    return out


def _match_histogram(source: Picture, target: Picture, inside: NDArray[np.bool_]) -> Picture:
    tables = []
    for channel in range(3):
        one = np.bincount(source[..., channel][inside], minlength=256).cumsum()
        two = np.bincount(target[..., channel][inside], minlength=256).cumsum()
        table = np.interp(one, two, np.arange(256))
        # Steps of a distribution from few pixels would show as contours.
        tables.append(cv2.GaussianBlur(table.astype(np.float32)[None], (0, 0), 4)[0])
    lut = np.clip(np.stack(tables, 1), 0, 255).astype(np.uint8)
    return cv2.LUT(source, lut[None])


def _window(weight: Weight) -> tuple[slice, slice] | None:
    """The rectangle round all positive weights, and 8 pixels more; None where there are none."""
    rows, columns = np.flatnonzero(weight.any(1)), np.flatnonzero(weight.any(0))
    if len(rows) == 0:
        return None
    top, bottom = max(0, rows[0] - 8), rows[-1] + 9
    left, right = max(0, columns[0] - 8), columns[-1] + 9
    return slice(top, bottom), slice(left, right)
