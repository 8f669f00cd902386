"""Speed of a whole scan beside the baseline, in one run: `python -m train.benchmarks scan`.

The baseline (plain.py) scans as the field's scripts do. Both read the same made clips and write a
playable video; only ratios within one run count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from deepscan.engines.hardware import detect_hardware
from deepscan.errors import DeepscanError
from deepscan.options import ScanOptions
from deepscan.scan.scanner import Scanner
from train.benchmarks import startup
from train.benchmarks.clips import CLIPS, SMALL, Clip, make
from train.benchmarks.plain import scan_plainly
from train.benchmarks.stages import Costs, alone, costs, scan, share_table, stage_table
from train.benchmarks.startup import Startup

ARCHIVE_FILES = 12


@dataclass(frozen=True, slots=True)
class Row:
    """One clip: frames a second of both ways, and CPU time: `plain_cpu` in ms a frame."""

    name: str
    frames: int
    plain: float
    plain_cpu: float
    deepscan: float
    costs: Costs


@dataclass(frozen=True, slots=True)
class Speed:
    """All rows of the table. `archive` are wall seconds for one of its files of two seconds."""

    cpu: str
    cores: int
    rows: tuple[Row, ...]
    small: Costs
    archive: float
    startup: Startup

    def table(self) -> str:
        """Markdown, as in docs/speed.md."""
        engine = self.rows[0].costs.engine
        lines = [
            f"{self.cpu}, {self.cores} cores; engine {engine}.",
            "",
            "| what | baseline | deepscan | ratio | baseline, CPU | deepscan, CPU | ratio |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row.name} | {row.plain:.2f} frames/s | {row.deepscan:.1f} frames/s | "
            f"{row.deepscan / row.plain:.1f} | {row.plain_cpu:.0f} ms | {row.costs.total:.1f} ms | "
            f"{row.plain_cpu / row.costs.total:.1f} |"
            for row in self.rows
        ]
        lines += [
            f"| archive, `--jobs 2`: each file of {SMALL.frames} frames | | "
            f"{self.archive:.2f} s | | | | |",
            f"| start until a frame is judged, first time | | {self.startup.cold:.1f} s | | | | |",
            f"| the same, every time after | | {self.startup.warm:.1f} s | | | | |",
            f"| a mistyped name, until it is said | | {self.startup.mistyped:.2f} s | | | | |",
            "",
            "CPU milliseconds of a frame by stage:",
            "",
            *stage_table([(row.name, row.costs) for row in self.rows]),
            "",
            f"Shares of CPU time over {SMALL.name} ({self.small.engine}):",
            "",
            *share_table(self.small),
        ]
        return "\n".join(lines)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def measure(progress: Callable[[str], None] = lambda line: None) -> Speed:
    """Make the clips, scan them both ways, and start deepscan a few times.

    Raises:
        DeepscanError: a scan failed.
    """
    hardware = detect_hardware()
    with tempfile.TemporaryDirectory(prefix="deepscan-speed-") as made:
        folder = Path(made)
        progress("start-up")
        small = make(SMALL, folder / "small.mp4")
        started = startup.measure(small, folder)
        archive = _archive(small, folder)
        rows = []
        with Scanner(ScanOptions()) as scanner, Scanner(alone()) as sequential:
            for number, clip in enumerate(CLIPS):
                progress(clip.name)
                path = make(clip, folder / f"{number}.mp4")
                rows.append(_row(clip, path, folder, scanner, sequential))
                path.unlink()
            found = costs(sequential, small, folder)
    cpu = f"{hardware.cpu} ({', '.join(hardware.flags)})"
    return Speed(cpu, hardware.cores, tuple(rows), found, archive, started)


def _row(clip: Clip, path: Path, folder: Path, scanner: Scanner, sequential: Scanner) -> Row:
    _ = scanner.engine, scanner.detector  # loading them is part of the start-up
    began = time.monotonic()
    scanned = scan(scanner, path, folder)
    speed = clip.frames / (time.monotonic() - began)
    seen, there = scanned.scan.verdict.coverage.faces, clip.faces * clip.frames
    if not 0.9 * there <= seen <= 1.1 * there:
        raise DeepscanError(f"{clip.name}: {seen} faces were seen of {there}")
    plain, plain_cpu = scan_plainly(
        path, folder / "plain.mp4", clip.plain_frames, clip.size, scanner.options
    )
    return Row(clip.name, clip.frames, plain, plain_cpu, speed, costs(sequential, path, folder))


def _archive(clip: Path, folder: Path) -> float:
    """Wall seconds for each file of an archive, the program's start counted in."""
    inputs = folder / "archive"
    inputs.mkdir()
    for number in range(ARCHIVE_FILES):
        # Bytes behind the end of an MP4 change no picture, but twins would be scanned once.
        (inputs / f"{number}.mp4").write_bytes(clip.read_bytes() + _free_box(number))
    began = time.monotonic()
    command = [sys.executable, "-m", "deepscan", str(inputs), "--out", str(folder / "results")]
    ran = subprocess.run([*command, "--jobs", "2"], capture_output=True, text=True, check=False)
    if ran.returncode not in (0, 1):
        raise DeepscanError(f"the archive was not scanned: {ran.stderr[-500:]}")
    return (time.monotonic() - began) / ARCHIVE_FILES


def _free_box(number: int) -> bytes:
    return (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")
