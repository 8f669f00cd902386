"""The decoder process: opens one file, decodes it into shared memory, and exits.

Started by launcher.py: forked from the fork server, which has imported the libraries, or as a new
interpreter. It drops its rights (sandbox.py) before it reads the file, so an exploit or crash
affects one file.
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
from deepscan.options import Limits
from deepscan.types import Frame, ReadReport
from deepscan.video.contract import ReadOptions, VideoReader
from deepscan.video.formats import still_format
from deepscan.video.input_file import Source
from deepscan.video.isolation import protocol
from deepscan.video.isolation.sandbox import (
    die_with_parent,
    limit_resources,
    lock_down,
    raise_memory_limit,
)
from deepscan.video.readers.audio import read_audio
from deepscan.video.readers.choose import choose_reader, may_need_decord

BEAT_EVERY = 0.25  # seconds between two heartbeats while no frame is ready


@dataclass(frozen=True, slots=True)
class Job:
    """A job from the parent: descriptors, file and options."""

    video: int
    ring: int
    channel: int
    lifeline: int
    parent: int
    kill_with_parent: bool
    path: str
    size: int
    stream: int
    task: Literal["frames", "audio"]
    options: ReadOptions

    @classmethod
    def read(cls, text: str) -> Job:
        said: dict[str, Any] = json.loads(text)
        options = said.pop("options")
        options["limits"] = Limits(**options["limits"])
        return cls(**said, options=ReadOptions(**options))


def main(argument: str) -> NoReturn:
    """Run the `Job` in `argument` (JSON); never returns."""
    job = Job.read(argument)
    if job.kill_with_parent:
        die_with_parent()
    run_job(job)


def run_job(job: Job) -> NoReturn:
    """Run a job and exit the process."""
    if os.getppid() != job.parent:
        os._exit(0)
    os.set_blocking(job.channel, True)
    channel = Channel(socket.socket(fileno=job.channel))
    source = Source(Path(job.path), job.video, job.size, job.stream)
    status = 0
    try:
        _prepare(source, job)
        channel.send(protocol.BEAT)
        _watch(job.lifeline)
        if job.task == "audio":
            _serve_audio(channel, source, job.options.limits)
        else:
            _serve(channel, source, job)
    except VideoError as error:
        channel.send(protocol.FAILED, protocol.pack_failure(error, None))
    except BrokenPipeError:
        status = 1
    channel.wait_for_end()
    # Native libraries may hang or crash at a normal exit.
    os._exit(status)


class Channel:
    """The worker's end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._beaten = time.monotonic()

    def send(self, kind: int, payload: bytes = b"") -> None:
        self._connection.sendall(protocol.message(kind, payload))

    def beat(self) -> None:
        """Send a heartbeat, at most every `BEAT_EVERY` seconds."""
        now = time.monotonic()
        if now - self._beaten >= BEAT_EVERY:
            self._beaten = now
            self.send(protocol.BEAT)

    def receive(self, size: int) -> bytes:
        """Receive exactly `size` bytes; exit if the parent has gone."""
        received = b""
        while len(received) < size:
            more = self._connection.recv(size - len(received))
            if not more:
                os._exit(0)
            received += more
        return received

    def wait_for_end(self) -> None:
        """Read until the parent closes: a socket closed with unread bytes loses what it sent."""
        try:
            while self._connection.recv(4096):
                continue
        except OSError:
            return


class Ring:
    """Shared memory of `slots` pictures; a slot is written only after the parent freed it."""

    def __init__(self, descriptor: int, slots: int, size: int, channel: Channel) -> None:
        try:
            self._memory = mmap.mmap(descriptor, slots * size)
        except OSError as error:
            raise LimitError("limit_memory", "no memory left for the frames") from error
        self._slots = slots
        self._size = size
        self._free = slots
        self._channel = channel

    def put(self, frame: Frame) -> int:
        """Copy a picture into its slot, once that is free; returns the number of the slot."""
        if not self._free:
            self._channel.receive(1)
            self._free += 1
        self._free -= 1
        slot = frame.index % self._slots
        samples = frame.image if frame.planes is None else frame.planes.samples
        room = np.frombuffer(self._memory, np.uint8, samples.size, slot * self._size)
        np.copyto(room.reshape(samples.shape), samples)
        return slot


def load_libraries(*, still: bool, decord: bool) -> None:
    """Import the libraries: a process that has dropped its rights can import nothing.

    `still` imports Pillow and its plug-ins, for pictures.
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


def _prepare(source: Source, job: Job) -> None:
    """Import the libraries, then drop all rights."""
    load_libraries(
        still=still_format(source) is not None, decord=may_need_decord(source, job.options.decoder)
    )
    limits = job.options.limits
    limit_resources(
        memory=limits.memory,
        most_memory=2 * limits.memory,
        # The parent stops a slow worker earlier; this is for a worker that it has lost.
        cpu=round(max(limits.time_floor, limits.time_factor * limits.duration)) + 1,
    )
    lock_down()


def _watch(lifeline: int) -> None:
    """Kill this process when the parent closes its end of the pipe, even if native code hangs."""

    def wait() -> None:
        while os.read(lifeline, 1):
            continue
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        threading.Thread(target=wait, daemon=True).start()
    except RuntimeError as error:
        raise LimitError("limit_memory", "no memory left for a thread") from error


def _serve(channel: Channel, source: Source, job: Job) -> None:
    reader: VideoReader | None = None
    try:
        reader = choose_reader(source, job.options, channel.beat)
        channel.send(protocol.HELLO, protocol.pack_info(reader.info))
        slots, size, memory = protocol.READY_FIELDS.unpack(
            channel.receive(protocol.READY_FIELDS.size)
        )
        raise_memory_limit(memory)
        ring = Ring(job.ring, slots, size, channel)
        for frame in reader.frames():
            slot = ring.put(frame)
            fields = protocol.FRAME_FIELDS.pack(
                frame.index, frame.pts, frame.time, slot, frame.planes is not None
            )
            del frame  # a kept picture costs a fresh allocation for the next
            channel.send(protocol.FRAME, fields)
        channel.send(protocol.END, protocol.pack_report(reader.report()))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except VideoError as error:
        channel.send(protocol.FAILED, protocol.pack_failure(error, _report(reader)))
    except MemoryError:
        gone = LimitError("limit_memory", f"{source.path}: the decoder ran out of memory")
        channel.send(protocol.FAILED, protocol.pack_failure(gone, _report(reader)))
    except Exception as error:
        odd = DecoderCrash(f"{source.path}: the decoder failed: {type(error).__name__}: {error}")
        channel.send(protocol.FAILED, protocol.pack_failure(odd, _report(reader)))


def _serve_audio(channel: Channel, source: Source, limits: Limits) -> None:
    notes: list[str] = []
    try:
        for kind, payload in read_audio(source, limits, notes):
            channel.send(kind, payload)
        channel.send(protocol.NOTES, protocol.pack_notes(notes))
        channel.send(protocol.END)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except VideoError:
        raise
    except Exception as error:
        raise DecoderCrash(f"{source.path}: {type(error).__name__}: {error}") from error


def _report(reader: VideoReader | None) -> ReadReport | None:
    return None if reader is None else reader.report()


if __name__ == "__main__":
    main(sys.argv[1])
