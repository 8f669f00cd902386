"""The process that worker processes are forked off, so that no file waits for an interpreter.

It has imported everything that a decoder may need, holds one thread and no file of anybody, and
does nothing but fork, wait and kill: jobs come from the parent as messages with descriptors
(launcher.py), and each worker gives up its rights (worker.py) before it looks at its file. Workers
of one fork server share its address layout, but nothing else.

A worker lives no longer than its line to the parent is open: closing it has it killed.
The fork server goes when the parent goes, and its workers go with it.
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
        # What is there stays shared with the workers: no collection may touch its pages.
        gc.collect()
        gc.freeze()
        parent.sendall(READY)
        with suppress(BrokenPipeError, ConnectionResetError):
            Server(parent).serve()
    os._exit(0)


class Server:
    """Forks a worker for each job, and tells how each of them ended."""

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
        """Work until the parent has gone, then kill every worker."""
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
                    # The parent says nothing on a line, so what has come is its end. The worker
                    # is not waited for yet: its number cannot be anybody else's.
                    os.kill(key.data, signal.SIGKILL)
                    self._selector.unregister(key.fileobj)

    def _take_job(self) -> bool:
        """Fork a worker; False if the parent has gone."""
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
        """Take in every worker that has ended, and tell its parent."""
        with suppress(BlockingIOError):
            while self._woken.recv(64):
                continue
        while self._lines:
            worker, status = os.waitpid(-1, os.WNOHANG)
            if not worker:
                return
            line = self._lines.pop(worker)
            with suppress(KeyError):  # a line that was closed already is not listened to
                self._selector.unregister(line)
            with line, suppress(BrokenPipeError, ConnectionResetError):
                line.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))


def _become_worker(text: bytes, given: list[int], stderr: int, server: int) -> NoReturn:
    """Turn the forked process into one that has nothing of the fork server but its libraries."""
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
        # The fork server's only thread lives as long as the fork server, so this is sure.
        die_with_parent()
        run_job(job)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)
