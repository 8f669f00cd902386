"""The table of worker pools, which scan the files of an archive on this machine or a cluster.

A pool has the shape of `WorkerPool` in contract.py: it holds loaded engines, takes several files at
once and only scans. The scheduler submits tasks, records outcomes and decides on retries.

To add one, write one file with a class of that shape, add one line to `WORKER_POOLS`, and choose it
in `open_pool` (cli/archive.py); the suite in tests/archive/workers/ runs over all pools.
"""

from __future__ import annotations

WORKER_POOLS: dict[str, str] = {
    "local": "deepscan.archive.workers.local:LocalPool",
    "ray": "deepscan.archive.workers.ray:RayPool",
}
"""Name of a pool -> the class, as "module:class"."""
