"""Demuxes the sound of an untrusted file into messages, in a worker process.

The tracks are sent as a tiny MP4 with one packet each, from which the parent (../audio.py) reads
codec and set-up bytes; the packets follow one by one with their times.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from deepscan.errors import LimitError
from deepscan.options import Limits
from deepscan.video.input_file import Source
from deepscan.video.isolation import protocol
from deepscan.video.probe import open_container

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream, Packet
    from av.container import InputContainer

FITTING = ("aac", "mp3", "mp3float", "ac3", "eac3", "opus", "libopus", "flac", "alac", "mp2float")
LOOKED_AT = 500  # packets in which every track has to appear, or it counts as empty
LARGEST = protocol.LARGEST - protocol.PACKET_FIELDS.size


def read_audio(source: Source, limits: Limits, notes: list[str]) -> Iterator[tuple[int, bytes]]:
    """Yield the messages TRACKS and PACKET; nothing for a file without sound.

    `notes` receives a sentence for each change to the sound.

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
    """One stream of sound: passes its packets on, or encodes them as AAC."""

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
        # MP4 stores the set-up of a decoder once in its header, not with each packet.
        self.encoder.flags |= 1 << 22
        self.encoder.open()
        self._resampler = AudioResampler("fltp", layout, rate, frame_size=1024)

    def convert(self, packet: Packet[Any] | None) -> Iterator[Packet[Any]]:
        """Yield the packets to send for one packet of the source; None ends the track."""
        import av.error

        if self.encoder is None:
            if packet is not None:
                yield packet
            return
        try:
            decoded = [] if packet is None else packet.decode()
        except av.error.FFmpegError:
            return  # a click in the sound; a note says that it was encoded
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
