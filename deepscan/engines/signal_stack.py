"""Keeping the signal stack of a thread as it was, round a library that leaves its own behind.

OpenVINO gives the thread that compiles a network a larger stack for signal handlers, and puts back
what it found there when that network goes. Of two networks that go in the order in which they came
the second puts back the first one's, which is freed by then: the next signal whose handler Python
runs on it (Ctrl-C, SIGTERM) ends the process with a segmentation fault. Handlers need no such stack
here; without one they run on the thread's own.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of Linux; other systems order its fields in another way."""

    _fields_ = (
        ("start", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


@contextmanager
def preserved_signal_stack() -> Iterator[None]:
    """Put this thread's signal stack back as it was, whatever happens inside. Linux only."""
    if sys.platform != "linux":
        yield
        return
    change = ctypes.CDLL(None).sigaltstack
    before = _Stack()
    known = change(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known:
            change(ctypes.byref(before), None)
