"""Reads every supported file with PyAV, packet by packet, so that a bad packet is skipped.

Slice threading with one thread: with frame threading FFmpeg deadlocks on damaged HEVC, and the
number of frames of a damaged file changes from run to run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deepscan.errors import CorruptError, LimitError
from deepscan.options import Limits
from deepscan.types import Frame, ReadReport, VideoInfo
from deepscan.video.colour import Converter, colour_of
from deepscan.video.completeness import CompletenessCheck, may_repeat, shows_nothing
from deepscan.video.contract import ReadOptions, VideoReader
from deepscan.video.input_file import Source
from deepscan.video.planes import NO_IMAGE, planes_of
from deepscan.video.probe import (
    CODECS,
    Probe,
    check_length,
    check_size,
    open_container,
    pick_stream,
)
from deepscan.video.timestamps import JOINT, SENT, Timestamps
from deepscan.video.turn import Turn, turn_of_frame

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

REASON = "asked for"
PARSED_LATE = 2  # FFmpeg may mark the packet before a damaged one


class PyAVReader(VideoReader):
    """Reads the frames of one video with PyAV.

    The first frame is decoded on opening, so that `info` describes the pictures and not what the
    header claims.

    Raises:
        VideoError: the file cannot be opened, holds no video, or no frame of it can be decoded.
    """

    def __init__(
        self, source: Source, options: ReadOptions, beat: Callable[[], None] | None = None
    ) -> None:
        reason = options.reason or REASON
        self._planes = options.planes
        self._limits = options.limits
        self._source = source
        self._finished = False
        self._index = 0
        with ExitStack() as held:
            container = held.enter_context(open_container(source, self._limits))
            self._decoder = _Decoder(container, source, self._limits, beat)
            self.probe = probe = self._decoder.probe
            self._timestamps = Timestamps(
                probe.time_base, probe.start, probe.step, joined=self._decoder.sent
            )
            self._decoded = self._decoder.frames()
            first = next(self._decoded, None)
            if first is None:
                raise CorruptError(f"{source.path}: no frame of it can be decoded")
            self._size = (first.width, first.height)
            turn = turn_of_frame(first)
            self._converter = Converter(*self._size, turn)
            pts, time = self._timestamps.tick(self._decoder.pts_of(first))
            self._first: tuple[VideoFrame, int, float] | None = (first, pts, time)
            self._info = replace(
                _info(source.path, probe, first, turn, reason),
                start_pts=self._timestamps.start,
                time_offset=time,
            )
            self._remarks = [reason]  # why this reader was chosen, then remarks on the file
            if self._info.colour.tone_mapped:
                self._remark(f"HDR ({self._info.colour.transfer}) was mapped to BT.709")
            if self.probe.hidden:
                self._remark(f"edit_list: {self.probe.hidden} frames are not to be shown")
            self._held = held.pop_all()

    @property
    def _completeness(self) -> CompletenessCheck:
        return self._decoder.completeness

    @property
    def info(self) -> VideoInfo:
        return self._info

    def frames(self) -> Iterator[Frame]:
        """Yield the frames; `image` is read-only and belongs to the frame alone.

        Raises:
            LimitError: too many frames, too large a frame, too long, or no memory.
        """
        import av.error

        limits = self._limits
        while (given := self._next()) is not None:
            decoded, pts, time = given
            del given
            check_size(decoded.width, decoded.height, self._source, limits)
            self._note_size(decoded)
            check_length(self._index, time, self._source, limits)
            try:
                planes = (
                    planes_of(decoded, self._info, self._converter.turn) if self._planes else None
                )
                image = NO_IMAGE if planes else self._converter.convert(decoded)
            except MemoryError as error:
                raise _no_memory(self._source) from error
            except (av.error.FFmpegError, ValueError):
                self._completeness.errors += 1
                continue
            self._completeness.corrupt_frames += bool(decoded.is_corrupt)
            self._completeness.interlaced |= bool(decoded.interlaced_frame)
            self._check_frame(decoded, time)
            frame = Frame(self._index, pts, time, image, planes)
            self._index += 1
            # Keeping the picture would cost an allocation for the next: a quarter of the speed.
            del decoded, image, planes
            yield frame
            del frame
        self._finished = True
        if self._completeness.decoded == 0:
            raise CorruptError(f"{self._info.path}: no frame of it can be turned into a picture")

    def report(self) -> ReadReport:
        return self._completeness.report("pyav", self._info.decoder_reason, finished=self._finished)

    def because(self, reason: str) -> None:
        """Set the reason for this reader where it is known only after opening."""
        self._remarks[0] = reason
        self._info = replace(self._info, decoder_reason="; ".join(self._remarks))

    def _remark(self, what: str) -> None:
        """Add a remark on the file that is not damage."""
        self._remarks.append(what)
        self.because(self._remarks[0])

    def close(self) -> None:
        self._first = None
        self._decoded.close()
        self._held.close()

    def _next(self) -> tuple[VideoFrame, int, float] | None:
        """The next frame with its pts and seconds."""
        first, self._first = self._first, None
        if first is not None:
            return first
        frame = next(self._decoded, None)
        return (
            None if frame is None else (frame, *self._timestamps.tick(self._decoder.pts_of(frame)))
        )

    def _check_frame(self, frame: VideoFrame, time: float) -> None:
        base = float(self.probe.time_base)
        stated = None if frame.pts is None else frame.pts * base
        self._completeness.shown(time, stated, (frame.duration or 0) * base)
        if frame.pts is not None:
            self._completeness.frame_pts.append(frame.pts)

    def _note_size(self, frame: VideoFrame) -> None:
        size = (frame.width, frame.height)
        if size == self._size:
            return
        self._size = size
        width, height = self._converter.size
        note = (
            f"resolution_change: {size[0]}x{size[1]} from frame {self._index} on, "
            f"scaled to {width}x{height}"
        )
        if size[0] * size[1] > width * height:
            self._completeness.notes.append(
                note
            )  # detail was lost: a small face may have been missed
        self._remark(note)


class _Decoder:
    """Decodes a picture stream packet by packet, and counts what the completeness check needs."""

    def __init__(
        self,
        container: InputContainer,
        source: Source,
        limits: Limits,
        beat: Callable[[], None] | None,
    ) -> None:
        self._container, self._source, self._limits = container, source, limits
        self._beat = beat
        self._stream, self.probe = pick_stream(container, source, limits)
        # MPEG-4 in AVI packs two pictures into one packet and sends an empty one for the second.
        packed = self.probe.codec == "mpeg4" and self.probe.container == "avi"
        self.completeness = CompletenessCheck.of(self.probe)
        self.completeness.one_to_one = not packed
        # A recording of a broadcast can start and end anywhere, and can be joined.
        self.sent = self.probe.container in SENT
        self._counts_packets = self.probe.container == "avi"
        self._begun = not self.sent
        self._last_dts: int | None = None
        self._marked: deque[bool] = deque(maxlen=PARSED_LATE)
        self._waiting: deque[int] = deque()

    def frames(self) -> Generator[VideoFrame, None, None]:
        """Yield every frame that can be decoded; a packet with an error is skipped."""
        import av.error

        stream = self._stream
        stream.thread_type = "SLICE"
        context = stream.codec_context
        context.thread_count = 1
        # PyAV ignores these when they are given on opening the container.
        context.options = {
            "max_pixels": str(self._limits.pixels),
            "codec_whitelist": ",".join(CODECS),
        }
        check = self.completeness
        failed_in_a_row = 0
        for packet in self._packets(stream):
            if self._beat is not None:
                self._beat()
            try:
                frames = [] if packet is None else self._decode_packet(packet)
            except av.error.EOFError:
                return
            except MemoryError as error:
                raise _no_memory(self._source) from error
            except av.error.FFmpegError:
                packet = None
            if packet is None:
                if not self._begun:
                    continue
                check.errors += 1
                check.end_errors = int(self.sent)
                failed_in_a_row += 1
                if failed_in_a_row >= self._limits.consecutive_errors:
                    check.gave_up = True
                    return
                continue
            for frame in frames:
                failed_in_a_row = 0
                yield frame
            frames.clear()

    def pts_of(self, frame: VideoFrame) -> int | None:
        """The pts of a frame; in an AVI, which has no times, its number in presentation order."""
        if self._counts_packets and self._waiting:
            return self._waiting.popleft()
        return frame.pts

    def _packets(self, stream: VideoStream) -> Iterator[Packet[VideoStream] | None]:
        """Yield every packet of the stream; None where the container is damaged."""
        import av.error

        while True:
            try:
                yield from self._container.demux(stream)
                return
            except MemoryError as error:
                raise _no_memory(self._source) from error
            except av.error.EOFError:
                return
            except (av.error.FFmpegError, OSError, IndexError):
                # IndexError: damage looks like a new stream, which PyAV does not expect.
                yield None

    def _decode_packet(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        if packet.size and not packet.is_discard:
            self._begun |= bool(packet.is_keyframe)
            if self._begun:
                self._count(packet)
        if self._counts_packets and packet.size and packet.dts is not None:
            self._waiting.append(packet.dts)
            try:
                return list(packet.decode())
            except Exception:
                self._waiting.pop()
                raise
        return list(packet.decode())

    def _count(self, packet: Packet[VideoStream]) -> None:
        check = self.completeness
        if self._jumps(packet):  # two recordings were joined here, so nothing was lost
            check.corrupt_packets -= sum(self._marked)
            self._marked.clear()
        check.corrupt_packets += bool(packet.is_corrupt)
        self._marked.append(bool(packet.is_corrupt))
        check.end_errors = 0
        check.end_corrupt = sum(self._marked) if self.sent else 0
        self._last_dts = packet.dts
        data = bytes(packet)
        if shows_nothing(self.probe.codec, data):
            return
        check.packets += 1
        check.uncoded += may_repeat(self.probe.codec, data)
        if packet.pts is not None and not self._counts_packets:
            check.packet_pts.append(packet.pts)

    def _jumps(self, packet: Packet[VideoStream]) -> bool:
        if packet.dts is None or self._last_dts is None:
            return False
        return abs(packet.dts - self._last_dts) * self.probe.time_base > JOINT


def _no_memory(source: Source) -> LimitError:
    return LimitError("limit_memory", f"{source.path}: the decoder ran out of memory")


def _info(path: Path, probe: Probe, first: VideoFrame, turn: Turn, reason: str) -> VideoInfo:
    width, height = first.width, first.height
    ratio = probe.sample_aspect_ratio
    if turn.transpose:
        width, height, ratio = height, width, 1 / ratio
    return VideoInfo(
        path=path,
        container=probe.container,
        codec=probe.codec,
        pixel_format=first.format.name,
        width=width,
        height=height,
        frame_rate=probe.frame_rate,
        time_base=probe.time_base,
        duration=probe.duration,
        rotation=turn.degrees,
        sample_aspect_ratio=ratio,
        colour=colour_of(first),
        audio=probe.audio,
        still=False,
        decoder="pyav",
        decoder_reason=reason,
    )
