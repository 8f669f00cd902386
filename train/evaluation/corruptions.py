"""Corruptions for the robustness sweep, as they occur between camera and scan.

Each takes (picture, rng) at one level; weak levels first. A picture may come back smaller or a line
short: a crop is brought to the network's side afterwards anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from deepscan.types import Image
from train.forge.degrade import h264 as code_h264
from train.forge.degrade import jpeg as code_jpeg

Corrupt = Callable[[Image, float, np.random.Generator], Image]
Change = Callable[[Image, np.random.Generator], Image]


def jpeg(picture: Image, level: float, rng: np.random.Generator) -> Image:
    """JPEG of a quality."""
    return code_jpeg(picture, int(level))


def h264(picture: Image, level: float, rng: np.random.Generator) -> Image:
    """One intra-coded H.264 picture of a CRF."""
    height, width = picture.shape[:2]
    if min(height, width) < 16:  # the encoder's smallest picture is one macroblock
        picture = cv2.resize(picture, (max(width, 16), max(height, 16)))
    return code_h264(picture, int(level))


def scale(picture: Image, level: float, rng: np.random.Generator) -> Image:
    """Shrink to a share of both sides; enlarged again by the cut to the network's side."""
    height, width = picture.shape[:2]
    size = max(1, round(width * level)), max(1, round(height * level))
    small: Image = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return small


def blur(picture: Image, level: float, rng: np.random.Generator) -> Image:
    """Gaussian blur of a standard deviation in pixels of the crop."""
    soft: Image = cv2.GaussianBlur(picture, (0, 0), level)
    return soft


def noise(picture: Image, level: float, rng: np.random.Generator) -> Image:
    """Gaussian noise of a standard deviation in grey levels, apart in each channel."""
    noisy = picture + rng.standard_normal(picture.shape, np.float32) * np.float32(level)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Corruption:
    """A corruption, the levels of its sweep, and the meaning of a level."""

    corrupt: Corrupt
    levels: tuple[float, ...]
    unit: str


CORRUPTIONS: dict[str, Corruption] = {
    "jpeg": Corruption(jpeg, (95, 80, 60, 40, 20), "quality"),
    "h264": Corruption(h264, (18, 23, 28, 33, 40), "CRF"),
    "scale": Corruption(scale, (0.75, 0.5, 0.35, 0.25), "share of the sides"),
    "blur": Corruption(blur, (0.5, 1, 2, 4), "sigma, pixels"),
    "noise": Corruption(noise, (2, 5, 10, 20), "sigma, grey levels"),
}


def sweep(names: list[str]) -> Iterator[tuple[str, float, Change]]:
    """Every level of the named corruptions, each as a change of one picture."""
    for name in names:
        chosen = CORRUPTIONS[name]
        for level in chosen.levels:
            yield name, level, partial(_at_level, chosen.corrupt, level)


def _at_level(corrupt: Corrupt, level: float, picture: Image, rng: np.random.Generator) -> Image:
    return corrupt(picture, level, rng)
