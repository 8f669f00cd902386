"""Reads files with decord, after its frames have been compared with PyAV's.

decord ships an FFmpeg of 2020. It returns wrong frames without an error for several formats, takes
untagged HD for BT.601, hides damage by repeating frames, and decodes ahead without a limit. So it
reads only short, undamaged files of common formats (`objection` lists the conditions), in order and
from memory, and its frame count, times and first pictures have to equal those of PyAV.
"""

from __future__ import annotations

import io
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from deepscan.errors import CorruptError, LimitError, UnsupportedError, VideoError
from deepscan.options import Limits
from deepscan.types import Frame, Image, ReadReport, VideoInfo
from deepscan.video.completeness import CompletenessCheck, shows_nothing
from deepscan.video.contract import ReadOptions, VideoReader
from deepscan.video.input_file import Source
from deepscan.video.probe import Probe, check_length, open_container, pick_stream
from deepscan.video.readers.pyav import REASON, PyAVReader
from deepscan.video.timestamps import Timestamps

CONTAINERS = ("mp4", "mov", "matroska", "webm")
CODECS = ("h264", "vp8", "vp9")
PIXEL_FORMAT = "yuv420p"
FILE_BYTES = 64 * 2**20  # the file is held in memory
READ_AHEAD = 512 * 2**20  # bytes of RGB; decord may buffer a whole video
NARROWEST = 64  # pixels; decord returns 4 or 48 channels for some narrower pictures
CHECKED = 12  # frames compared with PyAV's: the usual first group of pictures
MEAN_DIFFERENCE = 1.0  # levels; two versions of swscale round differently
CLEAR_DIFFERENCE = 16  # levels that ...
CLEAR_SHARE = 0.001  # ... only so many samples may differ by: chroma edges


def load_library() -> None:
    """Import decord; where there is no wheel for this machine this raises ImportError."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)


def is_installed() -> bool:
    from importlib.util import find_spec

    return platform.machine() in ("x86_64", "AMD64") and find_spec("decord") is not None


def may_fit(source: Source) -> bool:
    """True if decord may read this file, by its first bytes and size."""
    head = source.head()
    known = head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3"
    return known and source.size <= FILE_BYTES and is_installed()


def objection(info: VideoInfo, probe: Probe, size: int) -> str | None:
    """The reason why decord must not read this stream, None if there is none so far."""
    matrix_right = info.colour.matrix in ("smpte170m", "bt470bg") or info.colour.tagged
    estimate = (info.duration or 0) * float(info.frame_rate) * info.width * info.height * 3
    objections = (
        (not is_installed(), "decord is not installed on this machine"),
        (info.container not in CONTAINERS, f"decord is not trusted with {info.container} files"),
        (info.codec not in CODECS, f"decord is not trusted with {info.codec}"),
        (info.pixel_format != PIXEL_FORMAT, f"decord is not trusted with {info.pixel_format}"),
        (info.colour.full_range, "decord is not trusted with full-range colour"),
        (not matrix_right, "decord takes untagged HD for BT.601"),
        (info.colour.matrix.startswith("bt2020"), "decord is not trusted with BT.2020 colour"),
        (info.rotation != 0, "decord is not trusted with rotated video"),
        (probe.edited, "decord is not trusted with edit lists"),
        (bool(probe.notes), "decord is not trusted with several picture streams"),
        (info.width < NARROWEST, f"decord misreads pictures below {NARROWEST} columns"),
        (size > FILE_BYTES, f"too large for decord: over {FILE_BYTES >> 20} MiB"),
        (estimate > READ_AHEAD, f"too long for decord: over {READ_AHEAD >> 20} MiB of frames"),
    )
    return next((why for holds, why in objections if holds), None)


class DistrustError(UnsupportedError):
    """decord must not read this file; `why` is the reason without the name of the file."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}; use the decoder pyav or auto")
        self.why = why


@dataclass(frozen=True, slots=True)
class Contents:
    """All packets of a stream: the pts in presentation order, and the sizes of key frames."""

    pts: tuple[int, ...]
    intact: bool  # no packet is damaged, hidden or without a time
    sizes: frozenset[tuple[int, int]]


def list_packets(source: Source, limits: Limits) -> Contents:
    """Demux the stream and decode its key frames; for files that have passed `objection`."""
    import av.error

    intact = True
    pts: list[int] = []
    sizes: set[tuple[int, int]] = set()
    with open_container(source, limits) as container:
        stream, probe = pick_stream(container, source, limits)
        stream.thread_type = "SLICE"
        stream.codec_context.thread_count = 1
        try:
            for packet in container.demux(stream):
                if not packet.size or shows_nothing(probe.codec, bytes(packet)):
                    continue
                if packet.is_keyframe:  # where a picture of another size begins
                    sizes |= {(frame.width, frame.height) for frame in packet.decode()}
                if packet.pts is None or packet.is_corrupt or packet.is_discard:
                    intact = False
                else:
                    pts.append(packet.pts)
            sizes |= {(frame.width, frame.height) for frame in stream.codec_context.decode(None)}
        except (av.error.FFmpegError, IndexError):
            intact = False
    rising = all(earlier < later for earlier, later in pairwise(sorted(pts)))
    return Contents(tuple(sorted(pts)), intact and rising and bool(pts), frozenset(sizes))


class DecordReader(VideoReader):
    """Reads the frames of one video with decord, after a comparison with PyAV.

    If decord fails later, CorruptError is raised and earlier frames remain valid; with decoder
    "auto" PyAV then continues, see fallback.py.

    Raises:
        UnsupportedError: decord is not trusted with this file, or disagrees with PyAV.
        VideoError: PyAV cannot read the file either.
    """

    def __init__(
        self, source: Source, options: ReadOptions, beat: Callable[[], None] | None = None
    ) -> None:
        path = source.path
        self._limits = options.limits
        self._source = source
        self._finished = False
        self._index = 0
        with ExitStack() as held:
            with PyAVReader(source, replace(options, planes=False), beat) as pyav:
                _insist(path, objection(pyav.info, pyav.probe, source.size))
                expected = _first_frames(pyav)
                info, probe = pyav.info, pyav.probe
            contents = list_packets(source, self._limits)
            _insist(path, _doubt(contents, probe, info))
            self._pts = contents.pts
            self._info = replace(info, decoder="decord", decoder_reason=options.reason or REASON)
            self._timestamps = Timestamps(probe.time_base, probe.start, probe.step)
            self._completeness = CompletenessCheck.of(probe)
            self._completeness.packets = len(self._pts)
            self._reader = self._open(source)
            held.callback(self._drop)
            self._checked = self._check(expected)
            self._held = held.pop_all()

    @property
    def info(self) -> VideoInfo:
        return self._info

    def frames(self) -> Iterator[Frame]:
        """Yield the frames; `image` is read-only and belongs to the frame alone.

        Raises:
            CorruptError: decord fails or ends before the last packet.
            LimitError: too many frames, or too long.
        """
        while self._index < len(self._pts):
            pts, time = self._timestamps.tick(self._pts[self._index])
            check_length(self._index, time, self._source, self._limits)
            image = self._checked.pop(0) if self._checked else self._next()
            self._completeness.shown(time, float(self._pts[self._index] * self._info.time_base))
            frame = Frame(self._index, pts, time, image)
            self._index += 1
            del image
            yield frame
            del frame
        self._finished = True

    def report(self) -> ReadReport:
        return self._completeness.report(
            "decord", self._info.decoder_reason, finished=self._finished
        )

    def close(self) -> None:
        self._checked = []
        self._held.close()

    def _open(self, source: Source) -> Any:
        import decord

        load_library()
        # From memory: decord would follow a name or a playlist to other files.
        data = io.BytesIO(_read_all(source))
        try:
            return decord.VideoReader(data, num_threads=1)
        except Exception as error:
            raise DistrustError(source.path, f"decord cannot open it ({_line(error)})") from error

    def _check(self, expected: list[Image]) -> list[Image]:
        """Compare count, times and first pictures with PyAV's; returns the pictures."""
        path = self._info.path
        count = len(self._reader)
        if count != len(self._pts):
            raise DistrustError(path, f"decord counts {count} frames, PyAV {len(self._pts)}")
        self._check_times()
        pictures = []
        for index, wanted in enumerate(expected):
            try:
                picture = self._next()
            except VideoError as error:
                raise DistrustError(path, f"decord fails at frame {index}") from error
            difference = np.abs(picture.astype(np.int16) - wanted)
            mean = float(difference.mean())
            clear = float((difference > CLEAR_DIFFERENCE).mean())
            if mean > MEAN_DIFFERENCE or clear > CLEAR_SHARE:
                raise DistrustError(
                    path,
                    f"frame {index} differs from PyAV's by {mean:.1f} levels on average",
                )
            pictures.append(picture)
        return pictures

    def _check_times(self) -> None:
        stamps = self._reader.get_frame_timestamp(range(len(self._pts)))[:, 0].astype(np.float64)
        wanted = (np.array(self._pts) - self._pts[0]) * float(self._info.time_base)
        shortest = float(np.diff(wanted).min()) if len(wanted) > 1 else 1.0
        if np.abs(stamps - stamps[0] - wanted).max() > max(shortest / 2, 1e-6):
            raise DistrustError(self._info.path, "decord gives the frames other times than PyAV")

    def _next(self) -> Image:
        info = self._info
        try:
            image: Image = self._reader.next().asnumpy()
        except (Exception, StopIteration) as error:
            raise CorruptError(f"{info.path}: decord failed at frame {self._index}") from error
        if image.shape != (info.height, info.width, 3) or image.dtype != np.uint8:
            raise CorruptError(f"{info.path}: decord gave a picture of shape {image.shape}")
        image.flags.writeable = False
        return image

    def _drop(self) -> None:
        self._reader = None


def _first_frames(reader: PyAVReader) -> list[Image]:
    room = max(1, min(CHECKED, READ_AHEAD // 4 // (reader.info.width * reader.info.height * 3)))
    pictures: list[Image] = []
    # The limit is raised again when these frames are read from decord.
    with suppress(LimitError):
        for frame in reader.frames():
            pictures.append(frame.image)
            if len(pictures) == room:
                break
    return pictures


def _doubt(contents: Contents, probe: Probe, info: VideoInfo) -> str | None:
    promised = probe.promised_frames
    if not contents.intact:
        return "the file is damaged"
    if len(contents.sizes) > 1:
        return "decord squeezes pictures that change their size"
    if promised is not None and promised != len(contents.pts):
        return f"the file promises {promised} frames and holds {len(contents.pts)} packets"
    if len(contents.pts) * info.width * info.height * 3 > READ_AHEAD:
        return f"too long for decord: over {READ_AHEAD >> 20} MiB of frames"
    return None


def _insist(path: Path, why: str | None) -> None:
    if why is not None:
        raise DistrustError(path, why)


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def _read_all(source: Source) -> bytes:
    parts = []
    place = 0
    while part := os.pread(source.descriptor, 2**20, place):
        parts.append(part)
        place += len(part)
    return b"".join(parts)
