"""Transforms of a training picture of a data set on its way to a crop, step by step.

Every step takes (picture, mask, rng, size, settings) and gives (picture, mask): (h, w, 3) float32
RGB of 0 to 255, (h, w) uint8 of 0, 1 and 255 (unknown or padding), and the crop side that the whole
row has to end with. All chance comes from `rng`. To add a step, write a function of that shape and
add a line to `TRANSFORMS` with its settings and their defaults.

"resize", "crop", "flip", "distort", "pad" in this order are the pipeline of MSCCNet's official
code; its distortion turned BGR pictures to HSV as if they were RGB, which is not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from deepscan.models.config import MEAN
from train.forge.degrade import degrade as degrade_pictures

Floats = NDArray[np.float32]
Mask = NDArray[np.uint8]
Settings = Mapping[str, float]
Step = Callable[[Floats, Mask, np.random.Generator, int, Settings], tuple[Floats, Mask]]
PADDING = 255


def resize(
    picture: Floats, mask: Mask, rng: np.random.Generator, size: int, settings: Settings
) -> tuple[Floats, Mask]:
    """Keep the aspect and fit into a square of `side` (over a crop of 512) times a random scale."""
    height, width = mask.shape
    side = settings["side"] * size / 512 * rng.uniform(settings["low"], settings["high"])
    factor = side / max(height, width)
    return _scaled(picture, mask, max(1, round(height * factor)), max(1, round(width * factor)))


def square(
    picture: Floats, mask: Mask, rng: np.random.Generator, size: int, settings: Settings
) -> tuple[Floats, Mask]:
    """Resize to size x size without keeping the aspect."""
    return _scaled(picture, mask, size, size)


def crop(
    picture: Floats, mask: Mask, rng: np.random.Generator, size: int, settings: Settings
) -> tuple[Floats, Mask]:
    """A random size x size cut-out, smaller where the picture is smaller.

    Drawn again, `tries` times in all, until the mask holds two classes and its most frequent one is
    less than `share` of it; the last draw stands.
    """
    height, width = mask.shape
    tall, wide = min(size, height), min(size, width)
    for _ in range(int(settings["tries"])):
        top = int(rng.integers(height - tall + 1))
        left = int(rng.integers(width - wide + 1))
        cut = mask[top : top + tall, left : left + wide]
        counts = np.bincount(cut[cut != PADDING].ravel(), minlength=2)
        if np.count_nonzero(counts) > 1 and counts.max() < settings["share"] * counts.sum():
            break
    return picture[top : top + tall, left : left + wide], cut


def shake(
    picture: Floats, mask: Mask, rng: np.random.Generator, size: int, settings: Settings
) -> tuple[Floats, Mask]:
    """Zoom in by up to `zoom` and shift within what that leaves."""
    height, width = mask.shape
    factor = 1 / (1 + rng.uniform(0, settings["zoom"]))
    tall, wide = max(1, round(height * factor)), max(1, round(width * factor))
    top = int(rng.integers(height - tall + 1))
    left = int(rng.integers(width - wide + 1))
    return picture[top : top + tall, left : left + wide], mask[top : top + tall, left : left + wide]


def flip(
    picture: Floats, mask: Mask, rng: np.random.Generator, size: int, settings: Settings
) -> tuple[Floats, Mask]:
    """Mirror left and right with a probability."""
    if rng.random() < settings["probability"]:
        return picture[:, ::-1], mask[:, ::-1]
    return picture, mask


def distort(
    picture: Floats, mask: Mask, rng: np.random.Generator, size: int, settings: Settings
) -> tuple[Floats, Mask]:
    """Brightness, contrast (before or after the rest), saturation and hue, each by half a chance.

    `brightness` in grey levels, `contrast` and `saturation` as shares round 1, `hue` on a scale of
    180.
    """

    def chance() -> bool:
        return bool(rng.random() < 0.5)

    def round_one(amount: float) -> float:
        return float(rng.uniform(1 - amount, 1 + amount))

    out = np.array(picture, np.float32)
    if chance():
        shift = rng.uniform(-settings["brightness"], settings["brightness"])
        out = _clipped(out + np.float32(shift))
    first = chance()
    if first and chance():
        out = _clipped(out * np.float32(round_one(settings["contrast"])))
    if chance():
        hsv = _to_hsv(out)
        hsv[..., 1] = np.clip(hsv[..., 1] * round_one(settings["saturation"]), 0, 1)
        out = _from_hsv(hsv)
    if chance():
        hsv = _to_hsv(out)
        # OpenCV's float hue runs to 360: two degrees for one of the 180.
        hsv[..., 0] = (hsv[..., 0] + 2 * rng.uniform(-settings["hue"], settings["hue"])) % 360
        out = _from_hsv(hsv)
    if not first and chance():
        out = _clipped(out * np.float32(round_one(settings["contrast"])))
    return out, mask


def degrade(
    picture: Floats, mask: Mask, rng: np.random.Generator, size: int, settings: Settings
) -> tuple[Floats, Mask]:
    """Degrade as cameras and platforms do: colour, blur, grain, size, JPEG or H.264, by chance.

    Needs pictures of at least 32 pixels a side, smaller ones stay as they are.
    """
    if min(mask.shape) < 32 or rng.random() >= settings["probability"]:
        return picture, mask
    levels = np.ascontiguousarray(np.round(picture).astype(np.uint8))
    (out,) = degrade_pictures([levels], rng)
    return out.astype(np.float32), _fitted(mask, out.shape[0], out.shape[1])


def pad(
    picture: Floats, mask: Mask, rng: np.random.Generator, size: int, settings: Settings
) -> tuple[Floats, Mask]:
    """Centre in size x size: the network's mean colour (0 once normalised), mask 255."""
    height, width = mask.shape
    if height > size or width > size:
        raise ValueError(f"pad got {width}x{height} for crops of {size}: crop or resize first")
    top, left = (size - height) // 2, (size - width) // 2
    whole = np.tile(np.array(MEAN, np.float32), (size, size, 1))
    unknown = np.full((size, size), PADDING, np.uint8)
    whole[top : top + height, left : left + width] = picture
    unknown[top : top + height, left : left + width] = mask
    return whole, unknown


@dataclass(frozen=True, slots=True)
class Transform:
    """A step with its settings and their defaults."""

    step: Step
    settings: Settings


TRANSFORMS: dict[str, Transform] = {
    "resize": Transform(resize, {"side": 520, "low": 0.5, "high": 2.0}),
    "square": Transform(square, {}),
    "crop": Transform(crop, {"share": 0.75, "tries": 10}),
    "shake": Transform(shake, {"zoom": 0.2}),
    "flip": Transform(flip, {"probability": 0.5}),
    "distort": Transform(
        distort, {"brightness": 32, "contrast": 0.5, "saturation": 0.5, "hue": 18}
    ),
    "degrade": Transform(degrade, {"probability": 0.7}),
    "pad": Transform(pad, {}),
}


def transform(
    picture: NDArray[np.uint8],
    mask: Mask,
    rng: np.random.Generator,
    size: int,
    steps: Sequence[tuple[str, Settings]],
) -> tuple[Floats, Mask]:
    """Send a picture (h, w, 3) uint8 RGB and its mask (h, w) through the steps of a recipe.

    What does not end as size x size is brought there by "square", so no steps at all are a plain
    resize.

    Returns:
        (size, size, 3) float32 of 0 to 255, and (size, size) uint8 of 0, 1 and 255.
    """
    out, truth = picture.astype(np.float32), mask
    for name, settings in steps:
        chosen = TRANSFORMS[name]
        out, truth = chosen.step(out, truth, rng, size, {**chosen.settings, **settings})
    if truth.shape != (size, size):
        out, truth = _scaled(out, truth, size, size)
    return np.ascontiguousarray(out), np.ascontiguousarray(truth)


def _scaled(picture: Floats, mask: Mask, height: int, width: int) -> tuple[Floats, Mask]:
    if mask.shape == (height, width):
        return picture, mask
    source = np.ascontiguousarray(picture)
    return (
        cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR),
        _fitted(mask, height, width),
    )


def _fitted(mask: Mask, height: int, width: int) -> Mask:
    if mask.shape == (height, width):
        return mask
    nearest: Mask = cv2.resize(
        np.ascontiguousarray(mask), (width, height), interpolation=cv2.INTER_NEAREST
    )
    return nearest


def _clipped(picture: Floats) -> Floats:
    return np.clip(picture, 0, 255)


def _to_hsv(picture: Floats) -> Floats:
    hsv: Floats = cv2.cvtColor(np.clip(picture, 0, 255) / np.float32(255), cv2.COLOR_RGB2HSV)
    return hsv


def _from_hsv(hsv: Floats) -> Floats:
    out: Floats = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * np.float32(255)
    return out
