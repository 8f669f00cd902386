"""The chain: order, bounds, batches, and threads that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscan.engines.engine import Predictions
from deepscan.errors import CorruptError, EngineError
from deepscan.options import ScanOptions
from deepscan.scan.pipeline import (
    DEPTH,
    MAX_WAITING,
    analyze,
    fan_out,
    predict,
    prefetch,
)
from deepscan.scan.segments import Segment, TrackState, skip_before
from deepscan.types import Box, Face, FaceCrop, Frame, FrameCrops, UnscoredFace
from tests.conftest import HIGH, LOW, blue_engine, draw_face
from tests.fakes import FakeDetector, FakeEngine

BLANK = np.zeros((0, 0, 3), np.uint8)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert running() == []


def running():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


class Source:
    """Numbers that are counted as they are taken; says whether it was closed."""

    def __init__(self, length=None, error=None):
        self.taken, self.closed = 0, False
        self._length, self._error = length, error

    def __iter__(self):
        try:
            for number in count() if self._length is None else range(self._length):
                self.taken += 1
                yield number
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_prefetch_keeps_every_item_in_order(items, depth):
    assert list(prefetch(items, depth)) == items


def test_an_error_comes_after_the_items_before_it():
    source = Source(5, CorruptError("broken"))
    seen = []
    with pytest.raises(CorruptError, match="broken"):
        seen.extend(prefetch(source, depth=2))
    assert seen == [0, 1, 2, 3, 4]
    assert source.closed


def test_what_cannot_even_be_begun_is_an_error_too():
    class Bad:
        def __iter__(self):
            raise CorruptError("no beginning")

    with pytest.raises(CorruptError, match="no beginning"):
        list(prefetch(Bad()))


@pytest.mark.parametrize("taken", [1, 3])
def test_leaving_early_closes_the_source_and_ends_the_thread(taken):
    source = Source()
    stream = prefetch(source, depth=2)
    assert list(islice(stream, taken)) == list(range(taken))
    stream.close()
    assert source.closed
    assert running() == []


def test_leaving_a_loop_by_an_error_ends_the_thread():
    source = Source()
    with pytest.raises(ZeroDivisionError):
        for item in prefetch(source, depth=2):
            1 / item
    assert source.closed


@pytest.mark.parametrize("depth", [1, 4])
def test_it_runs_ahead_by_no_more_than_it_says(depth):
    source = Source()
    stream = prefetch(source, depth)
    next(stream)
    before = -1
    while source.taken != before:  # until it no longer runs
        before = source.taken
        time.sleep(0.25)
    assert source.taken == 1 + depth + 1  # given out, waiting, in the making
    stream.close()


def test_two_in_a_row_end_together():
    source = Source()
    first = prefetch(source, 2)
    second = prefetch((item for item in first), 2)
    assert next(second) == 0
    second.close()
    first.close()
    assert source.closed


# Predicting


def frame_of(index, values, unscored=(), looked=True):
    """A frame whose crops are grey pictures of those values."""
    crops = tuple(
        FaceCrop(Face(Box(0, 0, 9, 9), 1.0, None, track), Box(0, 0, 9, 9), grey(value), 99.0)
        for track, value in enumerate(values)
    )
    return FrameCrops(Frame(index, index, index / 25, BLANK), crops, unscored, looked)


def grey(value):
    return np.full((64, 64, 3), value, np.uint8)


@given(
    st.lists(st.lists(st.integers(0, 255), max_size=11), max_size=25),
    st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_every_crop_gets_its_own_answer_and_frames_stay_in_order(crops, max_batch):
    engine = FakeEngine(max_batch=max_batch)
    frames = [frame_of(index, values) for index, values in enumerate(crops)]
    results = list(predict(frames, engine))
    assert [result.frame.index for result in results] == list(range(len(crops)))
    for values, result in zip(crops, results, strict=True):
        assert [face.score for face in result.faces] == pytest.approx([v / 255 for v in values])
        assert [face.crop.face.track_id for face in result.faces] == list(range(len(values)))
        assert [face.mask.mean() for face in result.faces] == pytest.approx(
            [v / 255 for v in values]
        )
    assert sum(engine.batches) == sum(map(len, crops))


@pytest.mark.parametrize("faces", [1, 2, 3, 5, 20])
def test_batches_are_filled_across_frames(faces):
    engine = FakeEngine(max_batch=8)
    frames = [frame_of(index, [7] * faces) for index in range(16)]
    assert len(list(predict(frames, engine))) == 16
    assert set(engine.batches[:-1]) == {8}
    assert sum(engine.batches) == 16 * faces


def test_a_stretch_without_faces_flows():
    read = []

    def source():
        for index in range(100):
            read.append(index)
            yield frame_of(index, [9] if index == 0 else [])

    for index, result in enumerate(predict(source(), FakeEngine(max_batch=64))):
        assert result.frame.index == index
        assert len(read) <= max(index + 1, MAX_WAITING)  # no further than it has to


def test_what_was_not_judged_passes_through():
    seen = UnscoredFace(Face(Box(0, 0, 5, 5), 0.9), "too_small")
    (result,) = predict([frame_of(3, [], (seen,), looked=False)], FakeEngine())
    assert result.unscored == (seen,)
    assert not result.analysed


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    "answer",
    [
        Predictions(ones(2) * np.nan, ones(2, 4, 4)),
        Predictions(ones(2), ones(2, 4, 4) * np.nan),
        Predictions(ones(2), ones(2, 4, 4) * np.inf),
        Predictions(ones(2) * 1.5, ones(2, 4, 4)),
        Predictions(ones(2), ones(2, 4, 4) * -0.5),
        Predictions(ones(1), ones(2, 4, 4)),
        Predictions(ones(2, 1), ones(2, 4, 4)),
        Predictions(ones(2), ones(3, 4, 4)),
        Predictions(ones(2), ones(2, 16)),
        Predictions(ones(2), ones(2, 0, 0)),
    ],
)
def test_what_is_no_probability_is_an_error(answer):
    engine = FakeEngine(judge=lambda crops: answer)
    with pytest.raises(EngineError, match="fake"):
        list(predict([frame_of(0, [1, 2])], engine))


# The whole chain


def frames(number, forged=()):
    for index in range(number):
        yield Frame(index, index * 512, index / 25, draw_face(index, forged=index in forged))


def test_from_frames_to_results():
    engine, detector = blue_engine(), FakeDetector()
    results = list(analyze(frames(60, range(20, 40)), detector, engine, ScanOptions()))
    assert [result.frame.index for result in results] == list(range(60))
    assert all(len(result.faces) == 1 for result in results)
    scores = [result.faces[0].score for result in results]
    assert scores == pytest.approx([HIGH if 20 <= i < 40 else LOW for i in range(60)])
    assert detector.calls < 20  # most boxes are interpolated
    assert {result.faces[0].crop.face.track_id for result in results} == {0}
    assert not engine.closed and not detector.closed  # they belong to the caller


def test_leaving_the_chain_early_closes_the_frames():
    closed = []

    def endless():
        try:
            for index in count():
                yield Frame(index, index, index / 25, draw_face(index))
        finally:
            closed.append(True)

    chain = analyze(endless(), FakeDetector(), blue_engine(), ScanOptions())
    next(chain)
    chain.close()
    assert closed == [True]


def test_an_error_of_the_reader_comes_through_the_chain():
    def broken():
        yield from frames(3 * DEPTH)
        raise CorruptError("the end is missing")

    chain = analyze(broken(), FakeDetector(), blue_engine(), ScanOptions())
    with pytest.raises(CorruptError, match="the end is missing"):
        for _ in chain:
            continue


def test_an_error_of_the_detector_comes_through_the_chain():
    def fail(image):
        raise EngineError("no device")

    chain = analyze(frames(5), FakeDetector(fail), blue_engine(), ScanOptions())
    with pytest.raises(EngineError, match="no device"):
        list(chain)


def test_fan_out_gives_every_item_to_every_consumer_in_order() -> None:
    one: list[int] = []
    two: list[int] = []
    assert list(fan_out(range(50), [one.append, two.append], depth=2)) == list(range(50))
    assert one == two == list(range(50))


def test_fan_out_raises_what_a_consumer_raised_and_stops_the_others() -> None:
    seen: list[int] = []

    def fail(item: int) -> None:
        if item == 5:
            raise OSError("full")

    before = threading.active_count()
    with pytest.raises(OSError, match="full"):
        for _ in fan_out(iter(range(1000)), [fail, seen.append], depth=1):
            pass
    assert len(seen) < 20
    assert threading.active_count() == before


def test_fan_out_that_is_left_early_leaves_no_thread() -> None:
    before = threading.active_count()
    handed = fan_out(iter(range(1000)), [lambda item: None] * 3)
    assert next(handed) == 0
    handed.close()
    assert threading.active_count() == before


def test_fan_out_raises_what_its_source_raised() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    seen: list[int] = []
    with pytest.raises(ValueError, match="no more"):
        list(fan_out(source(), [seen.append]))


# Stretches


def analysed(pictures, stretches, **wanted):
    frames = (Frame(index, index, index / 10, draw_face(0)) for index in range(pictures))
    detector = FakeDetector()
    results = list(
        analyze(frames, detector, blue_engine(), ScanOptions(), segments=stretches, **wanted)
    )
    assert [result.frame.index for result in results] == list(range(pictures))
    return results


def track_of(result):
    return [face.crop.face.track_id for face in result.faces]


def test_nobody_looks_at_a_stretch_of_stride_zero():
    results = analysed(30, [Segment(0, 1, 0), Segment(1, 2, 1), Segment(2, 9, 0)])
    assert [result.analysed for result in results] == [*[False] * 10, *[True] * 10, *[False] * 10]
    assert all(result.faces if result.analysed else not result.faces for result in results)


def test_a_stretch_without_frames_is_passed_over():
    results = analysed(10, [Segment(0, 0.05, 1), Segment(0.05, 0.07, 1), Segment(0.07, 9, 2)])
    assert [result.analysed for result in results] == [index % 2 == 0 for index in range(10)]


def test_frames_behind_the_last_stretch_are_not_read():
    frames = Source()
    chain = analyze(
        (Frame(n, n, n / 10, draw_face(0)) for n in frames),
        FakeDetector(),
        blue_engine(),
        ScanOptions(),
        segments=[Segment(0, 1, 1)],
    )
    assert len(list(chain)) == 10
    assert frames.taken < 40


def test_a_face_goes_on_across_a_border_and_not_across_a_gap():
    joined = analysed(20, [Segment(0, 1, 1), Segment(1, 9, 1)])
    assert {track for result in joined for track in track_of(result)} == {0}
    apart = analysed(30, [Segment(0, 1, 1), Segment(1, 2, 0), Segment(2, 9, 1)])
    assert track_of(apart[0]) == [0] and track_of(apart[-1]) == [1]


def test_a_stretch_goes_on_from_what_was_handed_over():
    whole = analysed(20, [Segment(0, 1, 1), Segment(1, 9, 1)])
    state = TrackState(next_track=4)
    for result in whole[:10]:
        state = state.after(result)
    assert (state.next_track, state.time) == (4, 0.9)
    later = analysed(20, skip_before([Segment(0, 1, 1), Segment(1, 9, 1)], 1.0), tracks=state)
    assert [track_of(result) for result in later[10:]] == [[0]] * 10
    other = TrackState(next_track=4)
    later = analysed(20, skip_before([Segment(0, 1, 1), Segment(1, 9, 1)], 1.0), tracks=other)
    assert [track_of(result) for result in later[10:]] == [[4]] * 10


@pytest.mark.parametrize("broken", [1, 7, 33])
def test_all_frames_before_an_error_of_the_file_come_out(broken):
    def frames():
        for index in range(broken):
            yield Frame(index, index, index / 25, draw_face(index))
        raise CorruptError("broken")

    seen = []
    with pytest.raises(CorruptError, match="broken"):
        seen.extend(analyze(frames(), FakeDetector(), blue_engine(), ScanOptions()))
    assert [result.frame.index for result in seen] == list(range(broken))
    assert all(result.faces for result in seen)
