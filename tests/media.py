"""Small videos, made when they are needed.

`make_video` draws frames that carry their own number and known colours, so that a test can tell
which frame it got, and whether its colours are right, after any codec.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from deepscan.types import Image

if TYPE_CHECKING:
    from av import AudioStream, VideoFrame, VideoStream
    from av.container import OutputContainer

BITS = 10  # of the frame number in `draw_numbered`: up to 1,023
PATCHES: tuple[tuple[int, int, int], ...] = (
    (200, 40, 40),
    (40, 180, 60),
    (50, 60, 210),
    (220, 200, 60),
    (224, 172, 140),
    (128, 128, 128),
)
VFR_STEPS = (1, 2, 1, 4)  # frame intervals of `vfr`, in usual intervals
H273 = {"bt709": 1, "smpte170m": 6, "bt470bg": 5, "bt2020nc": 9}
SCALER = {"bt709": 1, "smpte170m": 5, "bt470bg": 5, "bt2020nc": 9}
QUIET = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"svtav1-params": "lp=1"}}
FAST = {
    "libx264": {"preset": "veryfast", "crf": "12"},
    "libx265": {"preset": "ultrafast", "crf": "10"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "0"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "b": "4M"},
    "libsvtav1": {"preset": "12", "crf": "15"},
    "mpeg4": {"q": "2", "qmin": "1", "b": "8M"},
    "mjpeg": {"q": "2", "qmin": "1"},
}
SOUND_RATE = 48_000  # samples a second
FACE_COLOUR = PATCHES[4]  # what `FakeDetector` takes for a face


def draw_numbered(index: int, size: tuple[int, int] = (320, 240)) -> Image:
    """A picture (H, W, 3) that says its number in black and white on top, colours below.

    `size` is (width, height). The second row of blocks is the complement of the first, so that a
    picture of anything else is not taken for a number.
    """
    width, height = size
    image = np.full((height, width, 3), 90, np.uint8)
    for bit, (left, right) in enumerate(columns(width, BITS)):
        white = 235 if index >> bit & 1 else 20
        image[: height // 6, left:right] = white
        image[height // 6 : height // 3, left:right] = 255 - white
    for colour, (left, right) in zip(PATCHES, columns(width, len(PATCHES)), strict=True):
        image[height // 2 :, left:right] = colour
    return image


def columns(width: int, count: int) -> list[tuple[int, int]]:
    """Left and right edge of so many blocks beside each other, as `draw_numbered` draws them."""
    edges = [round(width * place / count) for place in range(count + 1)]
    return list(pairwise(edges))


def presentation(frames: int, *, vfr: bool = False) -> list[int]:
    """When `make_video` shows each frame, in usual intervals (1 / rate seconds) from the start."""
    steps = VFR_STEPS if vfr else (1,)
    times = [0]
    for place in range(frames - 1):
        times.append(times[-1] + steps[place % len(steps)])
    return times[:frames]


def make_video(
    path: Path,
    *,
    frames: int = 30,
    size: tuple[int, int] = (320, 240),
    rate: int | Fraction = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    gop: int = 10,
    vfr: bool = False,
    rotation: Literal[0, 90, 180, 270] = 0,
    hidden: int = 0,
    audio: str | None = None,
    matrix: str | None = None,
    full_range: bool = False,
    tagged: bool = True,
    sample_aspect_ratio: Fraction | None = None,
    draw: Callable[[int], Image] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a small video and give its path; the suffix chooses the container.

    `size` is (width, height) of the upright picture; `rotation` is the clockwise turn that a
    player must make, the stored pictures lie accordingly. `draw` gives the upright picture of a
    frame (default `draw_numbered`). With `vfr` the frames last as `presentation` says. The first
    `hidden` frames lie before time zero, hence outside the edit list of an MP4. `audio` names the
    encoder of a tone as long as the video. `matrix` ("bt709", "smpte170m", ...) and `full_range`
    are used for the conversion, and written down if `tagged`; None stands for BT.601, not written.
    """
    import av

    av.logging.set_level(None)
    drawing = draw or (lambda index: draw_numbered(index, size))
    stored = size if rotation in (0, 180) else (size[1], size[0])
    shown = presentation(frames, vfr=vfr)
    with av.open(str(path), "w", options=container_options or {}) as out:
        stream = cast("VideoStream", out.add_stream(codec, rate=rate))
        stream.width, stream.height = stored
        stream.pix_fmt = pix_fmt
        # Two threads would make x264 cut pictures into slices: other files on other machines.
        stream.codec_context.thread_count = 1
        stream.options = {
            **({} if codec in ("ffv1", "mjpeg", "prores_ks") else {"g": str(gop)}),
            **FAST.get(codec, {}),
            **QUIET.get(codec, {}),
            **(options or {}),
        }
        if sample_aspect_ratio is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        if tagged and matrix is not None:
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = H273[matrix]
        if full_range:
            stream.codec_context.color_range = 2
        if rotation:
            stream.set_display_rotation(-rotation)
        sound = _add_tone(out, audio) if audio else None
        for index in range(frames):
            upright = drawing(index)
            frame = _to_frame(np.rot90(upright, rotation // 90), pix_fmt, matrix, full_range)
            frame.pts = shown[index] - (shown[hidden] if hidden else 0)
            frame.time_base = 1 / Fraction(rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            _encode_tone(out, sound, float((shown[-1] + 1) / Fraction(rate)))
    return path


def _to_frame(image: Image, pix_fmt: str, matrix: str | None, full_range: bool) -> VideoFrame:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

    picture = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return VideoReformatter().reformat(
        picture,
        format=pix_fmt,
        dst_colorspace=SCALER[matrix or "smpte170m"],
        src_color_range=2,
        dst_color_range=2 if full_range else 1,
        threads=1,
    )


def _add_tone(out: OutputContainer, codec: str) -> AudioStream:
    from av import AudioStream

    stream = out.add_stream(codec, rate=SOUND_RATE)
    assert isinstance(stream, AudioStream)
    stream.codec_context.layout = "mono"
    return stream


def _encode_tone(out: OutputContainer, stream: AudioStream, duration: float) -> None:
    from av import AudioFrame, AudioResampler

    resampler = AudioResampler(
        format=stream.codec_context.format,
        layout="mono",
        rate=SOUND_RATE,
        frame_size=stream.codec_context.frame_size or 1024,
    )
    moments = np.arange(int(duration * SOUND_RATE)) / SOUND_RATE
    samples = (0.2 * np.sin(2 * np.pi * 440 * moments)).astype(np.float32)[None]
    frame = AudioFrame.from_ndarray(samples, format="flt", layout="mono")
    frame.sample_rate = SOUND_RATE
    frame.pts = 0
    frame.time_base = Fraction(1, SOUND_RATE)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        out.mux(stream.encode(piece))
    out.mux(stream.encode(None))
