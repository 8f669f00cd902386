"""Opens a container by descriptor, picks the stream to read and says what is known about it.

Everything that can be refused is refused here, before the first picture is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from deepscan.errors import CorruptError, LimitError, NoVideoError, UnsupportedError
from deepscan.options import Limits
from deepscan.video.reader import OTHER_STREAMS
from deepscan.video.source import Source

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# FFmpeg opens what the content says, not the name: without this list a playlist called x.mp4 makes
# it read other files.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,flv,asf,mpeg,ogg"

CODECS = (
    "h264",
    "hevc",
    "libdav1d",
    "libaom-av1",
    "av1",
    "vp8",
    "vp9",
    "mpeg4",
    "mpeg2video",
    "mpeg1video",
    "mjpeg",
    "prores",
    "wmv2",
    "wmv3",
    "vc1",
    "ffv1",
    "theora",
)

CODEC_NAMES = {"libdav1d": "av1", "libaom-av1": "av1"}
USUAL_RATE = Fraction(25)
MOST_BOXES = 100_000  # top-level boxes of an MP4 that are looked at
FASTEST = 1000.0  # frames a second; above this a stated rate says nothing about the usual interval
SLOWEST = 1e-5  # a frame a day
PLAUSIBLE_FRAMES = 10_000_000  # header counts above this are lies
LEAST_SHOWN = 0.5  # share of the frames; an edit list that hides more may hide them from us


@dataclass(frozen=True, slots=True)
class Probe:
    """What the container says about the stream that will be read.

    `width` and `height` are of the coded picture. `promised_frames` counts the frames that a
    player shows. `edited` says that an edit list hides or repeats parts of the stream. `notes` are
    reasons why a complete reading of this stream is not a complete reading of the file.
    """

    container: str
    codec: str
    width: int
    height: int
    frame_rate: Fraction
    time_base: Fraction
    start: int | None
    duration: float | None
    promised_frames: int | None
    sample_aspect_ratio: Fraction
    audio: tuple[str, ...]
    edited: bool
    notes: tuple[str, ...]

    @property
    def step(self) -> float:
        """The usual time between two frames in seconds."""
        return 1 / min(max(float(self.frame_rate), SLOWEST), FASTEST)


@contextmanager
def open_container(source: Source, limits: Limits) -> Iterator[InputContainer]:
    """Open the container of `source` with the allow-lists set; it is closed on leaving.

    Raises:
        CorruptError: no container that FFmpeg recognises, or its header is damaged.
        UnsupportedError: a container outside the allow-list.
        LimitError: more streams than allowed, or no memory.
    """
    import av
    import av.error

    av.logging.set_level(None)  # its Python callback can deadlock with decoder threads
    source.rewind()
    options = {
        "fd": str(source.descriptor),
        "protocol_whitelist": "fd",
        "format_whitelist": FORMATS,
        # Opening analyses every stream: far more than the limit must not even be set up.
        "max_streams": str(limits.streams * 4),
    }
    try:
        container = av.open("fd:", options=options, metadata_errors="replace")
    except av.error.ArgumentError as error:
        raise UnsupportedError(
            f"{source.path}: its container is not one that deepscan reads"
        ) from error
    except MemoryError as error:
        raise LimitError(
            "limit_memory", f"{source.path}: no memory left to open the container"
        ) from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise CorruptError(
            f"{source.path}: not a video, or its header is damaged ({_words(error)})"
        ) from error
    with container:
        if len(container.streams) > limits.streams:
            raise LimitError(
                "limit_streams",
                f"{source.path}: {len(container.streams)} streams, the limit is {limits.streams}",
            )
        yield container


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def pick_stream(
    container: InputContainer, source: Source, limits: Limits
) -> tuple[VideoStream, Probe]:
    """Choose the picture stream that `source.stream` names, cover art apart, and describe it.

    Raises:
        NoVideoError: no picture stream, only cover art, or not so many streams.
        UnsupportedError: a codec outside the allow-list.
        LimitError: the pictures are larger than allowed.
    """
    videos = list(container.streams.video)
    films = [stream for stream in videos if not _is_cover(stream)]
    if not films:
        if not videos and not container.streams.audio:
            raise CorruptError(f"{source.path}: holds neither pictures nor sound that can be read")
        what = "only cover art" if videos else "no picture stream"
        raise NoVideoError(f"{source.path}: holds {what}")
    if source.stream >= len(films):
        raise NoVideoError(f"{source.path}: holds {len(films)} picture streams")
    stream = sorted(films, key=_area, reverse=True)[source.stream]
    context = stream.codec_context
    if context is None or context.name not in CODECS:
        name = "unknown" if context is None else context.name
        raise UnsupportedError(f"{source.path}: its codec ({name}) is not one that deepscan reads")
    check_size(context.width, context.height, source, limits)
    notes = []
    if len(films) > 1:
        notes.append(f"{OTHER_STREAMS}: {len(films)} picture streams, one was read")
    return stream, _describe(container, stream, source, notes)


def check_size(width: int, height: int, source: Source, limits: Limits) -> None:
    """Raise LimitError if a picture of this size may not be decoded."""
    if width * height > limits.pixels or max(width, height) > limits.side:
        raise LimitError(
            "limit_pixels",
            f"{source.path}: pictures of {width}x{height} pixels; the limits are "
            f"{limits.pixels} pixels and {limits.side} a side",
        )


def _is_cover(stream: VideoStream) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def _area(stream: VideoStream) -> int:
    context = stream.codec_context
    return 0 if context is None else context.width * context.height


def _describe(
    container: InputContainer, stream: VideoStream, source: Source, notes: list[str]
) -> Probe:
    context = stream.codec_context
    time_base = stream.time_base or Fraction(1, 1000)
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or USUAL_RATE
    duration = None
    if stream.duration and stream.duration > 0:
        duration = float(stream.duration * time_base)
    elif container.duration and container.duration > 0:
        duration = container.duration / 1_000_000
    promised, edited = stream.frames or None, False
    if container.format.name.startswith("mov"):
        promised, edited = _read_index(stream, source, notes)
    return Probe(
        container=_container_name(container, source),
        codec=CODEC_NAMES.get(context.name, context.name),
        width=context.width,
        height=context.height,
        frame_rate=Fraction(rate) if rate > 0 else USUAL_RATE,
        time_base=time_base,
        start=stream.start_time,
        duration=duration,
        promised_frames=promised,
        sample_aspect_ratio=_positive(stream.sample_aspect_ratio),
        audio=tuple(
            "unknown" if sound.codec_context is None else sound.codec_context.name
            for sound in container.streams.audio
        ),
        edited=edited,
        notes=tuple(notes),
    )


def _positive(ratio: Fraction | None) -> Fraction:
    return ratio if ratio is not None and ratio > 0 else Fraction(1)


def _read_index(stream: VideoStream, source: Source, notes: list[str]) -> tuple[int | None, bool]:
    """How many frames an MP4 or MOV promises to show, and whether an edit list changed them.

    FFmpeg applies edit lists by rewriting the index, where every sample has an entry.
    """
    fragmented, cut = _find_fragments(source)
    if cut:
        notes.append("cut: the fragments do not fill the file")
    stated = stream.frames or None
    entries = list(stream.index_entries)
    hidden = sum(entry.is_discard for entry in entries)
    if fragmented or stated is None or stated > PLAUSIBLE_FRAMES:
        return None if fragmented else stated, hidden > 0
    shown = len(entries) - hidden
    if shown < stated * LEAST_SHOWN:
        notes.append(f"edit_list: of {stated} frames in the file only {shown} are to be shown")
    return shown, shown != stated or hidden > 0


def _find_fragments(source: Source) -> tuple[bool, bool]:
    """Whether an MP4 consists of fragments, and whether it is damaged between or inside them.

    The header of such a file promises neither frames nor a duration, so this is the only sign of a
    cut.
    """
    place = 0
    fragmented = False
    for _ in range(MOST_BOXES):
        head = os.pread(source.descriptor, 16, place)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        fragmented |= head[4:8] == b"moof"
        if length == 0:  # the last box, up to the end; between fragments a hole of zeros
            return fragmented, fragmented and head[4:8] != b"mdat"
        place += length
        if length < 8 or place >= source.size:
            return fragmented, fragmented and place != source.size
    return fragmented, False


def _container_name(container: InputContainer, source: Source) -> str:
    name = container.format.name
    if name.startswith("mov"):
        brand = container.metadata.get("major_brand", "")
        return "mov" if brand.strip() in ("", "qt") else "mp4"
    if name.startswith("matroska"):
        return "webm" if b"webm" in source.head() else "matroska"
    return name.split(",")[0]
