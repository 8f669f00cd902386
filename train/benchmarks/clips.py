"""Clips for benchmarks: the public-domain portrait of scikit-image before a moving camera."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from skimage import data

from deepscan.types import Image
from tests.media import make_video
from train.calibration.clips import handheld_camera
from train.forge.degrade import grain

PORTRAIT = slice(0, 288), slice(None)
SUIT = slice(330, 490), slice(90, 375)  # no face


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip to make: `size` is (width, height) upright, `rate` in frames a second.

    `faces` stand side by side; the baseline judges `plain_frames` of its `frames`.
    """

    name: str
    size: tuple[int, int]
    frames: int
    plain_frames: int
    rate: int = 25
    faces: int = 1
    rotation: Literal[0, 90] = 0


CLIPS = (
    Clip("720p, one face", (1280, 720), 100, 12),
    Clip("1080p at 30 frames/s, one face", (1920, 1080), 90, 6, rate=30),
    Clip("a phone's 1080p at 60 frames/s, upright", (1080, 1920), 90, 6, 60, rotation=90),
    Clip("4K, one face", (3840, 2160), 40, 3),
    Clip("720p, 12 faces", (1280, 720), 50, 4, faces=12),
    Clip("720p, no face", (1280, 720), 50, 8, faces=0),
)
SMALL = Clip("640x360, one face", (640, 360), 50, 12)


def make(clip: Clip, path: Path) -> Path:
    """Make a clip, with sound; H.264 in 4:2:0."""
    scene = _scene(clip)
    camera = handheld_camera(scene, clip.frames, np.random.default_rng(3))

    def picture(index: int) -> Image:
        return grain(camera.shoot(scene, index), np.random.default_rng(index), 3.0, 1.3)

    return make_video(
        path, frames=clip.frames, size=clip.size, rate=Fraction(clip.rate), audio="aac",
        draw=picture, gop=50, rotation=clip.rotation,
        options={"crf": "20", "preset": "veryfast"},
    )  # fmt: skip


def _scene(clip: Clip) -> Image:
    width, height = clip.size
    if clip.faces > 1:
        rows = round((clip.faces * height / width) ** 0.5)
        columns = clip.faces // rows
        size = (width // columns, height // rows)
        tile = cv2.resize(data.astronaut()[PORTRAIT], size, interpolation=cv2.INTER_AREA)
        scene = np.tile(tile, (rows, columns, 1))
        return cv2.resize(scene, clip.size)
    part = data.astronaut()[PORTRAIT if clip.faces else SUIT]
    if height > width:  # the portrait fills the width
        part = part[:, 112:274]
    return cv2.resize(part, clip.size, interpolation=cv2.INTER_CUBIC)
