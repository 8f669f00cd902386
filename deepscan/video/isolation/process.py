"""Runs a worker process: starts it, receives its messages, and kills it on timeout."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
import weakref
from dataclasses import asdict
from typing import Literal

from deepscan.errors import DecoderCrash, DecoderHang, LimitError, VideoError
from deepscan.video.contract import ReadOptions
from deepscan.video.input_file import Source
from deepscan.video.isolation import protocol
from deepscan.video.isolation.launcher import LOST, Given, StderrTail, Worker, start_worker
from deepscan.video.isolation.protocol import ProtocolError

log = logging.getLogger(__name__)

Task = Literal["frames", "audio"]

START_UP = 30.0  # seconds until a worker has its libraries, also on a busy machine
FAREWELL = 5.0  # seconds that a finished worker has to exit


class DecoderProcess:
    """A worker process with its socket, its stderr and its time limits."""

    def __init__(self, source: Source, options: ReadOptions, task: Task = "frames") -> None:
        self._path = source.path
        self._limits = options.limits
        self._received_bytes = bytearray()
        self._waited = 0.0
        self._started = False
        with contextlib.ExitStack() as held:
            self._ring = _anonymous_file()
            held.callback(os.close, self._ring)
            self._channel, theirs = socket.socketpair()
            held.enter_context(self._channel)
            lifeline, ours = os.pipe()
            held.callback(os.close, ours)
            with theirs:
                try:
                    job = {
                        "path": os.fspath(source.path),
                        "size": source.size,
                        "stream": source.stream,
                        "task": task,
                        "options": asdict(options),
                    }
                    given = Given(source.descriptor, self._ring, theirs.fileno(), lifeline)
                    self._process = start_worker(job, given)
                finally:
                    os.close(lifeline)
            held.enter_context(self._process.stderr)
            self._channel.setblocking(False)
            self._selector = held.enter_context(selectors.DefaultSelector())
            self._stderr = StderrTail(self._process.stderr, self._selector)
            self._selector.register(self._channel, selectors.EVENT_READ)
            self._selector.register(self._process.stderr, selectors.EVENT_READ)
            # Also if the reader is never closed: no process may outlive it.
            self._finalizer = weakref.finalize(self, _end, self._process, held.pop_all())

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def make_ring(self, size: int) -> mmap.mmap:
        """Set the size of the shared memory; the worker cannot change it.

        Raises:
            LimitError: the system does not provide that much.
        """
        try:
            os.ftruncate(self._ring, size)
        except OSError as error:
            raise LimitError(
                "limit_memory",
                f"{self._path}: no {size / 2**20:.0f} MiB to share with the decoder: "
                f"{error.strerror}. Free memory or disk space, or raise the limit on the size of "
                "files (ulimit -f)",
            ) from error
        if hasattr(fcntl, "F_ADD_SEALS"):
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            with contextlib.suppress(OSError):  # a temporary file cannot be sealed
                fcntl.fcntl(self._ring, fcntl.F_ADD_SEALS, seals)
        return mmap.mmap(self._ring, size, prot=mmap.PROT_READ)

    def send(self, data: bytes) -> None:
        # A few bytes per frame: the socket's buffer is only full if the worker is dead.
        with contextlib.suppress(OSError):
            self._channel.send(data)

    def receive(self, allowed: float) -> tuple[int, bytes]:
        """Wait for one message; `allowed` is the total waiting time of the file in seconds.

        Raises:
            DecoderHang, DecoderCrash, LimitError: the worker failed.
            ProtocolError: the message is too long.
        """
        idle = self._limits.idle if self._started else max(self._limits.idle, START_UP)
        began = time.monotonic()
        while (message := self._take()) is None:
            waited = time.monotonic() - began
            if waited >= idle:
                self.kill()
                raise DecoderHang(
                    f"{self._path}: the decoder made no progress for {idle:g} s and was stopped"
                )
            if self._waited + waited >= allowed:
                self.kill()
                raise LimitError(
                    "limit_time",
                    f"{self._path}: decoding took longer than the {allowed:.0f} s allowed",
                )
            self._listen(min(idle - waited, allowed - self._waited - waited))
        self._waited += time.monotonic() - began
        self._started = True
        return message

    def _take(self) -> tuple[int, bytes] | None:
        start = protocol.HEADER.size
        if len(self._received_bytes) < start:
            return None
        kind, length = protocol.HEADER.unpack_from(self._received_bytes)
        if length > protocol.LARGEST:
            raise ProtocolError("a message too long")
        if len(self._received_bytes) < start + length:
            return None
        payload = bytes(self._received_bytes[start : start + length])
        del self._received_bytes[: start + length]
        return kind, payload

    def _listen(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._channel:
                try:
                    data = self._channel.recv(protocol.LARGEST)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    raise self._death()
                self._received_bytes += data
            else:
                self._stderr.read()

    def _death(self) -> VideoError:
        """Make the error for a worker that exited without a last message."""
        code = self._process.wait(FAREWELL)
        if code is None:
            self.kill()
            code = 0
        last = self._stderr.last_line()
        log.debug("the worker for %s ended with: %r", self._path, self._stderr.data)
        if code == -signal.SIGXCPU:
            return LimitError("limit_time", f"{self._path}: decoding used up its CPU time")
        if code == -signal.SIGKILL:
            return LimitError(
                "limit_memory", f"{self._path}: the decoder was killed, probably for its memory"
            )
        if code == LOST:
            how = "together with the fork server"
        else:
            how = f"status {code}" if code >= 0 else _signal_name(-code)
        return DecoderCrash(f"{self._path}: the decoder process died, {how}{last}")

    def kill(self) -> None:
        self._process.kill()

    def close(self, *, finished: bool) -> None:
        """Let a finished worker exit, kill any other, and release all resources."""
        if finished and self._finalizer.alive:
            self._channel.close()
            self._process.wait(FAREWELL)
        self._finalizer()


def _end(worker: Worker, held: contextlib.ExitStack) -> None:
    worker.kill()
    worker.wait(None)
    held.close()


def _anonymous_file() -> int:
    """Open a file without a name: in memory on Linux, else a deleted temporary file."""
    if sys.platform == "linux":
        return os.memfd_create("frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
