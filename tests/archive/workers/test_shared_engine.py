"""Several threads, one engine: everybody gets the own answer, batches fill, errors find owners."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscan.archive.workers.shared_engine import SharedEngine
from deepscan.engines.engine import Predictions
from deepscan.errors import EngineError
from tests.fakes import FakeEngine

SIDE = 64


def crops(value, count=1):
    return np.full((count, SIDE, SIDE, 3), value, np.uint8)


def ask_together(shared, requests):
    """All requests at once, each from a thread of its own that is at work."""
    barrier = threading.Barrier(len(requests))

    def ask(request):
        with shared.active_client():
            barrier.wait()
            return shared.client().predict(request)

    with ThreadPoolExecutor(len(requests)) as pool:
        return [pool.submit(ask, each) for each in requests]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 8)), min_size=1, max_size=6))
def test_everybody_gets_the_own_answer(given):
    engine = FakeEngine(max_batch=8)
    shared = SharedEngine(engine, max_queue_delay=0.02)
    futures = ask_together(shared, [crops(value, count) for value, count in given])
    for future, (value, count) in zip(futures, given, strict=True):
        found = future.result(timeout=10)
        assert found.scores == pytest.approx([value / 255] * count, abs=1e-6)
        assert len(found.masks) == count
    assert sum(engine.batches) == sum(count for _, count in given)
    assert max(engine.batches) <= 8


def test_a_batch_is_filled_across_callers():
    engine = FakeEngine(max_batch=8)
    shared = SharedEngine(
        engine, max_queue_delay=30.0
    )  # only being full, or all waiting, ends the wait
    for future in ask_together(shared, [crops(10 * n, 2) for n in range(4)]):
        future.result(timeout=10)
    assert sum(engine.batches) == 8
    assert max(engine.batches) > 2


def test_nobody_waits_for_those_who_do_not_ask():
    engine = FakeEngine(max_batch=8)
    shared = SharedEngine(engine, max_queue_delay=0.01)
    with shared.active_client(), shared.active_client():  # the other one is decoding
        assert len(shared.predict(crops(5)).scores) == 1


def test_who_is_alone_does_not_wait_at_all():
    shared = SharedEngine(FakeEngine(max_batch=8), max_queue_delay=1e6)
    with shared.active_client():
        assert len(shared.predict(crops(5)).scores) == 1


def test_when_one_leaves_the_others_go_on():
    shared = SharedEngine(FakeEngine(max_batch=8), max_queue_delay=1e6)
    left = threading.Event()

    def leave():
        with shared.active_client():
            left.wait(10)

    with ThreadPoolExecutor(1) as pool, shared.active_client():
        gone = pool.submit(leave)
        threading.Timer(0.05, left.set).start()
        assert len(shared.predict(crops(5)).scores) == 1
        gone.result(timeout=10)


def test_an_error_goes_to_whom_it_concerns():
    def judge(given):
        if (given[..., 0] == 13).any():
            raise EngineError("NaN")
        return Predictions(
            np.full(len(given), 0.5, np.float32), np.zeros((len(given), 4, 4), np.float32)
        )

    shared = SharedEngine(FakeEngine(max_batch=8, judge=judge), max_queue_delay=30.0)
    futures = ask_together(shared, [crops(1, 2), crops(13, 2), crops(2, 2)])
    assert len(futures[0].result(timeout=10).scores) == 2
    assert len(futures[2].result(timeout=10).scores) == 2
    with pytest.raises(EngineError, match="NaN"):
        futures[1].result(timeout=10)


def test_out_of_memory_halves_the_batch():
    def judge(given):
        if len(given) > 3:
            raise EngineError("engine x failed on 8 crops: CUDA out of memory")
        red = given[:, 0, 0, 0].astype(np.float32) / 255
        return Predictions(red, np.zeros((len(given), 4, 4), np.float32))

    engine = FakeEngine(max_batch=8, judge=judge)
    shared = SharedEngine(engine)
    given = np.concatenate([crops(value) for value in range(0, 80, 10)])
    found = shared.predict(given)
    assert found.scores == pytest.approx(np.arange(0, 80, 10) / 255)
    assert shared.limit == 2
    assert engine.batches == [8, 4, 2, 2, 2, 2]
    engine.batches.clear()
    shared.predict(given)
    assert engine.batches == [2, 2, 2, 2]


def test_one_crop_that_does_not_fit_is_an_error():
    def judge(given):
        raise EngineError("out of memory")

    with pytest.raises(EngineError, match="out of memory"):
        SharedEngine(FakeEngine(judge=judge)).predict(crops(1, 4))


def test_an_engine_that_answers_too_little_is_not_believed():
    def judge(given):
        return Predictions(np.zeros(1, np.float32), np.zeros((1, 4, 4), np.float32))

    with pytest.raises(EngineError, match="answered"):
        SharedEngine(FakeEngine(judge=judge)).predict(crops(1, 4))


def test_crops_of_the_wrong_shape_disturb_nobody():
    shared = SharedEngine(FakeEngine())
    with pytest.raises(ValueError, match="must be"):
        shared.predict(np.zeros((1, 3, 3, 3), np.uint8))
    assert len(shared.predict(crops(1)).scores) == 1


def test_a_bug_in_the_engine_leaves_nobody_waiting():
    def judge(given):
        raise RuntimeError("a bug")

    shared = SharedEngine(FakeEngine(judge=judge), max_queue_delay=30.0)
    futures = ask_together(shared, [crops(1, 2), crops(2, 2)])
    for future in futures:
        with pytest.raises((RuntimeError, EngineError)):
            future.result(timeout=10)


def test_a_seat_looks_like_the_engine_and_leaves_it_open():
    engine = FakeEngine()
    shared = SharedEngine(engine)
    seat = shared.client()
    assert (seat.name, seat.input_size, seat.max_batch) == ("fake", SIDE, 8)
    assert (seat.model, seat.info) == (engine.model, engine.info)
    seat.close()
    assert not engine.closed
    seat.predict(crops(1))
    assert shared.take_seconds() > 0
    assert shared.take_seconds() == 0
