"""The pipeline from frames to frame results, with its threads and batches.

Memory is bounded: `prefetch` holds `depth` items and the next, `find_faces` at most the frames
between two key frames, `predict` at most MAX_WAITING frames. At 1920x1080 (6.2 MB per frame) that
is about 9 + 32 + 17 + 8 pictures, 410 MB in the worst case, for files of any length; a video with
25 frames/s needs about half.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from typing import TypeVar

import numpy as np

from deepscan.engines.engine import Engine, check_predictions
from deepscan.faces.detector import FaceDetector
from deepscan.faces.search import find_faces
from deepscan.faces.turned import turn_picture
from deepscan.options import ScanOptions
from deepscan.scan.segments import (
    FrameCursor,
    Segment,
    TrackState,
    continue_tracks,
    segments_of,
)
from deepscan.scan.timing import Stopwatch, TimedDetector
from deepscan.types import (
    FaceCrop,
    FacePrediction,
    Frame,
    FrameCrops,
    FrameResult,
    Image,
    Mask,
)

T = TypeVar("T")

MAX_WAITING = 8  # frames held back for a batch; frames without faces must not wait long
DEPTH = 8  # items between two threads
SEARCHED = 16  # frames from face search to network: up to the next key frame, at 25 a second


def prefetch(items: Iterable[T], depth: int = DEPTH) -> Generator[T]:
    """Iterate over `items` in a thread, up to `depth` items and one more ahead.

    An error in `items` is raised here, after the items before it. Closing this iterator, or leaving
    the loop over it, stops the thread, closes `items` in it and joins it.
    """
    iterator = iter(items)
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        waiting = deque(thread.submit(next, iterator, end) for _ in range(depth + 1))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, iterator, end))
                yield item  # type: ignore[misc]
        finally:
            for future in waiting:
                future.cancel()
            if (close := getattr(iterator, "close", None)) is not None:
                thread.submit(close).result()


def fan_out(
    items: Iterable[T], consumers: Iterable[Callable[[T], None]], depth: int = DEPTH
) -> Generator[T]:
    """Pass every item to every consumer, each in its own thread, and yield it.

    A consumer gets the items in order and is at most `depth` items behind. An error in one is
    raised here at the next item, and the others stop. When this generator ends, all consumers have
    ended.
    """
    failures: list[BaseException] = []

    def consume(consumer: Callable[[T], None], item: T) -> None:
        try:
            if not failures:
                consumer(item)
        except BaseException as error:
            failures.append(error)

    with ExitStack() as held:
        lines = []
        for consumer in consumers:
            thread = ThreadPoolExecutor(1, thread_name_prefix="fan out")
            held.callback(thread.shutdown, cancel_futures=True)
            lines.append((thread, consumer, deque[Future[None]]()))
        for item in items:
            for thread, consumer, waiting in lines:
                if len(waiting) > depth:
                    waiting.popleft().result()
                waiting.append(thread.submit(consume, consumer, item))
            if failures:
                break
            yield item
        for *_, waiting in lines:
            wait(waiting)
    if failures:
        raise failures[0]


def predict(
    frames: Iterable[FrameCrops], engine: Engine, watch: Stopwatch | None = None
) -> Iterator[FrameResult]:
    """Score the crops of frames in full batches; frames keep their order.

    Raises:
        EngineError: the engine failed, or returned a value that is no probability.
    """
    watch = watch or Stopwatch()
    waiting: deque[FrameCrops] = deque()
    images: list[Image] = []  # crops of waiting frames that have no score yet
    scored: deque[tuple[float, Mask | None]] = deque()  # and what the crops before them got
    for frame in itertools.chain(frames, (None,)):  # None: no frame is left to wait for
        if frame is not None:
            waiting.append(frame)
            images += [crop.image for crop in frame.crops]
        while images and (
            frame is None or len(images) >= engine.max_batch or len(waiting) >= MAX_WAITING
        ):
            batch = np.stack(images[: engine.max_batch])
            del images[: engine.max_batch]
            with watch.measure("network"):
                found = engine.predict(batch)
            found = check_predictions(found.scores, found.masks, engine.name, len(batch))
            masks = itertools.repeat(None, len(batch)) if found.masks is None else found.masks
            scored += zip(found.scores.tolist(), masks, strict=True)
        while waiting and len(waiting[0].crops) <= len(scored):
            done = waiting.popleft()
            faces = tuple(_prediction(crop, *scored.popleft()) for crop in done.crops)
            yield FrameResult(done.frame, faces, done.unscored, done.analysed)


def _prediction(crop: FaceCrop, score: float, mask: Mask | None) -> FacePrediction:
    """Turn the mask back if the crop was turned upright for the network."""
    if crop.face.turn and mask is not None:
        mask = np.ascontiguousarray(turn_picture(mask, -crop.face.turn))
    return FacePrediction(crop, score, mask)


def analyze(
    frames: Iterable[Frame],
    detector: FaceDetector,
    engine: Engine,
    options: ScanOptions,
    *,
    segments: Iterable[Segment] | None = None,
    tracks: TrackState | None = None,
    watch: Stopwatch | None = None,
) -> Generator[FrameResult]:
    """Run the whole pipeline: decoding, face search and network, each in its own thread.

    Close it before the reader of `frames`.

    Args:
        segments: in order and without gaps, up to the last frame; default: `segments_of`.
        tracks: the faces seen before the first segment.
        watch: measures the time of each stage.

    Raises:
        VideoError: raised by `frames`; the results of all frames before it have been yielded.
        EngineError: as in `predict`.
    """
    watch, known = watch or Stopwatch(), tracks or TrackState()
    timed = TimedDetector(detector, watch)
    with closing(prefetch(watch.each("decode", frames))) as read:
        cursor = FrameCursor(read)
        for segment in segments_of(options) if segments is None else segments:
            if cursor.ended:
                break
            part = cursor.until(segment.end)
            if not segment.stride:
                for frame in part:
                    yield FrameResult(frame, (), (), analysed=False)
                continue
            found = find_faces(
                part, timed, options, size=engine.input_size, sampled=segment.sampling()
            )
            with closing(prefetch(continue_tracks(found, known), SEARCHED)) as searched:
                for result in predict(searched, engine, watch):
                    known = known.after(result)
                    yield result
        if cursor.failure is not None:
            raise cursor.failure
