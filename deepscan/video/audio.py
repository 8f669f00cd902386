"""Copies the sound of a source into a new file, bit for bit where the container can hold it.

The source is untrusted, so a worker process demuxes it (readers/audio.py) and sends the packets.
The parent (`Audio`) writes them with their original times, so picture and sound stay in sync.
"""

from __future__ import annotations

import io
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from deepscan.errors import VideoError
from deepscan.options import Limits
from deepscan.video.contract import ReadOptions
from deepscan.video.formats import still_format
from deepscan.video.input_file import open_source
from deepscan.video.isolation import protocol
from deepscan.video.isolation.process import DecoderProcess
from deepscan.video.isolation.protocol import ProtocolError
from deepscan.video.timestamps import JOINT

if TYPE_CHECKING:
    from av import AudioStream
    from av.container import OutputContainer


@dataclass(frozen=True, slots=True)
class _Sample:
    track: int
    pts: int
    dts: int
    duration: int
    time_base: Fraction
    data: bytes


class Audio:
    """Copies the sound of `path` into `out`, interleaved with the pictures.

    With `joined` a jump of the clock marks the start of another recording, as in `Timestamps`. If
    the source has no readable sound, nothing is copied and `notes` says why.
    """

    def __init__(self, path: Path, out: OutputContainer, *, joined: bool = False) -> None:
        self._out = out
        self._joined = joined
        self._ends: dict[int, tuple[int, int]] = {}  # by track: its end so far, and its shift
        self._limits = Limits()
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
                self._worker = DecoderProcess(source, ReadOptions("auto", self._limits), "audio")
            self._next = self._read()
        except VideoError as error:
            self._give_up(error)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def start_at(self, time: Fraction) -> None:
        """Write times relative to `time` (s) of the source."""
        self._start = time

    def copy_until(self, time: Fraction) -> None:
        """Copy the packets before `time` (s) of the new file, so that both streams interleave."""
        while self._next is not None:
            if self._next.dts * self._next.time_base - self._start >= time:
                return
            self._copy(self._next)
            self._next = self._read()

    def copy_rest(self) -> None:
        """Copy the remaining packets."""
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
        """Receive the next packet; None at the end or after a failure of the worker."""
        try:
            while self._worker is not None:
                allowed = self._limits.time_factor * self._limits.duration
                kind, payload = self._worker.receive(allowed)
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
        # MP4 requires rising times; a damaged clock must not end the copy.
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
