"""A run in a process of its own, to be killed: real model processes, a slow fake network.

`python -m tests.archive.killed ARCHIVE RESULTS`
"""

from __future__ import annotations

import sys
from pathlib import Path

from deepscan.archive.options import ArchiveOptions
from deepscan.archive.run import scan_archive
from deepscan.archive.workers.contract import PoolSettings
from deepscan.archive.workers.local import LocalPool
from deepscan.options import ScanOptions


def main() -> None:
    options = ScanOptions()
    pool = LocalPool(
        PoolSettings(
            options,
            jobs=2,
            scanner="tests.archive.parts:slow_scanner",
            controls="tests.archive.parts:no_controls",
        )
    )
    scan_archive(
        [sys.argv[1]],
        Path(sys.argv[2]),
        options=options,
        pool=pool,
        archive_options=ArchiveOptions(reports=("jsonl",), write_found=("frames",), min_free=0),
    )


if __name__ == "__main__":
    main()
