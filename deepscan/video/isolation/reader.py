"""The reader that decodes in a worker process, and checks everything that the worker sends.

Memory: the ring holds at most `RING_BYTES` (but at least two pictures), and each frame that is
handed out owns one picture. The worker pauses when the ring is full.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator

import numpy as np

from deepscan.errors import DecoderCrash
from deepscan.types import Frame, Image, Planes, ReadReport, VideoInfo
from deepscan.video.colour import SCALER
from deepscan.video.contract import ReadOptions, VideoReader
from deepscan.video.input_file import Source
from deepscan.video.isolation import protocol
from deepscan.video.isolation.process import DecoderProcess
from deepscan.video.isolation.protocol import ProtocolError
from deepscan.video.planes import MATRIX_NUMBERS, NO_IMAGE

RING_BYTES = 64 * 2**20
MOST_SLOTS = 16
FOUR_K = 3840 * 2160  # pixels above which the memory limit is doubled


class IsolatedReader(VideoReader):
    """Reads a video through a worker process. `source` stays open; the caller closes it.

    Raises:
        VideoError: the worker reported it, or the worker failed.
    """

    def __init__(self, source: Source, options: ReadOptions) -> None:
        self._planes = options.planes
        self._path = source.path
        self._limits = options.limits
        self._last = -1.0  # media time of the last frame
        self._last_pts: int | None = None
        self._received = 0
        self._report: ReadReport | None = None
        self._info: VideoInfo | None = None
        self._ring: mmap.mmap | None = None
        source.rewind()
        self._worker = DecoderProcess(source, options)
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> VideoInfo:
        assert self._info is not None
        return self._info

    def frames(self) -> Iterator[Frame]:
        """Yield the frames; each owns its picture, which is read-only.

        Raises:
            VideoError: the worker reported it, or failed; frames before it remain valid.
        """
        if self._worker.closed:
            return
        try:
            while True:
                kind, payload = self._receive()
                if kind == protocol.FRAME:
                    yield self._frame(payload)
                elif kind == protocol.END:
                    self._report = protocol.unpack_report(payload, self._received)
                    break
                elif kind == protocol.FAILED:
                    error, self._report = protocol.unpack_failure(payload, self._received)
                    raise error
                else:
                    raise ProtocolError("an unexpected message")
        except ProtocolError as error:
            raise self._distrusted(error) from error
        finally:
            self.close()

    def report(self) -> ReadReport:
        if self._report is not None:
            return self._report
        note = f"stopped: reading ended early, after {self._received} frames"
        info = self.info
        return ReadReport(self._received, 0, False, (note,), info.decoder, info.decoder_reason)

    def close(self) -> None:
        """End the worker if it still runs and close all descriptors."""
        self._worker.close(finished=self._report is not None)
        if self._ring is not None:
            self._ring.close()

    def _receive(self) -> tuple[int, bytes]:
        """Receive the next message other than a heartbeat."""
        while True:
            kind, payload = self._worker.receive(self._allowed())
            if kind != protocol.BEAT:
                return kind, payload

    def _allowed(self) -> float:
        """The total waiting time in seconds for this file, by its known duration."""
        stated = (self._info.duration if self._info else None) or 0.0
        media = min(max(stated, self._last), self._limits.duration)
        return max(self._limits.time_floor, self._limits.time_factor * media)

    def _greet(self) -> None:
        try:
            kind, payload = self._receive()
            if kind == protocol.FAILED:
                raise protocol.unpack_failure(payload, 0)[0]
            if kind != protocol.HELLO:
                raise ProtocolError("no greeting")
            info = protocol.unpack_info(payload, self._path, self._limits)
        except ProtocolError as error:
            raise self._distrusted(error) from error
        self._info = info
        size = info.width * info.height * 3
        self._slots = min(MOST_SLOTS, max(2, RING_BYTES // size))
        # The worker maps whole slots; both sides compute offsets from their size.
        self._ring = self._worker.make_ring(self._slots * size)
        memory = self._limits.memory * (2 if info.width * info.height > FOUR_K else 1)
        self._worker.send(protocol.READY_FIELDS.pack(self._slots, size, memory))

    def _frame(self, payload: bytes) -> Frame:
        if len(payload) != protocol.FRAME_FIELDS.size:
            raise ProtocolError("bad frame")
        index, pts, seconds, slot, has_planes = protocol.FRAME_FIELDS.unpack(payload)
        if index != self._received or slot != index % self._slots:
            raise ProtocolError("bad index or slot")
        if has_planes and not self._planes:
            raise ProtocolError("planes that nobody asked for")
        if index >= self._limits.frames:
            raise ProtocolError("too many frames")
        rising = self._last_pts is None or pts > self._last_pts
        if not rising or not math.isfinite(seconds) or not self._last <= seconds:
            raise ProtocolError("bad time")
        image, planes = self._copy(slot, has_planes)
        self._worker.send(b"\0")  # the slot is free again
        self._received += 1
        self._last, self._last_pts = seconds, pts
        return Frame(index, pts, seconds, image, planes)

    def _copy(self, slot: int, has_planes: bool) -> tuple[Image, Planes | None]:
        """Copy the picture or the planes out of a slot."""
        width, height = self.info.width, self.info.height
        size = width * height * 3
        count = Planes.count(width, height) if has_planes else size
        assert self._ring is not None
        samples = np.frombuffer(self._ring, np.uint8, count, slot * size).copy()
        samples.flags.writeable = False
        if not has_planes:
            return samples.reshape(height, width, 3), None
        matrix = MATRIX_NUMBERS.get(self.info.colour.matrix)
        if matrix not in SCALER:
            raise ProtocolError("planes with a matrix that cannot be")
        return NO_IMAGE, Planes(samples, width, height, matrix)

    def _distrusted(self, error: ProtocolError) -> DecoderCrash:
        self._worker.kill()
        return DecoderCrash(f"{self._path}: the decoder process sent an invalid message ({error})")
