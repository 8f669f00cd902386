"""Starts worker processes: forked off a fork server, or as interpreters of their own.

The fork server (forkserver.py) is started once a program, when the first file is opened, and again
if it has died. It is always a fresh interpreter, never a fork of this process, which may hold
threads and a GPU. Where there is none (not Linux, or it cannot start), every file pays for an
interpreter of its own; the reason stands in the log.
"""

from __future__ import annotations

import atexit
import errno
import json
import logging
import os
import select
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Protocol

import deepscan

log = logging.getLogger(__name__)

START_UP = 30.0  # seconds until the fork server has imported its libraries, also on a busy machine
FAREWELL = 5.0  # seconds that the fork server gets to leave
AFTERMATH = 0.5  # seconds in which a fork server that has closed its lines is seen to have died
KEPT_STDERR = 8 * 1024  # bytes of a process's stderr that are kept
LOST = -(2**31)  # exit code of a worker of which nobody can say how it ended

# What the fork server sends: that it is ready, and on the line of each worker its number (or minus
# errno if there is none), then its exit code (minus the signal that ended it).
READY = b"ready"
PID = struct.Struct("<i")
STATUS = struct.Struct("<i")

# What a worker inherits. Keys and tokens of the environment are none of its business.
ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH")
FIXED = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # Frames are freed and made again all the time: keep their memory instead of giving it back
    # (glibc refuses a larger threshold than 32 MiB).
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
}
# -P and an explicit root: the current folder may be full of untrusted files, some named av.py.
START = "import sys; sys.path.append(sys.argv[2]); from {module} import main; main(sys.argv[1])"
MODULE = "deepscan.video.isolation.{}"


@dataclass(frozen=True, slots=True)
class Given:
    """The descriptors that a worker gets; the caller keeps and closes its own."""

    video: int
    ring: int
    channel: int
    lifeline: int


class Worker(Protocol):
    """A process that works on one file. `stderr` is its stderr; the caller closes it."""

    stderr: IO[bytes]

    def kill(self) -> None:
        """End it at once; also for one that has ended."""
        ...

    def wait(self, timeout: float | None) -> int | None:
        """Its exit code, minus the signal that ended it, or `LOST`; None if the time passes."""
        ...


def start_worker(job: dict[str, object], given: Given) -> Worker:
    """Start a worker for a job (`worker.Job` without descriptors and parent)."""
    for _ in range(2):  # a fork server that has died is replaced once
        server = _FORKSERVER.server()
        if server is None:
            break
        try:
            worker = server.fork(job, given)
        except ForkserverError as error:
            log.warning("the process that starts decoders is replaced: %s", error)
            _FORKSERVER.discard(server)
            continue
        if worker is None:
            break
        return worker
    return SpawnedWorker(job, given)


def warm_up() -> None:
    """Have the fork server get ready while the program does something else."""
    _FORKSERVER.start()


class ForkserverError(Exception):
    """The fork server cannot start, or has died."""


class ForkedWorker:
    """A worker of the fork server, known by the line on which its end will be told."""

    def __init__(self, line: socket.socket, stderr: IO[bytes]) -> None:
        self.stderr = stderr
        self._line = line
        self._code: int | None = None

    def kill(self) -> None:
        if self._code is None:
            with suppress(OSError):  # the fork server has gone, and its workers with it
                self._line.shutdown(socket.SHUT_WR)

    def wait(self, timeout: float | None) -> int | None:
        if self._code is None and _readable(self._line, timeout):
            self._code = LOST
            with self._line, suppress(OSError):
                told = self._line.recv(STATUS.size)
                if len(told) == STATUS.size:
                    (self._code,) = STATUS.unpack(told)
        return self._code


class SpawnedWorker:
    """A worker that is a child of this process."""

    def __init__(self, job: dict[str, object], given: Given) -> None:
        # The kernel's death signal follows the thread, not the process.
        sure = threading.current_thread() is threading.main_thread()
        whole = {**job, **asdict(given), "parent": os.getpid(), "kill_with_parent": sure}
        self._process = start_interpreter(
            MODULE.format("worker"),
            json.dumps(whole),
            tuple(asdict(given).values()),
            stderr=subprocess.PIPE,
        )
        assert self._process.stderr is not None
        self.stderr: IO[bytes] = self._process.stderr

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None) -> int | None:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None


class ForkserverProcess:
    """The parent's end of the fork server; any thread may ask it for workers."""

    def __init__(self) -> None:
        """Start it; it gets ready by itself."""
        self._ready = False
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as held, theirs:
            held.callback(self._channel.close)
            # A file takes what it says until it is ready, and all its life: nobody has to read.
            self._stderr = held.enter_context(tempfile.TemporaryFile())
            number = theirs.fileno()
            self._process = start_interpreter(
                MODULE.format("forkserver"), str(number), (number,), stderr=self._stderr.fileno()
            )
            held.pop_all()

    def wait(self) -> None:
        """Wait until it is ready.

        Raises:
            ForkserverError: it does not come up.
        """
        if self._ready:
            return
        if not (_readable(self._channel, START_UP) and self._channel.recv(len(READY)) == READY):
            self._process.kill()
            self._stderr.seek(0)
            said = self._stderr.read().decode(errors="replace").strip().splitlines()
            raise ForkserverError(said[-1][:200] if said else "it says nothing")
        self._ready = True

    def fork(self, job: dict[str, object], given: Given) -> ForkedWorker | None:
        """Have it fork a worker; None if it cannot, or does not answer.

        Raises:
            ForkserverError: it has died.
        """
        # Numbers of descriptors are those of the other side, which fills them in.
        blank = dict.fromkeys((*asdict(given), "parent"), -1)
        text = json.dumps({**job, **blank, "kill_with_parent": True}).encode()
        with ExitStack() as held:
            line, their_line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            held.enter_context(line)
            held.enter_context(their_line)
            reading, writing = os.pipe()
            stderr = held.enter_context(open(reading, "rb", buffering=0))
            with open(writing, "wb", buffering=0), their_line:
                handed = (their_line.fileno(), writing, *asdict(given).values())
                try:
                    socket.send_fds(self._channel, [text], handed)
                except OSError as error:
                    raise ForkserverError(f"it has gone ({error.strerror})") from error
            told = b""
            if _readable(line, START_UP):
                with suppress(OSError):
                    told = line.recv(PID.size)
            if len(told) != PID.size and self._has_died():
                raise ForkserverError("it died over a job")
            # Whatever else ails it: others may have workers there, which must not die for this one.
            (number,) = PID.unpack(told) if len(told) == PID.size else (-errno.ETIMEDOUT,)
            if number < 0:
                log.warning("no decoder can be forked: %s", os.strerror(-number))
                return None
            held.pop_all()
            return ForkedWorker(line, stderr)

    def _has_died(self) -> bool:
        try:
            self._process.wait(AFTERMATH)
        except subprocess.TimeoutExpired:
            return False
        return True

    def leave(self) -> None:
        """Close this end of a fork server that belongs to another process."""
        self._channel.close()
        self._stderr.close()

    def close(self) -> None:
        """End it, and all of its workers."""
        self._channel.close()
        if not self._ready:
            self._process.kill()  # it listens only once it has its libraries
        try:
            self._process.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()


class Forkserver:
    """The one fork server of this program, if there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: ForkserverProcess | None = None
        self._foreign: ForkserverProcess | None = None
        self._hopeless = sys.platform != "linux"  # others cannot fork safely, or not at all

    def start(self) -> None:
        """Have the fork server get ready, if there can be one and there is none."""
        with self._lock, suppress(OSError):  # the first file will meet it again, and say so
            self._launch()

    def server(self) -> ForkserverProcess | None:
        """The fork server, ready; None where there can be none."""
        with self._lock:
            try:
                self._launch()
                if self._process is not None:
                    self._process.wait()
            except (ForkserverError, OSError) as error:
                self._give_up(error)
            return self._process

    def _launch(self) -> None:
        if self._process is None and not self._hopeless:
            self._process = ForkserverProcess()

    def _give_up(self, error: Exception) -> None:
        self._hopeless = True
        log.warning(
            "each file gets an interpreter of its own, which is slower: the process that starts "
            "decoders does not come up: %s",
            error,
        )
        if self._process is not None:
            self._process.close()
            self._process = None

    def discard(self, server: ForkserverProcess) -> None:
        """Give up a fork server that does not work."""
        with self._lock:
            if self._process is server:
                self._process = None
                server.close()

    def close(self) -> None:
        """End the fork server; the next file starts another."""
        with self._lock:
            if self._process is not None:
                self._process.close()
                self._process = None

    def inherit(self) -> None:
        """After a fork of this program: the fork server is the parent's."""
        self._lock = threading.Lock()
        self._foreign, self._process = self._process, None
        if self._foreign is not None:
            self._foreign.leave()


_FORKSERVER = Forkserver()
atexit.register(_FORKSERVER.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_FORKSERVER.inherit)


def start_interpreter(
    module: str,
    argument: str,
    descriptors: tuple[int, ...],
    *,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `main(argument)` of a module in a fresh interpreter.

    It inherits the given descriptors, and `environment` or, for files that are not trusted, no more
    of this one's than it needs.
    """
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
    root = Path(deepscan.__file__).resolve().parent.parent
    return subprocess.Popen(
        [sys.executable, "-P", "-c", START.format(module=module), argument, os.fspath(root)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        bufsize=0,
        pass_fds=descriptors,
        env=kept | FIXED if environment is None else environment,
        # Ctrl-C is for the parent, which then ends the process.
        start_new_session=True,
    )


class StderrTail:
    """The end of what a process writes to stderr; a flood must not fill memory."""

    def __init__(self, stderr: IO[bytes], selector: selectors.BaseSelector) -> None:
        """`selector` says when there is something to `read`; the caller registers `stderr`."""
        self.data = b""
        self._stderr, self._selector = stderr, selector
        os.set_blocking(stderr.fileno(), False)

    def read(self) -> None:
        """Take what has come."""
        try:
            data = os.read(self._stderr.fileno(), 2**16)
        except BlockingIOError:
            return
        if not data:
            with suppress(KeyError):  # it was at its end before
                self._selector.unregister(self._stderr)
        self.data = (self.data + data)[-KEPT_STDERR:]

    def last_line(self) -> str:
        """The last line, in brackets behind a space; "" if there is none."""
        self.read()
        lines = self.data.decode(errors="replace").strip().splitlines()
        return f" ({lines[-1][:200]})" if lines else ""


def _readable(line: socket.socket, timeout: float | None) -> bool:
    """Wait until there is something to read, or the other end has gone; False if time passes."""
    watched = select.poll()
    watched.register(line, select.POLLIN)
    return bool(watched.poll(None if timeout is None else timeout * 1000))
