"""A worker process under watch: started with only what it needs, timed, killed, always reaped."""

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
from deepscan.options import Decoder, Limits
from deepscan.video.input_file import Source
from deepscan.video.isolation import protocol
from deepscan.video.isolation.launcher import LOST, Given, Worker, start_worker
from deepscan.video.isolation.protocol import ProtocolError

log = logging.getLogger(__name__)

Task = Literal["frames", "sound"]

LAST_WORDS = 8 * 1024  # bytes of the worker's stderr that are kept
START_UP = 30.0  # seconds until a worker has its libraries, also on a busy machine
FAREWELL = 5.0  # seconds that a finished worker gets to leave


class DecoderProcess:
    """The process, its socket, its stderr and the watch over them.

    `reason` and `fault` are as in `worker.Order`.
    """

    def __init__(
        self,
        source: Source,
        limits: Limits,
        *,
        task: Task = "frames",
        decoder: Decoder = "auto",
        reason: str | None = None,
        fault: tuple[str, int] | None = None,
    ) -> None:
        self._path = source.path
        self._limits = limits
        self._heard = bytearray()
        self._words = bytearray()
        self._waited = 0.0
        self._started = False
        with contextlib.ExitStack() as held:
            self._ring = _anonymous_file()
            held.callback(os.close, self._ring)
            self._talk, theirs = socket.socketpair()
            held.enter_context(self._talk)
            lifeline, ours = os.pipe()
            held.callback(os.close, ours)
            with theirs:
                try:
                    order = {
                        "path": os.fspath(source.path),
                        "size": source.size,
                        "stream": source.stream,
                        "task": task,
                        "decoder": decoder,
                        "limits": asdict(limits),
                        "reason": reason,
                        "fault": fault,
                    }
                    given = Given(source.descriptor, self._ring, theirs.fileno(), lifeline)
                    self._process = start_worker(order, given)
                finally:
                    os.close(lifeline)
            held.enter_context(self._process.words)
            os.set_blocking(self._process.words.fileno(), False)
            self._talk.setblocking(False)
            self._selector = held.enter_context(selectors.DefaultSelector())
            self._selector.register(self._talk, selectors.EVENT_READ)
            self._selector.register(self._process.words, selectors.EVENT_READ)
            # Also for a reader that nobody closes: no process may outlive it.
            self._finalizer = weakref.finalize(self, _end, self._process, held.pop_all())

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def make_ring(self, size: int) -> mmap.mmap:
        """Give the shared memory its size for good; the worker cannot shrink it under us.

        Raises:
            LimitError: this machine does not give that much.
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

    def say(self, data: bytes) -> None:
        # A few bytes a frame: the socket's buffer cannot be full unless the worker is dead.
        with contextlib.suppress(OSError):
            self._talk.send(data)

    def hear(self, allowed: float) -> tuple[int, bytes]:
        """Wait for one message; `allowed` is how many seconds of waiting the file may cost.

        Raises:
            DecoderHang, DecoderCrash, LimitError: what became of the worker.
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
        if len(self._heard) < start:
            return None
        kind, length = protocol.HEADER.unpack_from(self._heard)
        if length > protocol.LARGEST:
            raise ProtocolError("a message too long")
        if len(self._heard) < start + length:
            return None
        payload = bytes(self._heard[start : start + length])
        del self._heard[: start + length]
        return kind, payload

    def _listen(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._talk:
                try:
                    data = self._talk.recv(protocol.LARGEST)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    raise self._death()
                self._heard += data
            else:
                self._read_words()

    def _read_words(self) -> None:
        """Keep the last of what the worker writes to stderr; a flood must not fill memory."""
        words = self._process.words
        try:
            data = os.read(words.fileno(), 2**16)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(words)
        self._words = (self._words + data)[-LAST_WORDS:]

    def _death(self) -> VideoError:
        """Say why the worker has gone without a last message."""
        code = self._process.wait(FAREWELL)
        if code is None:
            self.kill()
            code = 0
        with contextlib.suppress(KeyError):  # its stderr may be at its end already
            self._read_words()
        words = self._words.decode(errors="replace").strip().splitlines()
        log.debug("last words of the worker for %s: %s", self._path, "\n".join(words))
        last = f" ({words[-1][:200]})" if words else ""
        if code == -signal.SIGXCPU:
            return LimitError("limit_time", f"{self._path}: decoding used up its CPU time")
        if code == -signal.SIGKILL:
            return LimitError(
                "limit_memory", f"{self._path}: the decoder was killed, probably for its memory"
            )
        if code == LOST:
            how = "together with the one that starts decoders"
        else:
            how = f"status {code}" if code >= 0 else _signal_name(-code)
        return DecoderCrash(f"{self._path}: the decoder process died, {how}{last}")

    def kill(self) -> None:
        self._process.kill()

    def close(self, *, finished: bool) -> None:
        """Let a finished worker leave, kill any other, and free everything."""
        if finished and self._finalizer.alive:
            self._talk.close()
            self._process.wait(FAREWELL)
        self._finalizer()


def _end(worker: Worker, held: contextlib.ExitStack) -> None:
    worker.kill()
    worker.wait(None)
    held.close()


def _anonymous_file() -> int:
    """A file without a name: in memory on Linux, else a deleted temporary file."""
    if sys.platform == "linux":
        return os.memfd_create("frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
