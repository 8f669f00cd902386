"""What takes long is begun once, in a thread, and its error reaches whoever wants the value."""

from __future__ import annotations

import threading

import pytest

from deepscan.scan.loading import Loading


def test_a_value_is_made_once_in_another_thread():
    made = []
    loading = Loading(lambda: made.append(threading.current_thread()) or len(made))
    loading.start()
    loading.start()
    assert loading.result() == loading.result() == 1
    assert made != [threading.current_thread()]


def test_an_error_is_raised_each_time_and_not_at_the_end():
    def fail():
        raise ValueError("no")

    loading, released = Loading(fail), []
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            loading.result()
    assert loading.close(released.append) and released == []


def test_a_value_in_the_making_is_waited_for_and_released():
    may_end, released = threading.Event(), []
    loading = Loading(lambda: may_end.wait(10) and "value")
    loading.start()
    threading.Timer(0.05, may_end.set).start()
    assert loading.close(released.append) and released == ["value"]


def test_what_was_never_begun_is_not_begun_to_be_closed():
    made = []
    assert not Loading(lambda: made.append(1)).close(made.append)
    assert made == []
