"""Check that a scan of many files loses none and keeps its memory; measure its overhead.

`python -m train.benchmarks.archive --files 2000` generates short clips, damages one in fifty, and
scans them as `deepscan ARCHIVE --out RESULTS` does, with real decoding and a stand-in for the
networks (or the real ones, `--real`). Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deepscan.archive.events import Heartbeat, ItemDone, RunEvent, RunStarted
from deepscan.archive.journal import JOURNAL, read_journal
from deepscan.archive.options import DEFAULT_REPORTS, ArchiveOptions
from deepscan.archive.run import scan_archive
from deepscan.archive.workers.contract import CONTROLS, SCANNER, PoolSettings
from deepscan.archive.workers.local import LocalPool
from deepscan.engines.engine import Engine
from deepscan.options import ScanOptions
from deepscan.types import Image
from tests.fakes import FakeDetector, FakeEngine
from tests.media import draw_numbered, make_video
from train.benchmarks.memory import children, resident

TEMPLATES = 40  # clips that are encoded; the others are copies that differ in a box nobody reads
DAMAGED = 50  # one in so many
SIZE = (160, 120)
FRAMES = (10, 25)
SLOPE = 8.0  # MiB for 1,000 files that count as flat: an outcome in memory takes 2 KiB
ENOUGH = 1000  # files from which on memory can be judged
WARM_UP = 0.25  # share of the files before memory is looked at


@dataclass(frozen=True, slots=True)
class Found:
    """The figures of a run. Memory in MiB, `slope` in MiB for 1,000 files, `overhead` in ms a file.

    `overhead` is what the slots were not scanning: listing, hashing, journal, reports, waiting.
    """

    files: int
    damaged: int
    seconds: float
    slots: int
    labels: dict[str, int]
    once: bool
    peak: float
    slope_run: float
    slope_processes: float
    scan: float
    overhead: float
    report_seconds: float
    journal_bytes: int

    @property
    def passed(self) -> bool:
        flat = max(self.slope_run, self.slope_processes) <= SLOPE
        return self.once and (flat or self.files < ENOUGH)

    def table(self) -> str:
        """Lines for people."""
        labels = ", ".join(f"{count} {label}" for label, count in sorted(self.labels.items()))
        return "\n".join(
            [
                f"files            {self.files}, {self.damaged} of them damaged: {labels}",
                f"one record each  {'yes' if self.once else 'NO'}",
                f"time             {self.seconds:.1f} s, {self.files / self.seconds:.1f} files/s, "
                f"{self.slots} at once",
                f"a file           {self.scan:.1f} ms of scan, {self.overhead:.1f} ms beside it",
                f"memory           peak {self.peak:.0f} MiB; for 1,000 files {self.slope_run:+.2f} "
                f"MiB in the run, {self.slope_processes:+.2f} MiB in its processes"
                + (" (too few files to judge)" if self.files < ENOUGH else ""),
                f"reports          {self.report_seconds:.2f} s",
                f"journal          {self.journal_bytes / self.files:.0f} bytes a file",
            ]
        )


def scanner(options: ScanOptions, *, engine: Engine | None = None) -> Any:
    """A scanner without networks, for the model processes."""
    from deepscan.scan.scanner import Scanner

    if engine is None:
        fake = FakeEngine()
        fake.model = replace(fake.model, auc=0.9, auc_interval=(0.85, 0.95))  # above the floor
        engine = fake
    return Scanner(options, engine=engine, detector=FakeDetector())


def controls(engine: Engine, options: ScanOptions) -> tuple[tuple[tuple[str, float], ...], bool]:
    """Two crops to which the stand-in must give different labels."""
    side = engine.input_size
    crops = np.zeros((2, side, side, 3), np.uint8)
    crops[1] = 255
    black, white = engine.predict(crops).scores.tolist()
    return (("black", black), ("white", white)), black < 0.1 and white > 0.9


def make_archive(folder: Path, files: int, seed: int = 1) -> set[str]:
    """Fill a folder with clips of different contents; gives the names of the damaged ones."""
    chance = random.Random(seed)
    folder.mkdir(parents=True)
    templates = []
    for number in range(min(TEMPLATES, files)):
        path = folder.parent / f"template{number}.mp4"
        make_video(path, frames=chance.randint(*FRAMES), size=SIZE, draw=partial(_draw, number))
        templates.append(path.read_bytes())
        path.unlink()
    damaged = set()
    for number in range(files):
        name = f"{number // 100:03d}/clip{number:05d}.mp4"
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        note = b"clip %d" % number
        data = templates[number % len(templates)]
        data += struct.pack(">I4s", 8 + len(note), b"free") + note
        if number % DAMAGED == DAMAGED - 1:
            data = _damaged(data, chance)
            damaged.add(name)
        path.write_bytes(data)
    return damaged


def _draw(shift: int, index: int) -> Image:
    return draw_numbered((index + shift) % 1000, SIZE)


def _damaged(data: bytes, chance: random.Random) -> bytes:
    match chance.randrange(4):
        case 0:
            return b""
        case 1:  # the index is at the end
            return data[: len(data) * chance.randint(20, 80) // 100]
        case 2:
            return data[:32] + chance.randbytes(len(data) - 32)
        case _:
            bad = bytearray(data)
            for _ in range(len(bad) // 20):
                bad[chance.randrange(len(bad))] = chance.randrange(256)
            return bytes(bad)


@dataclass(slots=True)
class _Watch:
    """Sample memory during the run: (files done, this process, all below it) in MiB."""

    samples: list[tuple[int, float, float]] = field(default_factory=list)
    settled: int = 0
    took: float = 0.0
    last: float = 0.0

    def take(self, event: RunEvent) -> None:
        if isinstance(event, ItemDone):
            self.settled += 1
            self.took += event.outcome.took
        if isinstance(event, Heartbeat) and time.monotonic() - self.last > 0.5:
            self.last = time.monotonic()
            mine = resident(os.getpid())
            self.samples.append((self.settled, mine, sum(map(resident, children(os.getpid())))))

    def slope(self, column: int) -> float:
        """MiB for 1,000 files, by least squares after the warm-up."""
        kept = [each for each in self.samples if each[0] >= WARM_UP * self.settled]
        files = np.array([each[0] for each in kept], float)
        memory = np.array([each[column] for each in kept], float)
        if len(kept) < 3 or np.ptp(files) == 0:
            return float("nan")
        return float(np.polyfit(files, memory, 1)[0] * 1000)


def measure(work: Path, files: int, *, real: bool = False, jobs: int | None = None) -> Found:
    """Make an archive below a folder, scan it, and check the results."""
    # What is drawn is flat: without this nothing would reach the network.
    options = ScanOptions() if real else ScanOptions(min_sharpness=0.0, min_face=20)
    damaged = make_archive(work / "archive", files)
    out = work / "results"
    watch = _Watch()
    pool = LocalPool(
        PoolSettings(
            options,
            jobs=jobs,
            scanner=SCANNER if real else "train.benchmarks.archive:scanner",
            controls=CONTROLS if real else "train.benchmarks.archive:controls",
        )
    )
    slots, began = 0, 0.0

    def on_event(event: RunEvent) -> None:
        nonlocal slots, began
        if isinstance(event, RunStarted):
            slots, began = event.pool_info.slots, time.monotonic()
        watch.take(event)

    archive_options = ArchiveOptions(reports=(), write_found=(), command=tuple(sys.argv))
    scan_archive([str(work / "archive")], out, options=options, pool=pool,
                 archive_options=archive_options, on_event=on_event)  # fmt: skip
    seconds = time.monotonic() - began
    results = read_journal(out)
    lines = [json.loads(line) for line in (out / JOURNAL).read_bytes().splitlines()]
    done = Counter(line["outcome"]["name"] for line in lines if line["kind"] == "done")
    names = {p.relative_to(work / "archive").as_posix() for p in (work / "archive").glob("*/*")}
    records = {p.parent.relative_to(out).as_posix() for p in out.glob("*/*/result.json")}
    linked = [outcome for outcome in results.outcomes if outcome.same_as is not None]
    own = {outcome.folder for outcome in results.outcomes if outcome.same_as is None}
    once = set(done) == names and set(done.values()) == {1} and records == own
    report_seconds = _reports(results, work)
    return Found(
        files=files,
        damaged=len(damaged),
        seconds=seconds,
        slots=slots,
        labels=dict(Counter(str(outcome.label) for outcome in results.outcomes)),
        once=once and len(own) + len(linked) == files,
        peak=max((mine + below for _, mine, below in watch.samples), default=0.0),
        slope_run=watch.slope(1),
        slope_processes=watch.slope(2),
        scan=1000 * watch.took / files,
        overhead=1000 * (seconds * slots - watch.took) / files,
        report_seconds=report_seconds,
        journal_bytes=(out / JOURNAL).stat().st_size,
    )


def _reports(results: Any, work: Path) -> float:
    """Seconds that all reports take once."""
    from deepscan.archive.reports import load_report

    folder = work / "reports"
    folder.mkdir()
    began = time.monotonic()
    for name in DEFAULT_REPORTS:
        file, write = load_report(name)
        write(results, folder / file)
    return time.monotonic() - began


def main() -> None:
    """Measure, print, and exit with 1 if a file was lost or memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=None, help="number of files to scan at once")
    parser.add_argument("--real", action="store_true", help="use the networks that ship")
    parser.add_argument("--keep", type=Path, help="a new folder for archive and results")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    given = parser.parse_args()
    work = given.keep or Path(tempfile.mkdtemp(prefix="deepscan-archive-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        found = measure(work, given.files, real=given.real, jobs=given.jobs)
    finally:
        if given.keep is None:
            shutil.rmtree(work, ignore_errors=True)
    print(found.table())
    if given.json is not None:
        given.json.write_text(json.dumps({**asdict(found), "passed": found.passed}, indent=2))
    raise SystemExit(0 if found.passed else 1)


if __name__ == "__main__":
    main()
