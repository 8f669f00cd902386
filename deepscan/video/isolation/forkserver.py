"""The fork server: forks worker processes, so that no file waits for an interpreter to start.

It imports everything that a decoder may need, runs one thread, opens no input, and only forks,
waits and kills. The parent sends jobs as messages with descriptors (launcher.py), and each worker
drops its rights (worker.py) before it opens its file. Workers of one fork server share its address
layout, but nothing else.

A worker is killed when its connection to the parent closes. The fork server exits with the parent,
and its workers with it.
"""

from __future__ import annotations

import errno
import gc
import os
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from deepscan.video.isolation.launcher import PID, READY, STATUS
from deepscan.video.isolation.sandbox import die_with_parent
from deepscan.video.isolation.worker import Job, load_libraries, run_job

LONGEST_JOB = 2**17  # bytes
DESCRIPTORS = 6  # of a job: line, stderr, video, ring, channel, lifeline


def main(argument: str) -> NoReturn:
    """Serve the parent at the socket whose descriptor `argument` names; never returns."""
    with socket.socket(fileno=int(argument)) as parent:
        load_libraries(still=True, decord=True)
        # Memory stays shared with the workers as long as no garbage collection touches it.
        gc.collect()
        gc.freeze()
        parent.sendall(READY)
        with suppress(BrokenPipeError, ConnectionResetError):
            Server(parent).serve()
    os._exit(0)


class Server:
    """Forks a worker for each job and reports its exit code."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._lines: dict[int, socket.socket] = {}  # by the worker's process number
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._parent, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def serve(self) -> None:
        """Serve until the parent exits, then kill every worker."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._parent:
                    if not self._take_job():
                        for worker in self._lines:
                            os.kill(worker, signal.SIGKILL)
                        return
                elif key.fileobj is self._woken:
                    self._reap()
                elif key.data in self._lines:
                    # The parent sends nothing on this connection, so it was closed. The worker has
                    # not been reaped yet, so its process number is still its own.
                    os.kill(key.data, signal.SIGKILL)
                    self._selector.unregister(key.fileobj)

    def _take_job(self) -> bool:
        """Fork a worker; False if the parent has exited."""
        text, descriptors, flags, _ = socket.recv_fds(self._parent, LONGEST_JOB, DESCRIPTORS)
        if not text:
            return False
        if len(descriptors) != DESCRIPTORS or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            if descriptors:
                with socket.socket(fileno=descriptors[0]) as line:
                    line.send(PID.pack(-errno.EMFILE))
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            return True
        line_end, stderr, *given = descriptors
        line = socket.socket(fileno=line_end)
        server = os.getpid()
        try:
            worker = os.fork()
        except OSError as error:
            worker = -(error.errno or errno.EAGAIN)
        if worker == 0:
            _become_worker(text, given, stderr, server)
        for descriptor in (*given, stderr):
            os.close(descriptor)
        with suppress(BrokenPipeError, ConnectionResetError):
            line.sendall(PID.pack(worker))
        if worker < 0:
            line.close()
        else:
            self._lines[worker] = line
            self._selector.register(line, selectors.EVENT_READ, worker)
        return True

    def _reap(self) -> None:
        """Reap every worker that has ended and send its exit code to the parent."""
        with suppress(BlockingIOError):
            while self._woken.recv(64):
                continue
        while self._lines:
            worker, status = os.waitpid(-1, os.WNOHANG)
            if not worker:
                return
            line = self._lines.pop(worker)
            with suppress(KeyError):  # it was unregistered when it closed
                self._selector.unregister(line)
            with line, suppress(BrokenPipeError, ConnectionResetError):
                line.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))


def _become_worker(text: bytes, given: list[int], stderr: int, server: int) -> NoReturn:
    """Turn the forked process into a worker that keeps only the libraries of the fork server."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(stderr, 2)
        keep = sorted({0, 1, 2, *given})
        for low, high in zip(keep, [*keep[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
            os.closerange(low + 1, high)
        video, ring, channel, lifeline = given
        job = replace(
            Job.read(text.decode()),
            video=video,
            ring=ring,
            channel=channel,
            lifeline=lifeline,
            parent=server,
        )
        # The fork server has one thread, which lives as long as the process, so this is reliable.
        die_with_parent()
        run_job(job)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)
