"""Short moving clips from still pictures: camera motion, grain of its own in every frame, a codec.

A still that is shown for two seconds would repeat the same pixels; a camera does not. Here the
picture drifts, turns and zooms smoothly, every frame gets its own grain, and the clip goes through
a real encoder as a whole, so that the codec decides what a scan gets to see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import cast

import av
import cv2
import numpy as np

from deepscan.types import Box
from train.forge.degrade import grain
from train.forge.forged import Picture


@dataclass(frozen=True, slots=True)
class Camera:
    """Where the camera stands in each frame: (frames, 2, 3) affine maps from picture to frame."""

    maps: np.ndarray
    width: int
    height: int

    def shoot(self, image: np.ndarray, index: int) -> np.ndarray:
        """The picture as frame `index` shows it."""
        return cv2.warpAffine(
            image, self.maps[index], (self.width, self.height),
            flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101,
        )  # fmt: skip

    def place(self, box: tuple[float, float, float, float], index: int) -> Box:
        """Where a box of the picture lies in frame `index`: the upright box round its corners."""
        x1, y1, x2, y2 = box
        corners = np.array([[x1, y1, 1], [x2, y1, 1], [x2, y2, 1], [x1, y2, 1]])
        moved = corners @ self.maps[index].T
        (left, top), (right, bottom) = moved.min(0), moved.max(0)
        return Box(float(left), float(top), float(right), float(bottom))


def hold_camera(
    image: Picture, frames: int, rng: np.random.Generator, *, scale: float = 1.0, sway: float = 0.02
) -> Camera:
    """A hand-held camera: slow drift of a few percent of the picture, a little turn and zoom."""
    height, width = image.shape[:2]
    out_width, out_height = (max(64, round(side * scale) // 2 * 2) for side in (width, height))
    time = np.linspace(0, 1, max(frames, 2))[:frames]
    maps = np.empty((frames, 2, 3))
    waves = rng.uniform(0, 2 * np.pi, 4)
    rates = rng.uniform(0.4, 1.6, 4)
    for index in range(frames):
        phase = np.sin(2 * np.pi * rates * time[index] + waves)
        turn = cv2.getRotationMatrix2D(
            (width / 2, height / 2), float(phase[0]) * 1.5, scale * (1.03 + 0.02 * float(phase[1]))
        )
        turn[0, 2] += out_width / 2 - width / 2 + phase[2] * sway * out_width
        turn[1, 2] += out_height / 2 - height / 2 + phase[3] * sway * out_height
        maps[index] = turn
    return Camera(maps, out_width, out_height)


def film(
    images: Sequence[Picture], camera: Camera, rng: np.random.Generator, noise: float
) -> Iterator[Picture]:
    """Frames of pictures (one a frame; several frames may show the same) with fresh grain."""
    for index, image in enumerate(images):
        frame = camera.shoot(image, index)
        yield grain(frame, rng, noise, 1.3) if noise > 0 else frame


def through_codec(
    frames: Iterator[Picture], *, crf: int, codec: str = "libx264", rate: int = 25
) -> list[Picture]:
    """Encode a clip in memory and decode it again: what a scan would see."""
    buffer = BytesIO()
    options: dict[str, object] = {"crf": str(crf), "preset": "veryfast"}
    if codec == "libx264":
        # With the fastest instructions of some CPUs the same frames do not always give the same
        # bits.
        options["x264-params"] = "cpu-independent=1"
    with av.open(buffer, "w", format="matroska") as out:
        stream: av.VideoStream | None = None
        for picture in frames:
            if stream is None:
                stream = cast(av.VideoStream, out.add_stream(codec, rate=Fraction(rate)))
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.thread_count = 1
                stream.options = options
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        if stream is not None:
            out.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as container:
        container.streams.video[0].thread_count = 1
        return [
            frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
            for frame in container.decode(video=0)
        ]
