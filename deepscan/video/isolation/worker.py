"""The decoder process: opens one file, decodes it into shared memory, and is thrown away.

Started by launcher.py: forked off the zygote, where all that it may need is imported already, or as
an interpreter of its own. It gives up every right (sandbox.py), and only then looks at the file.
Whatever happens to it happens to one file.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import pkgutil
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from deepscan.errors import DecoderCrash, LimitError, VideoError
from deepscan.options import Decoder, Limits
from deepscan.types import Frame, ReadReport
from deepscan.video.audio import read_sound
from deepscan.video.contract import VideoReader
from deepscan.video.input_file import Source, still_format
from deepscan.video.isolation import protocol
from deepscan.video.isolation.sandbox import (
    die_with_parent,
    limit_resources,
    lock_down,
    raise_memory_limit,
)
from deepscan.video.open import choose_reader, may_need_decord

BEAT_EVERY = 0.25  # seconds between two signs of life while no frame comes


@dataclass(frozen=True, slots=True)
class Order:
    """What the parent wants: descriptors, file and limits.

    `fault` is for tests of the watchdog: (what, at which frame), what being "crash", "hang",
    "exit", "garbage" or "memory".
    """

    video: int
    ring: int
    talk: int
    lifeline: int
    parent: int
    kill_with_parent: bool
    path: str
    size: int
    stream: int
    task: Literal["frames", "sound"]
    decoder: Decoder
    limits: Limits
    reason: str | None
    fault: tuple[str, int] | None

    @classmethod
    def read(cls, text: str) -> Order:
        said: dict[str, Any] = json.loads(text)
        said["limits"] = Limits(**said["limits"])
        said["fault"] = tuple(said["fault"]) if said["fault"] else None
        return cls(**said)


def main(argument: str) -> NoReturn:
    """Do what `argument`, an `Order` in JSON, says; never returns."""
    order = Order.read(argument)
    if order.kill_with_parent:
        die_with_parent()
    obey(order)


def obey(order: Order) -> NoReturn:
    """Do what an order says, in a process that is there for nothing else."""
    if os.getppid() != order.parent:
        os._exit(0)
    os.set_blocking(order.talk, True)
    talk = Talk(socket.socket(fileno=order.talk))
    source = Source(Path(order.path), order.video, order.size, order.stream)
    status = 0
    try:
        _prepare(source, order)
        talk.say(protocol.BEAT)
        _watch(order.lifeline)
        if order.task == "sound":
            _serve_sound(talk, source, order.limits)
        else:
            _serve(talk, source, order)
    except VideoError as error:
        talk.say(protocol.FAILED, protocol.pack_failure(error, None))
    except BrokenPipeError:
        status = 1
    talk.wait_for_end()
    # Native libraries may hang or crash while they are taken down.
    os._exit(status)


class Talk:
    """The worker's end of the conversation."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._beaten = time.monotonic()

    def say(self, kind: int, payload: bytes = b"") -> None:
        self._connection.sendall(protocol.message(kind, payload))

    def beat(self) -> None:
        """Say that work goes on, at most every `BEAT_EVERY` seconds."""
        now = time.monotonic()
        if now - self._beaten >= BEAT_EVERY:
            self._beaten = now
            self.say(protocol.BEAT)

    def hear(self, size: int) -> bytes:
        """Wait for exactly `size` bytes; the process ends if the parent has gone."""
        heard = b""
        while len(heard) < size:
            more = self._connection.recv(size - len(heard))
            if not more:
                os._exit(0)
            heard += more
        return heard

    def wait_for_end(self) -> None:
        """Take in all that is under way: a socket closed with unread bytes loses our last words."""
        try:
            while self._connection.recv(4096):
                continue
        except OSError:
            return


class Ring:
    """Shared memory of `slots` pictures; a slot is written only when the parent has freed it."""

    def __init__(self, descriptor: int, slots: int, size: int, talk: Talk) -> None:
        try:
            self._memory = mmap.mmap(descriptor, slots * size)
        except OSError as error:
            raise LimitError("limit_memory", "no memory left for the frames") from error
        self._slots = slots
        self._size = size
        self._free = slots
        self._talk = talk

    def put(self, frame: Frame) -> int:
        """Copy the picture into its slot, waiting until that is free; give the slot's number."""
        if not self._free:
            self._talk.hear(1)
            self._free += 1
        self._free -= 1
        slot = frame.index % self._slots
        room = np.frombuffer(self._memory, np.uint8, frame.image.size, slot * self._size)
        np.copyto(room.reshape(frame.image.shape), frame.image)
        return slot


def load_libraries(*, still: bool, decord: bool) -> None:
    """Import what may be needed: a process that has given up its rights can import nothing.

    `still` is for pictures. What is there already costs nothing.
    """
    _load_av()
    if still:
        importlib.import_module("deepscan.video.readers.animation")
        from deepscan.video.readers.still import load_plugins

        load_plugins()
    if decord:
        from deepscan.video.readers.decord import is_installed, load_library

        if is_installed():
            load_library()


@cache
def _load_av() -> None:
    import av

    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith(("__main__", "datasets")):
            importlib.import_module(module.name)
    av.logging.set_level(None)
    importlib.import_module("deepscan.video.readers.pyav")


def _prepare(source: Source, order: Order) -> None:
    """Import everything, then give up every right."""
    load_libraries(
        still=still_format(source) is not None, decord=may_need_decord(source, order.decoder)
    )
    limits = order.limits
    limit_resources(
        memory=limits.memory,
        most_memory=2 * limits.memory,
        # The parent's clock is the finer one; this is for a process that it has lost.
        cpu=round(max(limits.time_floor, limits.time_factor * limits.duration)) + 1,
    )
    lock_down()


def _watch(lifeline: int) -> None:
    """End the process when the parent's end of the pipe is gone, also while native code hangs."""

    def wait() -> None:
        while os.read(lifeline, 1):
            continue
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        threading.Thread(target=wait, daemon=True).start()
    except RuntimeError as error:
        raise LimitError("limit_memory", "no memory left for a thread") from error


def _serve(talk: Talk, source: Source, order: Order) -> None:
    reader: VideoReader | None = None
    try:
        reader = choose_reader(
            source, order.decoder, order.limits, reason=order.reason, beat=talk.beat
        )
        talk.say(protocol.HELLO, protocol.pack_info(reader.info))
        slots, size, memory = protocol.READY_FIELDS.unpack(talk.hear(protocol.READY_FIELDS.size))
        raise_memory_limit(memory)
        ring = Ring(order.ring, slots, size, talk)
        for frame in reader.frames():
            if order.fault is not None and order.fault[1] == frame.index:
                _fail(order.fault[0], talk)
            slot = ring.put(frame)
            fields = protocol.FRAME_FIELDS.pack(frame.index, frame.pts, frame.time, slot)
            del frame  # a kept picture costs a fresh allocation for the next
            talk.say(protocol.FRAME, fields)
        talk.say(protocol.END, protocol.pack_report(reader.report()))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except VideoError as error:
        talk.say(protocol.FAILED, protocol.pack_failure(error, _report(reader)))
    except MemoryError:
        gone = LimitError("limit_memory", f"{source.path}: the decoder ran out of memory")
        talk.say(protocol.FAILED, protocol.pack_failure(gone, _report(reader)))
    except Exception as error:
        odd = DecoderCrash(f"{source.path}: the decoder failed: {type(error).__name__}: {error}")
        talk.say(protocol.FAILED, protocol.pack_failure(odd, _report(reader)))


def _serve_sound(talk: Talk, source: Source, limits: Limits) -> None:
    notes: list[str] = []
    try:
        for kind, payload in read_sound(source, limits, notes):
            talk.say(kind, payload)
        talk.say(protocol.NOTES, protocol.pack_notes(notes))
        talk.say(protocol.END)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except VideoError:
        raise
    except Exception as error:
        raise DecoderCrash(f"{source.path}: {type(error).__name__}: {error}") from error


def _report(reader: VideoReader | None) -> ReadReport | None:
    return None if reader is None else reader.report()


def _fail(what: str, talk: Talk) -> None:
    """Break down as a test has asked for."""
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "exit":
        os._exit(3)
    elif what == "garbage":
        talk.say(protocol.FRAME, b"\xff" * protocol.FRAME_FIELDS.size)
    elif what == "memory":
        bytearray(2**42)  # more than any limit allows
    while what == "hang":
        time.sleep(1)


if __name__ == "__main__":
    main(sys.argv[1])
