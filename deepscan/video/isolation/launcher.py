"""Starts worker processes: forked from a fork server, or as new interpreters.

The fork server (forkserver.py) starts when the first file is opened, and again if it dies. It is a
new interpreter, never a fork of this process, which may hold threads and a GPU. Without a fork
server (not Linux, or it cannot start) every file needs a new interpreter; the log says why.
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
FAREWELL = 5.0  # seconds that the fork server has to exit
AFTERMATH = 0.5  # seconds until the end of a fork server that has closed its sockets is noticed
KEPT_STDERR = 8 * 1024  # bytes of a process's stderr that are kept
LOST = -(2**31)  # exit code of a worker whose own exit code is unknown

# The fork server sends READY, and on the socket of each worker its process number (or minus errno
# if it cannot fork), then its exit code (minus the signal that ended it).
READY = b"ready"
PID = struct.Struct("<i")
STATUS = struct.Struct("<i")

# Inherited by workers; keys and tokens in the environment are not passed on.
ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH")
FIXED = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # Frames are allocated and freed all the time: keep their memory instead of returning it to the
    # system (32 MiB is the largest threshold that glibc accepts).
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
}
# -P and an explicit root: the current folder may hold untrusted files, one of them named av.py.
START = "import sys; sys.path.append(sys.argv[2]); from {module} import main; main(sys.argv[1])"
MODULE = "deepscan.video.isolation.{}"


@dataclass(frozen=True, slots=True)
class Given:
    """The descriptors that a worker gets; the caller closes its own copies."""

    video: int
    ring: int
    channel: int
    lifeline: int


class Worker(Protocol):
    """A process that works on one file. `stderr` is its stderr; the caller closes it."""

    stderr: IO[bytes]

    def kill(self) -> None:
        """Kill it; no effect on a worker that has ended."""
        ...

    def wait(self, timeout: float | None) -> int | None:
        """Its exit code, minus the signal that ended it, or `LOST`; None after `timeout`."""
        ...


def start_worker(job: dict[str, object], given: Given) -> Worker:
    """Start a worker for a job (`worker.Job` without descriptors and parent)."""
    for _ in range(2):  # a dead fork server is replaced once
        server = _FORKSERVER.server()
        if server is None:
            break
        try:
            worker = server.fork(job, given)
        except ForkserverError as error:
            log.warning("the fork server is replaced: %s", error)
            _FORKSERVER.discard(server)
            continue
        if worker is None:
            break
        return worker
    return SpawnedWorker(job, given)


def warm_up() -> None:
    """Start the fork server in the background."""
    _FORKSERVER.start()


class ForkserverError(Exception):
    """The fork server cannot start, or has died."""


class ForkedWorker:
    """A worker of the fork server; its exit code arrives on a socket."""

    def __init__(self, line: socket.socket, stderr: IO[bytes]) -> None:
        self.stderr = stderr
        self._line = line
        self._code: int | None = None

    def kill(self) -> None:
        if self._code is None:
            with suppress(OSError):  # the fork server has exited, and its workers with it
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
        """Start it and return at once; see `wait`."""
        self._ready = False
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as held, theirs:
            held.callback(self._channel.close)
            # A file, not a pipe: nothing has to read it while the process lives.
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
            raise ForkserverError(said[-1][:200] if said else "no message")
        self._ready = True

    def fork(self, job: dict[str, object], given: Given) -> ForkedWorker | None:
        """Ask for a worker; None if it cannot fork or does not answer.

        Raises:
            ForkserverError: it has died.
        """
        # The other side fills in its own descriptor numbers.
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
            # Other threads may have workers there, so the fork server is not ended for this.
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
        """End the fork server and all its workers."""
        self._channel.close()
        if not self._ready:
            self._process.kill()  # it does not read its socket before it is ready
        try:
            self._process.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()


class Forkserver:
    """Holds the one fork server of this program."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: ForkserverProcess | None = None
        self._foreign: ForkserverProcess | None = None
        self._hopeless = sys.platform != "linux"  # others cannot fork safely, or not at all

    def start(self) -> None:
        """Start the fork server in the background unless it runs or cannot run here."""
        with self._lock, suppress(OSError):  # the first file meets the error again and logs it
            self._launch()

    def server(self) -> ForkserverProcess | None:
        """The fork server, ready for jobs; None if it cannot run here."""
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
            "the fork server cannot start (%s); every file starts a new interpreter, which is "
            "slower",
            error,
        )
        if self._process is not None:
            self._process.close()
            self._process = None

    def discard(self, server: ForkserverProcess) -> None:
        """End a fork server that does not work."""
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
        """Leave the fork server to the parent after a fork of this program."""
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

    It inherits the given descriptors and `environment`; without that, for processes that read
    untrusted files, only the few variables that it needs.
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
    """Keeps the last `KEPT_STDERR` bytes that a process writes to stderr."""

    def __init__(self, stderr: IO[bytes], selector: selectors.BaseSelector) -> None:
        """The caller registers `stderr` with `selector` and calls `read` when there is data."""
        self.data = b""
        self._stderr, self._selector = stderr, selector
        os.set_blocking(stderr.fileno(), False)

    def read(self) -> None:
        """Read the available data."""
        try:
            data = os.read(self._stderr.fileno(), 2**16)
        except BlockingIOError:
            return
        if not data:
            with suppress(KeyError):  # it was unregistered before
                self._selector.unregister(self._stderr)
        self.data = (self.data + data)[-KEPT_STDERR:]

    def last_line(self) -> str:
        """The last line as " (line)", "" if there is none."""
        self.read()
        lines = self.data.decode(errors="replace").strip().splitlines()
        return f" ({lines[-1][:200]})" if lines else ""


def _readable(line: socket.socket, timeout: float | None) -> bool:
    """Wait for data or the end of the connection; False after `timeout`."""
    watched = select.poll()
    watched.register(line, select.POLLIN)
    return bool(watched.poll(None if timeout is None else timeout * 1000))
