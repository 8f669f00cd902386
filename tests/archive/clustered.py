"""A run on a local cluster of Ray in a process of its own, to be stopped or killed.

`python -m tests.archive.clustered ARCHIVE RESULTS [ADDRESS]`
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from deepscan.archive.options import ArchiveOptions
from deepscan.archive.run import scan_archive
from deepscan.archive.stop_request import StopRequest
from deepscan.archive.workers.contract import PoolSettings
from deepscan.archive.workers.ray import RayPool
from deepscan.options import ScanOptions


def main() -> None:
    archive, results, *address = sys.argv[1:]
    options, stop_request = ScanOptions(), StopRequest()
    signal.signal(signal.SIGINT, lambda number, frame: stop_request.stop())
    signal.signal(signal.SIGTERM, lambda number, frame: stop_request.abort())
    pool = RayPool(
        PoolSettings(
            options,
            jobs=1,
            scanner=os.environ.get("SCANNER", "tests.archive.parts:slow_scanner"),
            controls="tests.archive.parts:no_controls",
            heartbeat_timeout=20.0,
        ),
        results=Path(results),
        address=address[0] if address else "ray",
    )
    try:
        scan_archive(
            [archive],
            Path(results),
            options=options,
            pool=pool,
            archive_options=ArchiveOptions(reports=("jsonl",), write_found=("frames",), min_free=0),
            stop_request=stop_request,
        )
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
