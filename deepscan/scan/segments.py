"""Splits the media into segments that are analysed separately, and continues tracks across them.

No face search and no batch crosses a segment border, so a scan that is resumed at a border has the
same result as one that was not interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from deepscan.errors import VideoError
from deepscan.faces.track import MAX_GAP, match, near
from deepscan.options import ScanOptions
from deepscan.types import Face, Frame, FrameCrops, FrameResult

SEGMENT_LENGTH = 600.0  # seconds of media after which the face search starts again


@dataclass(frozen=True, slots=True)
class Segment:
    """A part [start, end) of the media in seconds that is analysed separately.

    Every `stride`-th frame is sampled, none if it is 0; of those only the first in each `every`
    seconds. Times are those of the frames: the stated frame rate may be wrong.
    """

    start: float
    end: float
    stride: int
    every: float = 0.0

    def sampling(self) -> Callable[[Frame], bool]:
        """A predicate for sampled frames; call it once for every frame, in order."""
        last = -1

        def sampled(frame: Frame) -> bool:
            nonlocal last
            if frame.index % self.stride:
                return False
            if self.every:
                now = int((frame.time + 1e-6) / self.every)  # 1.5 / 0.1 is less than 15
                if now <= last:
                    return False
                last = now
            return True

        return sampled


def segments_of(options: ScanOptions, every: float = 0.0) -> Iterator[Segment]:
    """Yield the segments of the media from 0 to infinity by the options.

    Borders are `options.start`, `options.end`, and every multiple of `SEGMENT_LENGTH` between them.
    `every` is as in `Segment`.
    """
    stop = math.inf if options.end is None else options.end
    at = min(max(0.0, options.start), stop)
    if at > 0:
        yield Segment(0.0, at, 0)
    while at < stop:
        border = min(stop, (at // SEGMENT_LENGTH + 1) * SEGMENT_LENGTH)
        yield Segment(at, border, options.stride, every)
        at = border
    if stop < math.inf:
        yield Segment(stop, math.inf, 0)


def skip_before(segments: Iterable[Segment], time: float) -> Iterator[Segment]:
    """The same segments with nothing sampled before `time`, a segment border."""
    yield Segment(0.0, time, 0)
    for segment in segments:
        if segment.end > time:
            yield replace(segment, start=max(segment.start, time))


@dataclass(frozen=True, slots=True)
class TrackState:
    """The last faces of a segment and the first free track id, for the next segment.

    A face at the same place on both sides of a border stays one track. A scene cut exactly at the
    border is not noticed.
    """

    next_track: int = 0
    time: float = -math.inf
    faces: tuple[Face, ...] = ()

    def after(self, result: FrameResult) -> TrackState:
        """The state after one more frame."""
        if not result.analysed:
            return self
        seen = (*(each.crop.face for each in result.faces), *(one.face for one in result.unscored))
        faces = tuple(face for face in seen if face.track_id is not None)
        taken = (1 + face.track_id for face in faces if face.track_id is not None)
        return TrackState(max(self.next_track, *taken, 0), result.frame.time, faces)


def continue_tracks(found: Iterable[FrameCrops], known: TrackState) -> Iterator[FrameCrops]:
    """Change the track ids of a segment so that they continue those of earlier segments."""
    names: dict[int, int] | None = None

    def named(face: Face) -> Face:
        if face.track_id is None or names is None:
            return face
        name = names.get(face.track_id, face.track_id + known.next_track)
        return replace(face, track_id=name)

    for frame in found:
        faces = [crop.face for crop in frame.crops] + [each.face for each in frame.unscored]
        if names is None and frame.analysed:
            names = _same(known, frame.frame.time, faces)
        yield replace(
            frame,
            crops=tuple(replace(crop, face=named(crop.face)) for crop in frame.crops),
            unscored=tuple(replace(each, face=named(each.face)) for each in frame.unscored),
        )


def _same(known: TrackState, time: float, faces: Iterable[Face]) -> dict[int, int]:
    """Match the first faces of a segment with the last before it: new track id -> old one."""
    if time - known.time > MAX_GAP:
        return {}
    new = [face for face in faces if face.track_id is not None]
    pairs = match([face.box for face in known.faces], [face.box for face in new], near)
    names: dict[int, int] = {}
    for before, after in pairs:
        old, young = known.faces[before].track_id, new[after].track_id
        if old is not None and young is not None:
            names[young] = old
    return names


class FrameCursor:
    """Yields frames segment by segment. An error of the file ends them and is kept in `failure`.

    So the frames before the error pass through the whole pipeline.
    """

    def __init__(self, frames: Iterator[Frame]) -> None:
        self.failure: VideoError | None = None
        self._frames = frames
        self._next: Frame | None = None
        self._advance()

    @property
    def ended(self) -> bool:
        return self._next is None

    def until(self, end: float) -> Iterator[Frame]:
        """Yield the remaining frames before `end` seconds."""
        while self._next is not None and self._next.time < end:
            frame = self._next
            self._next = None  # holds one picture less while waiting for the next
            yield frame
            self._advance()

    def _advance(self) -> None:
        try:
            self._next = next(self._frames, None)
        except VideoError as error:
            self._next, self.failure = None, error
