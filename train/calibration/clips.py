"""Short moving clips from still pictures: camera motion, grain of its own in every frame, a codec.

A still that is shown for two seconds would repeat the same pixels; a camera does not. Here the
picture drifts, turns and zooms smoothly, the head turns a little, every frame gets its own grain,
and the clip goes through real encoders as a whole, so that the codec decides what a scan gets to
see. A manipulation is made anew in every frame by landmarks that tremble, as programs make it: its
mask jitters and the inner face flickers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from typing import cast

import av
import cv2
import numpy as np

from deepscan.types import Box
from train.forge.contract import FaceImage, Forge, Picture
from train.forge.degrade import grain
from train.forge.mesh import followed
from train.forge.shape import Points, eye_distance, pixel_grid


@dataclass(frozen=True, slots=True)
class Camera:
    """Camera position in each frame: (frames, 2, 3) affine maps from picture to frame."""

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
        """Map a box of the picture to frame `index`: the upright box round its corners."""
        x1, y1, x2, y2 = box
        corners = np.array([[x1, y1, 1], [x2, y1, 1], [x2, y2, 1], [x1, y2, 1]])
        moved = corners @ self.maps[index].T
        (left, top), (right, bottom) = moved.min(0), moved.max(0)
        return Box(float(left), float(top), float(right), float(bottom))


def handheld_camera(
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


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene before it is filmed: a picture (H, W, 3) uint8 a frame, and where each is forged,
    (H, W) float32 in [0, 1]; `tags` say how, and are empty where nothing was."""

    pictures: tuple[Picture, ...]
    masks: tuple[np.ndarray, ...]
    tags: tuple[str, ...] = ()


def make_scene(
    face: FaceImage,
    frames: int,
    rng: np.random.Generator,
    *,
    forge: Forge | None = None,
    other: FaceImage | None = None,
) -> Scene:
    """A head that turns a little, as it is or with one manipulation all along.

    The head moves alike with and without a forge, so that takes of the same draw differ in the
    forging alone.

    Args:
        face: a still picture.
        frames: how many, at least one.
        rng: consumed by the same amount with and without a forge.
        forge: makes each frame's manipulation, with one and the same draw.
        other: somebody else's face, for forges that need one.
    """
    time = np.linspace(0, 1, max(frames, 2))[:frames]
    rates, waves = rng.uniform(0.3, 1.2, 2), rng.uniform(0, 2 * np.pi, 2)
    reach = rng.uniform(0.0, 0.07, 2)
    seed, trembling = int(rng.integers(2**63)), np.random.default_rng(int(rng.integers(2**63)))
    shaken = 10 ** trembling.uniform(-2.6, -1.6)  # of the distance of the eyes
    blinking = trembling.uniform(0, 2.5)  # grey levels by which the forged part changes
    unit = eye_distance(face.landmarks, 0.0)
    offset, light = np.zeros((5, 2)), 0.0
    pictures: list[Picture] = []
    masks: list[np.ndarray] = []
    tags: tuple[str, ...] = ()
    for moment in time:
        yaw, pitch = reach * np.sin(2 * np.pi * rates * moment + waves)
        seen = turn_head(face, float(yaw), float(pitch))
        if forge is None:
            pictures.append(seen.image)
            masks.append(np.zeros(seen.image.shape[:2], np.float32))
            continue
        # What trembles in one frame still does in the next: three quarters of it stays.
        offset = 0.75 * offset + 0.66 * trembling.normal(0, shaken * unit, (5, 2))
        light = 0.5 * light + 0.87 * float(trembling.normal(0, blinking))
        landmarks = seen.landmarks + offset
        mesh = followed(seen.mesh, seen.landmarks, landmarks)
        found = replace(seen, landmarks=landmarks, mesh=mesh)
        made = forge(found, np.random.default_rng(seed), other=other)
        lit = made.image + np.float32(light) * made.mask[..., None]
        pictures.append(np.clip(np.round(lit), 0, 255).astype(np.uint8))
        masks.append(made.mask)
        tags = made.tags
    return Scene(tuple(pictures), tuple(masks), tags)


def turn_head(face: FaceImage, yaw: float, pitch: float) -> FaceImage:
    """The face with its middle moved against its outline, as a head's does that turns.

    `yaw` and `pitch` are the shift of the middle to the right and down, in units of the distance of
    the eyes; at most 0.1, or the picture folds.
    """
    height, width = face.image.shape[:2]
    unit = eye_distance(face.landmarks, 1.0)
    centre = face.landmarks.mean(0)
    shift = np.array((yaw, pitch)) * unit
    spread = np.array((0.95, 1.2)) * unit

    def near(points: Points) -> np.ndarray:
        return np.exp(-0.5 * (((points - centre) / spread) ** 2).sum(-1))

    x, y = pixel_grid(height, width)
    weight = near(np.stack([x, y], -1)).astype(np.float32)
    image = cv2.remap(
        face.image, x - np.float32(shift[0]) * weight, y - np.float32(shift[1]) * weight,
        cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip
    landmarks = face.landmarks + near(face.landmarks)[:, None] * shift
    mesh = None
    if face.mesh is not None:
        mesh = face.mesh.copy()
        mesh[:, :2] += near(mesh[:, :2].astype(float))[:, None] * shift
    return replace(face, image=image, landmarks=landmarks, mesh=mesh)


# Encoder of each codec: its options but for the quality, and the CRFs in use, from good to bad.
CODECS: dict[str, tuple[str, dict[str, str], tuple[int, int]]] = {
    "h264": (
        # With the fastest instructions of some CPUs the same frames do not always give the same
        # bits.
        "libx264", {"preset": "veryfast", "x264-params": "cpu-independent=1"}, (16, 38),
    ),
    "h265": (
        "libx265",
        {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
        (18, 38),
    ),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "7", "b": "0"}, (20, 52)),
    "av1": ("libsvtav1", {"preset": "12", "svtav1-params": "lp=1"}, (22, 58)),
}  # fmt: skip


def through_codec(
    frames: Iterator[Picture], *, crf: int, codec: str = "libx264", rate: int = 25
) -> list[Picture]:
    """Encode a clip in memory and decode it again, as a scan would see it.

    Args:
        frames: (H, W, 3) uint8 with even sides, all of one size.
        crf: quality in the encoder's own scale.
        codec: an encoder of PyAV; those of `CODECS` get their options.
        rate: frames a second.
    """
    options: dict[str, object] = {"preset": "veryfast"}
    for encoder, settings, _ in CODECS.values():
        if encoder == codec:
            options = dict(settings)
    options["crf"] = str(crf)
    buffer = BytesIO()
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
