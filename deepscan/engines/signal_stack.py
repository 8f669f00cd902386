"""Restores the signal stack of a thread after calls into OpenVINO, which replaces it.

OpenVINO installs a larger stack for signal handlers in the thread that compiles a network, and
restores the previous one when the network is destroyed. If two networks are destroyed in the order
of their creation, the second restores the stack of the first, which has been freed: the next signal
with a Python handler (Ctrl-C, SIGTERM) then ends the process with a segmentation fault. Handlers do
not need that stack; without it they run on the thread's own.
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
    """Restore this thread's signal stack at the end of the block. Linux only."""
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
