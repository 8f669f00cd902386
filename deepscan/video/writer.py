"""Writes frames to video at the times of the source, and copies its sound.

The verdict video is H.264 in MP4, for people. Masks are lossless grey H.264 in Matroska, which
costs almost nothing for areas that do not change from frame to frame.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray

from deepscan.errors import OutputError, reason_of
from deepscan.types import Colour, Image, Planes, VideoInfo
from deepscan.video.audio import Audio
from deepscan.video.colour import FULL_RANGE, LIMITED_RANGE, PRIMARIES, TRANSFERS
from deepscan.video.planes import (
    PlanesConverter,
    default_for,
    frame_of,
    matrix_to_write,
    samples_of,
)
from deepscan.video.structure import boxes
from deepscan.video.timestamps import SENT
from deepscan.video.verdict_video_mark import MARK

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import OutputContainer

Kind = Literal["video", "masks"]

FORMATS = {"video": "mp4", "masks": "matroska"}
KEY_FRAME_EVERY = 2  # seconds; a player that seeks decodes at most this much
STILL_RATE = 5  # frames a second of the clip that shows a still picture
STILL_SECONDS = 2
PRIMARY_NUMBERS = {name: number for number, name in PRIMARIES.items()}
TRANSFER_NUMBERS = {name: number for number, name in TRANSFERS.items()}
BT709_COLOUR = Colour("bt709", False, "bt709", "bt709", True)
# Encoding is the slowest step of a scan (measured in docs/speed.md). "superfast" takes twice the
# time and "veryfast" three times, for a quarter and a half fewer bytes at the same PSNR. The
# verdict video is only for viewing; the source is the evidence. CABAC and the deblocking filter,
# which the preset disables, cost a tenth more time and save a third of the bytes.
PRESET, CRF = "ultrafast", 22
ADDED = "cabac=1:deblock=1,0,0"


def load_pyav() -> None:
    """Import all of PyAV before threads start: its modules import one another in a circle, so
    threads that import them at the same time deadlock."""
    for name in ("av.video.reformatter", "av.subtitles.stream"):  # PyAV loads the latter late
        import_module(name)


class VideoWriter:
    """Encodes frames into `path`: a video as MP4, masks as Matroska, whatever the suffix.

    `info` describes the source; its time base, frame rate, colour and sample aspect ratio are kept.
    A video is 4:2:0 with faststart, odd sizes are padded by repeating the edge; masks are gray,
    full range, lossless. Times count from the start of the source, so that no frame has a time
    below zero, which players do not show; Matroska rounds them to milliseconds.

    The sound of `source` is copied where MP4 can hold it, else encoded as AAC, which `notes` then
    says. A still picture becomes a clip of two seconds.

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
        threads: int = 1,
    ) -> None:
        import av

        av.logging.set_level(None)
        self._path = path
        self._info = info
        self._kind = kind
        self._size = size or (info.width, info.height)
        self._written = 0
        self._last: Image | Planes | None = None
        self._converter = PlanesConverter(matrix_to_write(info, *self._size))
        self._time_base = Fraction(1, STILL_RATE) if info.still else info.time_base
        self._start = 0 if info.still else info.start_pts
        with self._reporting():
            path.open("wb").close()  # FFmpeg would fail only at the first frame
            # Matroska files get a random id otherwise; the same scan has to give the same bytes.
            options = {"movflags": "+faststart"} if kind == "video" else {"fflags": "+bitexact"}
            self._out: OutputContainer | None = av.open(
                f"file:{os.path.abspath(path)}", "w", format=FORMATS[kind], options=options
            )
            if kind == "video":
                self._out.metadata["comment"] = MARK
        try:
            self._stream = self._add_stream(threads)
            self._audio = None
            if source and not info.still:
                self._audio = Audio(source, self._out, joined=info.container in SENT)
                self._audio.start_at(self._start * self._time_base)
        except BaseException:
            self.abort()
            raise

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for people on sound that could not be copied."""
        return self._audio.notes if self._audio else ()

    def write(self, image: Image | Planes, pts: int) -> None:
        """Encode the next picture: (H, W, 3) uint8 RGB, (H, W) uint8 gray, or planes of even size.

        The caller may reuse its memory afterwards.

        Raises:
            OutputError: the file cannot be written.
            ValueError: the picture has another size than the writer, or planes another matrix.
        """
        width, height = self._size
        if isinstance(image, Planes):
            wanted = (width, height, matrix_to_write(self._info, width, height))
            if (image.width, image.height, image.matrix) != wanted or width % 2 or height % 2:
                raise ValueError(
                    f"expected planes of {wanted}, not of {image.width}x{image.height}"
                )
        elif image.shape[:2] != (height, width) or image.dtype != np.uint8:
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
        """Give up and release all resources; the file at `path` is not a video."""
        out, self._out = self._out, None
        if out is not None:
            with contextlib.suppress(Exception):
                out.close()
        sound = getattr(self, "_audio", None)
        if sound is not None:
            sound.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _add_stream(self, threads: int) -> VideoStream:
        info, out = self._info, self._out
        assert out is not None
        rate = Fraction(STILL_RATE) if info.still else info.frame_rate
        # The rate is a hint for the encoder, limited to 32-bit numbers; times come from the pts.
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
        stream.options = {"preset": PRESET, "crf": str(CRF), "g": usual, "x264-params": ADDED}
        colour = BT709_COLOUR if info.colour.tone_mapped else info.colour
        default = default_for(width, height)
        context.colorspace = matrix_to_write(info, width, height)
        context.color_primaries = PRIMARY_NUMBERS.get(colour.primaries, default)
        context.color_trc = TRANSFER_NUMBERS.get(colour.transfer, default)
        context.color_range = LIMITED_RANGE
        return stream

    def _encode(self, image: Image | Planes, pts: int) -> None:
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

    def _to_frame(self, image: Image | Planes) -> VideoFrame:
        from av import VideoFrame

        # Not copied: the encoder reads it before the caller can change it.
        if isinstance(image, Planes):
            return frame_of(image)
        if self._kind == "masks":
            gray = image if image.ndim == 2 else image[:, :, 0]
            return VideoFrame.from_numpy_buffer(np.ascontiguousarray(gray), format="gray")
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        return self._converter.convert(image)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        import av.error

        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            raise OutputError(
                f"{self._path}: cannot be written: {reason_of(error)}; free some space or choose "
                "another folder"
            ) from error

    def _check(self) -> None:
        """Check that the file is whole: FFmpeg may lose the error of the last write."""
        if self._kind == "video" and not _is_whole(self._path):
            raise OutputError(
                f"{self._path}: is incomplete; free some space or choose another folder"
            )


def _is_whole(path: Path) -> bool:
    """True if the top-level boxes of an MP4 fill the file exactly and one of them is the index."""
    with path.open("rb") as file:
        found = list(boxes(file.fileno()))
    if not any(box.kind == b"moov" for box in found) or found[-1].length < 8:
        return False
    return found[-1].start + found[-1].length == path.stat().st_size


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
                yield pts, time, samples_of(frame)[0]  # converted, values could change
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise OutputError(f"{path}: cannot be read back as a mask video ({error})") from error
