"""The media in segments, each searched for faces on its own, and the tracks that go across them.

A scan that is resumed at a border between two segments says the same as one that was never
interrupted: no face search and no batch crosses a border.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from deepscan.errors import VideoError
from deepscan.faces.track import MAX_GAP, match, near
from deepscan.options import ScanOptions
from deepscan.types import Face, Frame, FrameCrops, FrameResult

SEGMENT_LENGTH = 600.0  # seconds of media after which the face search begins anew


@dataclass(frozen=True, slots=True)
class Segment:
    """A part [start, end) of the media in seconds that is searched for faces on its own.

    Every `stride`-th frame is sampled, none if it is 0; and of those the first in each `every`
    seconds. That is time as the frames have it: the rate that a file states may lie.
    """

    start: float
    end: float
    stride: int
    every: float = 0.0

    def sampling(self) -> Callable[[Frame], bool]:
        """Whether a frame is sampled; to be asked once for every frame, in order."""
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
    """The media from its beginning to infinity, as the options want it sampled.

    Borders are `options.start` and `options.end`, and every multiple of `SEGMENT_LENGTH` between
    them. `every` is as in `Segment`.
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
    """The same segments with nothing sampled before `time`, where one of them begins."""
    yield Segment(0.0, time, 0)
    for segment in segments:
        if segment.end > time:
            yield replace(segment, start=max(segment.start, time))


@dataclass(frozen=True, slots=True)
class TrackState:
    """The faces of a segment as they were last seen, and the first free track id, for the next one.

    A face that is in its place on both sides of a border stays one track. A cut of the picture just
    there is not noticed.
    """

    next_track: int = 0
    time: float = -math.inf
    faces: tuple[Face, ...] = ()

    def after(self, result: FrameResult) -> TrackState:
        """The same once a frame more has passed."""
        if not result.analysed:
            return self
        seen = (*(each.crop.face for each in result.faces), *(one.face for one in result.unscored))
        faces = tuple(face for face in seen if face.track_id is not None)
        taken = (1 + face.track_id for face in faces if face.track_id is not None)
        return TrackState(max(self.next_track, *taken, 0), result.frame.time, faces)


def continue_tracks(found: Iterable[FrameCrops], known: TrackState) -> Iterator[FrameCrops]:
    """The crops of a segment with track ids that continue those of the segments before it."""
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
    """Which of the first faces of a segment are those before it: new track id -> old one."""
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
    """Frames that are taken segment by segment. An error of the file ends them and is kept.

    So what was decoded before the error goes through the whole chain instead of being lost in it.
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
        """The frames that are left and lie before `end` seconds."""
        while self._next is not None and self._next.time < end:
            frame = self._next
            self._next = None  # one picture less is held while the next is waited for
            yield frame
            self._advance()

    def _advance(self) -> None:
        try:
            self._next = next(self._frames, None)
        except VideoError as error:
            self._next, self.failure = None, error
