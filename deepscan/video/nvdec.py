"""Decoding on an NVIDIA GPU, where it gives the pixels that software gives.

A verdict must not depend on who decoded. So nothing from the GPU is believed unseen: once in each
process a clip made here is decoded both ways, and of each file the first picture. What differs is
refused. Turns and colour facts are those that the software decoder reports; pictures that come back
from a GPU have lost theirs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepscan.errors import CorruptError, UnsupportedError, UsageError
from deepscan.options import Limits
from deepscan.types import Frame, Image, ReadReport
from deepscan.video.colour import Converter
from deepscan.video.pyav import REASON, PyAVReader
from deepscan.video.source import Source

if TYPE_CHECKING:
    from av import Packet, VideoCodecContext, VideoFrame
    from av.video.stream import VideoStream

NAME = "nvdec"
# By the names of our software decoders: those that have a counterpart on the GPU.
DECODERS = {"h264": "h264", "hevc": "hevc", "vp9": "vp9", "av1": "av1", "libdav1d": "av1"}
MOST_APART = 2  # levels of RGB; the samples are the same, their order in memory is not
CLIP_FRAMES = 12
CLIP_SIZE = (320, 192)  # pixels; GPUs refuse very small pictures
HINT = "Use --decoder auto"


class NvdecReader(PyAVReader):
    """Reads the frames of one video as `PyAVReader` does, but decodes them on a GPU.

    `device` is the number of the GPU; the rest as for `PyAVReader`.

    Raises:
        UsageError: there is no GPU that decodes, or it does not give the pixels of software.
        UnsupportedError: the GPU does not decode this file, or not to the same first picture.
        VideoError: as for `PyAVReader`.
    """

    def __init__(
        self,
        path: Path,
        *,
        limits: Limits | None = None,
        source: Source | None = None,
        reason: str = REASON,
        beat: Callable[[], None] | None = None,
        device: int = 0,
    ) -> None:
        check_here(device)
        self._device = device
        self._gpu: VideoCodecContext | None = None
        with PyAVReader(path, limits=limits, source=source) as software:
            codec = software._stream.codec_context.name
            if codec not in DECODERS or software.probe.container == "avi":
                raise UnsupportedError(
                    f"{path}: {software.probe.codec} in {software.probe.container} is not decoded "
                    f"on the GPU. {HINT}"
                )
            assert software._first is not None
            self._like = software._first
            turn, info = software._turn, software.info
            expected = next(software.frames())
        try:
            super().__init__(path, limits=limits, source=source, reason=reason, beat=beat)
        except CorruptError as error:
            # Software has just decoded it, so it is the GPU that cannot.
            raise UnsupportedError(
                f"{path}: the GPU cannot decode this kind of {codec}. {HINT}"
            ) from error
        self._turn, self._converter = turn, Converter(*self._size, turn)
        self._info = replace(info, decoder=NAME, decoder_reason=reason)
        try:
            self._compare(expected)
        except BaseException:
            self.close()
            raise

    def report(self) -> ReadReport:
        return replace(super().report(), decoder=NAME)

    def close(self) -> None:
        self._gpu = None
        super().close()

    def _compare(self, expected: Frame) -> None:
        """See that the GPU's first picture is that of software."""
        assert self._first is not None
        found = self._converter.convert(self._first)
        why = difference([found], [expected.image])
        if why is not None:
            raise UnsupportedError(
                f"{self._info.path}: the GPU decodes it differently: {why}. {HINT}"
            )

    def _decode_packet(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        if packet.size and not packet.is_discard:
            self._count(packet)
        if self._gpu is None:
            self._gpu = open_context(self._stream, self._device)
        frames = self._gpu.decode(packet if packet.size else None)
        for frame in frames:
            frame.colorspace = self._like.colorspace
            frame.color_range = self._like.color_range
            frame.color_primaries = self._like.color_primaries
            frame.color_trc = self._like.color_trc
        return list(frames)


def open_context(stream: VideoStream, device: int) -> VideoCodecContext:
    """A decoder of a stream's kind on a GPU; frames come back to memory.

    Raises:
        UsageError: there is no such GPU, no driver, or it does not decode this kind.
    """
    import av.error
    from av.codec.context import CodecContext
    from av.codec.hwaccel import HWAccel

    theirs = stream.codec_context
    name = DECODERS[theirs.name]
    try:
        wanted = HWAccel("cuda", device=str(device), allow_software_fallback=False)
        context: Any = CodecContext.create(name, "r", hwaccel=wanted)
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{_nothing(device)} ({_words(error)}). {HINT}") from error
    if not context.is_hwaccel:
        raise UsageError(f"this FFmpeg has no {name} for a GPU. {HINT}")
    context.extradata = theirs.extradata
    context.width, context.height = theirs.width, theirs.height
    found: VideoCodecContext = context
    return found


@cache
def check_here(device: int) -> None:
    """Decode a clip that is made here on the GPU and in software; once in each process.

    Raises:
        UsageError: there is no GPU that decodes, or its frames are others.
    """
    import av.error

    with tempfile.TemporaryDirectory() as work:
        path = Path(work, "clip.mp4")
        write_clip(path)
        with PyAVReader(path) as software:
            expected = [(frame.pts, frame.image) for frame in software.frames()]
        try:
            found = list(_on_gpu(path, device))
        except (av.error.FFmpegError, OSError) as error:
            raise UsageError(f"{_nothing(device)} ({_words(error)}). {HINT}") from error
    why = (
        "other times or another number of frames"
        if [pts for pts, _ in found] != [pts for pts, _ in expected]
        else difference([image for _, image in found], [image for _, image in expected])
    )
    if why is not None:
        raise UsageError(
            f"GPU {device} does not decode a known clip as software does: {why}. {HINT}"
        )


def difference(found: list[Image], expected: list[Image]) -> str | None:
    """What differs between two lists of pictures, in words; None if nothing does that matters."""
    for number, (mine, true) in enumerate(zip(found, expected, strict=True)):
        if mine.shape != true.shape:
            return f"picture {number} is {mine.shape[1]}x{mine.shape[0]}, not " + (
                f"{true.shape[1]}x{true.shape[0]}"
            )
        apart = int(np.abs(mine.astype(np.int16) - true).max())
        if apart > MOST_APART:
            return f"picture {number} is up to {apart} levels off, {MOST_APART} are allowed"
    return None


def write_clip(path: Path) -> None:
    """A short H.264 clip with all kinds of frames: shades that move, and grain."""
    import av

    width, height = CLIP_SIZE
    noise = np.random.default_rng(7)
    grain = noise.integers(0, 60, (height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 180, width).astype(np.uint8)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, 25)
        stream.options = {"preset": "veryfast", "crf": "18", "bf": "2", "g": "6"}
        for index in range(CLIP_FRAMES):
            shades = np.roll(ramp, 5 * index)[None, :, None]
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(shades + np.roll(grain, index, axis=0)), format="rgb24"
            )
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _on_gpu(path: Path, device: int) -> Iterator[tuple[int | None, Image]]:
    """The pictures of the known clip as the GPU decodes them."""
    import av

    with PyAVReader(path) as software, av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = open_context(stream, device)
        for packet in container.demux(stream):
            for frame in context.decode(packet if packet.size else None):
                yield frame.pts, software._converter.convert(frame)


def _nothing(device: int) -> str:
    return f"no GPU {device} that decodes video"


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
