"""Check that a scan's memory stays flat on a long file: `python -m train.benchmarks memory`.

A short 1080p clip is repeated without encoding it again until it is as long as asked for, and
scanned by the command line with all outputs; twice a second the resident memory of the command and
of its decoder process is read. Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from skimage import data

from deepscan.errors import DeepscanError
from deepscan.types import Image
from tests.media import make_video
from train.calibration.clips import handheld_camera

SIZE = (1920, 1080)
_LOOP = 10  # seconds of the clip that is repeated


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MiB, command and decoder together, over the reading and the writing pass.

    `growth` is the median of the last quarter of the samples, less that of the second quarter: the
    writing pass holds an encoder more than the reading pass. `eighths` are the medians of each
    eighth of the time, in which a leak would rise from first to last within a pass.
    """

    minutes: float
    frames: int
    seconds: float
    peak: float
    growth: float
    samples: int
    eighths: tuple[int, ...]

    def table(self) -> str:
        """Lines for people."""
        return (
            f"{self.minutes:g} minutes of 1920x1080, {self.frames} frames, scanned in "
            f"{self.seconds:.0f} s\npeak memory {self.peak:.0f} MiB; the last quarter of the scan "
            f"holds {self.growth:+.0f} MiB against the second ({self.samples} samples)\n"
            f"median of each eighth of the time: {', '.join(map(str, self.eighths))} MiB"
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def measure(minutes: float, rate: int) -> Memory:
    """Scan a generated file of given minutes and frames per second.

    Raises:
        DeepscanError: the scan failed.
    """
    with tempfile.TemporaryDirectory(prefix="deepscan-memory-") as folder:
        clip = long_clip(Path(folder), minutes, rate)
        command = [
            sys.executable, "-m", "deepscan", str(clip), "--quiet", "--exit-zero",
            "--out", str(Path(folder) / "result.mp4"),
        ]  # fmt: skip
        started = time.monotonic()
        held = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as scan:
            while scan.poll() is None:
                held.append(held_by(scan.pid))
                time.sleep(0.5)
            assert scan.stdout is not None
            said = scan.stdout.read()
        if scan.returncode != 0:
            raise DeepscanError(f"the scan of the generated file failed: {said}")
        seconds = time.monotonic() - started
        record = json.loads((Path(folder) / "result.json").read_text())
        warm = np.array(held[len(held) // 4 :])
        thirds = np.array_split(warm, 3)
        return Memory(
            minutes,
            record["coverage"]["frames_decoded"],
            seconds,
            float(max(held)),
            float(np.median(thirds[2]) - np.median(thirds[0])),
            len(held),
            tuple(round(float(np.median(part))) for part in np.array_split(np.array(held), 8)),
        )


def long_clip(folder: Path, minutes: float, rate: int) -> Path:
    """One face in 1080p through a moving camera; the packets of ten seconds again and again."""
    portrait = cv2.resize(data.astronaut()[:288], SIZE, interpolation=cv2.INTER_CUBIC)
    frames = _LOOP * rate
    camera = handheld_camera(portrait, frames, np.random.default_rng(3))

    def picture(index: int) -> Image:
        return camera.shoot(portrait, index)

    short = make_video(
        folder / "short.mp4", frames=frames, size=SIZE, rate=rate, draw=picture, gop=frames,
        options={"crf": "24", "preset": "ultrafast", "bf": "0"},
    )  # fmt: skip
    path = folder / "long.mp4"
    with av.open(str(short)) as source, av.open(str(path), "w") as sink:
        stream = source.streams.video[0]
        assert stream.time_base is not None
        copy = sink.add_stream_from_template(stream)
        packets = [p for p in source.demux(stream) if p.dts is not None]
        step = round(Fraction(_LOOP) / stream.time_base)
        stamps = [(p.pts, p.dts) for p in packets]
        for turn in range(round(minutes * 60 / _LOOP)):
            for packet, (pts, dts) in zip(packets, stamps, strict=True):
                assert pts is not None and dts is not None
                packet.stream = copy
                packet.time_base = stream.time_base
                packet.pts, packet.dts = pts + turn * step, dts + turn * step
                sink.mux(packet)
    return path


def held_by(pid: int) -> float:
    """MiB held by a process and all below it; shared pages count in each that maps them."""
    return resident(pid) + sum(map(held_by, children(pid)))


def resident(pid: int) -> float:
    """MiB that a process holds, 0 where it has just ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def children(pid: int) -> list[int]:
    """The processes that a process has started and not outlived."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
