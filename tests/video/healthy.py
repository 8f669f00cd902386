"""Healthy files as cameras, phones, recorders, messengers, browsers and editors write them.

`KINDS` is the table: each row names a writer, what is odd about its files, and how a small one is
made. A drawn face shows in every picture, and the picture's number beside it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from deepscan.types import Image, Label
from tests.conftest import HONEST_BLUE
from tests.media import FACE_COLOUR, FAST, QUIET, SOUND_RATE, draw_numbered

SIZE = (64, 48)
COUNT = 30  # pictures of a file that says nothing else
RATE = 25
NTSC = Fraction(30000, 1001)
FILM = Fraction(24000, 1001)


@dataclass(frozen=True)
class Kind:
    """One kind of healthy file. `shown` is how many pictures a player shows."""

    name: str  # of the file; the suffix is what the writer gives
    writer: str
    feature: str
    make: Callable[[Path], object]
    shown: int = COUNT
    label: Label = Label.NO_EVIDENCE


@dataclass(frozen=True)
class Track:
    """Encoded pictures: packets as (bytes, pts, dts, duration, key) in ticks, and their stream."""

    file: bytes
    codec: str


@cache
def draw(index: int) -> Image:
    """The number in the upper half, an honest face on grey in the lower."""
    image = draw_numbered(index, SIZE).copy()
    image[24:] = 90
    image[26:46, 22:42] = (*FACE_COLOUR[:2], HONEST_BLUE)
    return image


def steady(count: int = COUNT, rate: int | Fraction = RATE, start: Fraction | int = 0) -> list[Any]:
    """Times in seconds of pictures at a constant rate."""
    return [start + place / Fraction(rate) for place in range(count)]


def without(*lost: int, rate: int | Fraction = RATE, count: int = COUNT + 10) -> list[Any]:
    """The same with some pictures dropped before they were encoded."""
    return [time for place, time in enumerate(steady(count, rate)) if place not in lost]


def write(
    path: Path,
    times: Sequence[Fraction] | None = None,
    *,
    codec: str = "libx264",
    rate: int | Fraction = RATE,
    base: Fraction | None = None,
    last: Fraction | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    format: str | None = None,
    muxer: dict[str, str] | None = None,
    sound: str | None = None,
    sounds: Sequence[tuple[float, float]] = ((0.0, COUNT / RATE),),
    text: tuple[float, float] | None = None,
    streamed: bool = False,
    prepare: Callable[[Any, Any], object] | None = None,
) -> None:
    """Encode pictures at `times` (s) and mux them as `muxer` says.

    `sounds` are the stretches (from, to) of one sound track each, `text` that of a subtitle.
    `last` is how long the last picture is shown. `streamed` writes to what cannot be rewound.
    `prepare(container, stream)` may change both before the first packet.
    """
    times = steady(rate=rate) if times is None else list(times)
    base = base or 1 / Fraction(rate)
    target: Any = _Pipe() if streamed else str(path)
    with av.open(target, "w", format=format or _format(path), options=muxer or {}) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.width, stream.height = SIZE
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = base
        stream.codec_context.thread_count = 1
        stream.options = {
            **({} if codec in ("ffv1", "mjpeg", "prores_ks") else {"g": "12"}),
            **FAST.get(codec, {}),
            **QUIET.get(codec, {}),
            **(options or {}),
        }
        tracks = []
        for stretch in sounds if sound else ():
            track = out.add_stream(sound, rate=SOUND_RATE)
            track.codec_context.layout = "mono"
            tracks.append((track, stretch))
        said = _subtitles(path, text) if text else None
        words = out.add_stream_from_template(said.streams[0]) if said else None
        if prepare:
            prepare(out, stream)
        for place, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(place), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = round(time / base), base
            after = (
                times[place + 1] - time if place + 1 < len(times) else last or 1 / Fraction(rate)
            )
            frame.duration = round(after / base)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        for track, (begin, end) in tracks:
            _tone(out, track, begin, end)
        if said and words:
            for packet in said.demux():
                if packet.size:
                    packet.stream = words
                    out.mux(packet)
            said.close()
    if streamed:
        path.write_bytes(target.getvalue())


class _Pipe(io.RawIOBase):
    """A file that can only be written to, from its first byte to its last."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def getvalue(self) -> bytes:
        return b"".join(self._parts)


def _format(path: Path) -> str:
    suffix = path.suffix[1:]
    return {"mkv": "matroska", "ts": "mpegts", "mts": "mpegts", "mpg": "mpeg", "wmv": "asf"}.get(
        suffix, suffix
    )


def _tone(out: Any, stream: Any, begin: float, end: float) -> None:
    """A tone from `begin` to `end` (s)."""
    samples = np.arange(round((end - begin) * SOUND_RATE)) / SOUND_RATE
    wave = (0.2 * np.sin(2 * np.pi * 440 * samples)).astype(np.float32)[None]
    context = stream.codec_context
    whole = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
    whole.sample_rate, whole.pts = SOUND_RATE, 0
    whole.time_base = Fraction(1, SOUND_RATE)
    resampler = av.AudioResampler(
        context.format, "mono", SOUND_RATE, frame_size=context.frame_size or 1024
    )
    for piece in [*resampler.resample(whole), *resampler.resample(None)]:
        piece.pts = (piece.pts or 0) + round(begin * SOUND_RATE)
        out.mux(stream.encode(piece))
    out.mux(stream.encode(None))


def _subtitles(path: Path, stretch: tuple[float, float]) -> Any:
    begin, end = (f"00:00:{int(time):02d},{round(time % 1 * 1000):03d}" for time in stretch)
    return av.open(io.BytesIO(f"1\n{begin} --> {end}\ntext\n\n".encode()), format="srt")


def copy(
    path: Path,
    *,
    begin: float = 0.0,
    end: float = 1e9,
    zero: float | None = None,
    muxer: dict[str, str] | None = None,
    suffix: str = ".mp4",
    **wanted: Any,
) -> None:
    """Copy the packets from the last key picture before `begin` (s) on, as `ffmpeg -ss -c copy`.

    `zero` is what becomes time zero, by default `begin`.
    """
    first = path.with_name("first" + suffix)
    write(first, **wanted)
    with (
        av.open(str(first)) as source,
        av.open(str(path), "w", format=_format(path), options=muxer or {}) as out,
    ):
        targets = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
        packets = [packet for packet in source.demux() if packet.dts is not None]
        keys = [
            place
            for place, packet in enumerate(packets)
            if packet.is_keyframe and packet.stream.type == "video" and _time(packet) <= begin
        ]
        for place, packet in enumerate(packets):
            film = packet.stream.type == "video"
            if place < keys[-1] if film else _time(packet) < begin:
                continue
            if _time(packet) >= end:
                continue
            shift = round(Fraction(begin if zero is None else zero) / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = targets[packet.stream.index]
            out.mux(packet)
    first.unlink()


def _time(packet: Any) -> Fraction:
    return packet.pts * packet.time_base


def patch(path: Path, box: bytes, offset: int, number: int, size: int = 4, **wanted: Any) -> None:
    """Write a file, and then a number at an offset behind the name of a box."""
    write(path, **wanted)
    data = bytearray(path.read_bytes())
    place = data.index(box) + 4 + offset
    data[place : place + size] = number.to_bytes(size, "big")
    path.write_bytes(data)


def turned(path: Path) -> None:
    write(path, sound="aac", prepare=lambda _, stream: stream.set_display_rotation(-90))


def with_cover(path: Path) -> None:
    from av.stream import Disposition

    def prepare(out: Any, _: Any) -> None:
        cover = out.add_stream("mjpeg", rate=1, width=320, height=240, pix_fmt="yuvj420p")
        cover.disposition = Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 90, np.uint8), "rgb24")
        late.extend(cover.encode(picture.reformat(format="yuvj420p")))

    late: list[Any] = []

    def both(out: Any, stream: Any) -> None:
        prepare(out, stream)
        out.mux(late)

    write(path, sound="aac", prepare=both)


def with_extras(path: Path) -> None:
    """Chapters, a font and three sound tracks."""

    def prepare(out: Any, _: Any) -> None:
        out.add_attachment("font.ttf", "application/x-truetype-font", bytes(2000))
        out.set_chapters(
            [
                {"id": 1, "start": 0, "end": 600, "time_base": Fraction(1, 1000), "metadata": {}},
                {
                    "id": 2,
                    "start": 600,
                    "end": 9000,
                    "time_base": Fraction(1, 1000),
                    "metadata": {},
                },
            ]
        )

    write(path, sound="aac", sounds=[(0, 1.2), (0, 1.9), (0.2, 1.2)], prepare=prepare)


def with_timecode(path: Path) -> None:
    def prepare(out: Any, stream: Any) -> None:
        out.metadata["timecode"] = "10:00:00:00"

    write(path, codec="prores_ks", pix_fmt="yuv422p10le", sound="pcm_s16le", prepare=prepare)


def tuner(path: Path) -> None:
    """A broadcast of which the recording starts and ends amid a picture."""
    whole = path.with_name("whole.ts")
    write(whole, steady(60), options={"g": "12", "bf": "2"}, sound="mp2", sounds=[(0, 2.4)])
    data = whole.read_bytes()
    whole.unlink()
    packets = [data[place : place + 188] for place in range(0, len(data), 188)]
    starts = [
        place
        for place, packet in enumerate(packets)
        if packet[1] & 0x40 and int.from_bytes(packet[1:3], "big") & 0x1FFF == 256
    ]
    # A tuner repeats its tables; the recording begins with the next ones.
    tables = [p for p in packets if int.from_bytes(p[1:3], "big") & 0x1FFF in (0, 4096)][:2]
    path.write_bytes(b"".join([*tables, *packets[starts[4] + 2 : starts[50] - 1]]))


def joined(path: Path, clocks: Sequence[str]) -> None:
    """Recordings one behind the other, each with a clock of its own."""
    parts = []
    for place, offset in enumerate(clocks):
        part = path.with_name(f"{place}.ts")
        write(
            part, steady(COUNT // len(clocks)), sound="aac", sounds=[(0, 1.2 / len(clocks))],
            muxer={"output_ts_offset": offset},
        )  # fmt: skip
        parts.append(part.read_bytes())
        part.unlink()
    path.write_bytes(b"".join(parts))


def junk_behind(path: Path) -> None:
    write(path, sound="aac")
    with path.open("ab") as file:
        file.write(bytes(range(1, 256)) * 40)


def zeros_behind(path: Path) -> None:
    write(path)
    with path.open("ab") as file:
        file.write(bytes(4096))


def trimmed(path: Path, hidden: int, count: int = COUNT, tail: int = 0) -> None:
    """An edit list that leaves out `hidden` pictures at the start and `tail` at the end."""
    times = steady(hidden + count + tail, start=Fraction(-hidden, RATE))
    write(path, times, options={"g": "60"}, sound="aac")
    if tail:
        data = bytearray(path.read_bytes())
        place = data.index(b"elst") + 12  # movie time scale: 1,000
        data[place : place + 4] = struct.pack(">I", count * 1000 // RATE)
        path.write_bytes(data)


def jitter(count: int = COUNT) -> list[Fraction]:
    """Times of a screen recorder: whenever something moved."""
    steps = np.random.default_rng(3).choice([11, 16, 17, 33, 250], count)
    return [Fraction(int(step), 1000) for step in np.cumsum(steps) - steps[0]]


MILLI = Fraction(1, 1000)
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
OPEN_GOP = {"g": "10", "bf": "2", "x264-params": "open-gop=1"}
H265 = {"codec": "libx265"}
OPEN_HEVC = "log-level=none:open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0:scenecut=0"


def kinds() -> Iterator[Kind]:
    def row(name: str, writer: str, feature: str, make: Any = write, **wanted: Any) -> Kind:
        given = {key: wanted.pop(key) for key in ("shown", "label") if key in wanted}
        return Kind(name, writer, feature, partial(make, **wanted), **given)

    longer = {"sounds": [(0.0, 1.35)]}
    # fmt: off
    # Sound or text that outlasts the picture
    yield row("mux.mkv", "mkvmerge, ffmpeg", "sound 0.15 s longer", sound="aac", **longer)
    yield row("long.mkv", "OBS", "sound 4 s longer", sound="aac", sounds=[(0, 5.2)])
    yield row(
        "long.webm", "ffmpeg", "sound 4 s longer", codec="libvpx", sound="libopus",
        sounds=[(0, 5.2)]
    )
    yield row("text.mkv", "mkvmerge", "a subtitle 20 s longer", text=(0, 20))
    yield row(
        "text.mp4", "HandBrake", "sound and picture end apart", sound="aac", sounds=[(0, 5.2)]
    )
    yield row("short.mkv", "ffmpeg", "sound ends early", sound="aac", sounds=[(0, 0.4)])
    yield row("late-sound.mp4", "editor", "sound begins late", sound="aac", sounds=[(0.7, 1.2)])
    yield row(
        "late-picture.mp4", "ffmpeg", "picture begins 1.5 s after the sound",
        times=steady(start=Fraction(38, RATE)), sound="aac", sounds=[(0, 3)]
    )
    yield row(
        "late-picture.mkv", "ffmpeg", "picture begins 1.5 s after the sound",
        times=steady(start=Fraction(38, RATE)), sound="aac", sounds=[(0, 3)]
    )
    yield row(
        "late-picture.ts", "ffmpeg", "picture begins 1.5 s after the sound",
        times=steady(start=Fraction(38, RATE)), sound="aac", sounds=[(0, 3)]
    )
    yield row("three.mkv", "Blu-ray rip", "chapters, a font, three sound tracks", with_extras)
    yield row("cover.mp4", "iTunes, messengers", "cover art", with_cover)
    # Dropped and uneven frames
    one = without(20)
    yield row("one.mp4", "camera", "one of forty frames dropped", times=one, shown=39)
    yield row("one.mkv", "OBS", "one of forty frames dropped", times=one, shown=39)
    yield row(
        "one.webm", "screen recorder", "one of forty frames dropped", times=one, codec="libvpx",
        shown=39
    )
    yield row("one.ts", "IP camera", "one of forty frames dropped", times=one, shown=39)
    yield row("one.flv", "RTMP server", "one of forty frames dropped", times=one, shown=39)
    yield row("one.avi", "capture card", "one null frame", times=one, codec="mpeg4", shown=39)
    yield row(
        "nulls.avi", "VirtualDub", "null frames", times=without(5, 6, 7, 20, 21, 30),
        codec="mjpeg", pix_fmt="yuvj420p", shown=34
    )
    yield row(
        "null-tail.avi", "capture card", "null frames before the last one",
        times=[*steady(29), Fraction(40, RATE)], codec="mpeg4"
    )
    yield row(
        "five.mp4", "phone", "five frames in a row dropped", times=without(*range(20, 25)),
        shown=35
    )
    yield row(
        "five.mkv", "OBS", "five frames in a row dropped", times=without(*range(20, 25)), shown=35
    )
    yield row(
        "five.webm", "MediaRecorder", "five frames dropped, no duration, no cues",
        times=without(*range(20, 25)), codec="libvpx", base=MILLI, streamed=True,
        muxer={"live": "1"}, shown=35
    )
    yield row(
        "pause.webm", "Zoom", "the last picture stands for 3 s", times=steady(),
        codec="libvpx-vp9", base=MILLI, last=Fraction(3)
    )
    yield row("stands.mp4", "screen recorder", "the last picture stands for 3 s", last=Fraction(3))
    yield row(
        "jitter.mp4", "screen recorder", "variable frame rate", times=jitter(),
        base=Fraction(1, 90000)
    )
    yield row("jitter.mkv", "screen recorder", "variable frame rate", times=jitter(), base=MILLI)
    yield row(
        "jitter.webm", "MediaRecorder", "variable rate, no duration, no cues", times=jitter(),
        base=MILLI, codec="libvpx", sound="libopus", streamed=True, muxer={"live": "1"},
        sounds=[(0, 3)]
    )
    yield row(
        "phone.mp4", "phone", "29.97 and 30.01 by turns",
        times=[Fraction(place * 3003 + place % 3 * 40, 90000) for place in range(COUNT)],
        base=Fraction(1, 90000), rate=30, sound="aac"
    )
    # Edit lists and copies
    yield row("turned.mp4", "phone", "rotated by 90 degrees", turned)
    yield row("trim.mp4", "phone", "an edit list hides 4 leading frames", trimmed, hidden=4)
    yield row(
        "trim-most.mp4", "phone", "an edit list hides most frames", trimmed, hidden=40, count=25,
        shown=25
    )
    yield row(
        "trim-both.mp4", "iOS", "an edit list hides the start and the end", trimmed, hidden=6,
        tail=9
    )
    yield row("trim.mov", "QuickTime", "an edit list hides leading frames", trimmed, hidden=7)
    yield row(
        "copy.mp4", "ffmpeg -ss -c copy", "hidden leading frames", copy, begin=0.3, sound="aac",
        options={"g": "12", "bf": "2"}, times=steady(40), shown=32
    )
    yield row(
        "copy.mkv", "ffmpeg -ss -c copy", "starts before zero", copy, begin=0.6, zero=0.6,
        times=steady(40), options={"g": "12", "bf": "2"}, shown=28
    )
    yield row(
        "open.mp4", "ffmpeg -c copy", "open GOP, leading pictures", copy, begin=0.5, zero=0.4,
        times=steady(50), options=OPEN_GOP, shown=40
    )
    yield row(
        "open.mkv", "ffmpeg -c copy", "open GOP, leading pictures", copy, begin=0.5, zero=0.4,
        times=steady(50), options=OPEN_GOP, shown=40
    )
    yield row(
        "open-hevc.mkv", "ffmpeg -c copy", "HEVC, open GOP, leading pictures", copy, begin=0.5,
        zero=0.4, times=steady(50), codec="libx265", options={"x265-params": OPEN_HEVC}, shown=40
    )
    yield row(
        "open-hevc.mp4", "ffmpeg -c copy", "HEVC, open GOP, leading pictures", copy, begin=0.5,
        zero=0.4, times=steady(50), codec="libx265", options={"x265-params": OPEN_HEVC}, shown=40
    )
    yield row(
        "end.mp4", "editor", "copied up to a B-frame", copy, end=1.0, times=steady(40),
        options={"g": "40", "bf": "3"}, shown=25
    )
    # Clocks
    yield row(
        "clock.mkv", "NVR", "an absolute clock", muxer={"output_ts_offset": "36000"}, sound="aac",
        options={"bf": "0"}
    )
    yield row(
        "clock.mp4", "DASH, IP camera", "fragments, an absolute clock",
        muxer={**FRAGMENTS, "output_ts_offset": "36000"}
    )
    yield row(
        "clock.ts", "IPTV", "an absolute clock", muxer={"output_ts_offset": "36000"}, sound="aac"
    )
    yield row(
        "clock.webm", "WebRTC server", "an absolute clock, unknown sizes", codec="libvpx",
        streamed=True, base=MILLI, muxer={"live": "1", "output_ts_offset": "36000"}
    )
    yield row("first.mp4", "camera", "first time stamp 0.2 s", times=steady(start=Fraction(1, 5)))
    yield row("first.mkv", "camera", "first time stamp 0.2 s", times=steady(start=Fraction(1, 5)))
    yield row(
        "first.avi", "camera", "first time stamp 0.2 s", times=steady(start=Fraction(1, 5)),
        codec="mpeg4"
    )
    yield row("first.flv", "RTMP", "first time stamp 7 s", times=steady(start=Fraction(7)))
    yield row(
        "wrap.ts", "tuner, camera", "the 33-bit clock runs over",
        muxer={"output_ts_offset": "95443.1"}, sound="aac"
    )
    yield row(
        "wrap-early.ts", "tuner, camera", "the clock runs over at once",
        muxer={"output_ts_offset": "95443.7"}, options={"bf": "2"}
    )
    yield row("tuner.ts", "tuner", "starts and ends amid a picture", tuner, shown=38)
    yield row(
        "joined.ts", "dash camera", "a recording joined to an older one", joined,
        clocks=("7", "100")
    )
    yield row(
        "joined-back.ts", "dash camera", "recordings joined, the clock goes back", joined,
        clocks=("100", "7", "50")
    )
    yield row(
        "b.mp4", "editor", "B-frames, negative dts", options={"bf": "3", "g": "30"},
        muxer={"movflags": "negative_cts_offsets"}
    )
    yield row("b.avi", "old editor", "H.264 with B-frames in AVI", options={"bf": "2"})
    # Fragments and streams
    yield row(
        "pieces.mp4", "MediaRecorder in Safari", "fragmented", muxer=FRAGMENTS, sound="aac",
        streamed=True
    )
    yield row(
        "pieces-gap.mp4", "MediaRecorder in Chrome", "fragmented, frames dropped",
        times=without(10, 20, 21),
        muxer={"movflags": "empty_moov+default_base_moof", "frag_size": "2000"}, base=MILLI,
        shown=37
    )
    yield row(
        "hybrid.mp4", "OBS", "fragmented, an index at the end",
        muxer={"movflags": "hybrid_fragmented+frag_keyframe"}, sound="aac"
    )
    yield row(
        "cmaf.mp4", "HLS packager", "one fragment per frame",
        muxer={"movflags": "frag_every_frame+empty_moov+default_base_moof+cmaf"}
    )
    yield row(
        "obs.mkv", "OBS", "AAC, long GOP", sound="aac", times=steady(60, 60), rate=60,
        options={"g": "250"}, shown=60
    )
    yield row("stream.mkv", "ffmpeg to a pipe", "no cues, no duration", streamed=True, sound="aac")
    yield row("live.flv", "OBS", "H.264 and AAC", sound="aac", sounds=[(0, 1.7)])
    yield row("pipe.flv", "RTMP dump", "no duration, no size", streamed=True, sound="aac")
    # Codecs, rates and shapes
    yield row("hevc.mp4", "iPhone", "HEVC, hvc1", **H265, sound="aac")
    yield row("hevc.mkv", "HandBrake", "HEVC", **H265)
    yield row("av1.mp4", "YouTube", "AV1", codec="libsvtav1")
    yield row("av1.webm", "Chrome", "AV1 and Opus", codec="libsvtav1", sound="libopus", **longer)
    yield row(
        "vp8.webm", "Firefox", "VP8 with hidden reference frames", codec="libvpx",
        options={"auto-alt-ref": "1", "lag-in-frames": "10", "deadline": "good", "g": "30"}
    )
    yield row(
        "vp9.webm", "YouTube", "VP9 with hidden reference frames", codec="libvpx-vp9",
        options={"auto-alt-ref": "1", "lag-in-frames": "10", "deadline": "good", "g": "30"}
    )
    yield row("vp9.mp4", "browser", "VP9 in MP4", codec="libvpx-vp9")
    yield row(
        "xvid.avi", "DivX camera", "MPEG-4 with B-frames", codec="mpeg4", options={"bf": "2"},
        sound="libmp3lame"
    )
    yield row(
        "mjpeg.avi", "still camera", "Motion JPEG with PCM", codec="mjpeg", pix_fmt="yuvj420p",
        sound="pcm_s16le"
    )
    yield row("mjpeg.mov", "still camera", "Motion JPEG", codec="mjpeg", pix_fmt="yuvj420p")
    yield row("prores.mov", "editor", "ProRes with a timecode track", with_timecode)
    yield row(
        "dv.mpg", "DVD", "MPEG-2 with B-frames", codec="mpeg2video", options={"bf": "2"},
        sound="mp2"
    )
    yield row("old.wmv", "Movie Maker", "WMV2", codec="wmv2")
    yield row("archive.mkv", "archive", "FFV1 and FLAC", codec="ffv1", sound="flac")
    yield row(
        "message.3gp", "messenger", "MPEG-4 part 2", codec="mpeg4", sound="aac", sounds=[(0, 1.3)]
    )
    yield row(
        "film.mkv", "Blu-ray rip", "23.976 frames a second", rate=FILM, times=steady(rate=FILM),
        base=MILLI, sound="ac3", sounds=[(0, 1.4)]
    )
    yield row(
        "ntsc.mov", "camera", "29.97 frames a second", rate=NTSC, times=steady(rate=NTSC),
        base=1 / NTSC
    )
    yield row(
        "ntsc.mts", "camcorder", "interlaced, 29.97", rate=NTSC, times=steady(rate=NTSC),
        base=1 / NTSC, sound="ac3", options={"x264-params": "tff=1:interlaced=1"}
    )
    yield row(
        "refresh.ts", "drone", "intra refresh, one key frame",
        options={"g": "300", "x264-params": "intra-refresh=1"}
    )
    yield row(
        "lapse.mp4", "time lapse", "one frame in ten seconds", rate=Fraction(1, 10),
        times=steady(12, Fraction(1, 10)), base=Fraction(1, 10), shown=12
    )
    yield row("single.mp4", "editor", "a single frame", times=steady(1), shown=1)
    yield row(
        "single.mkv", "editor", "a single frame under long sound", times=steady(1), sound="aac",
        shown=1
    )
    yield row("single.webm", "browser", "a single frame", times=steady(1), codec="libvpx", shown=1)
    yield row("behind.mp4", "downloader", "bytes behind the last box", junk_behind)
    yield row("padding.mp4", "card", "zeros behind the last box", zeros_behind)
    # fmt: on


KINDS = tuple(kinds())
