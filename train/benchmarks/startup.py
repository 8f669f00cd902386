"""Seconds until the first output of deepscan, each time in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from deepscan.errors import DeepscanError

# Prints the seconds since the time given when the first frame has been judged, and ends.
_FIRST_FRAME = """
import os, sys, time
from pathlib import Path
from deepscan.options import ScanOptions
from deepscan.scan.scanner import Scanner

def judged(stage, frames, seconds, duration):
    print(time.time() - float(sys.argv[2]), flush=True)
    os._exit(0)

with Scanner(ScanOptions()) as scanner:
    scanner.scan(Path(sys.argv[1]), progress=judged)
"""


@dataclass(frozen=True, slots=True)
class Startup:
    """Seconds: until a file that is not there is refused, and until the first frame is judged.

    `cold` is with an empty cache (the networks are converted once), `warm` every time after.
    """

    mistyped: float
    cold: float
    warm: float


def measure(clip: Path, folder: Path) -> Startup:
    """Start deepscan a few times; its cache lies in `folder`.

    Raises:
        DeepscanError: it did not do what it should.
    """
    environment = {**os.environ, "DEEPSCAN_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "deepscan", str(folder / "mistyped.mp4")]
    mistyped = []
    for _ in range(3):  # the first also reads the program from disk
        began = time.time()
        ran = subprocess.run(command, env=environment, capture_output=True, check=False)
        mistyped.append(time.time() - began)
        if ran.returncode != 2:
            raise DeepscanError(f"a file that is not there gave exit code {ran.returncode}")
    cold = _first_frame(clip, environment)
    return Startup(min(mistyped), cold, min(_first_frame(clip, environment) for _ in range(2)))


def _first_frame(clip: Path, environment: dict[str, str]) -> float:
    command = [sys.executable, "-c", _FIRST_FRAME, str(clip), str(time.time())]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        return float(ran.stdout)
    except ValueError:
        raise DeepscanError(f"no frame was judged: {ran.stderr[-500:]}") from None
