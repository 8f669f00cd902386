"""A run on a local cluster of Ray in a process of its own, to be stopped or killed.

`python -m tests.archive.clustered ARCHIVE RESULTS [ADDRESS]`
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from deepscan.archive.run import Brake, Ways, scan_archive
from deepscan.archive.workers.ray import RayCrew
from deepscan.options import ScanOptions


def main() -> None:
    archive, results, *address = sys.argv[1:]
    options, brake = ScanOptions(), Brake()
    signal.signal(signal.SIGINT, lambda number, frame: brake.press())
    signal.signal(signal.SIGTERM, lambda number, frame: brake.slam())
    crew = RayCrew(
        options,
        results=Path(results),
        address=address[0] if address else "ray",
        jobs=1,
        scanner="tests.archive.parts:slow_scanner",
        controls="tests.archive.parts:no_controls",
        silence=20.0,
    )
    try:
        scan_archive(
            [archive],
            Path(results),
            options=options,
            crew=crew,
            ways=Ways(reports=("jsonl",), write_found=("frames",), min_free=0),
            brake=brake,
        )
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
