"""The chain from frames to frame results: the only threads, the only batching.

Memory is bounded: `prefetch` holds `depth` items and the one in the making, `find_faces` at most
one stretch between two key frames (see there), `predict` at most MAX_WAITING frames. At 1920x1080
(6.2 MB a frame) that is about 9 + 32 + 17 + 8 pictures, 410 MB in the worst case, whatever the
length of the file; a 25 frames/s video needs about half.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from deepscan.engines.engine import Engine, Predictions
from deepscan.errors import EngineError, VideoError
from deepscan.faces.detector import FaceDetector
from deepscan.faces.follow import find_faces
from deepscan.faces.track import MAX_GAP, match, near
from deepscan.options import ScanOptions
from deepscan.types import (
    Face,
    FacePrediction,
    Frame,
    FrameCrops,
    FrameResult,
    Image,
    Mask,
)

T = TypeVar("T")

MAX_WAITING = 8  # frames held back for a batch; a face-less hour still flows
DEPTH = 8  # items between two threads
SEGMENT = 600.0  # seconds of media after which the face search begins anew
STRETCH = (
    16  # frames between face search and network: those up to the next key frame, at 25 a second
)


def prefetch(items: Iterable[T], depth: int = DEPTH) -> Generator[T]:
    """Run `items` in a thread of its own: `depth` items wait at most, and one is in the making.

    An error in `items` is raised here, after the items before it. Closing this iterator, or leaving
    the loop over it, stops the thread, closes `items` there and joins it.
    """
    waiting: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[bool, T | BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            iterator = iter(items)
            try:
                for item in iterator:
                    if not put((True, item)):
                        return
            finally:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = waiting.get()
            if is_item:
                yield value  # type: ignore[misc]
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        stopped.set()
        thread.join()


def fan_out(
    items: Iterable[T], consumers: Iterable[Callable[[T], None]], depth: int = DEPTH
) -> Generator[T]:
    """Hand every item to every consumer, each in a thread of its own, and yield it.

    A consumer gets the items in order and is at most `depth` items behind. An error in one is
    raised here at the next item; the others stop where they are. When this ends, for whatever
    reason, no consumer runs any more.
    """
    failures: list[BaseException] = []
    stopped = threading.Event()

    def work(waiting: queue.Queue[tuple[T] | None], consume: Callable[[T], None]) -> None:
        while not stopped.is_set():
            try:
                entry = waiting.get(timeout=0.1)
            except queue.Empty:
                continue
            if entry is None:
                return
            try:
                consume(entry[0])
            except BaseException as error:
                failures.append(error)
                stopped.set()

    def put(waiting: queue.Queue[tuple[T] | None], entry: tuple[T] | None) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(entry, timeout=0.1)
            except queue.Full:
                continue

    lines: list[queue.Queue[tuple[T] | None]] = []
    threads = []
    try:
        for consume in consumers:
            waiting: queue.Queue[tuple[T] | None] = queue.Queue(depth)
            lines.append(waiting)
            threads.append(threading.Thread(target=work, args=(waiting, consume), daemon=True))
            threads[-1].start()
        for item in items:
            for waiting in lines:
                put(waiting, (item,))
            if failures:
                break
            yield item
        for waiting in lines:
            put(waiting, None)
    except BaseException:
        stopped.set()
        raise
    finally:
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def predict(frames: Iterable[FrameCrops], engine: Engine) -> Iterator[FrameResult]:
    """Judge the crops of frames in full batches; frames leave in the order in which they came.

    Raises:
        EngineError: the engine failed, or gave something that is not a probability.
    """
    waiting: deque[FrameCrops] = deque()
    images: list[Image] = []  # crops of waiting frames that are not judged yet
    judged: deque[tuple[float, Mask]] = deque()  # and what was said about those before them
    for frame in frames:
        waiting.append(frame)
        images += [crop.image for crop in frame.crops]
        while len(images) >= engine.max_batch or (images and len(waiting) >= MAX_WAITING):
            judged += _judge(images[: engine.max_batch], engine)
            del images[: engine.max_batch]
        while waiting and len(waiting[0].crops) <= len(judged):
            yield _result(waiting.popleft(), judged)
    for start in range(0, len(images), engine.max_batch):
        judged += _judge(images[start : start + engine.max_batch], engine)
    for frame in waiting:
        yield _result(frame, judged)


def _result(frame: FrameCrops, judged: deque[tuple[float, Mask]]) -> FrameResult:
    faces = tuple(FacePrediction(crop, *judged.popleft()) for crop in frame.crops)
    return FrameResult(frame.frame, faces, frame.unscored, frame.looked)


def _judge(images: list[Image], engine: Engine) -> Iterator[tuple[float, Mask]]:
    predictions = engine.predict(np.stack(images))
    _check(predictions, len(images), engine.name)
    return zip(predictions.scores.tolist(), predictions.masks, strict=True)


def _check(predictions: Predictions, count: int, name: str) -> None:
    """No verdict may rest on a NaN, a missing row or a number that is no probability."""
    scores, masks = predictions.scores, predictions.masks
    if scores.shape != (count,) or masks.ndim != 3 or len(masks) != count or not masks.size:
        raise EngineError(
            f"engine {name} answered {scores.shape} scores and {masks.shape} masks to {count} "
            "crops: run `deepscan doctor`"
        )
    for what in (scores, masks):
        if not (np.isfinite(what).all() and what.min() >= 0 and what.max() <= 1):
            raise EngineError(
                f"engine {name} gave values that are no probabilities (NaN, infinity or out of "
                "0 to 1): run `deepscan doctor`"
            )


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part [start, end) of the media in seconds that is searched for faces on its own.

    Every `stride`-th frame is looked at, none if it is 0; and of those the first in each `every`
    seconds. That is time as the frames have it: the rate that a file states may lie.
    """

    start: float
    end: float
    stride: int
    every: float = 0.0


def stretches_of(options: ScanOptions, every: float = 0.0) -> Iterator[Stretch]:
    """The media from its beginning to infinity, as the options want it looked at.

    Borders are `options.start` and `options.end`, and every multiple of `SEGMENT` between them. No
    search and no batch crosses one, so that a scan that goes on at a border says the same as one
    that was never interrupted. `every` is as in `Stretch`.
    """
    stop = math.inf if options.end is None else options.end
    at = min(max(0.0, options.start), stop)
    if at > 0:
        yield Stretch(0.0, at, 0)
    while at < stop:
        border = min(stop, (at // SEGMENT + 1) * SEGMENT)
        yield Stretch(at, border, options.stride, every)
        at = border
    if stop < math.inf:
        yield Stretch(stop, math.inf, 0)


@dataclass(frozen=True, slots=True)
class Handover:
    """What one stretch hands to the next: its faces, as they were last seen, and a free number.

    A face that is in its place on both sides of a border stays one track. A cut of the picture just
    there is not noticed.
    """

    next_track: int = 0
    time: float = -math.inf
    faces: tuple[Face, ...] = ()

    def after(self, result: FrameResult) -> Handover:
        """The same once a frame more has passed."""
        if not result.analysed:
            return self
        seen = (*(each.crop.face for each in result.faces), *(one.face for one in result.unscored))
        faces = tuple(face for face in seen if face.track_id is not None)
        taken = (1 + face.track_id for face in faces if face.track_id is not None)
        return Handover(max(self.next_track, *taken, 0), result.frame.time, faces)


def behind(stretches: Iterable[Stretch], border: float) -> Iterator[Stretch]:
    """The same stretches with nobody looking before `border`, where one of them begins."""
    yield Stretch(0.0, border, 0)
    for stretch in stretches:
        if stretch.end > border:
            yield replace(stretch, start=max(stretch.start, border))


def analyze(
    frames: Iterable[Frame],
    detector: FaceDetector,
    engine: Engine,
    options: ScanOptions,
    *,
    stretches: Iterable[Stretch] | None = None,
    handover: Handover | None = None,
) -> Generator[FrameResult]:
    """The whole chain: decoding, face search and network each in a thread of its own.

    Close it before closing what `frames` reads from.

    Args:
        stretches: in order and without gaps, until no frame is left; by default `stretches_of`.
        handover: what was seen before the first of them.

    Raises:
        VideoError: raised by `frames`; the results of all frames before it have been yielded.
        EngineError: as in `predict`.
    """
    read, known = prefetch(frames), handover or Handover()
    with closing(read):
        line = _Line(read)
        for stretch in stretches_of(options) if stretches is None else stretches:
            if line.ended:
                break
            part = line.until(stretch.end)
            if not stretch.stride:
                for frame in part:
                    yield FrameResult(frame, (), (), analysed=False)
                continue
            search = _search(part, stretch, detector, options, engine.input_size)
            found = prefetch(_renamed(search, known), STRETCH)
            with closing(found):
                for result in predict(found, engine):
                    known = known.after(result)
                    yield result
        if line.failure is not None:
            raise line.failure


class _Line:
    """Frames that are taken in parts. An error of the file ends them, and is kept for later.

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


def _search(
    frames: Iterator[Frame],
    stretch: Stretch,
    detector: FaceDetector,
    options: ScanOptions,
    size: int,
) -> Iterator[FrameCrops]:
    if not stretch.every:
        chosen = replace(options, stride=stretch.stride)
        yield from find_faces(frames, detector, chosen, size=size)
        return
    # The face search chooses by index. Doubled, and made odd where nobody shall look, it says both.
    for found in find_faces(
        _thinned(frames, stretch), detector, replace(options, stride=2), size=size
    ):
        yield replace(found, frame=replace(found.frame, index=found.frame.index // 2))


def _thinned(frames: Iterable[Frame], stretch: Stretch) -> Iterator[Frame]:
    last = -1
    for frame in frames:
        now = int((frame.time + 1e-6) / stretch.every)  # 1.5 / 0.1 is less than 15
        looked = frame.index % stretch.stride == 0 and now > last
        if looked:
            last = now
        yield replace(frame, index=2 * frame.index + (not looked))


def _renamed(found: Iterable[FrameCrops], known: Handover) -> Iterator[FrameCrops]:
    """The same with track numbers that go on where those of the stretch before ended."""
    names: dict[int, int] | None = None

    def named(face: Face) -> Face:
        if face.track_id is None or names is None:
            return face
        name = names.get(face.track_id, face.track_id + known.next_track)
        return replace(face, track_id=name)

    for frame in found:
        faces = [crop.face for crop in frame.crops] + [each.face for each in frame.unscored]
        if names is None and frame.looked:
            names = _same(known, frame.frame.time, faces)
        yield replace(
            frame,
            crops=tuple(replace(crop, face=named(crop.face)) for crop in frame.crops),
            unscored=tuple(replace(each, face=named(each.face)) for each in frame.unscored),
        )


def _same(known: Handover, time: float, faces: Iterable[Face]) -> dict[int, int]:
    """Which of the first faces of a stretch are those before it: new number -> old one."""
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
