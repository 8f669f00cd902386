"""Degradations of cameras, editors and platforms, for any picture, manipulated or not.

The same chain, with the same draw, is applied to a forged picture and to its original, so that
nothing here separates them: real faces get every sharpness, grain and smoothing that fakes
have. Order as in life: colour, then optics and grain, then the size of the upload, then its codec,
at times all of it twice. Real video codecs need PyAV; `codecs="still"` does without, by JPEG and
WebP alone.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 3) RGB


def colour(image: Picture, rng: np.random.Generator, strength: float = 1.0) -> Picture:
    """Shift channels, hue, saturation, brightness and contrast a little."""
    shift, gain = np.zeros(3), 1.0
    if rng.random() < 0.3:
        shift = rng.uniform(-20, 20, 3) * strength
    if rng.random() < 0.5:
        gain = 1 + rng.uniform(-0.3, 0.3) * strength
        shift = (shift - 128) * gain + 128 + rng.uniform(-30, 30) * strength
    out = image
    if gain != 1 or shift.any():
        table = np.arange(256)[:, None] * gain + shift
        out = cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[None])
    if rng.random() < 0.3:
        hue, saturation = rng.uniform(-6, 6) * strength, 1 + rng.uniform(-0.3, 0.3) * strength
        levels = np.arange(256)
        table = np.stack([(levels + hue) % 180, np.clip(levels * saturation, 0, 255), levels], 1)
        hsv = cv2.LUT(cv2.cvtColor(out, cv2.COLOR_RGB2HSV), table.astype(np.uint8)[None])
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return out.copy()


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
    return cv2.add(image, cv2.merge([noise] * 3), dtype=cv2.CV_8U)


def jpeg(image: Picture, quality: int) -> Picture:
    """Encode as JPEG and decode again."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was encoded in the line above
    return np.ascontiguousarray(decoded[..., ::-1])


def webp(image: Picture, quality: int) -> Picture:
    """Encode as WebP (VP8 within a picture) and decode again."""
    _, data = cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was encoded in the line above
    return np.ascontiguousarray(decoded[..., ::-1])


class VideoCodec(NamedTuple):
    """An encoder of PyAV, its decoder, and how its quality is set."""

    encoder: str
    decoder: str
    options: dict[str, str]
    quality: str  # option that takes the quality, or "quantiser" for its lowest and highest


VIDEO_CODECS = {
    "h264": VideoCodec("libx264", "h264", {"preset": "superfast", "tune": "zerolatency"}, "crf"),
    "hevc": VideoCodec(
        "libx265", "hevc",
        {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"}, "crf",
    ),
    "mpeg4": VideoCodec("mpeg4", "mpeg4", {}, "quantiser"),
    "mpeg2": VideoCodec("mpeg2video", "mpeg2video", {}, "quantiser"),
}  # fmt: skip


def video(image: Picture, codec: str, quality: int, before: int = 0) -> Picture:
    """Encode as the last picture of a short clip and decode again; odd sides lose a line.

    Args:
        image: (H, W, 3) uint8; sides of at least 16.
        codec: one of `VIDEO_CODECS`.
        quality: CRF, or the quantiser (2 to 31) of the older MPEGs; lower is better.
        before: pictures before this one, in which it stood a little aside: with some, it is
            predicted from them, else coded by itself.

    Raises:
        ImportError: PyAV is not installed.
    """
    import av
    from av.video.reformatter import VideoReformatter

    # One thread: by itself swscale starts one for each core, for a picture that takes 0.1 ms.
    convert = VideoReformatter()
    height, width = (side // 2 * 2 for side in image.shape[:2])
    chosen = VIDEO_CODECS[codec]
    encoder = av.CodecContext.create(chosen.encoder, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.thread_count = 1
    settings = dict(chosen.options)
    if chosen.quality == "quantiser":
        settings |= {"qmin": str(quality), "qmax": str(quality)}
    else:
        settings[chosen.quality] = str(quality)
    encoder.options = settings
    picture = np.ascontiguousarray(image[:height, :width])
    packets = []
    for index in range(before + 1):
        aside = np.roll(picture, 2 * (before - index), 1) if index < before else picture
        frame = convert.reformat(
            av.VideoFrame.from_ndarray(aside, "rgb24"), format="yuv420p", threads=1
        )
        frame.pts = index
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create(chosen.decoder, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1
    last = None
    for packet in [*packets, None]:
        for decoded in decoder.decode(packet):
            last = decoded
    if last is None:
        raise RuntimeError(f"{codec} gave no picture at {width}x{height}")
    shown = convert.reformat(last, format="rgb24", threads=1)
    return shown.to_ndarray().astype(np.uint8, copy=False)


def h264(image: Picture, crf: int) -> Picture:
    """Encode as one H.264 picture and decode again; odd sides lose a line."""
    return video(image, "h264", crf)


def resize(image: Picture, width: int, height: int, kernel: int) -> Picture:
    return cv2.resize(image, (max(width, 8), max(height, 8)), interpolation=kernel)


_KERNELS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


CODECS = ("video", "still")  # with real video codecs (PyAV), or with JPEG and WebP alone


def degrade(
    images: list[Picture],
    rng: np.random.Generator,
    mild: float = 0.0,
    codecs: str = "video",
) -> list[Picture]:
    """Degrade pictures of one size, all by one and the same draw.

    Args:
        images: (H, W, 3) uint8 RGB each, all of one size.
        rng: consumed by the same amount for any pictures.
        mild: probability that there is light grain and a good codec only.
        codecs: one of `CODECS`.

    Returns:
        Pictures of a common, possibly smaller size; each side shrinks by the same factor.
    """
    seed = int(rng.integers(2**63))
    way = _degrade_mildly if mild > 0 and rng.random() < mild else _degrade_fully
    return [way(image, np.random.default_rng(seed), codecs) for image in images]


def _degrade_mildly(image: Picture, rng: np.random.Generator, codecs: str) -> Picture:
    out = colour(image, rng, 0.5)
    if rng.random() < 0.3:
        out = grain(out, rng, rng.uniform(0.5, 4), rng.uniform(1, 1.6))
    if rng.random() < 0.3:
        out = _shrunk(out, rng, rng.uniform(0.7, 1.0))
    return code(out, rng, codecs, rng.uniform(0, 0.4)) if rng.random() < 0.7 else out


def _degrade_fully(image: Picture, rng: np.random.Generator, codecs: str) -> Picture:
    out = colour(image, rng)
    if rng.random() < 0.15:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.6))
    if rng.random() < 0.08:
        out = motion_blur(out, int(rng.integers(3, 9)), rng.uniform(0, 180))
    if rng.random() < 0.15:
        out = sharpen(out, rng.uniform(0.2, 1.2))
    if rng.random() < 0.35:
        out = grain(out, rng, rng.uniform(1, 9), rng.uniform(1, 2.2))
    if rng.random() < 0.12:  # a first generation, before the picture is sent on
        out = code(out, rng, codecs, rng.uniform(0, 0.7))
    if rng.random() < 0.55:
        out = _shrunk(out, rng, rng.uniform(0.35, 1.0))
    if rng.random() < 0.8:
        out = code(out, rng, codecs, rng.uniform(0, 1))
    return out


def _shrunk(image: Picture, rng: np.random.Generator, factor: float) -> Picture:
    height, width = image.shape[:2]
    kernel = _KERNELS[rng.integers(len(_KERNELS))]
    return resize(image, round(width * factor), round(height * factor), kernel)


def code(image: Picture, rng: np.random.Generator, codecs: str, harm: float) -> Picture:
    """Encode with a codec that is drawn, and decode again.

    Args:
        image: (H, W, 3) uint8; video codecs are drawn only from sides of 32 on.
        rng: consumed by the same amount for any picture.
        codecs: one of `CODECS`.
        harm: 0 for the best quality in use, 1 for the worst.

    Raises:
        ValueError: there are no such codecs.
    """
    if codecs not in CODECS:
        raise ValueError(f"no codecs {codecs!r}; there are {', '.join(CODECS)}")
    height, width = image.shape[:2]
    draw, before = rng.random(), 2 * int(rng.random() < 0.25)
    if codecs == "still" or min(image.shape[:2]) < 32 or draw < 0.32:
        if draw % 0.1 < 0.012:
            return webp(image, round(96 - 76 * harm))
        return jpeg(image, round(97 - 57 * harm))
    if draw < 0.70:
        out = video(image, "h264", round(16 + 20 * harm), before)
    elif draw < 0.88:
        out = video(image, "mpeg4", round(2 + 10 * harm), before)
    elif draw < 0.96:
        out = video(image, "mpeg2", round(2 + 10 * harm), before)
    else:
        out = video(image, "hevc", round(16 + 20 * harm))
    # The line that an odd side lost is its neighbour's: pictures keep their size.
    return cv2.copyMakeBorder(
        out, 0, height - len(out), 0, width - out.shape[1], cv2.BORDER_REPLICATE
    )
