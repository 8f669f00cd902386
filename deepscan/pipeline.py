"""The chain from frames to frame results: the only threads, the only batching.

Memory is bounded: `prefetch` holds at most `depth` items, `find_faces` at most one stretch between
two key frames (see there), `predict` at most MAX_WAITING frames or the frames whose crops fill one
batch. At 1920x1080 (6.2 MB a frame) that is about 8 + 32 + 8 + 8 pictures, 350 MB in the worst
case, whatever the length of the file; a face-filled 25 frames/s video needs about half.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import TypeVar

import numpy as np

from deepscan.engines.engine import Engine, Predictions
from deepscan.errors import EngineError
from deepscan.faces.detector import FaceDetector
from deepscan.faces.follow import find_faces
from deepscan.options import ScanOptions
from deepscan.types import FacePrediction, Frame, FrameCrops, FrameResult

T = TypeVar("T")

MAX_WAITING = 8  # frames held back for a batch; a face-less hour still flows
DEPTH = 8  # items between two threads


def prefetch(items: Iterable[T], depth: int = DEPTH) -> Generator[T]:
    """Run `items` in a thread of its own, at most `depth` items ahead.

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
        iterator = iter(items)
        try:
            for item in iterator:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

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


def predict(frames: Iterable[FrameCrops], engine: Engine) -> Iterator[FrameResult]:
    """Judge the crops of whole frames in batches; frames leave in the order in which they came.

    Raises:
        EngineError: the engine failed, or gave something that is not a probability.
    """
    waiting: list[FrameCrops] = []
    crops = 0
    for frame in frames:
        waiting.append(frame)
        crops += len(frame.crops)
        if crops >= engine.max_batch or len(waiting) >= MAX_WAITING:
            yield from _judge(waiting, engine)
            waiting, crops = [], 0
    yield from _judge(waiting, engine)


def _judge(frames: list[FrameCrops], engine: Engine) -> Iterator[FrameResult]:
    images = [crop.image for frame in frames for crop in frame.crops]
    scores: list[float] = []
    masks = []
    for start in range(0, len(images), engine.max_batch):
        batch = np.stack(images[start : start + engine.max_batch])
        predictions = _checked(engine.predict(batch), len(batch), engine.name)
        scores += predictions.scores.tolist()
        masks += list(predictions.masks)
    place = 0
    for frame in frames:
        faces = []
        for crop in frame.crops:
            faces.append(FacePrediction(crop, scores[place], masks[place]))
            place += 1
        yield FrameResult(frame.frame, tuple(faces), frame.unscored, frame.looked)


def _checked(predictions: Predictions, count: int, name: str) -> Predictions:
    """No verdict may rest on a NaN, a missing row or a number that is no probability."""
    scores, masks = predictions.scores, predictions.masks
    if scores.shape != (count,) or masks.shape[0] != count:
        raise EngineError(
            f"engine {name} answered {scores.shape} scores and {masks.shape} masks to {count} crops"
        )
    for what in (scores, masks):
        if not (np.isfinite(what).all() and what.min() >= 0 and what.max() <= 1):
            raise EngineError(
                f"engine {name} gave values that are no probabilities (NaN, infinity or out of "
                "0 to 1): run `deepscan doctor`"
            )
    return predictions


def analyze(
    frames: Iterable[Frame], detector: FaceDetector, engine: Engine, options: ScanOptions
) -> Iterator[FrameResult]:
    """The whole chain: decoding, face search and network each in a thread of its own."""
    read = prefetch(frames)
    found = prefetch(find_faces(read, detector, options, size=engine.input_size))
    with closing(read), closing(found):
        yield from predict(found, engine)
