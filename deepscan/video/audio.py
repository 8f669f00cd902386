"""The sound of a source in a new file: bit for bit where the container can hold it.

The source is as untrusted as for its pictures, so a worker process takes it apart (`read_sound`)
and the parent only files the packets away (`Sound`), with the times that they had: picture and
sound stay as far apart as they were. The tracks travel as a tiny MP4 with one packet each, from
which the parent takes codec and set-up bytes; the packets follow one by one with their own times.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from deepscan.errors import LimitError, VideoError
from deepscan.options import Limits
from deepscan.video.input_file import Source, open_source, still_format
from deepscan.video.isolation import protocol
from deepscan.video.isolation.process import DecoderProcess
from deepscan.video.isolation.protocol import ProtocolError
from deepscan.video.probe import open_container
from deepscan.video.timestamps import JOINT

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream, Packet
    from av.container import InputContainer, OutputContainer


@dataclass(frozen=True, slots=True)
class _Sample:
    track: int
    pts: int
    dts: int
    duration: int
    time_base: Fraction
    data: bytes


class Sound:
    """Copies the sound of `path` into `out`, a piece at a time as the pictures move on.

    With `joined` a jump of the clock is where another recording was joined, as for `Clock`.
    A source without sound, or whose sound cannot be read, gives none; `notes` says why.
    """

    def __init__(
        self,
        path: Path,
        out: OutputContainer,
        limits: Limits | None = None,
        *,
        joined: bool = False,
    ) -> None:
        self._out = out
        self._joined = joined
        self._ends: dict[int, tuple[int, int]] = {}  # of each track: where it is, and its shift
        self._limits = limits or Limits()
        self._start = Fraction(0)
        self._notes: list[str] = []
        self._targets: list[AudioStream] = []
        self._last: dict[int, int] = {}  # dts of the last packet of each track
        self._worker: DecoderProcess | None = None
        self._next: _Sample | None = None
        try:
            with ExitStack() as held:
                source = open_source(path, self._limits)
                held.callback(os.close, source.descriptor)
                if still_format(source) is not None:
                    return
                source.rewind()
                self._worker = DecoderProcess(source, self._limits, task="sound")
            self._next = self._read()
        except VideoError as error:
            self._give_up(error)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def start_at(self, time: Fraction) -> None:
        """Make `time` (s) of the source the zero of the new file."""
        self._start = time

    def copy_until(self, time: Fraction) -> None:
        """Copy what comes before `time` (s) in the new file, so that both streams interleave."""
        while self._next is not None:
            if self._next.dts * self._next.time_base - self._start >= time:
                return
            self._copy(self._next)
            self._next = self._read()

    def copy_rest(self) -> None:
        """Copy all that is left."""
        while self._next is not None:
            self._copy(self._next)
            self._next = self._read()

    def close(self) -> None:
        self._next = None
        if self._worker is not None:
            self._worker.close(finished=False)
            self._worker = None

    def _give_up(self, error: Exception) -> None:
        self._notes.append(f"sound left out or cut short: {error}")
        self.close()

    def _read(self) -> _Sample | None:
        """The next packet; None at the end, also where the worker fails."""
        try:
            while self._worker is not None:
                allowed = self._limits.time_factor * self._limits.duration
                kind, payload = self._worker.hear(allowed)
                if kind == protocol.PACKET:
                    return self._sample(payload)
                if kind == protocol.TRACKS and not self._targets:
                    self._add_tracks(payload)
                elif kind == protocol.NOTES:
                    self._notes += protocol.unpack_notes(payload)
                elif kind == protocol.FAILED:
                    self._give_up(protocol.unpack_failure(payload, 0)[0])
                elif kind == protocol.END:
                    self.close()
                elif kind != protocol.BEAT:
                    raise ProtocolError("an unexpected message")
        except (VideoError, ProtocolError) as error:
            self._give_up(error)
        return None

    def _sample(self, payload: bytes) -> _Sample:
        sample = _Sample(*protocol.unpack_packet(payload))
        if sample.track >= len(self._targets):
            raise ProtocolError("a packet of no track")
        if not self._joined:
            return sample
        end, shift = self._ends.get(sample.track, (sample.dts, 0))
        if abs(sample.dts + shift - end) * sample.time_base > JOINT:
            shift = end - sample.dts
        self._ends[sample.track] = (sample.dts + shift + sample.duration, shift)
        return replace(sample, pts=sample.pts + shift, dts=sample.dts + shift)

    def _add_tracks(self, template: bytes) -> None:
        import av
        import av.error

        try:
            with av.open(io.BytesIO(template), format="mp4") as tracks:
                for stream in tracks.streams.audio:
                    self._targets.append(self._out.add_stream_from_template(stream))
        except (av.error.FFmpegError, ValueError) as error:
            raise ProtocolError("tracks that are none") from error

    def _copy(self, sample: _Sample) -> None:
        import av.error
        from av import Packet

        ticks = round(self._start / sample.time_base)
        # A damaged clock must not end the film: MP4 wants rising times.
        dts = max(sample.dts - ticks, self._last.get(sample.track, -protocol.HUGE) + 1)
        self._last[sample.track] = dts
        packet = Packet(sample.data)
        packet.dts = dts
        packet.pts = max(sample.pts - ticks, dts)
        packet.duration = sample.duration
        packet.time_base = sample.time_base
        packet.stream = self._targets[sample.track]
        try:
            self._out.mux(packet)
        except (av.error.ArgumentError, av.error.InvalidDataError) as error:
            self._give_up(error)


FITTING = ("aac", "mp3", "mp3float", "ac3", "eac3", "opus", "libopus", "flac", "alac", "mp2float")
LOOKED_AT = 500  # packets until every track has shown one; the rest is taken for empty
LARGEST = protocol.LARGEST - protocol.PACKET_FIELDS.size


def read_sound(source: Source, limits: Limits, notes: list[str]) -> Iterator[tuple[int, bytes]]:
    """Yield the messages TRACKS and PACKET; nothing for a file without sound.

    `notes` is filled with what could not be kept.

    Raises:
        VideoError: the file cannot be read.
    """
    with open_container(source, limits) as container:
        tracks = {
            stream.index: _Track(stream, notes)
            for stream in container.streams.audio
            if stream.codec_context is not None
        }
        if not tracks:
            return
        first: list[tuple[int, Packet[Any]]] = []
        packets = _packets(container, tracks, notes)
        seen: set[int] = set()
        for index, packet in packets:
            first.append((index, packet))
            seen.add(index)
            if seen == set(tracks) or len(first) >= LOOKED_AT:
                break
        order = sorted(seen)
        if not order:
            return
        yield protocol.TRACKS, _template([tracks[index] for index in order], order, first)
        for index, packet in first:
            yield protocol.PACKET, _pack(order.index(index), packet)
        first.clear()
        for index, packet in packets:
            if index in seen:
                yield protocol.PACKET, _pack(order.index(index), packet)


class _Track:
    """One stream of sound: its packets as they are, or encoded as AAC."""

    def __init__(self, stream: AudioStream, notes: list[str]) -> None:
        from av import AudioResampler, CodecContext

        self.stream = stream
        self.encoder: Any = None
        context = stream.codec_context
        if context.name in FITTING:
            return
        notes.append(f"sound encoded as AAC: MP4 cannot hold {context.name}")
        rate = context.sample_rate if context.sample_rate in (44_100, 48_000) else 48_000
        layout = "mono" if context.channels == 1 else "stereo"
        self.encoder = CodecContext.create("aac", "w")
        self.encoder.sample_rate = rate
        self.encoder.layout = layout
        self.encoder.format = "fltp"
        # An MP4 keeps the set-up of a decoder once, in front, and not with each packet.
        self.encoder.flags |= 1 << 22
        self.encoder.open()
        self._resampler = AudioResampler("fltp", layout, rate, frame_size=1024)

    def convert(self, packet: Packet[Any] | None) -> Iterator[Packet[Any]]:
        """The packets to send for one packet of the source; None ends the track."""
        import av.error

        if self.encoder is None:
            if packet is not None:
                yield packet
            return
        try:
            decoded = [] if packet is None else packet.decode()
        except av.error.FFmpegError:
            return  # a click in the sound; that it was encoded is noted
        for frame in cast("list[AudioFrame]", decoded):
            for piece in self._resampler.resample(frame):
                yield from self.encoder.encode(piece)
        if packet is None:
            for piece in self._resampler.resample(None):
                yield from self.encoder.encode(piece)
            yield from self.encoder.encode(None)


def _packets(
    container: InputContainer, tracks: dict[int, _Track], notes: list[str]
) -> Iterator[tuple[int, Packet[Any]]]:
    import av.error

    try:
        for packet in container.demux(*(track.stream for track in tracks.values())):
            if packet.size and packet.dts is not None and packet.pts is not None:
                for converted in tracks[packet.stream.index].convert(packet):
                    yield packet.stream.index, converted
    except (av.error.FFmpegError, IndexError):
        notes.append("sound incomplete: the source is damaged")
    for index, track in tracks.items():
        for converted in track.convert(None):
            yield index, converted


def _template(
    tracks: list[_Track], order: list[int], first: list[tuple[int, Packet[Any]]]
) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        # All streams before the first packet: FFmpeg divides by zero if one comes after the header.
        streams = []
        for track in tracks:
            if track.encoder is None:
                streams.append(out.add_stream_from_template(track.stream))
            else:
                stream = out.add_stream("aac", rate=track.encoder.sample_rate)
                stream.codec_context.layout = track.encoder.layout
                streams.append(stream)
        for index, stream in zip(order, streams, strict=True):
            packet = next(packet for place, packet in first if place == index)
            sample = av.Packet(bytes(packet))
            sample.pts = sample.dts = 0
            if packet.time_base is not None:
                sample.time_base = packet.time_base
            sample.stream = stream
            out.mux(sample)
    return file.getvalue()


def _pack(track: int, packet: Packet[Any]) -> bytes:
    if packet.size > LARGEST:
        raise LimitError("limit_memory", "a packet of sound is too large")
    time_base = packet.time_base
    assert packet.pts is not None and time_base is not None
    dts = packet.pts if packet.dts is None else packet.dts
    fields = protocol.PACKET_FIELDS.pack(
        track,
        packet.pts,
        dts,
        packet.duration or 0,
        time_base.numerator,
        time_base.denominator,
    )
    return fields + bytes(packet)
