"""A worker process that fails at a frame, as the reason of its options says: "crash 5".

It can "crash", "exit", send "garbage", take too much "memory" or "hang". Without such a reason it
works as usual.
"""

from __future__ import annotations

import os
import signal
import time

from deepscan.video.isolation import protocol, worker

FAULTS = ("crash", "exit", "garbage", "memory", "hang")


def fail(what: str, channel: worker.Channel) -> None:
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "exit":
        os._exit(3)
    elif what == "garbage":
        channel.send(protocol.FRAME, b"\xff" * protocol.FRAME_FIELDS.size)
    elif what == "memory":
        bytearray(2**42)  # more than any limit allows
    while what == "hang":
        time.sleep(1)


def serve(channel, source, job):
    what, _, at = (job.options.reason or "").partition(" ")

    class FailingRing(worker.Ring):
        def put(self, frame):
            if what in FAULTS and frame.index == int(at):
                fail(what, channel)
            return super().put(frame)

    right, worker.Ring = worker.Ring, FailingRing
    try:
        SERVE(channel, source, job)
    finally:
        worker.Ring = right


SERVE = worker._serve
worker._serve = serve
main = worker.main
