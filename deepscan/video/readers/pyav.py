"""The reader that reads everything: PyAV, packet by packet, so that one bad packet ends nothing.

Slice threading with one thread: with frame threading damaged HEVC deadlocks FFmpeg, and the number
of frames that come out of a damaged file changes from run to run.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from deepscan.errors import CorruptError, LimitError
from deepscan.options import Limits
from deepscan.types import Frame, ReadReport, VideoInfo
from deepscan.video.colour import Converter, Turn, colour_of, turn_of_frame
from deepscan.video.completeness import Account, may_repeat, shows_nothing
from deepscan.video.input_file import Source, open_source
from deepscan.video.probe import CODECS, Probe, check_size, open_container, pick_stream
from deepscan.video.timestamps import JOINT, SENT, Clock

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

REASON = "asked for"
PARSED_LATE = 2  # FFmpeg's mark of a damaged packet may come one packet early


class PyAVReader:
    """Reads the frames of one video with PyAV.

    The first frame is decoded on opening, so that `info` tells what the pictures are and not what
    the header claims. `source` is an open file to use instead of opening `path`; it stays open.
    `beat` is called once a packet, also where no frame comes of it.

    Raises:
        VideoError: the file cannot be opened, holds no video, or no frame of it can be decoded.
    """

    def __init__(
        self,
        path: Path,
        *,
        limits: Limits | None = None,
        source: Source | None = None,
        reason: str = REASON,
        beat: Callable[[], None] | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._beat = beat
        self._finished = False
        self._index = 0
        with ExitStack() as held:
            if source is None:
                source = open_source(path, self._limits)
                held.callback(os.close, source.descriptor)
            self._source = source
            self._container: InputContainer = held.enter_context(
                open_container(source, self._limits)
            )
            self._stream, self.probe = pick_stream(self._container, source, self._limits)
            self._account = _account(self.probe)
            # A stream that is sent can be recorded from anywhere to anywhere, and joined.
            self._sent = self.probe.container in SENT
            self._clock = Clock(
                self.probe.time_base, self.probe.start, self.probe.step, joined=self._sent
            )
            self._counts_packets = self.probe.container == "avi"
            self._begun = not self._sent
            self._last_dts: int | None = None
            self._marked: deque[bool] = deque(maxlen=PARSED_LATE)
            self._waiting: deque[int] = deque()
            self._decoded = self._decode(self._stream)
            self._first: VideoFrame | None = next(self._decoded, None)
            if self._first is None:
                raise CorruptError(f"{path}: no frame of it can be decoded")
            self._size = (self._first.width, self._first.height)
            self._turn = turn_of_frame(self._first)
            self._converter = Converter(*self._size, self._turn)
            first = self._clock.tick(self._pts_of(self._first))
            self._first_tick: tuple[int, float] | None = first
            self._info = replace(
                _info(path, self.probe, self._first, self._turn, reason),
                start_pts=self._clock.start,
                time_offset=first[1],
            )
            self._reason, self._remarks = reason, list[str]()
            if self.probe.hidden:
                self._remark(f"edit_list: {self.probe.hidden} frames are not to be shown")
            self._held = held.pop_all()

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
        while (decoded := self._next()) is not None:
            check_size(decoded.width, decoded.height, self._source, limits)
            self._note_size(decoded)
            pts, time = self._tick(decoded)
            if self._index >= limits.frames:
                raise LimitError(
                    "limit_frames", f"{self._info.path}: more than {limits.frames} frames"
                )
            if time > limits.duration:
                raise LimitError(
                    "limit_time",
                    f"{self._info.path}: runs past {limits.duration:.0f} s of media time",
                )
            try:
                image = self._converter.convert(decoded)
            except MemoryError as error:
                raise _no_memory(self._source) from error
            except (av.error.FFmpegError, ValueError):
                self._account.errors += 1
                continue
            self._account.corrupt_frames += bool(decoded.is_corrupt)
            self._account.interlaced |= bool(decoded.interlaced_frame)
            self._account_for(decoded, time)
            frame = Frame(self._index, pts, time, image)
            self._index += 1
            # A kept picture costs a fresh allocation for the next: a quarter of the speed.
            del decoded, image
            yield frame
            del frame
        self._finished = True
        if self._account.decoded == 0:
            raise CorruptError(f"{self._info.path}: no frame of it can be turned into a picture")

    def report(self) -> ReadReport:
        return self._account.report("pyav", self._info.decoder_reason, finished=self._finished)

    def because(self, reason: str) -> None:
        """Say why this reader was chosen, where that is known only after opening."""
        said = "; ".join((reason, *self._remarks))
        self._info = replace(self._info, decoder_reason=said)
        self._reason = reason

    def _remark(self, what: str) -> None:
        """Say something of the file that is worth knowing and no damage."""
        self._remarks.append(what)
        self.because(self._reason)

    def close(self) -> None:
        self._first = None
        self._decoded.close()
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _tick(self, frame: VideoFrame) -> tuple[int, float]:
        first, self._first_tick = self._first_tick, None
        return first or self._clock.tick(self._pts_of(frame))

    def _next(self) -> VideoFrame | None:
        first, self._first = self._first, None
        return first if first is not None else next(self._decoded, None)

    def _packets(self, stream: VideoStream) -> Iterator[Packet[VideoStream] | None]:
        """Every packet of the stream; None for a place where the container is damaged."""
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

    def _decode(self, stream: VideoStream) -> Generator[VideoFrame, None, None]:
        import av.error

        stream.thread_type = "SLICE"
        context = stream.codec_context
        context.thread_count = 1
        # PyAV ignores these when they are given on opening the container.
        context.options = {
            "max_pixels": str(self._limits.pixels),
            "codec_whitelist": ",".join(CODECS),
        }
        account = self._account
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
                account.errors += 1
                account.end_errors = int(self._sent)
                failed_in_a_row += 1
                if failed_in_a_row >= self._limits.consecutive_errors:
                    account.gave_up = True
                    return
                continue
            for frame in frames:
                failed_in_a_row = 0
                yield frame
            frames.clear()

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
        account = self._account
        if self._jumps(packet):  # no loss: two recordings were joined here
            account.corrupt_packets -= sum(self._marked)
            self._marked.clear()
        account.corrupt_packets += bool(packet.is_corrupt)
        self._marked.append(bool(packet.is_corrupt))
        account.end_errors = 0
        account.end_corrupt = sum(self._marked) if self._sent else 0
        self._last_dts = packet.dts
        data = bytes(packet)
        if shows_nothing(self.probe.codec, data):
            return
        account.packets += 1
        account.uncoded += may_repeat(self.probe.codec, data)
        if packet.pts is not None and not self._counts_packets:
            account.packet_pts.append(packet.pts)

    def _jumps(self, packet: Packet[VideoStream]) -> bool:
        if packet.dts is None or self._last_dts is None:
            return False
        return abs(packet.dts - self._last_dts) * self.probe.time_base > JOINT

    def _pts_of(self, frame: VideoFrame) -> int | None:
        """An AVI knows places and no times: the n-th picture shown has the n-th place."""
        if self._counts_packets and self._waiting:
            return self._waiting.popleft()
        return frame.pts

    def _account_for(self, frame: VideoFrame, time: float) -> None:
        base = float(self.probe.time_base)
        stated = None if frame.pts is None else frame.pts * base
        self._account.shown(time, stated, (frame.duration or 0) * base)
        if frame.pts is not None:
            self._account.frame_pts.append(frame.pts)

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
            self._account.notes.append(note)  # detail was lost: a small face may have been missed
        self._remark(note)


def _no_memory(source: Source) -> LimitError:
    return LimitError("limit_memory", f"{source.path}: the decoder ran out of memory")


def _account(probe: Probe) -> Account:
    # MPEG-4 in AVI packs two pictures into one packet and sends an empty one for the second.
    packed = probe.codec == "mpeg4" and probe.container == "avi"
    return Account(
        step=probe.step,
        promised_frames=probe.promised_frames,
        promised_duration=probe.promised_duration,
        from_zero=probe.from_zero,
        gaps_told=probe.gaps_told,
        one_to_one=not packed,
        notes=list(probe.notes),
    )


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
