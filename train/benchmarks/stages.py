"""CPU time of each stage of a scan: the same stages, one after the other in one process.

A scan runs its stages side by side and decodes in processes of its own, so the time by the clock
counts the same second several times. Here every thread and process of it is taken away, and the CPU
seconds of the whole process are counted for whichever stage runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from unittest import mock

from deepscan.errors import DeepscanError
from deepscan.options import ScanOptions
from deepscan.scan.scanner import Scanner
from deepscan.types import Scanned

T = TypeVar("T")

OUTPUTS = {
    "overlay": ".mp4",
    "masks": ".masks.mkv",
    "record": ".json",
    "frames": ".frames.jsonl",
    "html": ".html",
}
# Names of the stopwatch -> names for people, in the order of the pipeline.
STAGES = {
    "decode": "decoding",
    "detect": "face search",
    "network": "network",
    "decode again": "decoding again",
    "overlay": "verdict video",
    "masks": "masks",
    "html": "page",
    "frames": "frame list",
}
REST = "crops, tracks, rest"


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU milliseconds a frame by stage, and the engine that the network ran on."""

    stages: dict[str, float]
    engine: str

    @property
    def total(self) -> float:
        return sum(self.stages.values())

    def share(self, stage: str) -> float:
        """Of the total, 0 to 1."""
        return self.stages[stage] / self.total


def costs(scanner: Scanner, clip: Path, folder: Path) -> Costs:
    """Scan a clip with all outputs, written into `folder`, stage by stage.

    `scanner` has its engine and detector, and does not isolate (`alone`).

    Raises:
        DeepscanError: the scan failed.
    """
    _ = scanner.engine, scanner.detector  # loading them is part of the start-up
    with ExitStack() as held:
        for name, stand_in in (
            ("deepscan.scan.timing.clock", time.process_time),
            ("deepscan.scan.pipeline.prefetch", _in_turn),
            ("deepscan.scan.write.prefetch", _in_turn),
            ("deepscan.scan.write.fan_out", _hand_out),
            ("deepscan.sinks.overlay.THREADS", 1),
        ):
            held.enter_context(mock.patch(name, stand_in))
        began = time.process_time()
        scanned = scan(scanner, clip, folder)
        spent = time.process_time() - began
    frames = scanned.scan.verdict.coverage.decoded
    measured = dict(scanned.scan.timings)
    stages = {name: measured.get(stage, 0.0) for stage, name in STAGES.items()}
    stages[REST] = max(0.0, spent - sum(stages.values()))
    return Costs(
        {name: 1000 * seconds / frames for name, seconds in stages.items()},
        scanned.scan.verdict.engine.name,
    )


def scan(scanner: Scanner, clip: Path, folder: Path) -> Scanned:
    """Scan a clip with all outputs.

    Raises:
        DeepscanError: the clip cannot be scanned.
    """
    outputs = {kind: folder / f"out{suffix}" for kind, suffix in OUTPUTS.items()}
    outcome = scanner.scan(clip, outputs, force=True)
    if not isinstance(outcome, Scanned):
        raise DeepscanError(f"the generated clip was not scanned: {outcome.reason.text}")
    return outcome


def alone(options: ScanOptions | None = None) -> ScanOptions:
    """Options under which nothing runs in another process."""
    return replace(options or ScanOptions(), isolate=False)


def stage_table(rows: Sequence[tuple[str, Costs]]) -> list[str]:
    """Lines of Markdown with a column for each stage."""
    stages = list(rows[0][1].stages)
    return [
        f"| what | {' | '.join(stages)} |",
        f"| --- |{' --- |' * len(stages)}",
        *(
            f"| {name} | {' | '.join(f'{found.stages[stage]:.1f}' for stage in stages)} |"
            for name, found in rows
        ),
    ]


def share_table(found: Costs) -> list[str]:
    """Lines of Markdown that `read_shares` reads."""
    return [
        "| stage | share |",
        "| --- | --- |",
        *(f"| {stage} | {found.share(stage):.1%} |" for stage in found.stages),
    ]


def read_shares(text: str) -> dict[str, float]:
    """The shares, 0 to 1, in a text that holds what `share_table` gave."""
    lines = text[text.index("| stage | share |") :].splitlines()[2:]
    shares = {}
    for line in lines:
        if not line.startswith("|"):
            break
        stage, share = (cell.strip() for cell in line.strip("|").split("|"))
        shares[stage] = float(share.rstrip("%")) / 100
    return shares


def _in_turn(items: Iterable[T], depth: int = 0) -> Generator[T]:
    """`prefetch` without its thread."""
    iterator = iter(items)
    try:
        yield from iterator
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _hand_out(items: Iterable[T], consumers: Iterable[Callable[[T], None]]) -> Generator[T]:
    """`fan_out` without its threads."""
    consumers = list(consumers)
    for item in items:
        for consume in consumers:
            consume(item)
        yield item
