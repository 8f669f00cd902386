"""Opens a container by descriptor, selects the stream to read and describes it.

Files outside the limits and allow-lists are refused here, before any picture is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from deepscan.errors import (
    CorruptError,
    LimitError,
    NoStreamError,
    NoVideoError,
    UnsupportedError,
    reason_of,
)
from deepscan.options import Limits
from deepscan.video.contract import OTHER_STREAMS
from deepscan.video.formats import is_text
from deepscan.video.input_file import Source
from deepscan.video.structure import Structure, examine, shown_share

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# FFmpeg goes by content, not by name: without this list a playlist called x.mp4 would make it read
# other files.
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
FASTEST = 1000.0  # frames a second; above this a stated rate says nothing about the usual interval
SLOWEST = 1e-5  # a frame a day
MOST_EXPLAINED = 0.75  # share of a track; an edit list that shows more cannot hide half of it
PLAUSIBLE_FRAMES = 10_000_000  # header counts above this are lies


@dataclass(frozen=True, slots=True)
class Probe:
    """The container's description of the stream to read.

    `width` and `height` are those of the coded picture. `start` is the start of the container in
    ticks of the stream's clock. `promised_frames` counts the frames that a player shows,
    `promised_duration` is the stated duration of this stream (s), None if the container states only
    that of its longest stream; `from_zero` is True if it may count from time zero instead of from
    the first frame. `edited` is True if an edit list hides or repeats parts of the stream, `hidden`
    is the number of frames it hides. `gaps_told` is True if no frame can be missing from this
    container unnoticed, so that a pause was written on purpose. `notes` are reasons why reading the
    whole stream does not read the whole file.
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
    promised_duration: float | None
    from_zero: bool
    sample_aspect_ratio: Fraction
    audio: tuple[str, ...]
    edited: bool
    hidden: int
    gaps_told: bool
    notes: tuple[str, ...]

    @property
    def step(self) -> float:
        """The usual time between two frames in seconds."""
        return 1 / min(max(float(self.frame_rate), SLOWEST), FASTEST)


@contextmanager
def open_container(source: Source, limits: Limits) -> Iterator[InputContainer]:
    """Open the container of `source` under the allow-lists; it is closed at the end of the block.

    Raises:
        CorruptError: no container that FFmpeg recognises, or its header is damaged.
        UnsupportedError: text, or a container outside the allow-list.
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
        # Opening analyses every stream, so the number has to be bounded before that.
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
        if is_text(source.head()):
            raise UnsupportedError(f"{source.path}: text, not a video or picture") from error
        raise CorruptError(
            f"{source.path}: not a video, or its header is damaged ({reason_of(error)})"
        ) from error
    with container:
        if len(container.streams) > limits.streams:
            raise LimitError(
                "limit_streams",
                f"{source.path}: {len(container.streams)} streams, the limit is {limits.streams}",
            )
        yield container


def pick_stream(
    container: InputContainer, source: Source, limits: Limits
) -> tuple[VideoStream, Probe]:
    """Select picture stream number `source.stream`, not counting cover art, and describe it.

    Raises:
        NoVideoError: no picture stream, only cover art, or (NoStreamError) fewer streams.
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
        raise NoStreamError(f"{source.path}: holds {len(films)} picture streams")
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


def check_length(index: int, time: float, source: Source, limits: Limits) -> None:
    """Raise LimitError if the number or the time (s) of a frame exceeds the limits."""
    if index >= limits.frames:
        raise LimitError("limit_frames", f"{source.path}: more than {limits.frames} frames")
    if time > limits.duration:
        raise LimitError(
            "limit_time", f"{source.path}: runs past {limits.duration:.0f} s of media time"
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
    structure = examine(source, container.format.name, stream.index)
    notes += structure.damage
    duration = None
    if stream.duration and stream.duration > 0:
        duration = float(stream.duration * time_base)
    elif container.duration and container.duration > 0:
        duration = container.duration / 1_000_000
    own = _own_duration(container, stream, time_base)
    promised, hidden = _promised_frames(container, stream, structure)
    if hidden > (promised or 0) and (shown_share(source, stream.id) or 1) > MOST_EXPLAINED:
        notes.append(f"edit_list: hides {hidden} frames and nearly no time")
    return Probe(
        container=_container_name(container, source),
        codec=CODEC_NAMES.get(context.name, context.name),
        width=context.width,
        height=context.height,
        frame_rate=Fraction(rate) if rate > 0 else USUAL_RATE,
        time_base=time_base,
        start=_start(container, time_base),
        duration=duration,
        promised_frames=promised,
        promised_duration=own or (duration if structure.cut else None),
        from_zero=container.format.name.startswith("matroska"),
        sample_aspect_ratio=_positive(stream.sample_aspect_ratio),
        audio=tuple(
            "unknown" if sound.codec_context is None else sound.codec_context.name
            for sound in container.streams.audio
        ),
        edited=hidden != 0,
        hidden=max(0, hidden),
        gaps_told=structure.known or container.format.name == "mpegts",
        notes=tuple(notes),
    )


def _start(container: InputContainer, time_base: Fraction) -> int | None:
    """The earliest start time of pictures and sound, in ticks of the picture's clock.

    Sound may start before the picture and before zero, with samples that only prime the decoder.
    """
    films = [stream for stream in container.streams.video if not _is_cover(stream)]
    starts = [
        [
            stream.start_time * stream.time_base
            for stream in streams
            if stream.start_time is not None and stream.time_base
        ]
        for streams in (films, container.streams.audio)
    ]
    pictures, sounds = starts
    if not pictures:
        return None
    first = min(pictures)
    heard = [max(start, min(first, Fraction(0))) for start in sounds]
    return round(min(first, *heard) / time_base) if heard else round(first / time_base)


def _positive(ratio: Fraction | None) -> Fraction:
    return ratio if ratio is not None and ratio > 0 else Fraction(1)


def _own_duration(
    container: InputContainer, stream: VideoStream, time_base: Fraction
) -> float | None:
    """The stated duration of this stream in seconds, None if the container states none.

    For other containers FFmpeg reports the duration of the file, or an estimate.
    """
    name = container.format.name
    if name.startswith(("mov", "avi")) and stream.duration and stream.duration > 0:
        return float(stream.duration * time_base)
    if name.startswith("matroska"):  # FFmpeg and mkvmerge write it for each track
        return _seconds(stream.metadata.get("DURATION", ""))
    return None


def _seconds(text: str) -> float | None:
    """Parse a duration in the form of Matroska's tags, `00:01:02.345678900`."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text.strip("\0 "))
    if not found:
        return None
    hours, minutes, seconds = found.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds) or None


def _promised_frames(
    container: InputContainer, stream: VideoStream, structure: Structure
) -> tuple[int | None, int]:
    """The number of frames that the container promises to show, and that its edit list hides.

    FFmpeg applies an edit list of MP4 to the index, which has an entry for every sample. The count
    of an AVI includes null frames, which repeat the last picture.
    """
    stated = stream.frames or None
    if not container.format.name.startswith("mov"):
        if stated is None or structure.empty is None:
            return None, 0
        return max(0, stated - structure.empty) or None, 0
    entries = list(stream.index_entries)
    hidden = sum(entry.is_discard for entry in entries)
    if structure.fragmented or stated is None or stated > PLAUSIBLE_FRAMES:
        return None if structure.fragmented else stated, hidden
    shown = len(entries) - hidden
    return shown, (stated - shown) or hidden


def _container_name(container: InputContainer, source: Source) -> str:
    name = container.format.name
    if name.startswith("mov"):
        brand = container.metadata.get("major_brand", "")
        return "mov" if brand.strip() in ("", "qt") else "mp4"
    if name.startswith("matroska"):
        return "webm" if b"webm" in source.head() else "matroska"
    return name.split(",")[0]
