"""What cameras, editors and platforms do to any picture, manipulated or not.

The same chain, with the same draw, is applied to a forged picture and to its original, so that
nothing here can tell them apart: real faces get every sharpness, grain and smoothing that fakes
have. Order as in life: colour, then optics and grain, then the size of the upload, then its codec.
"""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 3) RGB


def colour(image: Picture, rng: np.random.Generator, strength: float = 1.0) -> Picture:
    """Shift channels, hue, saturation, brightness and contrast a little."""
    out = image.astype(np.float32)
    if rng.random() < 0.3:
        out += rng.uniform(-20, 20, 3).astype(np.float32) * strength
    if rng.random() < 0.5:
        contrast = 1 + rng.uniform(-0.3, 0.3) * strength
        out = (out - 128) * contrast + 128 + rng.uniform(-30, 30) * strength
    out = np.clip(out, 0, 255)
    if rng.random() < 0.3:
        hsv = cv2.cvtColor(out.astype(np.uint8), cv2.COLOR_RGB2HSV).astype(np.float32)
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(-6, 6) * strength) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] * (1 + rng.uniform(-0.3, 0.3) * strength), 0, 255)
        return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    return out.astype(np.uint8)


def sharpen(image: Picture, amount: float) -> Picture:
    """Unsharp mask."""
    soft = cv2.GaussianBlur(image, (0, 0), 1.2)
    return cv2.addWeighted(image, 1 + amount, soft, -amount, 0)


def motion_blur(image: Picture, length: int, angle: float) -> Picture:
    """Blur along a line of `length` pixels."""
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1
    turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), angle, 1)
    kernel = cv2.warpAffine(kernel, turn, (length, length))
    return cv2.filter2D(image, -1, kernel / max(float(kernel.sum()), 1e-6))


def grain(image: Picture, rng: np.random.Generator, sigma: float, size: float) -> Picture:
    """Add luma noise of a given standard deviation and grain size in pixels."""
    height, width = image.shape[:2]
    noise = rng.standard_normal((round(height / size), round(width / size)), np.float32) * sigma
    noise = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(image + noise[..., None], 0, 255).astype(np.uint8)


def jpeg(image: Picture, quality: int) -> Picture:
    """Encode as JPEG and decode again."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was encoded in the line above
    return np.ascontiguousarray(decoded[..., ::-1])


def h264(image: Picture, crf: int, codec: str = "libx264") -> Picture:
    """Encode as one H.264 (or H.265) picture and decode again; odd sides lose a line."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.thread_count = 1
    encoder.options = {"crf": str(crf), "preset": "veryfast", "tune": "zerolatency"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), "rgb24")
    frame.pts = 0
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    decoder = av.CodecContext.create("h264" if codec == "libx264" else "hevc", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1
    for packet in [*packets, None]:
        for decoded in decoder.decode(packet):
            return decoded.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    raise RuntimeError(f"{codec} gave no picture at {width}x{height}")


def resize(image: Picture, width: int, height: int, kernel: int) -> Picture:
    return cv2.resize(image, (max(width, 8), max(height, 8)), interpolation=kernel)


_KERNELS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


def degrade(images: list[Picture], rng: np.random.Generator, gentle: float = 0.0) -> list[Picture]:
    """Send pictures of one size through one and the same random life.

    Args:
        images: (H, W, 3) uint8 RGB each, all of one size.
        rng: consumed by the same amount whatever the pictures hold.
        gentle: probability of a life with light grain and a good codec only.

    Returns:
        Pictures of a common, possibly smaller size; each side shrinks by the same factor.
    """
    seed = int(rng.integers(2**63))
    life = _gentle_life if gentle > 0 and rng.random() < gentle else _one_life
    return [life(image, np.random.default_rng(seed)) for image in images]


def _gentle_life(image: Picture, rng: np.random.Generator) -> Picture:
    out = colour(image, rng, 0.5)
    if rng.random() < 0.3:
        out = grain(out, rng, rng.uniform(0.5, 4), rng.uniform(1, 1.6))
    if rng.random() < 0.3:
        factor = rng.uniform(0.7, 1.0)
        height, width = out.shape[:2]
        out = resize(out, round(width * factor), round(height * factor), cv2.INTER_AREA)
    draw = rng.random()
    if draw < 0.3:
        out = jpeg(out, int(rng.integers(75, 98)))
    elif draw < 0.7:
        out = h264(out, int(rng.integers(14, 26)))
    return out


def _one_life(image: Picture, rng: np.random.Generator) -> Picture:
    out = colour(image, rng)
    if rng.random() < 0.15:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.6))
    if rng.random() < 0.08:
        out = motion_blur(out, int(rng.integers(3, 9)), rng.uniform(0, 180))
    if rng.random() < 0.15:
        out = sharpen(out, rng.uniform(0.2, 1.2))
    if rng.random() < 0.35:
        out = grain(out, rng, rng.uniform(1, 9), rng.uniform(1, 2.2))
    if rng.random() < 0.55:
        factor = rng.uniform(0.35, 1.0)
        height, width = out.shape[:2]
        kernel = _KERNELS[rng.integers(len(_KERNELS))]
        out = resize(out, round(width * factor), round(height * factor), kernel)
    draw = rng.random()
    if draw < 0.30:
        out = jpeg(out, int(rng.integers(40, 98)))
    elif draw < 0.65:
        out = h264(out, int(rng.integers(16, 36)))
    elif draw < 0.75:
        out = jpeg(out, int(rng.integers(60, 98)))
        out = h264(out, int(rng.integers(16, 32)))
    return out
