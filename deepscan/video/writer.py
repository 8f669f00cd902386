"""Writes frames back to video with the times of the source, and its sound untouched.

The verdict video is H.264 in MP4, for people. Masks are H.264 too, grey and lossless, in Matroska:
what did not change since the frame before costs next to nothing, neither time nor bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from deepscan.errors import OutputError
from deepscan.types import Colour, VideoInfo
from deepscan.video.audio import Audio
from deepscan.video.colour import HD_HEIGHT, HD_WIDTH, MATRICES, PRIMARIES, SCALER, TRANSFERS
from deepscan.video.timestamps import SENT

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import OutputContainer

Kind = Literal["video", "masks"]

FORMATS = {"video": "mp4", "masks": "matroska"}
KEY_FRAME_EVERY = 2  # seconds; a viewer that jumps decodes at most this much
STILL_RATE = 5  # frames a second of the clip that shows a still picture
STILL_SECONDS = 2
MATRIX_NUMBERS = {name: number for number, name in MATRICES.items()}
PRIMARY_NUMBERS = {name: number for number, name in PRIMARIES.items()}
TRANSFER_NUMBERS = {name: number for number, name in TRANSFERS.items()}
BT709, BT601 = 1, 6  # H.273 numbers of matrix, primaries and transfer alike
BT709_COLOUR = Colour("bt709", False, "bt709", "bt709", True)
LIMITED_RANGE, FULL_RANGE = 1, 2
# Encoding is the dearest step of a scan: at 1280x720 this takes 4 ms of a core for a frame where
# "superfast" at CRF 19 took 8, for a third more bytes and 44 instead of 47 dB against the frame, of
# which no eye sees anything. The verdict video is a copy to look at; the source is the evidence.
PRESET, CRF = "ultrafast", 21


class VideoWriter:
    """Encodes frames into `path`, whatever its suffix: a video into MP4, masks into Matroska.

    `info` is of the source: its time base, frame rate, colour and sample aspect ratio are kept.
    A video is 4:2:0 with faststart, odd sizes padded to even ones by repeating the edge; masks are
    gray, full range and without loss. Each frame keeps its time, counted from where the source
    starts, so that no picture lies before zero, where a player would not show it; Matroska rounds
    to milliseconds.

    `source` is a file whose sound is copied packet by packet where MP4 can hold it, else encoded
    as AAC; `notes` then says so. A still picture becomes a clip of two seconds.

    Raises:
        OutputError: the file cannot be created.
    """

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        *,
        kind: Kind = "video",
        size: tuple[int, int] | None = None,
        source: Path | None = None,
        preset: str = PRESET,
        crf: int = CRF,
        threads: int = 1,
    ) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        av.logging.set_level(None)
        self._path = path
        self._info = info
        self._kind = kind
        self._size = size or (info.width, info.height)
        self._written = 0
        self._last: NDArray[np.uint8] | None = None
        self._reformatter = VideoReformatter()
        self._time_base = Fraction(1, STILL_RATE) if info.still else info.time_base
        self._start = 0 if info.still else info.start_pts
        with self._reporting():
            path.open("wb").close()  # FFmpeg would find out only at the first frame
            # Matroska would draw a random number for the file; the same scan gives the same bytes.
            options = {"movflags": "+faststart"} if kind == "video" else {"fflags": "+bitexact"}
            self._out: OutputContainer | None = av.open(
                f"file:{os.path.abspath(path)}", "w", format=FORMATS[kind], options=options
            )
        try:
            self._stream = self._add_stream(preset, crf, threads)
            self._audio = None
            if source and not info.still:
                self._audio = Audio(source, self._out, joined=info.container in SENT)
                self._audio.start_at(self._start * self._time_base)
        except BaseException:
            self.abort()
            raise

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be kept of the source's sound, for people."""
        return self._audio.notes if self._audio else ()

    def write(self, image: NDArray[np.uint8], pts: int) -> None:
        """Take the next picture, (H, W, 3) uint8 RGB or (H, W) uint8 gray, of the writer's size.

        Raises:
            OutputError: the file cannot be written.
            ValueError: the picture has another size.
        """
        width, height = self._size
        if image.shape[:2] != (height, width) or image.dtype != np.uint8:
            raise ValueError(
                f"expected a uint8 picture of {width}x{height}, got {image.dtype} {image.shape}"
            )
        if self._info.still:
            self._last = image
        self._encode(image, pts)

    def close(self) -> None:
        """Complete the file; also after zero frames.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._out is None:
            return
        try:
            if self._last is not None:
                for pts in range(self._written, STILL_RATE * STILL_SECONDS):
                    self._encode(self._last, pts)
            with self._reporting():
                if self._written:
                    self._mux(None)
                else:
                    self._out.start_encoding()
                if self._audio is not None:
                    self._audio.copy_rest()
                out, self._out = self._out, None
                out.close()
            self._check()
        except BaseException:
            self.abort()
            raise
        finally:
            if self._audio is not None:
                self._audio.close()

    def abort(self) -> None:
        """Give up and release what is held; what lies at `path` is not a video."""
        out, self._out = self._out, None
        if out is not None:
            with contextlib.suppress(Exception):
                out.close()
        sound = getattr(self, "_audio", None)
        if sound is not None:
            sound.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _add_stream(self, preset: str, crf: int, threads: int) -> VideoStream:
        info, out = self._info, self._out
        assert out is not None
        rate = Fraction(STILL_RATE) if info.still else info.frame_rate
        # The rate is a hint for the encoder, which takes 32-bit numbers; times come from the pts.
        stream = out.add_stream("libx264", rate=rate.limit_denominator(100_000))
        context = stream.codec_context
        width, height = self._size
        context.thread_count = threads
        stream.time_base = context.time_base = self._time_base
        context.sample_aspect_ratio = info.sample_aspect_ratio
        usual = str(max(12, min(250, round(KEY_FRAME_EVERY * rate))))
        if self._kind == "masks":
            stream.width, stream.height, stream.pix_fmt = width, height, "gray"
            stream.options = {"preset": "ultrafast", "qp": "0", "g": usual}
            context.color_range = FULL_RANGE  # so that no reader stretches the values
            return stream
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": preset, "crf": str(crf), "g": usual}
        colour = BT709_COLOUR if info.colour.tone_mapped else info.colour
        default = BT709 if width >= HD_WIDTH or height >= HD_HEIGHT else BT601
        self._matrix = MATRIX_NUMBERS.get(colour.matrix, default)
        if self._matrix not in SCALER:
            self._matrix = default
        context.colorspace = self._matrix
        context.color_primaries = PRIMARY_NUMBERS.get(colour.primaries, default)
        context.color_trc = TRANSFER_NUMBERS.get(colour.transfer, default)
        context.color_range = LIMITED_RANGE
        return stream

    def _encode(self, image: NDArray[np.uint8], pts: int) -> None:
        frame = self._to_frame(image)
        frame.pts = pts - self._start
        frame.time_base = self._time_base
        frame.duration = max(1, round(1 / (self._info.frame_rate * self._time_base)))
        with self._reporting():
            self._mux(frame)
        self._written += 1

    def _mux(self, frame: VideoFrame | None) -> None:
        assert self._out is not None
        for packet in self._stream.encode(frame):
            if self._audio is not None and packet.dts is not None and packet.time_base:
                self._audio.copy_until(packet.dts * packet.time_base)
            self._out.mux(packet)

    def _to_frame(self, image: NDArray[np.uint8]) -> VideoFrame:
        from av import VideoFrame
        from av.video.reformatter import Interpolation

        if self._kind == "masks":
            gray = image if image.ndim == 2 else image[:, :, 0]
            # Not copied: the encoder reads it before the caller can paint it anew.
            return VideoFrame.from_numpy_buffer(np.ascontiguousarray(gray), format="gray")
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        # Not copied: the conversion below reads it before the caller can paint it anew.
        picture = VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), format="rgb24")
        return self._reformatter.reformat(
            picture,
            format="yuv420p",
            interpolation=Interpolation.BILINEAR,  # the same pixels as bicubic, in less time
            dst_colorspace=SCALER[self._matrix],
            src_color_range=FULL_RANGE,
            dst_color_range=LIMITED_RANGE,
            threads=1,
        )

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        import av.error

        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise OutputError(
                f"{self._path}: cannot be written: {why}; free some space or choose another folder"
            ) from error

    def _check(self) -> None:
        """FFmpeg may lose the error of the last write: look whether the file is whole."""
        if self._kind == "video" and not _is_whole(self._path):
            raise OutputError(
                f"{self._path}: is incomplete; free some space or choose another folder"
            )


def _is_whole(path: Path) -> bool:
    """Whether the top-level boxes of an MP4 fill the file exactly and one of them is the index."""
    kinds = []
    size = path.stat().st_size
    place = 0
    with path.open("rb") as file:
        while place < size:
            file.seek(place)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length < 8:
                return False
            kinds.append(head[4:8])
            place += length
    return place == size and b"moov" in kinds


def read_gray(path: Path) -> Iterator[tuple[int, float, NDArray[np.uint8]]]:
    """Yield (pts, time in seconds, (H, W) uint8 gray) of a mask video that `VideoWriter` wrote.

    Masks in FFV1, as they were written before, are read too.

    Raises:
        OutputError: the file is not a gray video of ours, or is damaged.
    """
    import av
    import av.error

    av.logging.set_level(None)
    try:
        with av.open(f"file:{os.path.abspath(path)}", format="matroska") as container:
            for frame in container.decode(video=0):
                pts = frame.pts or 0
                time = float(pts * (frame.time_base or 0))
                yield pts, time, _luma(frame)
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise OutputError(f"{path}: cannot be read back as a mask video ({error})") from error


def _luma(frame: VideoFrame) -> NDArray[np.uint8]:
    """The first plane of a frame as it is: converting to gray could stretch its values."""
    plane = frame.planes[0]
    rows: NDArray[np.uint8] = np.frombuffer(cast("bytes", plane), np.uint8)  # a buffer
    return rows.reshape(frame.height, plane.line_size)[:, : frame.width]
